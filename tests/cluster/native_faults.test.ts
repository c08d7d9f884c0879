/** Native replication when nodes do not agree, or a client leaves at the wrong moment. */
import { expect } from "bun:test";
import { type Team, untilStatuses } from "./failover_stage.ts";
import {
  cString,
  eventually,
  frame,
  gatherResult,
  type Postgres,
  type QueryResult,
  RawClient,
  superuser,
  testNeeding,
} from "./harness.ts";
import { valuesOn, withReplicas } from "./replicated_stage.ts";

const faultsTest = await testNeeding("dist/pgpool", "postgres");
const login = { user: superuser, database: "test" };

const connect = ({ pgpool }: Pick<Team, "pgpool">) => RawClient.login(pgpool.tcp, login, 30_000);

/** Two nodes; `alone` is a table that node 1 does not have, and of `t` it has a row less. */
async function withDifferentNodes(
  config: Record<string, boolean>,
  body: (team: Team & { readonly main: Postgres; readonly other: Postgres }) => Promise<void>,
): Promise<void> {
  await withReplicas(2, config, async (team) => {
    const [main, other] = team.nodes;
    if (main === undefined || other === undefined) return;
    await team.pgpool.sql("CREATE TABLE t (n int PRIMARY KEY, v int)");
    await team.pgpool.sql("INSERT INTO t VALUES (1, 0), (2, 0)");
    await main.sql("CREATE TABLE alone (n int); INSERT INTO alone VALUES (1)");
    await other.sql("DELETE FROM t WHERE n = 2");
    await body({ ...team, main, other });
  });
}

/** What a client has open when its INSERT is cancelled, and how it goes on. */
const around: readonly (readonly [title: string, before: string[], after: string[]])[] = [
  ["alone", [], []],
  ["in a transaction", ["BEGIN", "INSERT INTO child (p) VALUES (2)"], ["ROLLBACK"]],
  [
    "in a transaction like the last",
    ["BEGIN ISOLATION LEVEL SERIALIZABLE", "INSERT INTO child (p) VALUES (2)"],
    ["ROLLBACK AND CHAIN", "INSERT INTO child (p) VALUES (2)", "COMMIT"],
  ],
  [
    "behind savepoints",
    ["BEGIN", "SAVEPOINT a", "SAVEPOINT b", "RELEASE b", "INSERT INTO child (p) VALUES (2)"],
    ["ROLLBACK TO a", "INSERT INTO child (p) VALUES (2)", "COMMIT"],
  ],
];

/** Rows of `child` wait for `holder`, which has their parent, and the client waits for 0.3 seconds. */
async function withWaiting(
  nodes: number,
  body: (waiting: {
    readonly team: Team;
    readonly holder: RawClient;
    readonly client: RawClient;
    run(sql: string): Promise<void>;
  }) => Promise<void>,
): Promise<void> {
  await withReplicas(nodes, {}, async (team) => {
    const { pgpool } = team;
    for (const sql of [
      "CREATE TABLE parent (n int PRIMARY KEY)",
      "INSERT INTO parent VALUES (1), (2)",
      "CREATE TABLE child (id serial, also int GENERATED ALWAYS AS IDENTITY (INCREMENT -5), p int REFERENCES parent)",
    ]) {
      await pgpool.sql(sql);
    }
    const [holder, client] = [await connect({ pgpool }), await connect({ pgpool })];
    const run = async (sql: string) => {
      expect([sql, (await client.query(sql)).errors.map(({ M }) => M)]).toEqual([sql, []]);
    };
    await holder.query("BEGIN");
    await holder.query("SELECT * FROM parent WHERE n = 1 FOR UPDATE");
    await run("SET statement_timeout = '1s'");
    await body({ team, holder, client, run });
  });
}

const cancelled = "INSERT INTO child (p) SELECT 1 FROM generate_series(1, 3)";
const rowsOfChild = "SELECT string_agg(child::text, ' ' ORDER BY id) FROM child";

