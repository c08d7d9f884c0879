/**
 * What pgpool tells of its routing and of the messages it carries: PGPOOL EXPLAIN ROUTE, SHOW
 * pool_route_stats, and the settings that log statements and messages. Line texts are those that
 * Pgpool-II 4.3.5 wrote for the same messages.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import pg from "pg";
import {
  bind,
  type Cluster,
  closeStatement,
  cString,
  describePortal,
  eventually,
  execute,
  frame,
  parse,
  type RawClient,
  Scope,
  startCluster,
  sync,
} from "./harness.ts";

let scope: Scope;
let cluster: Cluster;
const login = { user: "postgres", database: "test" };

beforeAll(async () => {
  scope = new Scope();
  cluster = await startCluster(scope, {
    standbys: 1,
    pgpool: { config: { backend_weight0: 0, backend_weight1: 1, log_line_prefix: "[%a] " } },
  });
  await cluster.primary.sql(`
    CREATE TABLE users (id serial, name text);
    CREATE UNLOGGED TABLE scratch (id int);
    CREATE VIEW both_tables AS SELECT id FROM users UNION SELECT id FROM scratch`);
  await cluster.standbys[0]?.catchUpWith(cluster.primary);
}, 300_000);
afterAll(() => scope.close());

const clientAs = (name = "") =>
  cluster.pgpool.loginWhole({ ...login, parameters: { application_name: name } });

async function explained(client: RawClient, sql: string): Promise<string[]> {
  const rows = await client.rows(`PGPOOL EXPLAIN ROUTE ${sql}`);
  return rows.map(({ node_id, reason }) => `${node_id} ${reason}`);
}

describe("PGPOOL EXPLAIN ROUTE", () => {
  test("asks the catalog of the session's own database, and runs nothing", async () => {
    const client = await clientAs();
    const [row] = await client.rows(
      "PGPOOL EXPLAIN ROUTE SELECT nextval('users_id_seq'), name FROM users",
    );
    expect(row).toEqual({
      node_id: "0",
      role: "primary",
      class: "SELECT",
      may_go_to: "either",
      reason: "writing_function",
      rule: "pg_proc.provolatile of nextval = v",
      looked_up: [
        "function nextval: volatile",
        "table users: neither catalog nor unlogged",
        "temporary objects: none in this session",
        "temporary table users: none in this session",
      ].join("\n"),
      explanation: "It calls a function that may write.",
    });
    expect(await explained(client, "SELECT * FROM scratch")).toEqual(["0 unlogged_table"]);
    expect(await explained(client, "SELECT * FROM pg_class")).toEqual(["0 system_catalog"]);
    expect(await explained(client, "DROP TABLE users")).toEqual(["0 utility"]);
    const [last] = await client.rows("SELECT is_called FROM users_id_seq");
    expect(last).toEqual({ is_called: "f" });
    await client.terminate();
  });

  test("tells of a transaction what its own statements have made of it", async () => {
    const client = await clientAs();
    await client.query("BEGIN");
    expect(await explained(client, "SELECT * FROM users")).toEqual(["1 load_balanced"]);
    await client.query("CREATE TEMPORARY TABLE mine (a int)");
    expect(await explained(client, "SELECT * FROM users")).toEqual(["0 wrote_in_transaction"]);
    expect(await explained(client, "COMMIT")).toEqual([
      "0 transaction_control",
      "1 transaction_control",
    ]);
    await client.query("COMMIT");
    expect(await explained(client, "SELECT * FROM mine")).toEqual(["0 temporary_table"]);
    await client.query("PREPARE p AS SELECT name FROM users");
    expect(await explained(client, "EXECUTE p")).toEqual(["1 prepared_statement"]);
    await client.terminate();
  });

  test("answers drivers that speak the extended protocol", async () => {
    const client = new pg.Client({
      host: cluster.pgpool.host,
      port: cluster.pgpool.port,
      ...login,
    });
    await client.connect();
    const ask = { name: "why", text: "PGPOOL EXPLAIN ROUTE SELECT * FROM users" };
    const reasons = async () => (await client.query(ask)).rows.map((row) => row.reason);
    expect(await reasons()).toEqual(["load_balanced"]);
    await client.query("BEGIN");
    await client.query("INSERT INTO users (name) VALUES ($1)", ["x"]);
    expect(await reasons()).toEqual(["wrote_in_transaction"]);
    await client.query("ROLLBACK");
    expect(await reasons()).toEqual(["load_balanced"]);
    const { fields } = await client.query({ text: "PGPOOL EXPLAIN ROUTE SELECT 1", values: [] });
    expect(fields.map(({ dataTypeID }) => dataTypeID)).toEqual(fields.map(() => 25));
    expect((await client.query("SELECT $1::int + 1 AS n", [1])).rows).toEqual([{ n: 2 }]);
    await client.end();
  });

  test("says the node to which the statement then goes, for which SHOW pool_route_stats counts it", async () => {
    const client = await clientAs();
    const counts = async () => {
      const rows = await client.rows("SHOW pool_route_stats");
      return new Map(
        rows.map(({ node_id, reason, count }) => [`${node_id} ${reason}`, Number(count)]),
      );
    };
    for (const sql of [
      "SELECT 1",
      "SELECT * FROM scratch",
      "SELECT random()",
      "LISTEN x",
      "SELECT 1; SELECT 2",
    ]) {
      const told = await explained(client, sql);
      const before = await counts();
      await client.query(sql);
      const after = await counts();
      const risen = [...after].filter(([key, count]) => count > (before.get(key) ?? 0));
      expect([sql, ...risen.map(([key, count]) => [key, count - (before.get(key) ?? 0)])]).toEqual([
        sql,
        ...told.map((key) => [key, 1]),
      ]);
    }
    await client.terminate();
  });
});

/** The lines that sessions of this application name have written, when `last` is among them. */
async function linesOf(name: string, last: RegExp): Promise<readonly string[]> {
  const prefix = `[${name}] `;
  const read = () =>
    cluster.pgpool
      .log()
      .split("\n")
      .filter((line) => line.startsWith(prefix))
      .map((line) => line.slice(prefix.length).replace(/backend pid: \d+/, "backend pid: N"));
  return await eventually(
    async () => read(),
    (lines) => lines.some((line) => last.test(line)),
    {
      what: `a line of ${name} like ${last}`,
    },
  );
}

