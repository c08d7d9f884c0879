/**
 * PGPOOL EXPLAIN ROUTE: what it says of a decision, and that it says what would happen and changes
 * nothing.
 */
import { beforeAll, describe, expect, test } from "bun:test";
import { routeTable } from "../../../core/admin/show_route.ts";
import { nodeId } from "../../../core/cluster/state.ts";
import { RelationCache } from "../../../proxy/cache/relcache.ts";
import { StatementParser } from "../../../proxy/parser.ts";
import type { CatalogQuestion } from "../../../proxy/routing/catalog_lookups.ts";
import { type Foreseen, SessionRouter } from "../../../proxy/session/router.ts";
import groups from "./routing_cases.json";
import { clusterOf, rulesOf, type Settings, trackingOf } from "./rules.ts";

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

/** What the catalog answers here: everything exists and is harmless but for these. */
const answers: { readonly [name: string]: string } = {
  logs: "u",
  pg_class: "s",
  f_vol: "v",
  tmp: "e",
};

function answerOf(question: CatalogQuestion): string {
  switch (question.kind) {
    case "relation":
      return question.relation.name === "tmp" ? "e" : (answers[question.relation.name] ?? "e");
    case "volatile":
      return answers[question.function.name] ?? "e";
    case "temporary":
      return question.name === "tmp" ? "e" : "-";
    case "any_temporary":
    case "columns":
      return "-";
    case "isolation":
      return "read committed";
  }
}

type Setup = {
  readonly settings?: Settings;
  readonly before?: readonly string[];
  readonly delay?: number;
  readonly database?: string;
  readonly relcacheSize?: number;
};

function routerOf({
  settings = {},
  delay = 0,
  database = "d",
  relcacheSize = 100,
}: Setup): SessionRouter {
  const engine = {
    parser,
    state: clusterOf([{ weight: 0 }, { weight: 1, delay }]),
    rules: rulesOf(settings, 2),
    relcache: new RelationCache({ sizeMax: relcacheSize, expireMs: 0, clock: () => 0 }),
    random: () => 0.5,
    writes: trackingOf(() => 0),
    nodeOfPid: () => undefined,
  };
  const nodes = [nodeId(0), nodeId(1)];
  return new SessionRouter({ engine, user: "u", database, applicationName: "", nodes });
}

function answering<T extends { readonly kind: string }>(
  router: SessionRouter,
  decide: () => T | { readonly kind: "ask"; readonly questions: readonly CatalogQuestion[] },
): T {
  for (let asked = 0; asked < 10; asked++) {
    const outcome = decide();
    if (outcome.kind !== "ask") return outcome as T;
    const { questions } = outcome as { questions: readonly CatalogQuestion[] };
    router.questionSql(questions);
    router.answered(questions, questions.map(answerOf));
  }
  throw new Error("asks without end");
}

function run(router: SessionRouter, sql: string): void {
  const facts = parser.facts(sql);
  const route = answering(router, () => router.decide(facts, sql, "simple"));
  router.noteSent(facts);
  const begins = /^BEGIN/.test(sql);
  const ends = /^(?:COMMIT|ROLLBACK)/.test(sql);
  router.noteReady(begins ? "T" : ends ? "I" : router.session.status);
  router.noteDone(facts, route.kind === "nodes" ? route.nodes : []);
}

function explain(setup: Setup, sql: string): Extract<Foreseen, { kind: "foreseen" }> {
  const router = routerOf(setup);
  for (const before of setup.before ?? []) run(router, before);
  return answering(router, () => router.foresee(parser.facts(sql), sql, "simple"));
}

