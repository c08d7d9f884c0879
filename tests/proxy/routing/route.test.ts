/** Reasons, questions and the session's memory: what the table of destinations does not show. */

import { beforeAll, beforeEach, describe, expect, test } from "bun:test";
import { type ClusterState, nodeId } from "../../../core/cluster/state.ts";
import { noChanges } from "../../../core/sql/cache_facts.ts";
import { StatementParser } from "../../../proxy/parser.ts";
import type { CatalogLookups } from "../../../proxy/routing/catalog_lookups.ts";
import type { RecentlyWritten } from "../../../proxy/routing/recently_written.ts";
import { decideRoute, type RoutingView } from "../../../proxy/routing/route.ts";
import type { NodesRoute, Route } from "../../../proxy/routing/routes.ts";
import {
  noteError,
  noteReady,
  noteSent,
  noteSuccess,
  RoutingSession,
  type TransactionStatus,
} from "../../../proxy/routing/session_routing.ts";
import { catalogOf, clusterOf, nothingWritten, rulesOf, type Settings } from "./rules.ts";

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

const ordinary = clusterOf([{ weight: 0 }, { weight: 1 }]);
const known = catalogOf({
  volatile: ["f_vol"],
  volatileViews: ["v_vol"],
  unlogged: ["tunlog"],
  temporary: new Set(["tmp"]),
});

let session: RoutingSession;
beforeEach(() => {
  session = new RoutingSession({ user: "u", database: "d" });
  session.isolation = "read_committed";
  session.defaultIsolation = "read_committed";
});

type Around = {
  readonly settings?: Settings;
  readonly cluster?: ClusterState;
  readonly catalog?: CatalogLookups;
  readonly random?: () => number;
  readonly writes?: RecentlyWritten;
};

function viewOf(around: Around): RoutingView {
  return {
    cluster: around.cluster ?? ordinary,
    rules: rulesOf(around.settings ?? {}),
    catalog: around.catalog ?? known,
    random: around.random ?? (() => 0.5),
    writes: around.writes ?? nothingWritten,
  };
}

function decide(sql: string, around: Around = {}): Route {
  return decideRoute(parser.facts(sql), sql, "simple", session, viewOf(around));
}

function nodesOf(route: Route): NodesRoute {
  if (route.kind !== "nodes") throw new Error(`decided ${route.kind}`);
  return route;
}

/** The statements succeed, with the status that the write node reports after each. */
function succeed(
  statements: readonly (readonly [string, TransactionStatus])[],
  settings: Settings = {},
): void {
  const view = viewOf({ settings });
  for (const [sql, status] of statements) {
    const facts = parser.facts(sql);
    const route = decideRoute(facts, sql, "simple", session, view);
    noteSent(session, facts, view.rules);
    noteReady(session, status);
    noteSuccess(session, facts, view.rules, view.catalog, nodesOf(route).nodes);
  }
}

