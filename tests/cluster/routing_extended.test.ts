/**
 * Where the messages of the extended protocol go (spec routing/extended-protocol.md sections 2, 3, 5
 * and 6), by the logs of real servers: what the table of routing cases, a statement at a time, has no
 * row for. Everything of a row is sent at once, and the answers must come in its order.
 */
import { afterAll, beforeAll, expect, test } from "bun:test";
import { everyPostgres, Scope } from "./harness.ts";
import * as messages from "./messages.ts";
import { RoutingStage } from "./routing_stage.ts";

type Step = { readonly bytes: Buffer; readonly sql?: string; readonly ready?: true };

const parse = (name: string, sql: string): Step => ({ sql, bytes: messages.parse(name, sql) });
const bind = (portal: string, name: string): Step => ({
  bytes: messages.bind(name, [], { portal }),
});
const execute = (portal: string, rowsMax = 0): Step => ({
  bytes: messages.execute(portal, rowsMax),
});
const sync: Step = { bytes: messages.sync, ready: true };
/** Without a name, and without a Sync. */
const run = (sql: string): Step[] => [parse("", sql), bind("", ""), execute("")];
const alone = (sql: string): Step[] => [...run(sql), sync];
const list = "SELECT name FROM pg_prepared_statements";
const series = "SELECT generate_series(1, 5)";

const rows: readonly {
  readonly title: string;
  readonly steps: readonly Step[];
  readonly primary: readonly string[];
  readonly standby: readonly string[];
  readonly tags: string;
}[] = [
  {
    title: "a transaction with one Sync: what is read after the write is read on the primary",
    steps: [...run("BEGIN"), ...run("DELETE FROM t2"), ...run("TABLE t1"), ...run("COMMIT"), sync],
    primary: ["BEGIN", "DELETE FROM t2", "TABLE t1", "COMMIT"],
    standby: ["BEGIN", "COMMIT"],
    tags: "BEGIN, DELETE, SELECT, COMMIT",
  },
  {
    title: "reads and writes behind one Sync: only what follows the write is tied to the primary",
    steps: [...run("SELECT 1"), ...run("DELETE FROM t2"), ...run("SELECT 2"), sync],
    primary: ["DELETE FROM t2", "SELECT 2"],
    standby: ["SELECT 1"],
    tags: "SELECT, DELETE, SELECT",
  },
  {
    title: "reads and writes with a Sync each go where they belong, in whatever order",
    steps: [...alone("SELECT 1"), ...alone("DELETE FROM t2"), ...alone("SELECT 2")],
    primary: ["DELETE FROM t2"],
    standby: ["SELECT 1", "SELECT 2"],
    tags: "SELECT, DELETE, SELECT",
  },
  {
    title:
      "a statement with a name is read on the primary after a write, and on the standby again later",
    steps: [
      ...[parse("s", "TABLE t1"), bind("", "s"), execute(""), sync],
      ...[...alone("BEGIN"), ...alone("DELETE FROM t2")],
      ...[bind("", "s"), execute(""), sync],
      ...alone("COMMIT"),
      ...[bind("", "s"), execute(""), sync],
    ],
    primary: ["BEGIN", "DELETE FROM t2", "TABLE t1", "COMMIT"],
    standby: ["TABLE t1", "BEGIN", "COMMIT", "TABLE t1"],
    tags: "SELECT, BEGIN, DELETE, SELECT, COMMIT, SELECT",
  },
  {
    title: "a portal is fetched from in pieces where it was opened",
    steps: [parse("", series), bind("", ""), execute("", 2), execute("", 2), execute("", 2), sync],
    primary: [],
    standby: [series, series, series],
    tags: "suspended, suspended, SELECT",
  },
  {
    title: "a portal outlives its Sync in a transaction, and stays where it is after a write",
    steps: [
      ...alone("BEGIN"),
      ...[parse("s", series), bind("p", "s"), execute("p", 2), sync],
      ...[execute("p", 2), sync],
      ...alone("DELETE FROM t2"),
      ...[execute("p", 2), sync],
      ...alone("COMMIT"),
    ],
    primary: ["BEGIN", "DELETE FROM t2", "COMMIT"],
    standby: ["BEGIN", series, series, series, "COMMIT"],
    tags: "BEGIN, suspended, suspended, DELETE, SELECT, COMMIT",
  },
  {
    title: "prepared statements are listed where a Parse has made the latest",
    steps: [
      ...[parse("s", "TABLE t1"), bind("", "s"), execute(""), sync],
      ...alone(list),
      ...[parse("w", "DELETE FROM t2"), sync],
      ...alone(list),
    ],
    primary: [list],
    standby: ["TABLE t1", list],
    tags: "SELECT, SELECT, SELECT",
  },
  {
    title: "a setting whose name is made at run time is the primary's",
    steps: [...alone("SELECT current_setting('transaction_' || 'read_only')")],
    primary: ["SELECT current_setting('transaction_' || 'read_only')"],
    standby: [],
    tags: "SELECT",
  },
  {
    title: "an error on the primary ends its segment alone",
    steps: [...run("DROP TABLE nosuch"), ...run("SELECT 1"), sync, ...alone("SELECT 2")],
    primary: ["DROP TABLE nosuch"],
    standby: ["SELECT 2"],
    tags: "error, SELECT",
  },
];

let scope: Scope;
let stage: RoutingStage;

beforeAll(async () => {
  scope = new Scope();
  const [install] = await everyPostgres();
  if (install === undefined) throw new Error("PostgreSQL is not installed");
  stage = await RoutingStage.streaming(scope, install);
  await stage.configure({ mode: "streaming_replication", settings: {}, cases: [] });
}, 300_000);
afterAll(() => scope.close());

test.each(rows.map((row) => [row.title, row] as const))("%s", async (_, row) => {
  const { executed, tags } = await stage.sendAll(
    row.steps.map(({ bytes }) => bytes),
    row.steps.filter(({ ready }) => ready).length,
    row.steps.flatMap(({ sql }) => sql ?? []),
  );
  expect({ executed, tags }).toEqual({ executed: [row.primary, row.standby, []], tags: row.tags });
});