describe("the rule that decided is named with its value", () => {
  const rows: [sql: string, setup: Setup, reason: string, rule: string][] = [
    ["SELECT 1", {}, "load_balanced", "backend_weight, drawn for the session"],
    [
      "SELECT 1",
      { settings: { statement_level_load_balance: "on" } },
      "load_balanced",
      "backend_weight, drawn for each statement",
    ],
    [
      "SELECT 1",
      { settings: { database_redirect_preference_list: "d:standby(0.7)" } },
      "load_balanced",
      "database_redirect_preference_list: standby(0.7), drawn for the session",
    ],
    [
      "SELECT 1",
      { settings: { load_balance_mode: "off" } },
      "load_balance_off",
      "load_balance_mode = off",
    ],
    ["/* x */ SELECT 1", {}, "not_a_read", "allow_sql_comments = off"],
    [
      " SELECT 1",
      { settings: { ignore_leading_white_space: "off" } },
      "not_a_read",
      "allow_sql_comments = off, ignore_leading_white_space = off",
    ],
    ["VALUES (1)", {}, "not_a_read", "allow_sql_comments = off"],
    [
      "SELECT 1",
      { before: ["BEGIN", "INSERT INTO t VALUES (1)"] },
      "wrote_in_transaction",
      "disable_load_balance_on_write = transaction",
    ],
    [
      "SELECT 1",
      {
        settings: { disable_load_balance_on_write: "always" },
        before: ["INSERT INTO t VALUES (1)"],
      },
      "wrote_earlier",
      "disable_load_balance_on_write = always",
    ],
    [
      "SELECT * FROM t",
      {
        settings: { disable_load_balance_on_write: "dml_adaptive" },
        before: ["BEGIN", "INSERT INTO t VALUES (1)"],
      },
      "dml_adaptive",
      "disable_load_balance_on_write = dml_adaptive; written: t",
    ],
    ["SELECT * FROM pg_class", {}, "system_catalog", ""],
    [
      "SELECT * FROM tmp",
      { before: ["SELECT f_vol()"] },
      "temporary_table",
      "check_temp_table = catalog",
    ],
    ["SELECT * FROM logs", {}, "unlogged_table", "check_unlogged_table = on"],
    [
      'SELECT "x" FROM t',
      { settings: { primary_routing_query_pattern_list: "SELECT y.*;SELECT x.*" } },
      "query_pattern",
      "primary_routing_query_pattern_list: SELECT x.*",
    ],
    ["SELECT g(), f_vol()", {}, "writing_function", "pg_proc.provolatile of f_vol = v"],
    [
      "SELECT g()",
      { settings: { write_function_list: "f,g.*" } },
      "writing_function",
      "write_function_list: g.*",
    ],
    [
      "SELECT g()",
      { settings: { read_only_function_list: "f" } },
      "writing_function",
      "read_only_function_list does not name g",
    ],
    [
      "SELECT 1",
      { settings: { delay_threshold: "1000" }, delay: 2000 },
      "delayed",
      "delay_threshold = 1000B; node 1: 2000 bytes",
    ],
    ["BEGIN", {}, "transaction_control", "kind of statement"],
    [
      "EXECUTE p",
      { before: ["PREPARE p AS SELECT 1"] },
      "prepared_statement",
      'statement "p": prepared on node 1',
    ],
    ["EXECUTE q", {}, "unknown_statement", 'statement "q": unknown'],
    [
      "SELECT 1",
      { before: ["BEGIN ISOLATION LEVEL SERIALIZABLE"] },
      "serializable",
      "transaction_isolation = serializable",
    ],
    ["SELECT 1; SELECT 2", {}, "multi_statement", ""],
    ["SHOW pool_nodes", {}, "show_pool", ""],
    ["PGPOOL EXPLAIN ROUTE SELECT 1", {}, "pgpool_command", ""],
  ];
  test.each(rows)("%s %j", (sql, setup, reason, rule) => {
    const { why } = explain(setup, sql);
    expect([why.why, why.rule]).toEqual([reason as typeof why.why, rule]);
  });
});

test("what was looked up is listed with what was found, and nothing else", () => {
  const sql = "SELECT f_vol(), s.g() FROM a JOIN s.b ON true";
  expect(explain({ before: ["SELECT f_vol()"] }, sql).why.lookedUp).toEqual([
    "function f_vol: volatile",
    "function s.g: not volatile",
    "table a: neither catalog nor unlogged",
    "table s.b: neither catalog nor unlogged",
    "temporary objects: none in this session",
    "temporary table a: none in this session",
    "temporary table b: none in this session",
  ]);
  expect(explain({}, "INSERT INTO a VALUES (f_vol())").why.lookedUp).toEqual([]);
  const settings = { write_function_list: "f.*", check_temp_table: "trace" };
  expect(explain({ settings }, "SELECT g() FROM a").why.lookedUp).toEqual([
    "table a: neither catalog nor unlogged",
    "temporary table a: none seen",
    "function g: only reads, by its list",
  ]);
});

test("a transaction's beginning is shown for each node, with what a standby gets instead", () => {
  const { route, why } = explain({}, "BEGIN ISOLATION LEVEL SERIALIZABLE");
  if (route.kind !== "nodes") throw new Error(route.kind);
  expect(route.otherNodesSql).toBe("BEGIN");
  const target = { node: 1, role: "standby", instead: "BEGIN", first: undefined };
  expect(routeTable(why, [target]).rows).toEqual([
    [
      ...["1", "standby", "BEGIN", "both", "transaction_control", "kind of statement", ""],
      "A transaction begins and ends wherever the session may read. This node is sent instead: BEGIN",
    ],
  ]);
});

test("what would happen is foretold, and nothing is changed by asking", () => {
  for (const { mode, settings, cases } of groups) {
    if (mode !== "streaming_replication") continue;
    const router = routerOf({ settings: settings as Settings, relcacheSize: 1 });
    const texts = (cases as readonly { readonly sql: string }[]).map(({ sql }) => sql);
    for (const sql of texts) {
      const facts = parser.facts(sql);
      const stateOf = () => JSON.stringify([router.session, [...router.session.prepared]]);
      // Its isolation level is asked for when it is wanted, here or there.
      if (router.session.isolation === "unknown" && router.session.status !== "I") {
        answering(router, () => router.decide(parser.facts("SELECT 1"), "SELECT 1", "simple"));
      }
      const before = stateOf();
      const foreseen = answering(router, () => router.foresee(facts, sql, "simple"));
      expect(stateOf()).toBe(before);
      const decided = answering(router, () => router.decide(facts, sql, "simple"));
      expect([sql, foreseen.kind === "foreseen" && foreseen.route]).toEqual([sql, decided]);
      if (!sql.includes("1/0")) run(router, sql);
    }
  }
});