describe("every route says why", () => {
  const cases: [sql: string, why: string, settings?: Settings][] = [
    ["SELECT * FROM t", "load_balanced"],
    ["SELECT * FROM t", "load_balance_off", { load_balance_mode: "off" }],
    ["INSERT INTO t VALUES (1)", "write"],
    ["SELECT * FROM t FOR SHARE", "row_lock"],
    ["SELECT 1 INTO t", "select_into"],
    ["WITH a AS (DELETE FROM t RETURNING 1) SELECT * FROM a", "writing_with"],
    ["EXPLAIN SELECT 1", "explain"],
    ["COPY t FROM STDIN", "copy_in"],
    ["DECLARE c CURSOR FOR SELECT 1", "cursor"],
    ["NOTIFY c", "notification"],
    ["LOCK t", "table_lock"],
    ["COMMIT PREPARED 'x'", "two_phase"],
    ["VACUUM", "utility"],
    ["selec 1", "unparsable"],
    ["SET default_transaction_isolation TO serializable", "serializable_setting"],
    ["SET TRANSACTION READ WRITE", "read_write_setting"],
    ["SET work_mem TO 1", "session_setting"],
    ["BEGIN", "transaction_control"],
    ["/* c */ SELECT 1", "not_a_read"],
    ["SELECT 1; SELECT 2", "multi_statement"],
    ["SELECT * FROM pg_class", "system_catalog"],
    ["SELECT * FROM tmp", "temporary_table"],
    ["SELECT * FROM tunlog", "unlogged_table"],
    ["SELECT 7", "query_pattern", { primary_routing_query_pattern_list: "select 7" }],
    ["SELECT f_vol()", "writing_function"],
    ["SELECT * FROM v_vol", "writing_function"],
    ["SELECT * FROM v_vol", "load_balanced", { read_only_function_list: "f" }],
    ["SELECT * FROM v_vol", "load_balanced", { write_function_list: "f" }],
    ["EXECUTE nobody", "unknown_statement"],
  ];
  for (const [sql, why, settings = {}] of cases) {
    test(`${sql}: ${why}`, () => {
      expect(nodesOf(decide(sql, { settings })).why).toBe(why as never);
    });
  }

  test("protocol 2 clients are not balanced", () => {
    session = new RoutingSession({ user: "u", database: "d", protocolMajor: 2 });
    expect(nodesOf(decide("SELECT 1")).why).toBe("old_protocol");
  });

  test("a lagging node gives way to the primary", () => {
    const cluster = clusterOf([{ weight: 0 }, { weight: 1, delay: 9 }]);
    const route = nodesOf(decide("SELECT 1", { cluster, settings: { delay_threshold: "8" } }));
    expect([route.nodes, route.why]).toEqual([[nodeId(0)], "delayed"]);
  });
});

describe("a route is shared", () => {
  test.each(["SELECT 1", "INSERT INTO t VALUES (1)", "BEGIN", "BEGIN READ WRITE"])(
    "of %s",
    (sql) => {
      const view = viewOf({});
      const facts = parser.facts(sql);
      const first = decideRoute(facts, sql, "simple", session, view);
      expect(decideRoute(facts, sql, "simple", session, view)).toBe(first);
    },
  );
});

describe("questions", () => {
  const unknown: CatalogLookups = {
    relation: () => undefined,
    columns: () => undefined,
    temporary: () => undefined,
    anyTemporary: () => undefined,
    volatile: () => undefined,
  };

  test("come all at once, and before any chance is drawn", () => {
    session.isolation = "unknown";
    noteReady(session, "T");
    const route = decide("SELECT f(), s.g() FROM a, s.b", {
      catalog: unknown,
      random: () => {
        throw new Error("drawn");
      },
    });
    if (route.kind !== "ask") throw new Error(`decided ${route.kind}`);
    const kinds = route.questions.map((question) => question.kind).sort();
    expect(kinds).toEqual([
      ...["any_temporary", "isolation", "relation", "relation", "temporary", "temporary"],
      ...["volatile", "volatile"],
    ] as typeof kinds);
  });

  test.each([
    "COPY t TO STDOUT",
    "COPY (SELECT * FROM t) TO STDOUT",
    "PREPARE p AS SELECT * FROM t",
  ])("%s is asked of temporary tables alone, and goes where they are", (sql) => {
    const route = decide(sql, { catalog: { ...unknown, volatile: () => false } });
    if (route.kind !== "ask") throw new Error(`decided ${route.kind}`);
    expect(route.questions.map(({ kind }) => kind)).toEqual(["temporary"]);
    const own = { ...unknown, temporary: () => true, volatile: () => false };
    expect(decide(sql, { catalog: own })).toMatchObject({ why: "temporary_table" });
  });

  test("settings that come in one go are for every node that keeps the session's state", () => {
    const route = decide("SET a.b TO 1; SET c.d TO 2");
    expect(route).toMatchObject({ nodes: [0, 1], why: "session_setting" });
  });

  const unasked: [sql: string, settings?: Settings][] = [
    ["INSERT INTO t SELECT f()"],
    ["COPY t TO STDOUT", { check_temp_table: "none" }],
    ["SHOW work_mem"],
    ["/* c */ SELECT f() FROM t"],
    ["SELECT f() FROM t", { load_balance_mode: "off" }],
    ["SELECT f()", { read_only_function_list: "f" }],
    ["SELECT f()", { write_function_list: "f" }],
  ];
  for (const [sql, settings = {}] of unasked) {
    test(`none for ${sql} ${JSON.stringify(settings)}`, () => {
      expect(decide(sql, { catalog: unknown, settings }).kind).toBe("nodes");
    });
  }

  test("never more than a row has columns for", () => {
    const tables = Array.from({ length: 2000 }, (_, i) => `t${i}`).join(", ");
    const route = decide(`SELECT 1 FROM ${tables}`, { catalog: unknown });
    expect(route.kind === "ask" && route.questions.length).toBe(500);
  });

  test("the isolation level is asked once per session, until something may have changed it", () => {
    session.isolation = "unknown";
    session.defaultIsolation = "read_committed";
    succeed([["BEGIN", "T"]]);
    expect(decide("SELECT 1").kind).toBe("nodes");
    succeed([
      ["COMMIT", "I"],
      ["SET work_mem TO 1", "I"],
      ["BEGIN", "T"],
    ]);
    expect(decide("SELECT 1")).toEqual({ kind: "ask", questions: [{ kind: "isolation" }] });
  });

  test("a level given with BEGIN needs no asking", () => {
    session.defaultIsolation = "unknown";
    succeed([["BEGIN ISOLATION LEVEL REPEATABLE READ", "T"]]);
    expect(nodesOf(decide("SELECT 1")).why).toBe("load_balanced");
    succeed([
      ["COMMIT", "I"],
      ["BEGIN ISOLATION LEVEL SERIALIZABLE", "T"],
    ]);
    expect(nodesOf(decide("SELECT 1")).why).toBe("serializable");
  });
});

