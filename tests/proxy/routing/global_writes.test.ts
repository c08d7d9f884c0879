/**
 * disable_load_balance_on_write = dml_adaptive_global: what one session commits, all of them read on
 * the primary for a while.
 */

import { beforeAll, beforeEach, expect, test } from "bun:test";
import { nodeId } from "../../../core/cluster/state.ts";
import type { RecentWrites } from "../../../proxy/cache/recent_writes.ts";
import { StatementParser } from "../../../proxy/parser.ts";
import { decideRoute, type RoutingView } from "../../../proxy/routing/route.ts";
import {
  noteReady,
  noteSent,
  noteSuccess,
  RoutingSession,
  type TransactionStatus,
  takeCommitted,
} from "../../../proxy/routing/session_routing.ts";
import { catalogOf, clusterOf, rulesOf, trackingOf } from "./rules.ts";

let parser: StatementParser;
beforeAll(async () => {
  parser = await StatementParser.load();
});

const rules = rulesOf({
  disable_load_balance_on_write: "dml_adaptive_global",
  dml_adaptive_object_relationship_list: "t:v,fun():m",
});
let now = 0;
let writes: RecentWrites;
let view: RoutingView;
let mine: RoutingSession;
let other: RoutingSession;

beforeEach(() => {
  now = 10_000;
  writes = trackingOf(() => now);
  view = {
    cluster: clusterOf([{ weight: 0 }, { weight: 1 }]),
    rules,
    catalog: catalogOf({ volatile: ["fun"] }),
    random: () => 0.5,
    writes: writes.of("d"),
  };
  mine = new RoutingSession({ user: "a", database: "d" });
  other = new RoutingSession({ user: "b", database: "d" });
});

type Step = readonly [sql: string, status: TransactionStatus];

function run(session: RoutingSession, steps: readonly Step[]): void {
  for (const [sql, status] of steps) {
    const facts = parser.facts(sql);
    const { failed } = session;
    noteSent(session, facts, rules);
    noteReady(session, status);
    noteSuccess(session, facts, rules, view.catalog, [nodeId(0)]);
    writes.record("d", takeCommitted(session, facts, rules, failed));
  }
}

function why(session: RoutingSession, sql: string): string {
  session.isolation = "read_committed";
  const route = decideRoute(parser.facts(sql), sql, "simple", session, view);
  return route.kind === "nodes" ? route.why : route.kind;
}

const rows: readonly [what: string, steps: readonly Step[], others: string][] = [
  ["a write of its own", [["INSERT INTO t VALUES (1)", "I"]], "written_lately"],
  ["a write to another table", [["INSERT INTO u VALUES (1)", "I"]], "load_balanced"],
  ["a read", [["SELECT * FROM t", "I"]], "load_balanced"],
  [
    "a write not committed yet",
    [
      ["BEGIN", "T"],
      ["DELETE FROM t", "T"],
    ],
    "load_balanced",
  ],
  [
    "COMMIT",
    [
      ["BEGIN", "T"],
      ["DELETE FROM t", "T"],
      ["COMMIT", "I"],
    ],
    "written_lately",
  ],
  [
    "COMMIT AND CHAIN",
    [
      ["BEGIN", "T"],
      ["DELETE FROM t", "T"],
      ["COMMIT AND CHAIN", "T"],
    ],
    "written_lately",
  ],
  [
    "ROLLBACK",
    [
      ["BEGIN", "T"],
      ["DELETE FROM t", "T"],
      ["ROLLBACK", "I"],
      ["SELECT 1", "I"],
    ],
    "load_balanced",
  ],
  ["several statements", [["BEGIN; DELETE FROM t; COMMIT", "I"]], "written_lately"],
  [
    "EXECUTE of a write",
    [
      ["PREPARE p AS DELETE FROM t", "I"],
      ["EXECUTE p", "I"],
    ],
    "written_lately",
  ],
  ["its PREPARE alone", [["PREPARE p AS DELETE FROM t", "I"]], "load_balanced"],
];
test.each(rows)("after %s others read t: %p → %s", (_, steps, expected) => {
  run(mine, steps);
  expect(why(other, "SELECT * FROM t")).toBe(expected);
});

test("a transaction that had failed commits nothing", () => {
  run(mine, [
    ["BEGIN", "T"],
    ["DELETE FROM t", "T"],
  ]);
  mine.failure = "write_node";
  run(mine, [["COMMIT", "I"]]);
  expect(why(other, "SELECT * FROM t")).toBe("load_balanced");
});

test("in its own transaction a session reads what it wrote on the primary, and the rest not", () => {
  run(mine, [
    ["BEGIN", "T"],
    ["DELETE FROM t", "T"],
  ]);
  expect(why(mine, "SELECT * FROM t")).toBe("dml_adaptive");
  expect(why(mine, "SELECT * FROM u")).toBe("load_balanced");
});

test("what depends on a table or a function by the relationship list counts as written", () => {
  run(mine, [["INSERT INTO t VALUES (1)", "I"]]);
  expect(why(other, "SELECT * FROM v")).toBe("written_lately");
  expect(why(other, "SELECT * FROM m")).toBe("load_balanced");
  run(mine, [["SELECT fun()", "I"]]);
  expect(why(other, "SELECT * FROM m")).toBe("written_lately");
});

test("the standbys are read again when the time is over", () => {
  run(mine, [["INSERT INTO t VALUES (1)", "I"]]);
  now += 100;
  expect(why(other, "SELECT * FROM t")).toBe("load_balanced");
});

test("whatever reads a table waits for the cold start to end, and so does what reads none", () => {
  const cold = { ...view, writes: { isCold: true, isStale: () => false } };
  for (const sql of ["SELECT * FROM u", "SELECT 1"]) {
    const route = decideRoute(parser.facts(sql), sql, "simple", other, cold);
    expect(route).toMatchObject({ why: "cold_start", nodes: [nodeId(0)] });
  }
});

test("what EXECUTE reads counts like what a SELECT reads", () => {
  run(other, [
    ["PREPARE p AS SELECT * FROM t", "I"],
    ["PREPARE q AS SELECT * FROM u", "I"],
  ]);
  for (const name of ["p", "q"]) {
    const known = other.prepared.get(name);
    if (known !== undefined) other.prepared.set(name, { ...known, nodes: [nodeId(1)] });
  }
  expect(why(other, "EXECUTE p")).toBe("prepared_statement");
  run(mine, [["INSERT INTO t VALUES (1)", "I"]]);
  expect([why(other, "EXECUTE p"), why(other, "EXECUTE q")]).toEqual([
    "prepared_again",
    "prepared_statement",
  ]);
  now += 100;
  run(other, [
    ["BEGIN", "T"],
    ["DELETE FROM u", "T"],
  ]);
  expect([why(other, "EXECUTE p"), why(other, "EXECUTE q")]).toEqual([
    "prepared_statement",
    "prepared_again",
  ]);
});
