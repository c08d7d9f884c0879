/**
 * Every setting of the load-balancing chapter that a reload changes, with the built binary and real
 * servers: what it does, and that running sessions and new ones follow it as Pgpool's contexts say.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eventually, type RawClient, Scope } from "./harness.ts";
import {
  expectShares,
  LoadBalanceStage,
  type Login,
  readT,
  type Settings,
} from "./load_balance_stage.ts";

const port = "inet_server_port()";
const objects = [
  "CREATE TABLE t (i int); INSERT INTO t VALUES (1)",
  "CREATE TABLE u (i int); INSERT INTO u VALUES (1)",
  "CREATE VIEW v AS SELECT * FROM u",
  "CREATE TABLE m (i int); INSERT INTO m VALUES (1)",
  "CREATE UNLOGGED TABLE unlogged (i int); INSERT INTO unlogged VALUES (1)",
  "CREATE SCHEMA s",
  "CREATE FUNCTION f_vol() RETURNS int LANGUAGE sql VOLATILE AS 'SELECT 1'",
  "CREATE FUNCTION f_stable() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'",
  "CREATE FUNCTION s.f_stable() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'",
  "CREATE FUNCTION f_write() RETURNS int LANGUAGE sql AS 'INSERT INTO m VALUES (2) RETURNING 2'",
  "CREATE ROLE u1 LOGIN; CREATE ROLE u2 LOGIN",
  "GRANT SELECT ON ALL TABLES IN SCHEMA public TO PUBLIC",
];

let scope: Scope;
let stage: LoadBalanceStage;
beforeAll(async () => {
  scope = new Scope();
  stage = await LoadBalanceStage.create(scope, objects);
  await stage.nodes[0].sql("CREATE TABLE t (i int); INSERT INTO t VALUES (1)", "other");
  await stage.nodes[0].sql("GRANT SELECT ON t TO PUBLIC", "other");
  await stage.caughtUp();
}, 300_000);
afterAll(() => scope.close());

describe("weights", () => {
  test("new sessions are dealt by weight, weight 0 gets none", async () => {
    await stage.reload({ backend_weight0: 1, backend_weight1: 3, backend_weight2: 0 });
    expectShares(await stage.spread(120), [1, 3, 0]);
  }, 300_000);

  test("a reload of weights is for new sessions, a running one stays where it reads", async () => {
    await stage.reload();
    await stage.session(async (running) => {
      expect(await stage.where(running)).toBe(1);
      await stage.reload({ backend_weight1: 0, backend_weight2: 1 });
      expect(await stage.where(running)).toBe(1);
      expect(await stage.spread(3)).toEqual([0, 0, 3]);
    });
  });
});

describe("statement_level_load_balance", () => {
  const weights = { backend_weight0: 1, backend_weight1: 1, backend_weight2: 2 };

  test("deals each statement, from its reload on in running sessions too, and ends as it began", async () => {
    await stage.reload(weights);
    await stage.session(async (running) => {
      const first = await stage.where(running);
      await stage.reload({ ...weights, statement_level_load_balance: true });
      const counts = [0, 0, 0];
      for (let i = 0; i < 400; i++) {
        const node = Number(await stage.where(running));
        counts[node] = (counts[node] ?? 0) + 1;
      }
      expectShares(counts, [1, 1, 2]);
      await stage.reload(weights);
      const last = await stage.where(running);
      for (let i = 0; i < 20; i++) expect(await stage.where(running)).toBe(last as number);
      expect([0, 1, 2]).toContain(first as number);
    });
  }, 300_000);

  test("settings and transactions reach every node", async () => {
    await stage.reload({ ...weights, statement_level_load_balance: true });
    await stage.session(async (client) => {
      await client.rows("SET work_mem TO '7MB'");
      await client.rows("BEGIN");
      const seen = new Set<unknown>();
      for (let i = 0; i < 40; i++) {
        const sql = `SELECT ${port}, current_setting('work_mem'), now() = statement_timestamp()`;
        const { rows } = await client.query(sql);
        expect(rows[0]?.[1]).toBe("7MB");
        expect(rows[0]?.[2]).toBe("f"); // now() is the time of BEGIN: it is the same transaction
        seen.add(rows[0]?.[0]);
      }
      expect(seen.size).toBe(3);
      await client.rows("COMMIT");
    });
  });
});

describe("redirect preferences", () => {
  const lists = {
    backend_weight0: 1,
    backend_weight1: 1,
    backend_weight2: 0,
    user_redirect_preference_list: "u1:primary,u2:2",
    database_redirect_preference_list: "other:2",
    app_name_redirect_preference_list:
      "ap1:primary,ap2:standby,ap3.*:2,never:1(0.0),half:2(0.5),third:standby(0.3),beyond:9",
  };
  const sure: readonly [what: string, login: Partial<Login>, node: number][] = [
    ["a user to the primary", { user: "u1" }, 0],
    ["a user to a node without weight", { user: "u2" }, 2],
    ["a database before the user", { user: "u1", database: "other" }, 2],
    ["an application before the database", { database: "other", app: "ap1" }, 0],
    ["an application to the standbys, by weight", { app: "ap2" }, 1],
    ["a pattern, whatever the letters' case", { app: "AP3xyz" }, 2],
    ["not at all with ratio 0, and the node is left out", { app: "never" }, 0],
    ["a node that does not exist to the main node", { app: "beyond" }, 0],
  ];
  const shared: readonly [what: string, login: Partial<Login>, shares: number[]][] = [
    ["half, the rest by weight without that node", { app: "half" }, [1, 1, 2]],
    ["three tenths to a standby, the rest to the primary", { app: "third" }, [7, 3, 0]],
    ["nobody who only contains the pattern", { app: "xap1" }, [1, 1, 0]],
  ];
  beforeAll(() => stage.reload(lists));

  test.each(sure)("send %s", async (_, login, node) => {
    for (let i = 0; i < 6; i++) {
      expect(await stage.session((client) => stage.where(client), login)).toBe(node);
    }
  });

  test.each(shared)(
    "send %s",
    async (_, login, shares) => {
      expectShares(await stage.spread(100, login), shares);
    },
    300_000,
  );

  test("a reload of a list is for new sessions", async () => {
    const running = await stage.client({ user: "u2" });
    expect(await stage.where(running)).toBe(2);
    await stage.reload({ user_redirect_preference_list: "u2:primary" });
    expect(await stage.where(running)).toBe(2);
    expect(await stage.session((client) => stage.where(client), { user: "u2" })).toBe(0);
    await running.terminate();
  });
});

type Read = readonly [sql: string, node: number];
/** Settings, and where reads of one running session go when they are in force. */
const rules: readonly [what: string, settings: Settings, reads: readonly Read[]][] = [
  [
    "as it comes",
    {},
    [
      [readT, 1],
      [`SELECT ${port}, f_vol()`, 0],
      [`SELECT ${port}, f_stable()`, 1],
      [`  \n\t${readT}`, 1],
      [`/* c */ ${readT}`, 0],
      [`SELECT ${port} FROM pg_class LIMIT 1`, 0],
      [`SELECT ${port} FROM unlogged`, 0],
      [`(${readT})`, 1],
      [`WITH a AS (SELECT 1) SELECT ${port} FROM a`, 1],
      [`${readT} FOR SHARE`, 0],
      ["SHOW port", 1],
    ],
  ],
  [
    "read_only_function_list",
    { read_only_function_list: `f_vol,s\\.f.*,inet_server_port` },
    [
      [`SELECT ${port}, f_vol()`, 1],
      [`SELECT ${port}, F_VOL()`, 1],
      [`SELECT ${port}, f_stable()`, 0],
      [`SELECT ${port}, s.f_stable()`, 1],
      [`SELECT ${port}, public.f_vol()`, 0],
    ],
  ],
  [
    "write_function_list",
    { write_function_list: "f_st.*,s\\.f_stable" },
    [
      [`SELECT ${port}, f_vol()`, 1],
      [`SELECT ${port}, f_stable()`, 0],
      [`SELECT ${port}, s.f_stable()`, 0],
      [`SELECT ${port}, public.f_stable()`, 1],
    ],
  ],
  [
    "read_only_function_list before write_function_list",
    { read_only_function_list: "inet_server_port,f_vol", write_function_list: "f_vol" },
    [[`SELECT ${port}, f_vol()`, 1]],
  ],
  [
    "primary_routing_query_pattern_list",
    { primary_routing_query_pattern_list: `.*from u;select inet_server_port\\(\\), 1\\;;show .*` },
    [
      [readT, 1],
      [`SELECT ${port} FROM u`, 0],
      [`SELECT ${port} FROM "u"`, 0],
      [`SELECT ${port} FROM u WHERE i = 1`, 1],
      [`SELECT ${port}, 1`, 1],
      [`SELECT ${port}, 1;`, 0],
      ["SHOW port", 0],
    ],
  ],
  [
    "allow_sql_comments",
    { allow_sql_comments: true },
    [
      [`/* c */ ${readT}`, 1],
      [`-- c\n${readT}`, 1],
      ["/* c */ SHOW port", 1],
    ],
  ],
  [
    "ignore_leading_white_space = off",
    { ignore_leading_white_space: false },
    [
      [` ${readT}`, 0],
      [readT, 1],
    ],
  ],
  [
    "ignore_leading_white_space = off with allow_sql_comments",
    { ignore_leading_white_space: false, allow_sql_comments: true },
    [[` ${readT}`, 1]],
  ],
];

