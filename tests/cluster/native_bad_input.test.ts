/**
 * Native replication among nodes that are not the same, or do not go on alike: whatever happens, they
 * are the same afterwards as they were before, and the client is told.
 */
import { expect } from "bun:test";
import { eventually, type Postgres, RawClient, superuser, testNeeding } from "./harness.ts";
import { withReplicas } from "./replicated_stage.ts";

const replicaTest = await testNeeding("dist/pgpool", "postgres");
const login = { user: superuser, database: "test" };

const schema = `
  CREATE TABLE t (id serial PRIMARY KEY, v text, at timestamptz DEFAULT now());
  INSERT INTO t (v, at) VALUES ('first', '2026-01-01'), ('second', '2026-01-01');
`;

const contents = (nodes: readonly Postgres[]) =>
  Promise.all(
    nodes.map(async (node) => JSON.stringify(await node.sql("SELECT * FROM t ORDER BY id"))),
  );

const two = (nodes: readonly Postgres[]): [Postgres, Postgres] => {
  const [main, other] = nodes;
  if (main === undefined || other === undefined) throw new Error("two nodes were asked for");
  return [main, other];
};

/** How node 1 is made another, what is said, and whether it fails on the main node instead. */
const differences: readonly [what: string, difference: string, sql: string][] = [
  [
    "a table is missing",
    "CREATE TABLE moved AS SELECT 1; ALTER TABLE t RENAME TO u",
    "INSERT INTO t (v) VALUES ('x')",
  ],
  ["a column is missing", "ALTER TABLE t DROP COLUMN v", "UPDATE t SET v = 'x'"],
  [
    "the serial's sequence is missing",
    "DROP SEQUENCE t_id_seq CASCADE",
    "INSERT INTO t (v) VALUES ('x')",
  ],
  [
    "a constraint is there",
    "ALTER TABLE t ADD CHECK (v <> 'x')",
    "UPDATE t SET v = 'x' WHERE id = 1",
  ],
  ["a row is missing", "DELETE FROM t WHERE id = 1", "UPDATE t SET v = 'x' WHERE id = 1"],
  [
    "a trigger refuses",
    "CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE ''no''; END'; CREATE TRIGGER no BEFORE DELETE ON t EXECUTE FUNCTION no()",
    "DELETE FROM t",
  ],
];

replicaTest(
  "what only one node can do is done by none, in whatever way it is said",
  async () => {
    await withReplicas(2, {}, async ({ pgpool, nodes }) => {
      const [main, other] = two(nodes);
      for (const [what, difference, sql] of differences) {
        for (const way of ["alone", "in a transaction", "extended"] as const) {
          for (const node of nodes)
            await node.sql("DROP TABLE IF EXISTS t, u, moved; DROP FUNCTION IF EXISTS no");
          for (const node of nodes) await node.sql(schema);
          await other.sql(difference);
          const before = await main.sql("SELECT * FROM t ORDER BY id");
          const client = await RawClient.login(pgpool.tcp, login, 30_000);
          const codes = await sayIt(client, sql, way);
          client.destroy();
          await settled(nodes);
          const after = await main.sql("SELECT * FROM t ORDER BY id");
          expect({ what, way, told: codes.length > 0, after }).toEqual({
            what,
            way,
            told: true,
            after: before,
          });
        }
      }
      const rows = await pgpool.show("pool_nodes");
      expect(rows.map(({ status }) => status)).toEqual(["up", "up"]);
    });
  },
  120_000,
);

/** SQLSTATEs of the errors that the client got. */
async function sayIt(
  client: RawClient,
  sql: string,
  way: "alone" | "in a transaction" | "extended",
): Promise<string[]> {
  const codes: string[] = [];
  const texts = way === "in a transaction" ? ["BEGIN", sql, "COMMIT"] : [sql];
  for (const text of texts) {
    const { errors, status } =
      way === "extended" ? await client.extended(text) : await client.query(text);
    codes.push(...errors.map(({ C = "" }) => C));
    if (status === undefined) break;
  }
  return codes;
}