for (const [title, before, after] of around) {
  faultsTest(
    `what a cancelled INSERT took from a sequence is taken on every node: ${title}`,
    async () => {
      await withWaiting(3, async ({ team, holder, client, run }) => {
        // No number has been given yet, nor is the first of them what it was.
        await team.pgpool.sql("ALTER SEQUENCE child_id_seq RESTART WITH 1000");
        const said = [(sql: string) => client.query(sql), (sql: string) => client.extended(sql)];
        for (const say of said) {
          for (const sql of before) await run(sql);
          const { errors, status } = await say(cancelled);
          const code = before.length > 0 ? "E" : "I";
          expect([errors.map(({ C }) => C), status]).toEqual([["57014"], code]);
          for (const sql of after) await run(sql);
          await run("INSERT INTO child (p) VALUES (2)");
        }
        await holder.query("ROLLBACK");
        await run("INSERT INTO child (p) VALUES (1)");
        const [first = "", ...others] = await valuesOn(team.nodes, rowsOfChild);
        expect(others).toEqual([first, first]);
        expect(first).toMatch(/^\(10\d\d,-\d+,2\)/);
      });
    },
    120_000,
  );
}

faultsTest(
  "a cancelled INSERT is told where its numbers may differ, and waits for nobody",
  async () => {
    await withWaiting(2, async ({ team: { pgpool, nodes }, holder, client, run }) => {
      const codesOf = async (sql: string) => (await client.query(sql)).errors.map(({ C }) => C);
      await pgpool.sql("ALTER SEQUENCE child_id_seq CACHE 20");
      expect(await codesOf(cancelled)).toEqual(["57014"]);
      expect(pgpool.log()).toContain('sequence "public"."child_id_seq" gives 20 numbers at a time');
      await pgpool.sql("ALTER SEQUENCE child_id_seq CACHE 1");

      // To insert is to take an identity's numbers, whoever may not otherwise.
      await pgpool.sql("CREATE ROLE inserter");
      await pgpool.sql("GRANT INSERT, UPDATE ON child TO inserter");
      await pgpool.sql("GRANT USAGE ON SEQUENCE child_id_seq TO inserter");
      await run("SET ROLE inserter");
      expect(await codesOf(cancelled)).toEqual(["57014"]);
      expect(pgpool.log()).toContain('permission denied for sequence "public"."child_also_seq"');
      await run("RESET ROLE");

      // Somebody has the sequence on the main node when that has given it back, and keeps it.
      const [main] = nodes;
      if (main === undefined) return;
      for (const sql of ["SET statement_timeout = 0", "BEGIN"]) await run(sql);
      const codes = codesOf(cancelled);
      const untilWaiting = (count: number) =>
        eventually(
          () => main.value("SELECT count(*) FROM pg_locks WHERE NOT granted"),
          (waiting) => Number(waiting) === count,
          { deadlineMs: 30_000, what: `${count} to wait for a lock` },
        );
      await untilWaiting(1);
      const overtaking = await RawClient.login({ host: main.host, port: main.port }, login, 30_000);
      await overtaking.query("BEGIN");
      const altered = overtaking.query("ALTER SEQUENCE child_id_seq MINVALUE -7");
      await untilWaiting(2);
      await main.sql(
        "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE query LIKE 'INSERT INTO child%SELECT 1%'",
      );
      expect(await codes).toEqual(["57014"]);
      expect((await altered).errors).toEqual([]);
      expect(pgpool.log()).toContain("what failed on the main node still runs on node 0");
      await overtaking.query("ROLLBACK");
      await run("ROLLBACK");
      await holder.query("ROLLBACK");
    });
  },
  120_000,
);