describe("writes in a transaction", () => {
  const after: [
    title: string,
    statements: (readonly [string, TransactionStatus])[],
    why: string,
  ][] = [
    [
      "a write keeps reads",
      [
        ["BEGIN", "T"],
        ["UPDATE t SET a=1", "T"],
      ],
      "wrote_in_transaction",
    ],
    [
      "BEGIN inside it, which only warns, changes nothing",
      [
        ["BEGIN", "T"],
        ["DELETE FROM t", "T"],
        ["BEGIN", "T"],
      ],
      "wrote_in_transaction",
    ],
    [
      "ROLLBACK TO a later savepoint keeps earlier writes",
      [
        ["BEGIN", "T"],
        ["DELETE FROM t", "T"],
        ["SAVEPOINT a", "T"],
        ["ROLLBACK TO a", "T"],
      ],
      "wrote_in_transaction",
    ],
    [
      "ROLLBACK TO a savepoint before all writes undoes them",
      [
        ["BEGIN", "T"],
        ["SAVEPOINT a", "T"],
        ["DELETE FROM t", "T"],
        ["ROLLBACK TO a", "T"],
      ],
      "load_balanced",
    ],
    [
      "a chained transaction begins without writes",
      [
        ["BEGIN", "T"],
        ["DELETE FROM t", "T"],
        ["COMMIT AND CHAIN", "T"],
      ],
      "load_balanced",
    ],
    [
      "a later write of a multi-statement counts",
      [["BEGIN; DELETE FROM t", "T"]],
      "wrote_in_transaction",
    ],
    [
      "one that ends its transaction leaves nothing",
      [["BEGIN; DELETE FROM t; COMMIT", "I"]],
      "load_balanced",
    ],
    [
      "SET TRANSACTION READ ONLY is no write",
      [
        ["BEGIN", "T"],
        ["SET TRANSACTION READ ONLY", "T"],
      ],
      "load_balanced",
    ],
  ];
  test.each(after)("%s", (_, statements, why) => {
    succeed(statements);
    expect(nodesOf(decide("SELECT * FROM t")).why).toBe(why as never);
  });

  test("a pipelined BEGIN and INSERT count before ReadyForQuery tells of them", () => {
    const view = viewOf({});
    for (const sql of ["BEGIN", "INSERT INTO t VALUES (1)"]) {
      noteSuccess(session, parser.facts(sql), view.rules, view.catalog, [nodeId(0)]);
    }
    expect(nodesOf(decide("SELECT 1")).why).toBe("wrote_in_transaction");
    noteSuccess(session, parser.facts("COMMIT"), view.rules, view.catalog, [nodeId(0)]);
    expect(nodesOf(decide("SELECT 1")).why).toBe("load_balanced");
  });
});