describe("what counts as a read of the running session", () => {
  let running: RawClient;
  beforeAll(async () => {
    await stage.reload();
    running = await stage.client();
  });
  afterAll(() => running.terminate());

  test.each(rules)("%s", async (_, settings, reads) => {
    await stage.reload(settings);
    const seen: [string, unknown][] = [];
    for (const [sql] of reads) seen.push([sql, await stage.where(running, sql)]);
    expect(seen).toEqual(reads.map(([sql, node]) => [sql, node]));
  });

  test("allow_sql_comments and check_unlogged_table are also the session's own", async () => {
    await stage.reload();
    const commented = `/* c */ ${readT}`;
    await running.rows("PGPOOL SET allow_sql_comments TO on");
    await running.rows("PGPOOL SET check_unlogged_table TO off");
    expect(await stage.where(running, commented)).toBe(1);
    expect(await stage.where(running, `SELECT ${port} FROM unlogged`)).toBe("0A000");
    await stage.reload({ ignore_leading_white_space: false });
    expect(await stage.where(running, commented)).toBe(1);
    expect(await stage.session((client) => stage.where(client, commented))).toBe(0);
    await running.rows("PGPOOL RESET allow_sql_comments");
    await running.rows("PGPOOL RESET check_unlogged_table");
    expect(await stage.where(running, commented)).toBe(0);
    expect(await stage.where(running, `SELECT ${port} FROM unlogged`)).toBe(0);
  });

  test("check_unlogged_table and check_temp_table", async () => {
    const temporary = `SELECT ${port} FROM mine`;
    await running.rows("CREATE TEMP TABLE mine AS SELECT 1");
    for (const [check, node] of [
      ["catalog", 0],
      ["none", "42P01"],
      ["trace", "42P01"], // CREATE TABLE AS is not traced
    ] as const) {
      await stage.reload({ check_temp_table: check, check_unlogged_table: false });
      expect(await stage.where(running, temporary)).toBe(node);
      expect(await stage.where(running, `SELECT ${port} FROM unlogged`)).toBe("0A000");
    }
    await running.rows("CREATE TEMP TABLE traced (i int)");
    await running.rows("INSERT INTO traced VALUES (1)");
    expect(await stage.where(running, `SELECT ${port} FROM traced`)).toBe(0);
    await running.rows("DROP TABLE mine, traced");
  });
});