faultsTest(
  "what failed on the main node is not waited for where another has the rows",
  async () => {
    await withReplicas(2, {}, async ({ pgpool, nodes }) => {
      const [, other] = nodes;
      if (other === undefined) return;
      await pgpool.sql("CREATE TABLE t (n int PRIMARY KEY)");
      await pgpool.sql("INSERT INTO t VALUES (1)");
      // Whoever overtook it on the main node, and waits there for what it has.
      const holder = await RawClient.login({ host: other.host, port: other.port }, login, 30_000);
      for (const sql of ["BEGIN", "DELETE FROM t"]) await holder.query(sql);
      const client = await connect({ pgpool });
      const insert = (n: number) => client.query(`INSERT INTO t VALUES (${n})`);
      const codes = ({ errors }: QueryResult) => errors.map(({ C }) => C);
      expect(codes(await insert(1))).toEqual(["23505"]);
      await client.query("BEGIN");
      expect(codes(await insert(2))).toEqual([]);
      expect(codes(await insert(1))).toEqual(["23505"]);
      expect((await client.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
      await holder.query("ROLLBACK");
      expect(codes(await insert(3))).toEqual([]);
      const rows = "SELECT string_agg(n::text, ' ' ORDER BY n) FROM t";
      expect(await valuesOn(nodes, rows)).toEqual(["1 3", "1 3"]);
    });
  },
  120_000,
);

faultsTest(
  "what fails on one node only, or changes other rows there, lasts on none",
  async () => {
    await withDifferentNodes({}, async ({ pgpool, nodes, main, other }) => {
      const first = await connect({ pgpool });
      const told = await first.query("INSERT INTO alone VALUES (2)");
      expect(told.errors.map(({ V, C, M }) => [V, C, M])).toEqual([
        ["FATAL", "XX000", "failed to read kind from backend"],
      ]);
      expect(told.errors[0]?.D).toContain(
        'Possible last query was: "INSERT INTO alone VALUES (2)" kind details are: 0[C] 1[E: relation "alone" does not exist]',
      );
      expect(told.notices.map(({ M }) => M)).toEqual([
        "packet kind of backend 1 ['E'] does not match with main/majority nodes packet kind ['C']",
      ]);
      expect(told.status).toBeUndefined();
      expect(await main.value("SELECT count(*) FROM alone")).toBe("1");

      const client = await connect({ pgpool });
      const rows = await client.query("UPDATE t SET v = 1");
      expect([rows.tags, rows.errors.map(({ C }) => C), rows.status]).toEqual([[], ["XX001"], "I"]);
      expect(await valuesOn(nodes, "SELECT sum(v) FROM t")).toEqual(["0", "0"]);
      await client.query("BEGIN");
      await client.query("UPDATE t SET v = 2 WHERE n = 1");
      expect((await client.query("UPDATE t SET v = 2 WHERE n = 2")).status).toBe("E");
      expect((await client.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
      expect(await valuesOn(nodes, "SELECT sum(v) FROM t")).toEqual(["0", "0"]);

      // A read that fails on one node fails the transaction on all.
      await client.query("BEGIN");
      await client.query("UPDATE t SET v = 3 WHERE n = 1");
      await client.query("SELECT * FROM nowhere");
      expect((await client.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
      expect(await valuesOn(nodes, "SELECT sum(v) FROM t")).toEqual(["0", "0"]);

      // Refused at the very end, by one of them: then nobody has committed.
      await pgpool.sql("CREATE TABLE late (n int)");
      await other.sql("ALTER TABLE late ADD UNIQUE (n) DEFERRABLE INITIALLY DEFERRED");
      await client.query("INSERT INTO late VALUES (1)");
      expect((await client.query("INSERT INTO late VALUES (1)")).errors[0]?.C).toBe("23505");
      expect(await valuesOn(nodes, "SELECT count(*) FROM late")).toEqual(["1", "1"]);
      await client.query("BEGIN");
      await client.query("INSERT INTO late VALUES (1)");
      expect((await client.query("COMMIT")).errors[0]?.C).toBe("23505");
      expect(await valuesOn(nodes, "SELECT count(*) FROM late")).toEqual(["1", "1"]);

      // On one of them it is the victim of what goes on there.
      const rival = await RawClient.login({ host: other.host, port: other.port }, login);
      await rival.query("BEGIN; SET deadlock_timeout = '1h'; UPDATE t SET v = 9 WHERE n = 1");
      await client.query("BEGIN");
      await client.query("SET LOCAL lock_timeout = 0");
      await client.query("INSERT INTO late VALUES (2)");
      rival.send(query("LOCK TABLE late"));
      await eventually(
        () => other.value("SELECT count(*) FROM pg_locks WHERE NOT granted"),
        (count) => count === "1",
      );
      const victim = await client.query("UPDATE t SET v = 8 WHERE n = 1");
      expect([victim.errors[0]?.C, victim.status]).toEqual(["40P01", "E"]);
      expect((await client.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
      await rival.until("Z");
      await rival.query("ROLLBACK");
      expect(await valuesOn(nodes, "SELECT count(*) FROM late")).toEqual(["1", "1"]);
      await untilStatuses(pgpool, "up up");
    });
  },
  120_000,
);

faultsTest(
  "what only one node refuses, for what it alone has read, is undone on all",
  async () => {
    const config = { backend_weight0: 0, backend_weight1: 1 };
    const body = async ({ pgpool, nodes }: Team) => {
      const client = await connect({ pgpool });
      await client.query("CREATE TABLE t (n int); CREATE TEMP TABLE own (n int)");
      const refused = async (texts: readonly string[], code: string, status: string) => {
        for (const text of texts.slice(0, -1))
          expect((await client.query(text)).errors).toEqual([]);
        const told = await client.query(texts.at(-1) ?? "");
        expect([told.errors.map(({ C }) => C), told.status]).toEqual([[code], status]);
      };
      const isOpen = "SELECT count(*) FROM pg_prepared_xacts";

      await refused(
        ["BEGIN", "SELECT * FROM own", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'x'"],
        "0A000",
        "I",
      );
      expect(await valuesOn(nodes, isOpen)).toEqual(["0", "0"]);
      // Each of them may be the one that knows the name already.
      for (const node of nodes) {
        await node.sql("BEGIN; CREATE TABLE elsewhere (n int); PREPARE TRANSACTION 'taken'");
        const prepare = ["BEGIN", "INSERT INTO t VALUES (1)", "PREPARE TRANSACTION 'taken'"];
        await refused(prepare, "42710", "I");
        expect((await valuesOn(nodes, isOpen)).sort()).toEqual(["0", "1"]);
        await node.sql("ROLLBACK PREPARED 'taken'");
      }

      for (const isolation of ["READ COMMITTED", "SERIALIZABLE"]) {
        const begin = [`BEGIN ISOLATION LEVEL ${isolation} READ ONLY`, "SELECT * FROM t"];
        await refused([...begin, "SET TRANSACTION READ WRITE"], "25001", "E");
        expect((await client.query("COMMIT")).tags).toEqual(["ROLLBACK"]);
      }
      expect(await valuesOn(nodes, "SELECT count(*) FROM t")).toEqual(["0", "0"]);
      expect((await client.query("INSERT INTO t VALUES (1)")).tags).toEqual(["INSERT 0 1"]);
      await untilStatuses(pgpool, "up up");
    };
    await withReplicas(2, config, body, { max_prepared_transactions: 5 });
  },
  120_000,
);

faultsTest(
  "nodes that disagree are detached where the settings say so",
  async () => {
    const config = {
      replication_stop_on_mismatch: true,
      failover_if_affected_tuples_mismatch: true,
    };
    for (const sql of ["INSERT INTO alone VALUES (2)", "UPDATE t SET v = 1"]) {
      await withDifferentNodes(config, async ({ pgpool, main }) => {
        const client = await connect({ pgpool });
        expect((await client.query(sql)).status).toBeUndefined();
        await untilStatuses(pgpool, "up down");
        await pgpool.sql(sql);
        expect(await main.value("SELECT (SELECT sum(v) FROM t) + (SELECT sum(n) FROM alone)")).toBe(
          "3",
        );
      });
    }
  },
  120_000,
);

faultsTest(
  "a client that leaves in the middle leaves all nodes the same, and a late node is waited for",
  async () => {
    await withReplicas(2, { health_check_period: 0 }, async ({ pgpool, nodes }) => {
      const [main, other] = nodes;
      if (main === undefined || other === undefined) return;
      await pgpool.sql("CREATE TABLE t (n int)");
      // The statement has run on the main node, and waits on the other.
      const blocker = await RawClient.login({ host: other.host, port: other.port }, login);
      await blocker.query("BEGIN; LOCK TABLE t");
      const leaver = await connect({ pgpool });
      leaver.send(query("INSERT INTO t VALUES (1)"));
      const waiting = () => other.value("SELECT count(*) FROM pg_locks WHERE NOT granted");
      await eventually(waiting, (count) => count === "1");
      leaver.destroy();
      const patient = await connect({ pgpool });
      patient.send(query("INSERT INTO t VALUES (2)"));
      await blocker.query("SELECT pg_sleep(3); ROLLBACK");
      await patient.until("Z");
      await eventually(
        () => valuesOn(nodes, "SELECT string_agg(n::text, ' ') FROM t"),
        ([a, b]) => a === "2" && b === "2",
      );

      // What cannot be undone is done on all, though nobody is there to hear of it.
      await blocker.query("BEGIN; LOCK TABLE t IN SHARE MODE");
      const second = await connect({ pgpool });
      second.send(query("DO $$ BEGIN PERFORM pg_sleep(1); INSERT INTO t VALUES (3); END $$"));
      await eventually(waiting, (count) => count === "1");
      second.destroy();
      await blocker.query("ROLLBACK");
      const last = "SELECT count(*) FROM t WHERE n = 3";
      await eventually(
        () => valuesOn(nodes, last),
        ([a, b]) => a === b,
      );
    });
  },
  120_000,
);

faultsTest(
  "a transaction outlives its main node, and so does the statement that it is running",
  async () => {
    await withReplicas(3, {}, async ({ pgpool, nodes }) => {
      const [n0, n1, n2] = nodes;
      if (n0 === undefined || n1 === undefined || n2 === undefined) return;
      await pgpool.sql("CREATE TABLE t (n int)");
      const client = await connect({ pgpool });
      await client.query("BEGIN");
      await client.query("INSERT INTO t VALUES (1)");
      client.send(query("INSERT INTO t SELECT 2 FROM pg_sleep(2)"));
      const isSleeping = "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'INSERT%sleep%'";
      await eventually(
        () => n0.value(isSleeping),
        (count) => count === "1",
      );
      await n0.kill();
      const told = gatherResult(await client.until("Z"));
      expect([told.tags, told.errors, told.status]).toEqual([["INSERT 0 1"], [], "T"]);
      await n2.kill();
      expect((await client.query("INSERT INTO t VALUES (3)")).tags).toEqual(["INSERT 0 1"]);
      expect((await client.query("COMMIT")).tags).toEqual(["COMMIT"]);
      await untilStatuses(pgpool, "down up down");
      expect(await n1.value("SELECT string_agg(n::text, ' ' ORDER BY n) FROM t")).toBe("1 2 3");

      // The connection is ended, and the server is there: it would not hear of what follows.
      await client.query("BEGIN");
      await n1.sql(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE state LIKE 'idle in%'",
      );
      const last = await client.query("INSERT INTO t VALUES (4)");
      expect([last.errors[0]?.C, last.status]).toEqual(["57P01", undefined]);
    });
  },
  120_000,
);

const query = (sql: string) => frame("Q", cString(sql));

faultsTest(
  "a connection that ends in the middle of COMMIT ends the session, and holds up nobody",
  async () => {
    for (const mode of ["native_replication", "snapshot_isolation"] as const) {
      await withReplicas(2, { backend_clustering_mode: mode }, async ({ pgpool, nodes }) => {
        await pgpool.sql("CREATE TABLE late (n int)");
        await pgpool.sql(
          "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(60); RETURN NULL; END'",
        );
        const asleep = "FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
        for (const [id, node] of nodes.entries()) {
          await node.sql(
            "CREATE CONSTRAINT TRIGGER slow AFTER INSERT ON late DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()",
          );
          const client = await connect({ pgpool });
          const told = client.query("INSERT INTO late VALUES (1)");
          await eventually(
            () => node.value(`SELECT count(*) ${asleep}`),
            (count) => count === "1",
          );
          await node.sql(`SELECT pg_terminate_backend(pid) ${asleep}`);
          expect((await told).errors.map(({ C }) => C)).toEqual(["57P01"]);
          await node.sql("DROP TRIGGER slow ON late");
          // Node 1 goes ahead: what it has undone lasts nowhere. Of the main node the log tells.
          const lasting = id === 1 ? ["0", "0"] : ["0", "1"];
          expect(await valuesOn(nodes, "SELECT count(*) FROM late")).toEqual(lasting);
          if (id === 0) expect(pgpool.log()).toContain("node 0 may lack what other nodes");
          await pgpool.sql("TRUNCATE late");
        }
        await untilStatuses(pgpool, "up up");
      });
    }
  },
  120_000,
);