describe("a failed transaction", () => {
  beforeEach(() => succeed([["BEGIN", "T"]]));

  test("that failed on the standby is refused here, whether or not the primary failed with it", () => {
    noteError(session, "elsewhere", true);
    expect(decide("INSERT INTO t VALUES (1)")).toEqual({
      kind: "proxy",
      why: "failed_transaction",
    });
    noteReady(session, "E");
    noteError(session, "write_node", true);
    expect(decide("SELECT 1").kind).toBe("proxy");
    expect(nodesOf(decide("ROLLBACK")).nodes).toEqual([nodeId(0), nodeId(1)]);
  });

  test.each([
    ["that failed on the primary", "write_node", "SET work_mem TO 1", "simple"],
    ["whose text PostgreSQL cannot read either", "elsewhere", "selec 1", "simple"],
    ["that a PREPARE TRANSACTION ends", "elsewhere", "PREPARE TRANSACTION 'x'", "simple"],
    ["in the extended protocol", "elsewhere", "SELECT 1", "extended"],
  ] as const)("%s is for the primary to answer, in its words", (_, where, sql, protocol) => {
    noteReady(session, "E");
    noteError(session, where, true);
    const route = nodesOf(decideRoute(parser.facts(sql), sql, protocol, session, viewOf({})));
    expect([route.nodes, route.why]).toEqual([[nodeId(0)], "failed_transaction"]);
  });

  test("lets an empty query pass, to the primary", () => {
    noteError(session, "elsewhere", true);
    expect(nodesOf(decide("")).nodes).toEqual([nodeId(0)]);
  });

  test("is forgotten when it ends", () => {
    noteError(session, "elsewhere", true);
    succeed([["ROLLBACK", "I"]]);
    expect(nodesOf(decide("SELECT 1")).why).toBe("load_balanced");
  });
});

describe("what other nodes do not have", () => {
  const mine = catalogOf({ temporary: new Set(["tt"]) });
  const none = catalogOf({});

  test.each([
    ["SELECT f()", "temporary_table"],
    ["SELECT 'tt'::regclass", "temporary_table"],
    ["SELECT row(1)::tt", "temporary_table"],
    ["SELECT x.f() FROM t", "temporary_table"],
    ["SELECT count(*), lower(name::text) FROM t WHERE id = 1::int", "load_balanced"],
  ])("%s: %s in a session with temporary objects, else balanced", (sql, why) => {
    expect(nodesOf(decide(sql, { catalog: mine })).why).toBe(why as never);
    expect(nodesOf(decide(sql, { catalog: none })).why).toBe("load_balanced");
  });

  test.each([
    [{ read_only_function_list: "f" }, "SELECT f()", "load_balanced"],
    [{ read_only_function_list: "f" }, "SELECT f()::tt", "temporary_table"],
    [{ check_temp_table: "none" }, "SELECT f()::tt", "load_balanced"],
    [{ check_temp_table: "trace" }, "SELECT f()::tt", "load_balanced"],
  ])("%j: %s: %s", (settings, sql, why) => {
    expect(nodesOf(decide(sql, { settings, catalog: mine })).why).toBe(why as never);
  });

  test.each([
    ["SELECT last_value FROM seq", "sequence"],
    ["SELECT pg_listening_channels()", "asks_session"],
    ["SELECT pg_temp.f()", "asks_session"],
    ["SELECT current_setting($1)", "asks_session"],
    ["SELECT current_setting(name) FROM pg_settings", "asks_session"],
    ["SELECT current_setting('work_mem', true)", "load_balanced"],
    ["SELECT name FROM pg_cursors", "asks_session"],
    ["PREPARE p AS SELECT name FROM pg_cursors", "asks_session"],
    ["SHOW plpgsql.extra_errors", "asks_session"],
    ["SHOW transaction_isolation", "load_balanced"],
  ])("%s: %s", (sql, why) => {
    const catalog = catalogOf({ sequences: ["seq"] });
    expect(nodesOf(decide(sql, { catalog })).why).toBe(why as never);
  });

  test("the transaction's own characteristics are the primary's", () => {
    succeed([["BEGIN READ WRITE", "T"]]);
    expect(nodesOf(decide("SHOW transaction_read_only")).why).toBe("asks_session");
    expect(nodesOf(decide("SHOW work_mem")).why).toBe("load_balanced");
  });
});