const write = "INSERT INTO u VALUES (2)";
const readU = `SELECT ${port} FROM u LIMIT 1`;
const readV = `SELECT ${port} FROM v LIMIT 1`;
const readM = `SELECT ${port} FROM m LIMIT 1`;
const at = (node: number, sql = readT) => [sql, node] as const;
/** A statement, or a read and where it goes. */
type Step = string | readonly [sql: string, node: number];
const onWrite: readonly [value: string, ...steps: Step[]][] = [
  ["off", "BEGIN", write, at(1), at(1, "SHOW port"), "COMMIT", at(1)],
  ["transaction", write, at(1), "BEGIN", at(1), write, at(0), "COMMIT", at(1)],
  ["transaction", "BEGIN", write, at(0), "COMMIT", "BEGIN", at(1), "COMMIT"],
  ["trans_transaction", "BEGIN", write, at(0), "COMMIT", at(1), "BEGIN", at(0), "COMMIT", at(1)],
  ["always", at(1), write, at(0), at(0, "SHOW port"), "BEGIN", at(0), "COMMIT", at(0)],
  ["always", "SELECT f_vol()", at(0)],
  ["always", at(1), "BEGIN", at(1), "COMMIT", at(1)],
  ["dml_adaptive", write, at(1, readU)],
  ["dml_adaptive", "BEGIN", write, at(1), at(0, readU), at(0, readV), "COMMIT", at(1, readU)],
  [
    "dml_adaptive",
    "BEGIN",
    at(1, readM),
    "SELECT f_write()",
    at(0, readM),
    "ROLLBACK",
    at(1, readM),
  ],
];