/** No server is in the middle of anything that came from pgpool. */
async function settled(nodes: readonly Postgres[]): Promise<void> {
  const busy = `SELECT count(*) FROM pg_stat_activity WHERE state <> 'idle'
    AND backend_type = 'client backend' AND application_name <> 'harness'`;
  for (const node of nodes) {
    await eventually(
      () => node.value(busy),
      (count) => count === "0",
      { what: "the servers to be idle" },
    );
  }
}

replicaTest(
  "with replication_stop_on_mismatch the node that differs is detached, and the others go on",
  async () => {
    await withReplicas(3, { replication_stop_on_mismatch: true }, async ({ pgpool, nodes }) => {
      for (const node of nodes) await node.sql(schema);
      await nodes[1]?.sql("ALTER TABLE t DROP COLUMN v");
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      const { errors } = await client.query("UPDATE t SET v = 'x'");
      expect(errors.map(({ C }) => C)).toEqual(["XX000"]);
      client.destroy();
      await eventually(
        () => pgpool.show("pool_nodes"),
        (rows) => rows.map(({ status }) => status).join() === "up,down,up",
        { deadlineMs: 30_000, what: "node 1 to be detached" },
      );
      const next = await RawClient.login(pgpool.tcp, login, 30_000);
      await next.rows("INSERT INTO t (v, at) VALUES ('after', '2026-01-01')");
      await next.terminate();
      const [a, , c] = await contents(nodes);
      expect(c).toBe(a as string);
      expect(a).toContain("after");
    });
  },
  120_000,
);

replicaTest(
  "a client that dies between the nodes' answers leaves them the same",
  async () => {
    await withReplicas(2, {}, async ({ pgpool, nodes }) => {
      const [, other] = two(nodes);
      for (const node of nodes) await node.sql(schema);
      for (const texts of [
        ["UPDATE t SET v = 'x' WHERE id = 1"],
        ["BEGIN", "UPDATE t SET v = 'y' WHERE id = 1"],
      ]) {
        const holder = await RawClient.login({ path: other.socketPath }, login);
        await holder.rows("BEGIN; SELECT * FROM t WHERE id = 1 FOR UPDATE");
        const client = await RawClient.login(pgpool.tcp, login, 30_000);
        for (const text of texts.slice(0, -1)) await client.rows(text);
        void client.query(texts.at(-1) ?? "").catch(() => undefined);
        await untilWaiting(other);
        client.destroy();
        await holder.rows("ROLLBACK");
        await holder.terminate();
        await settled(nodes);
        const [a, b] = await contents(nodes);
        expect(b).toBe(a as string);
      }
    });
  },
  120_000,
);

const untilWaiting = (server: Postgres) =>
  eventually(
    () => server.value("SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock'"),
    (count) => count === "1",
    { what: "the statement to wait on node 1" },
  );

replicaTest(
  "a node that answers late is waited for: the others are not ahead of it, and other sessions go on",
  async () => {
    await withReplicas(2, {}, async ({ pgpool, nodes }) => {
      const [main, other] = two(nodes);
      for (const node of nodes) await node.sql(schema);
      const holder = await RawClient.login({ path: other.socketPath }, login);
      await holder.rows("BEGIN; SELECT * FROM t WHERE id = 1 FOR UPDATE");
      const late = await RawClient.login(pgpool.tcp, login, 60_000);
      let answered = false;
      const update = late.rows("UPDATE t SET v = 'late' WHERE id = 1").then(() => {
        answered = true;
      });
      await untilWaiting(other);
      const quick = await RawClient.login(pgpool.tcp, login, 60_000);
      for (let i = 0; i < 20; i++) await quick.rows("UPDATE t SET v = 'quick' WHERE id = 2");
      expect(answered).toBe(false);
      // What the main node has done already is not to be seen there before the other has done it too.
      expect(await main.value("SELECT v FROM t WHERE id = 1")).toBe("first");
      await holder.rows("ROLLBACK");
      await update;
      await Promise.all([late.terminate(), quick.terminate(), holder.terminate()]);
      const [a, b] = await contents(nodes);
      expect(b).toBe(a as string);
      expect(a).toContain("late");
    });
  },
  120_000,
);