describe("what is set on the primary alone", () => {
  const set = "SELECT set_config('a.b', 'c', false)";
  const local = "SELECT set_config('a.b', 'c', true)";
  const rows: readonly [string, readonly (readonly [string, TransactionStatus])[], string][] = [
    ["is heeded by reads", [[set, "I"]], "set_on_primary"],
    ["by SET among other statements too", [["SET a.b = 'c'; SELECT 1", "I"]], "set_on_primary"],
    [
      "until it is reset",
      [
        [set, "I"],
        ["RESET ALL", "I"],
      ],
      "load_balanced",
    ],
    [
      "until it is discarded",
      [
        [set, "I"],
        ["DISCARD ALL", "I"],
      ],
      "load_balanced",
    ],
    [
      "but not until a reset that may be undone",
      [
        [set, "I"],
        ["BEGIN", "T"],
        ["RESET ALL", "T"],
        ["ROLLBACK", "I"],
      ],
      "set_on_primary",
    ],
    ["outside of a transaction a local one is of no effect", [[local, "I"]], "load_balanced"],
    [
      "a local one ends with its transaction",
      [
        ["BEGIN", "T"],
        [local, "T"],
        ["COMMIT", "I"],
      ],
      "load_balanced",
    ],
  ];
  test.each(rows)("%s", (_, statements, why) => {
    succeed(statements);
    expect(nodesOf(decide("SELECT * FROM t")).why).toBe(why as never);
  });

  test("is heeded by reads of its transaction where writes do not matter", () => {
    const settings = { disable_load_balance_on_write: "off" };
    succeed([["BEGIN", "T"]], settings);
    expect(nodesOf(decide("SELECT 1", { settings })).why).toBe("load_balanced");
    succeed([[local, "T"]], settings);
    expect(nodesOf(decide("SELECT 1", { settings })).why).toBe("set_on_primary");
  });

  test("is heeded by EXECUTE", () => {
    succeed([["PREPARE p AS SELECT 1", "I"]]);
    expect(nodesOf(decide("EXECUTE p")).why).toBe("prepared_statement");
    succeed([[set, "I"]]);
    expect(nodesOf(decide("EXECUTE p"))).toMatchObject({ why: "prepared_again", main: 0 });
  });
});