describe("disable_load_balance_on_write", () => {
  test.each(onWrite)("%s", async (value, ...steps) => {
    await stage.reload({
      disable_load_balance_on_write: value,
      dml_adaptive_object_relationship_list: "u:v,f_write():m",
    });
    await stage.session(async (client) => {
      for (const step of steps) {
        if (typeof step === "string") await client.rows(step);
        else expect([step[0], await stage.where(client, step[0])]).toEqual([...step]);
      }
    });
  });

  test("a reload reaches a transaction that has written", async () => {
    await stage.reload({ disable_load_balance_on_write: "transaction" });
    await stage.session(async (running) => {
      await running.rows("BEGIN");
      await running.rows("INSERT INTO u VALUES (3)");
      expect(await stage.where(running)).toBe(0);
      await running.rows("ROLLBACK");
      await stage.reload({ disable_load_balance_on_write: "off" });
      await running.rows("BEGIN");
      await running.rows("INSERT INTO u VALUES (3)");
      expect(await stage.where(running)).toBe(1);
      await running.rows("ROLLBACK");
    });
  });

  test("dml_adaptive_global: others read on the primary what one has committed, for a while", async () => {
    await stage.reload({
      disable_load_balance_on_write: "dml_adaptive_global",
      track_table_mutation_cold_start_duration: 0,
      track_table_mutation_ttl_factor: 100,
      // Both standbys are 100 ms behind, so a write counts for ten seconds.
      replication_delay_source_cmd: "echo 100 100 #",
    });
    const delay = () => stage.delayOf(1);
    await eventually(delay, (shown) => shown === "0.100000 second", { what: "the delay" });
    await stage.session(async (writer) => {
      const reader = await stage.client();
      await writer.rows("BEGIN");
      await writer.rows("INSERT INTO u VALUES (4)");
      expect(await stage.where(reader, readU)).toBe(1);
      await writer.rows("COMMIT");
      expect([await stage.where(reader, readU), await stage.where(reader)]).toEqual([0, 1]);
      expect(await stage.where(writer, readU)).toBe(0);
      await eventually(
        () => stage.where(reader, readU),
        (node) => node === 1,
      );
      await reader.terminate();
    });
  }, 300_000);

  test("dml_adaptive_global: after a start reads stay on the primary for the configured time", async () => {
    await using own = new Scope();
    const settings = {
      disable_load_balance_on_write: "dml_adaptive_global",
      track_table_mutation_cold_start_duration: 60_000,
    };
    const pgpool = await stage.another(own, settings);
    await stage.session(
      async (client) => {
        expect(await stage.where(client)).toBe(0);
        pgpool.reload({ ...settings, track_table_mutation_cold_start_duration: 0 });
        await eventually(
          () => stage.where(client),
          (node) => node === 1,
        );
      },
      {},
      pgpool,
    );
  });
});
