/**
 * Statements that routing cannot make sense of, clients that leave the protocol half-way, standbys
 * that cancel a read: the client sees what PostgreSQL would say, and its session is usable afterwards.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  bind,
  type Cluster,
  eventually,
  execute,
  flush,
  frame,
  gatherResult,
  parse,
  RawClient,
  type RawFrame,
  Scope,
  startCluster,
  sync,
  type Target,
} from "./harness.ts";

let scope: Scope;
let cluster: Cluster;
const login = { user: "postgres", database: "test" };
const deadlineMs = 60_000;

beforeAll(async () => {
  scope = new Scope();
  cluster = await startCluster(scope, {
    standbys: 1,
    // What the standby replays cancels at once whatever is in its way.
    postgres: { settings: { max_standby_streaming_delay: 0, hot_standby_feedback: "off" } },
    pgpool: { config: { num_init_children: 8, backend_weight0: 0 } },
  });
  await cluster.primary.sql("CREATE TABLE locked (n int); INSERT INTO locked VALUES (1)");
  await cluster.standbys[0]?.catchUpWith(cluster.primary);
}, 300_000);
afterAll(() => scope.close());

const types = (frames: readonly RawFrame[]) => frames.map(({ type }) => type).join("");
const query = (text: string | Uint8Array) =>
  frame("Q", typeof text === "string" ? Buffer.from(text) : text, Buffer.from([0]));

/** All that is answered up to the `count`th ReadyForQuery, and then the session must still answer. */
async function answers(target: Target, bytes: Uint8Array, count: number): Promise<RawFrame[]> {
  const client = await RawClient.login(target, login, deadlineMs);
  client.send(bytes);
  const told: RawFrame[] = [];
  for (let i = 0; i < count; i++) told.push(...(await client.until("Z")));
  expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
  await client.terminate();
  return told;
}

/** As texts; of an error what a client goes by: its code and its message. */
const shown = (frames: readonly RawFrame[]) =>
  frames.map(({ type, body }) => {
    if (type !== "E") return `${type} ${body.toString("latin1").slice(0, 200)}`;
    const { errors } = gatherResult([{ type, body }]);
    return `E ${errors[0]?.C} ${errors[0]?.M}`;
  });

const oneTable = Array.from({ length: 100_000 }, (_, i) => `SELECT ${i}`).join(";");
const inputs: readonly [string, Uint8Array, number][] = [
  ["unparsable SQL", query("SELECT FROM WHERE ;;; (("), 1],
  ["a statement of NUL bytes", query(Buffer.alloc(1000)), 1],
  ["a NUL byte within a statement", query(Buffer.from("SELECT 1\0, 2")), 1],
  ["invalid UTF-8", query(Buffer.from([...Buffer.from("SELECT '"), 0xff, 0xfe, 0xc3, 0x27])), 1],
  ["50 MB in one statement", query(`SELECT length('${"x".repeat(50_000_000)}')`), 1],
  ["100,000 statements in one text", query(oneTable), 1],
  ["a Bind to a statement that is missing", Buffer.concat([bind("missing"), sync]), 1],
  ["an Execute of a portal that is missing", Buffer.concat([execute("missing"), sync]), 1],
  [
    "unparsable SQL in the extended protocol",
    Buffer.concat([parse("", "SELCT 1"), bind(""), execute(), sync]),
    1,
  ],
];

describe("the client sees what PostgreSQL says to", () => {
  test.each(inputs)(
    "%s",
    async (_, bytes, count) => {
      const { host, port } = cluster.primary;
      const expected = await answers({ host, port }, bytes, count);
      const told = await answers(cluster.pgpool.tcp, bytes, count);
      expect(shown(told)).toEqual(shown(expected));
    },
    300_000,
  );
});

test("a client that never sends Sync gets its answers by Flush, and leaves nothing behind", async () => {
  const client = await RawClient.login(cluster.pgpool.tcp, login);
  client.send(parse("", "SELECT 1"), bind(""), execute(), flush);
  expect(types(await client.until("C"))).toBe("12DC");
  client.destroy();
  await eventually(
    () => cluster.pgpool.show("pool_processes"),
    (rows) => rows.filter(({ status }) => status !== "Wait for connection").length <= 1,
    { what: "the slot to be free" },
  );
});

const reads: readonly [string, string, "at once" | "in part"][] = [
  [
    "before its first row",
    "SELECT count(*) FROM locked, generate_series(1, 1000000000) g",
    "at once",
  ],
  ["in the middle of its rows", "SELECT generate_series(1, 50000000) FROM locked", "in part"],
];
test.each(reads)(
  "a read that the standby cancels for recovery %s fails as PostgreSQL says, and is not repeated",
  async (_, sql, answered) => {
    const client = await cluster.pgpool.loginWhole(login, deadlineMs);
    const { primary } = cluster;
    const standby = cluster.standbys[0];
    if (standby === undefined) throw new Error("there is no standby");
    await client.rows("SELECT n FROM locked"); // what the catalogs say of it is known from now on
    if (answered === "in part") client.pause();
    client.send(query(sql));
    const running = `SELECT 1 FROM pg_stat_activity
      WHERE state = 'active' AND query = '${sql.replaceAll("'", "''")}'`;
    // Cancelled in part, it is stuck in the middle of what the client does not read.
    const stuck =
      answered === "in part"
        ? `${running} AND wait_event = 'ClientWrite'`
        : `${running} AND pid IN (SELECT pid FROM pg_locks WHERE relation = 'locked'::regclass)`;
    await eventually(
      () => standby.sql(stuck),
      (rows) => rows.length > 0,
      { what: "the read to run on the standby" },
    );
    await primary.sql("TRUNCATE locked; INSERT INTO locked VALUES (1)");
    client.resume();
    const { errors, rows } = gatherResult(await client.until("Z"));
    expect(errors.map(({ C, S }) => `${S} ${C}`)).toEqual(["ERROR 40001"]);
    expect(rows.length > 0).toBe(answered === "in part");
    expect(rows.every(([value], index) => value === String(index + 1))).toBe(true);
    expect(await primary.sql(running)).toEqual([]);
    // A second conflict may end the standby's connection: a documented error, and the session goes on.
    const count = "SELECT count(*) AS n FROM locked";
    const [lost] = (await client.query(count)).errors;
    if (lost !== undefined) expect(lost).toMatchObject({ S: "ERROR", C: "57P01" });
    expect(await client.rows(count)).toEqual([{ n: "1" }]);
    await client.terminate();
  },
  300_000,
);