describe("statements made by PREPARE", () => {
  const read = ["PREPARE p AS SELECT * FROM t", "I"] as const;

  test("are explained where they are executed, and made again for CREATE TABLE AS", () => {
    succeed([read]);
    expect(decide("EXPLAIN EXECUTE p")).toEqual(decide("EXECUTE p"));
    for (const sql of ["CREATE TABLE u AS EXECUTE p", "EXPLAIN CREATE TABLE u AS EXECUTE p"]) {
      expect(decide(sql)).toMatchObject({ nodes: [nodeId(0)], reprepare: { name: "p" } });
    }
    succeed([["PREPARE q AS DELETE FROM t", "I"]]);
    expect(decide("EXPLAIN EXECUTE q")).toMatchObject({ nodes: [nodeId(0)] });
    const again = decide("CREATE TABLE u AS EXECUTE q");
    expect(again).toMatchObject({ nodes: [nodeId(0)], reprepare: undefined });
  });

  test("are listed by the node that has the latest", () => {
    const sql = "SELECT name FROM pg_prepared_statements";
    expect(nodesOf(decide(sql)).why).toBe("system_catalog");
    succeed([read]);
    expect(decide(sql)).toMatchObject({ nodes: [nodeId(1)], why: "prepared_statement" });
    succeed([["PREPARE q AS DELETE FROM t", "I"]]);
    expect(nodesOf(decide(sql)).why).toBe("system_catalog");
  });

  test("are listed by the node that has the latest of a Parse, where PREPARE made none", () => {
    const sql = "SELECT name FROM pg_prepared_statements";
    session.lastParsedOn = () => [nodeId(1)];
    expect(decide(sql)).toMatchObject({ nodes: [nodeId(1)], why: "prepared_statement" });
    session.lastParsedOn = () => [nodeId(0)];
    expect(nodesOf(decide(sql)).why).toBe("system_catalog");
    session.lastParsedOn = () => [nodeId(1)];
    succeed([["PREPARE q AS DELETE FROM t", "I"]]);
    expect(nodesOf(decide(sql)).why).toBe("system_catalog");
  });

  test("are made again on the primary when a write came first", () => {
    succeed([read, ["BEGIN", "T"], ["DELETE FROM t", "T"]]);
    expect(decide("EXECUTE p")).toMatchObject({
      nodes: [nodeId(0)],
      why: "prepared_again",
      reprepare: { name: "p", sql: "PREPARE p AS SELECT * FROM t" },
    });
  });

  test.each(["EXECUTE p", "DEALLOCATE p"])("and for %s when their node is lost", (sql) => {
    succeed([read]);
    session.lostNodes.add(nodeId(1));
    expect(decide(sql)).toMatchObject({
      nodes: [nodeId(0)],
      why: "prepared_again",
      reprepare: { name: "p", sql: "PREPARE p AS SELECT * FROM t" },
    });
  });

  test("inside a multi-statement live where it went", () => {
    succeed([["SELECT 1; PREPARE p AS SELECT 2", "I"]]);
    expect(nodesOf(decide("EXECUTE p")).nodes).toEqual([nodeId(0)]);
  });

  test("are found by the name of a Parse as well, but after their own", () => {
    session.parsed = (name) =>
      name === "p"
        ? {
            nodes: [nodeId(0)],
            reads: true,
            readTables: [],
            changedTables: [],
            inserts: [],
            added: [],
            changes: noChanges,
          }
        : undefined;
    expect(nodesOf(decide("EXECUTE p")).nodes).toEqual([nodeId(0)]);
    succeed([read]);
    expect(nodesOf(decide("EXECUTE p")).nodes).toEqual([nodeId(1)]);
  });

  describe("or by a Parse", () => {
    const wrote = [
      ["BEGIN", "T"],
      ["DELETE FROM t", "T"],
    ] as const;
    const rows: [
      what: string,
      nodes: number[],
      reads: boolean,
      wrote: boolean,
      expected: object,
    ][] = [
      ["are read where they are", [1], true, false, { nodes: [nodeId(1)] }],
      [
        "that are on both nodes are read on the standby",
        [0, 1],
        true,
        false,
        { nodes: [nodeId(1)] },
      ],
      [
        "that are on both for a reason go to both",
        [0, 1],
        false,
        false,
        { nodes: [0, 1].map(nodeId) },
      ],
      [
        "are made again on the primary when a write came first",
        [1],
        true,
        true,
        { nodes: [nodeId(0)], reprepare: { name: "p", sql: undefined } },
      ],
      [
        "that are there already are run there then",
        [0, 1],
        true,
        true,
        { nodes: [nodeId(0)], reprepare: undefined },
      ],
    ];
    test.each(rows)("%s", (_, nodes, reads, writesFirst, expected) => {
      session.parsed = () => ({
        nodes: nodes.map(nodeId),
        reads,
        readTables: [],
        changedTables: [],
        inserts: [],
        added: [],
        changes: noChanges,
      });
      if (writesFirst) succeed(wrote);
      expect(decide("EXECUTE p")).toMatchObject(expected);
    });

    test("are deallocated wherever they are", () => {
      session.parsed = () => ({
        nodes: [0, 1].map(nodeId),
        reads: true,
        readTables: [],
        changedTables: [],
        inserts: [],
        added: [],
        changes: noChanges,
      });
      expect(nodesOf(decide("DEALLOCATE p")).nodes).toEqual([0, 1].map(nodeId));
    });
  });

  test.each(["DEALLOCATE p", "DEALLOCATE ALL", "DISCARD ALL"])("are gone after %s", (sql) => {
    succeed([read, [sql, "I"]]);
    expect(nodesOf(decide("EXECUTE p")).why).toBe("unknown_statement");
  });

  test("survive DISCARD PLANS, which drops plans alone", () => {
    succeed([read, ["DISCARD PLANS", "I"]]);
    expect(nodesOf(decide("EXECUTE p")).why).toBe("prepared_statement");
  });
});