describe("the log", () => {
  test("tells what each message, statement and node is about, in Pgpool's words", async () => {
    const client = await clientAs("teller");
    await client.query("PGPOOL SET log_statement TO on");
    await client.query("PGPOOL SET log_per_node_statement TO on");
    await client.query("PGPOOL SET log_client_messages TO on");
    client.send(
      parse("s", "SELECT 2"),
      bind("s"),
      describePortal(),
      execute(),
      closeStatement("s"),
      sync,
    );
    await client.until("Z");
    client.send(frame("Q", cString("COPY users (name) FROM STDIN")));
    await client.until("G");
    client.send(frame("d", Buffer.from("a\n")), frame("d", Buffer.from("b\n")), frame("c"));
    await client.until("Z");
    await client.query("SELEC 1");
    await client.query("BEGIN");
    await client.query("COMMIT");
    await client.terminate();
    const lines = await linesOf("teller", /DB node id: 1 .*DISCARD ALL/);
    const from = lines.findIndex((line) => line.includes("Parse message"));
    expect(lines.slice(from).map((line) => line.replace(/\(\d+\)/, "(PORT)"))).toEqual([
      "LOG:  Parse message from frontend.",
      'DETAIL:  statement: "s", query: "SELECT 2"',
      "LOG:  DB node id: 1 backend pid: N statement: Parse: SELECT 2",
      "LOG:  Bind message from frontend.",
      'DETAIL:  portal: "", statement: "s"',
      "LOG:  DB node id: 1 backend pid: N statement: Bind: SELECT 2",
      "LOG:  Describe message from frontend.",
      'DETAIL:  portal: ""',
      "LOG:  DB node id: 1 backend pid: N statement: D message",
      "LOG:  Execute message from frontend.",
      'DETAIL:  portal: ""',
      "LOG:  statement: SELECT 2",
      "LOG:  DB node id: 1 backend pid: N statement: Execute: SELECT 2",
      "LOG:  Close message from frontend.",
      'DETAIL:  statement: "s"',
      "LOG:  DB node id: 1 backend pid: N statement: C message",
      "LOG:  Sync message from frontend.",
      "LOG:  DB node id: 1 backend pid: N statement: Sync",
      "LOG:  Query message from frontend.",
      'DETAIL:  query: "COPY users (name) FROM STDIN"',
      "LOG:  statement: COPY users (name) FROM STDIN",
      "LOG:  DB node id: 0 backend pid: N statement: COPY users (name) FROM STDIN",
      "LOG:  CopyData message from frontend.",
      "DETAIL:  count: 2",
      "LOG:  CopyDone message from frontend.",
      "LOG:  Query message from frontend.",
      'DETAIL:  query: "SELEC 1"',
      "LOG:  statement: SELEC 1",
      'LOG:  Unable to parse the query: "SELEC 1" from client 127.0.0.1(PORT)',
      "LOG:  DB node id: 0 backend pid: N statement: SELEC 1",
      'LOG:  pool_send_and_wait: Error or notice message from backend: : DB node id: 0 backend pid: N statement: "SELEC 1" message: "syntax error at or near "SELEC""',
      "LOG:  Query message from frontend.",
      'DETAIL:  query: "BEGIN"',
      "LOG:  statement: BEGIN",
      "LOG:  DB node id: 0 backend pid: N statement: BEGIN",
      "LOG:  DB node id: 1 backend pid: N statement: BEGIN",
      "LOG:  Query message from frontend.",
      'DETAIL:  query: "COMMIT"',
      "LOG:  statement: COMMIT",
      "LOG:  DB node id: 0 backend pid: N statement: COMMIT",
      "LOG:  DB node id: 1 backend pid: N statement: COMMIT",
      "LOG:  Terminate message from frontend.",
      "LOG:  statement: DISCARD ALL",
      "LOG:  DB node id: 0 backend pid: N statement: DISCARD ALL",
      "LOG:  DB node id: 1 backend pid: N statement: DISCARD ALL",
    ]);
  });

  test("tells what backends say, in full or with repetitions counted", async () => {
    const client = await clientAs("listener");
    await client.query("PGPOOL SET log_backend_messages TO verbose");
    await client.query("SELECT generate_series(1, 2)");
    await client.query("PGPOOL SET log_backend_messages TO terse");
    await client.query("SELECT generate_series(1, 1000)");
    await client.terminate();
    const lines = await linesOf("listener", /repeated/);
    expect(lines).toEqual([
      // Whether the function is volatile has been asked: Parse, Bind, Execute, two Closes, Sync.
      "LOG:  ParseComplete message from backend 0",
      "LOG:  BindComplete message from backend 0",
      "LOG:  DataRow message from backend 0",
      "LOG:  CommandComplete message from backend 0",
      "LOG:  CloseComplete message from backend 0",
      "LOG:  CloseComplete message from backend 0",
      "LOG:  ReadyForQuery message from backend 0",
      "LOG:  RowDescription message from backend 1",
      "LOG:  DataRow message from backend 1",
      "LOG:  DataRow message from backend 1",
      "LOG:  CommandComplete message from backend 1",
      "LOG:  ReadyForQuery message from backend 1",
      "LOG:  RowDescription message from backend 1",
      "LOG:  DataRow message from backend 1",
      "LOG:  last DataRow message from backend 1 repeated 999 times",
      "LOG:  CommandComplete message from backend 1",
      "LOG:  ReadyForQuery message from backend 1",
    ]);
  });

  test("obeys the level that a session has set for itself, and the others theirs", async () => {
    const quiet = await clientAs("quiet");
    const usual = await clientAs("usual");
    await quiet.query("PGPOOL SET log_min_messages TO fatal");
    for (const client of [quiet, usual]) {
      await client.query("PGPOOL SET log_statement TO on");
      await client.query("SELECT 1");
      await client.query("PGPOOL SHOW nonsense");
    }
    await quiet.query("PGPOOL RESET log_min_messages");
    await quiet.query("SELECT 3");
    await linesOf("usual", /FRONTEND_ERROR:.*nonsense/);
    expect(await linesOf("quiet", /statement: SELECT 3/)).toEqual(["LOG:  statement: SELECT 3"]);
    await quiet.terminate();
    await usual.terminate();
  });

  test("names no statement for an error when others were sent behind it", async () => {
    const client = await clientAs("hasty");
    client.send(frame("Q", cString("SELECT 1/0")), frame("Q", cString("SELECT 'innocent'")));
    await client.until("Z");
    await client.until("Z");
    await client.terminate();
    const line = 'LOG:  Error message from backend: DB node id: 1 message: "division by zero"';
    expect(await linesOf("hasty", /division by zero/)).toEqual([line]);
  });

  test("is not all: a notice tells the client, if it wants notices", async () => {
    const client = await clientAs("noticed");
    await client.query("PGPOOL SET notice_per_node_statement TO on");
    const told = async () => (await client.query("SELECT 1")).notices.map(({ M }) => M);
    expect(await told()).toEqual(["DB node id: 1 statement: SELECT 1"]);
    await client.query("PGPOOL SET client_min_messages TO error");
    expect(await told()).toEqual([]);
    await client.terminate();
  });
});
