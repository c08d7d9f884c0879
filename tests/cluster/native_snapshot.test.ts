/** Snapshot isolation: what native replication allows to part servers, and this mode does not. */
import { expect } from "bun:test";
import type { Team } from "./failover_stage.ts";
import { cString, eventually, frame, RawClient, superuser, testNeeding } from "./harness.ts";
import { valuesOn, withReplicas } from "./replicated_stage.ts";

const snapshotTest = await testNeeding("dist/pgpool", "postgres");
const login = { user: superuser, database: "test" };
const settings = { default_transaction_isolation: "repeatable read", deadlock_timeout: "50ms" };
const mode = (name: string) => ({ backend_clustering_mode: name });

const connect = ({ pgpool }: Team) => RawClient.login(pgpool.tcp, login, 30_000);

/** COMMIT waits on the main node, when the other node has committed, for whoever holds this lock. */
const slowCommit = `
  CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS
    'BEGIN PERFORM pg_advisory_xact_lock(1); RETURN NULL; END';
  CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON t DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION wait();
`;

snapshotTest(
  "no transaction sees another on one node and not on the other",
  async () => {
    const rows = [
      ["native_replication", ["0", "1"]],
      ["snapshot_isolation", ["1", "1"]],
    ] as const;
    for (const [name, copied] of rows) {
      const body = async (team: Team) => {
        const { nodes, pgpool } = team;
        const [main] = nodes;
        if (main === undefined) throw new Error("no main node");
        await pgpool.sql("CREATE TABLE t (v int)");
        await pgpool.sql("CREATE TABLE copy (v int)");
        await pgpool.sql("INSERT INTO t VALUES (0)");
        await main.sql(slowCommit);
        const holder = await RawClient.login({ host: main.host, port: main.port }, login);
        await holder.rows("SELECT pg_advisory_lock(1)");
        const writer = await connect(team);
        const reader = await connect(team);
        await writer.query("BEGIN");
        await writer.query("UPDATE t SET v = 1");
        writer.send(frame("Q", cString("COMMIT")));
        await eventually(
          async () => await nodes[1]?.value("SELECT v FROM t"),
          (v) => v === "1",
        );
        const copying = reader.query("INSERT INTO copy SELECT v FROM t");
        // Snapshot isolation lets it begin when the commit is over; what did not would be done by then.
        if (name === "native_replication") await copying;
        await holder.rows("SELECT pg_advisory_unlock(1) FROM pg_sleep(1)");
        expect((await copying).tags).toEqual(["INSERT 0 1"]);
        await writer.until("Z");
        expect(await valuesOn(nodes, "SELECT v FROM copy")).toEqual([...copied]);
      };
      await withReplicas(2, mode(name), body, settings);
    }
  },
  120_000,
);

snapshotTest(
  "the first to update wins, on every node; reads of a read-only transaction are balanced",
  async () => {
    const body = async (team: Team) => {
      const { nodes, pgpool } = team;
      await pgpool.sql("CREATE TABLE t (v int)");
      await pgpool.sql("INSERT INTO t VALUES (0)");
      const first = await connect(team);
      const second = await connect(team);
      for (const client of [first, second]) {
        await client.query("BEGIN");
        await client.query("SELECT v FROM t");
      }
      await first.query("UPDATE t SET v = 1");
      second.send(frame("Q", cString("UPDATE t SET v = 2")));
      await first.query("COMMIT");
      const errors = (await second.until("Z")).filter(({ type }) => type === "E");
      expect(errors.map(({ body }) => body.includes("C40001"))).toEqual([true]);
      expect((await second.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
      expect(await valuesOn(nodes, "SELECT v FROM t")).toEqual(["1", "1"]);

      const ports = new Set<string | null | undefined>();
      for (let i = 0; i < 40 && ports.size < 2; i++) {
        const client = await connect(team);
        await client.query("BEGIN READ ONLY");
        const { rows, status } = await client.query("SELECT inet_server_port(), v FROM t");
        expect([rows[0]?.[1], status]).toEqual(["1", "T"]);
        ports.add(rows[0]?.[0]);
        await client.query("COMMIT");
        await client.terminate();
      }
      expect(ports.size).toBe(2);
      expect(pgpool.log()).not.toContain("read committed");
    };
    await withReplicas(2, mode("snapshot_isolation"), body, settings);
  },
  120_000,
);