describe("the load-balance node", () => {
  test("is chosen once per session", () => {
    const cluster = clusterOf([{}, {}, {}]);
    const random = (value: number) => () => value;
    const first = nodesOf(decide("SELECT 1", { cluster, random: random(0.9) })).nodes;
    expect(nodesOf(decide("SELECT 1", { cluster, random: random(0) })).nodes).toEqual(first);
  });

  test("is chosen for every read with statement_level_load_balance", () => {
    const cluster = clusterOf([{}, {}, {}]);
    const settings = { statement_level_load_balance: "on" };
    const chosen = [0, 0.5, 0.9].map(
      (draw) => nodesOf(decide("SELECT 1", { cluster, settings, random: () => draw })).nodes[0],
    );
    expect(chosen).toEqual([nodeId(0), nodeId(1), nodeId(2)]);
  });

  test("is chosen anew when it went down", () => {
    decide("SELECT 1");
    const cluster = clusterOf([{ weight: 0.5 }, { weight: 0.5, status: "down" }]);
    expect(nodesOf(decide("SELECT 1", { cluster })).nodes).toEqual([nodeId(0)]);
  });

  test("the primary answers for the cluster even if its number is the higher", () => {
    const cluster = clusterOf([{ weight: 1 }, { weight: 0 }], { primary: nodeId(1) });
    const route = nodesOf(decide("BEGIN READ WRITE", { cluster }));
    expect([route.nodes, route.main, route.otherNodesSql]).toEqual([
      [nodeId(0), nodeId(1)],
      nodeId(1),
      "BEGIN",
    ]);
  });

  test("with every node down a statement goes to node 0, whose connection will tell", () => {
    const cluster = clusterOf([{ status: "down" }, { status: "down" }], { primary: undefined });
    expect(nodesOf(decide("SELECT 1", { cluster })).nodes).toEqual([nodeId(0)]);
  });
});

describe("where pgpool replicates", () => {
  const around: Around = {
    settings: { backend_clustering_mode: "native_replication" },
    cluster: clusterOf([{ weight: 0 }, { weight: 1 }], { mode: "native_replication" }),
    catalog: catalogOf({
      volatile: ["f_vol", "txid_status", "pg_relation_size", "pg_partition_ancestors"],
    }),
  };
  test.each([
    ["SELECT txid_current()", [0], "transaction_id"],
    ["SELECT pg_catalog.txid_status(7)", [0], "transaction_id"],
    ["SELECT txid_status(7), f_vol()", [0, 1], "replicated"],
    ["SELECT mine.txid_status(7)", [0, 1], "replicated"],
    ["SELECT pg_partition_ancestors('t')", [1], "load_balanced"],
    ["SELECT pg_relation_size('t')", [1], "load_balanced"],
    ["SELECT f_vol()", [0, 1], "replicated"],
  ] as const)("%s", (sql, nodes, why) => {
    const route = nodesOf(decide(sql, around));
    expect<[number[], string]>([[...route.nodes], route.why]).toEqual([[...nodes], why]);
  });

  test("EXECUTE asks what it inserts into, also where no node knows the statement any more", () => {
    const prepare = parser.facts("PREPARE p AS INSERT INTO t VALUES (1)");
    const view = viewOf(around);
    noteSuccess(session, prepare, view.rules, view.catalog, []);
    const catalog = { ...view.catalog, columns: () => undefined };
    const route = decide("EXECUTE p", { ...around, catalog });
    if (route.kind !== "ask") throw new Error(`decided ${route.kind}`);
    expect(route.questions.map(({ kind }) => kind)).toEqual(["columns"]);
    expect(nodesOf(decide("EXECUTE p", around)).nodes).toEqual([nodeId(0), nodeId(1)]);
  });

  test("what only looks leaves the reads of its transaction where they are", () => {
    const view = viewOf(around);
    for (const sql of ["BEGIN", "SELECT pg_relation_size('t')"]) {
      noteReady(session, "T");
      noteSuccess(session, parser.facts(sql), view.rules, view.catalog, [nodeId(1)]);
    }
    expect(nodesOf(decide("SELECT 1", around)).why).toBe("load_balanced");
  });
});
