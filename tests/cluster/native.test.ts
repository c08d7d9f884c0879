/** Native replication with real servers: what a client does is done on all of them, and told once. */
import { expect } from "bun:test";
import type { Team } from "./failover_stage.ts";
import {
  bind,
  eventually,
  execute,
  gatherResult,
  type Postgres,
  parse,
  type QueryResult,
  RawClient,
  superuser,
  sync,
  testNeeding,
} from "./harness.ts";
import { valuesOn, withReplicas } from "./replicated_stage.ts";

const nativeTest = await testNeeding("dist/pgpool", "postgres");
const login = { user: superuser, database: "test" };

/** What each node answers by itself. */
const everywhere = (nodes: readonly Postgres[], sql: string) =>
  Promise.all(nodes.map(async (node) => JSON.stringify(await node.sql(sql))));

/** A statement, the tags or the SQLSTATE that the client is told, and the status behind it. */
type Row = readonly [sql: string, told: string, status?: string];

const rows: readonly Row[] = [
  ["CREATE TABLE t (id serial, n int PRIMARY KEY, v text)", "CREATE TABLE"],
  ["INSERT INTO t (n) VALUES (1), (2)", "INSERT 0 2"],
  ["BEGIN", "BEGIN", "T"],
  ["UPDATE t SET v = 'x'", "UPDATE 2", "T"],
  ["SELECT * FROM t", "SELECT 2", "T"],
  ["SELECT 1/0", "22012", "E"],
  ["UPDATE t SET v = 'y'", "25P02", "E"],
  ["ROLLBACK", "ROLLBACK"],
  ["INSERT INTO t (n) VALUES (1)", "23505"], // draws from the sequence all the same
  ["INSERT INTO t (n) VALUES (3); INSERT INTO t (n) VALUES (4)", "INSERT 0 1, INSERT 0 1"],
  ["INSERT INTO t (n) VALUES (5); SELECT 1/0", "INSERT 0 1, 22012"],
  ["SAVEPOINT a", "25P01"],
  ["LOCK TABLE t", "25P01"],
  ["VACUUM t", "VACUUM"],
  ["nonsense", "42601"],
  ["BEGIN; INSERT INTO t (n) VALUES (6); SAVEPOINT a", "BEGIN, INSERT 0 1, SAVEPOINT", "T"],
  ["INSERT INTO t (n) VALUES (6)", "23505", "E"],
  ["ROLLBACK TO a", "ROLLBACK", "T"],
  ["INSERT INTO t (n) VALUES (7)", "INSERT 0 1", "T"],
  ["COMMIT", "COMMIT"],
  ["PREPARE p AS INSERT INTO t (n) VALUES ($1)", "PREPARE"],
  ["EXECUTE p (8)", "INSERT 0 1"],
  ["DEALLOCATE p", "DEALLOCATE"],
  ["BEGIN", "BEGIN", "T"],
  ["DELETE FROM t WHERE n = 8", "DELETE 1", "T"],
  ["PREPARE TRANSACTION 'x'", "PREPARE TRANSACTION"],
  ["COMMIT PREPARED 'x'", "COMMIT PREPARED"],
  ["SELECT lo_create(77)", "SELECT 1"],
  ["CREATE DATABASE d", "CREATE DATABASE"],
  ["SET application_name = 'a'", "SET"],
];

nativeTest(
  "each statement has the same effect on every node, and the client sees one server",
  async () => {
    const body = async ({ pgpool, nodes }: Team) => {
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      for (const [sql, expected, status = "I"] of rows) {
        const answer = await client.query(sql);
        const told = [...answer.tags, ...answer.errors.map(({ C }) => C)].join(", ");
        expect([sql, told, answer.status]).toEqual([sql, expected, status]);
      }
      for (const sql of [
        "SELECT * FROM t ORDER BY n",
        "SELECT last_value FROM t_id_seq",
        "SELECT oid FROM pg_largeobject_metadata",
        "SELECT datname FROM pg_database ORDER BY datname",
      ]) {
        const [first = "", ...others] = await everywhere(nodes, sql);
        expect(first).not.toBe("[]");
        expect(others).toEqual([first, first]);
      }
    };
    await withReplicas(3, {}, body, { max_prepared_transactions: 5 });
  },
  120_000,
);

/** Statements that tell the time, in table (at timestamptz, at0, z timetz, l timestamp, t time, d date). */
const times = [
  "INSERT INTO times VALUES (CURRENT_TIMESTAMP, CURRENT_TIMESTAMP(0), CURRENT_TIME, LOCALTIMESTAMP, LOCALTIME, CURRENT_DATE)",
  "INSERT INTO times VALUES (now(), now(), CURRENT_TIME(2), LOCALTIMESTAMP(1), LOCALTIME(3), 'tomorrow'::date)",
  "INSERT INTO times (at, d) SELECT transaction_timestamp(), 'yesterday'::date",
  "INSERT INTO times (at, l) VALUES (clock_timestamp(), statement_timestamp())",
  "UPDATE times SET t = LOCALTIME, l = 'today'::timestamp WHERE at <= now()",
  "INSERT INTO times (at) VALUES (now()); INSERT INTO times (l) VALUES ('now'::timestamp)",
];

nativeTest(
  "the time is the same on every node, and the client's transaction has one",
  async () => {
    await withReplicas(2, {}, async ({ pgpool, nodes }) => {
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      const run = async (sql: string) => {
        const { errors, rows } = await client.query(sql);
        expect([sql, errors.map(({ M }) => M)]).toEqual([sql, []]);
        return rows;
      };
      await run(
        "CREATE TABLE times (at timestamptz, at0 timestamptz, z timetz, l timestamp, t time, d date)",
      );
      for (const zone of ["UTC", "Asia/Kathmandu"]) {
        await run(`SET TimeZone = '${zone}'`);
        for (const sql of times) await run(sql);
        for (const sql of times) {
          await run("BEGIN");
          await run("SAVEPOINT a");
          await run(sql);
          expect((await client.query("INSERT INTO times VALUES (now(), 1/0)")).errors[0]?.C).toBe(
            "42804",
          );
          await run("ROLLBACK TO a");
          await run(sql);
          await run("COMMIT");
        }
      }
      await run("BEGIN");
      await run("INSERT INTO times (at, d) VALUES (CURRENT_TIMESTAMP, 'epoch')");
      const [same] = await run("SELECT at = now() FROM times WHERE d = 'epoch'");
      expect(same).toEqual(["t"] as never);
      await run("COMMIT");
      // One that fails on the main node is run by the others, too: it has drawn a number there.
      await run("CREATE TABLE strict (n serial, at timestamptz CHECK (at < '2000-01-01'))");
      const refused = await client.query("INSERT INTO strict (at) VALUES (now())");
      expect([refused.errors[0]?.C, refused.status]).toEqual(["23514", "I"]);
      for (const sql of [
        "SELECT * FROM times ORDER BY times::text",
        "SELECT last_value, is_called FROM strict_n_seq",
      ]) {
        const [main, second] = await everywhere(nodes, sql);
        expect(second).toBe(main ?? "");
      }
    });
  },
  60_000,
);

nativeTest(
  "what is asked of a table within a transaction is known in those after it",
  async () => {
    const body = async ({ pgpool, nodes }: Team) => {
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      await client.query("CREATE TABLE visits (n int PRIMARY KEY, at timestamptz DEFAULT now())");
      await client.query("INSERT INTO visits VALUES (0)");
      const asked = () => nodes[0]?.log().split(/execute pgpool_ask.*pg_attribute/).length ?? 0;
      const transaction = async (n: number) => {
        for (const sql of [
          "BEGIN",
          "UPDATE visits SET n = n WHERE n = 0",
          `INSERT INTO visits (n) VALUES (${n})`,
          "COMMIT",
        ]) {
          expect((await client.query(sql)).errors).toEqual([]);
        }
      };
      await client.query("ALTER TABLE visits ADD note text"); // what was known is void
      const before = asked();
      for (const n of [1, 2, 3]) await transaction(n);
      expect(asked() - before).toBe(1);
    };
    await withReplicas(2, {}, body, { log_statement: "all" });
  },
  60_000,
);

nativeTest(
  "what a write returns is told once and is what every node has, in whatever way it is said",
  async () => {
    const statements = [
      "INSERT INTO r (n) SELECT generate_series(1, 3) RETURNING *",
      "INSERT INTO r (n) SELECT generate_series(1, 0) RETURNING *",
      "INSERT INTO r (n, at) VALUES (4, DEFAULT), (5, now()) RETURNING *",
      "UPDATE r SET at = CURRENT_TIMESTAMP WHERE n % 2 = 0 RETURNING *",
      "DELETE FROM r WHERE n % 3 = 1 RETURNING *",
    ];
    const remaining = "SELECT coalesce(string_agg(r::text, ' ' ORDER BY id), '') FROM r";
    await withReplicas(3, {}, async ({ pgpool, nodes }) => {
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      const ways = {
        simple: (sql: string) => client.query(sql),
        extended: (sql: string) => client.extended(sql),
        prepared: async (sql: string) => {
          await client.query(`PREPARE p AS ${sql}`);
          const answer = await client.query("EXECUTE p");
          await client.query("DEALLOCATE p");
          return answer;
        },
      };
      for (const [way, say] of Object.entries(ways)) {
        await client.query(
          "CREATE TABLE r (id int GENERATED ALWAYS AS IDENTITY, at timestamp DEFAULT LOCALTIMESTAMP, n int)",
        );
        const told = new Map<string, string>();
        const counts: number[] = [];
        for (const sql of statements) {
          const { rows, errors } = await say(sql);
          expect([way, sql, errors]).toEqual([way, sql, []]);
          counts.push(rows.length);
          for (const [id = "", at, n] of rows) {
            if (sql.startsWith("DELETE")) told.delete(String(id));
            else told.set(String(id), `(${id},"${at}",${n})`);
          }
        }
        expect([way, counts]).toEqual([way, [3, 0, 2, 2, 2]]);
        const whole = [...told.values()].join(" ");
        expect(await valuesOn(nodes, remaining)).toEqual([whole, whole, whole]);
        await client.query("DROP TABLE r");
      }
    });
  },
  120_000,
);

nativeTest(
  "a named statement fills in a default that its table has had since",
  async () => {
    await withReplicas(2, {}, async ({ pgpool, nodes }) => {
      const [client, other] = [
        await RawClient.login(pgpool.tcp, login, 30_000),
        await RawClient.login(pgpool.tcp, login, 30_000),
      ];
      await other.query("CREATE TABLE later (n int, at timestamptz, also timestamptz)");
      const run = [bind("s", [7]), execute(), sync];
      const executed = async (messages: readonly Buffer[]) => {
        client.send(...messages);
        const told = (await client.until("Z")).map(({ type }) => type);
        expect(told.slice(-3)).toEqual(["2", "C", "Z"]);
      };
      await executed([parse("s", "INSERT INTO later (n) VALUES ($1)"), ...run]);
      for (const column of ["at", "also"]) {
        await other.query(`ALTER TABLE later ALTER ${column} SET DEFAULT now()`);
        await executed(run);
        await executed(run);
      }
      await other.query("ALTER TABLE later ALTER at DROP DEFAULT");
      await executed(run);
      const [main, second] = await valuesOn(
        nodes,
        "SELECT count(at) || ' ' || count(also) || ' ' || count(*) || md5(string_agg(later::text, ',' ORDER BY later::text)) FROM later",
      );
      expect(main).toStartWith("4 3 6");
      expect(second).toBe(main ?? "");
    });
  },
  120_000,
);

/** What SQL has prepared as `s`, run with a number: by SQL in either protocol, or bound by the protocol. */
const executions: Record<string, (client: RawClient, n: number) => Promise<QueryResult>> = {
  EXECUTE: (client, n) => client.query(`EXECUTE s (${n})`),
  "EXECUTE in the extended protocol": (client, n) => client.extended(`EXECUTE s (${n})`),
  Bind: async (client, n) => {
    client.send(bind("s", [n]), execute(), sync);
    return gatherResult(await client.until("Z"));
  },
};

for (const [way, run] of Object.entries(executions)) {
  nativeTest(
    `what SQL has prepared fills in a default that its table has had since: ${way}`,
    async () => {
      await withReplicas(2, {}, async ({ pgpool, nodes }) => {
        const client = await RawClient.login(pgpool.tcp, login, 30_000);
        const executed = async (n: number) => {
          const { tags, errors } = await run(client, n);
          expect([...tags, ...errors.map(({ M }) => M)]).toEqual(["INSERT 0 1"]);
        };
        await client.query("CREATE TABLE later (n int, at timestamptz, also timestamptz)");
        await client.query("PREPARE s (int) AS INSERT INTO later (n) VALUES ($1)");
        await executed(1);
        for (const column of ["at", "also"]) {
          await client.query(`ALTER TABLE later ALTER ${column} SET DEFAULT now()`);
          for (const n of [2, 3]) await executed(n);
        }
        await client.query("ALTER TABLE later ALTER at DROP DEFAULT");
        await client.query("BEGIN");
        for (const n of [4, 5]) await executed(n);
        expect((await client.query("COMMIT")).tags).toEqual(["COMMIT"]);
        const [main, second] = await valuesOn(
          nodes,
          "SELECT count(at) || ' ' || count(also) || ' ' || count(*) || md5(string_agg(later::text, ',' ORDER BY later::text)) FROM later",
        );
        expect(main).toStartWith("4 4 7");
        expect(second).toBe(main ?? "");
      });
    },
    120_000,
  );

  nativeTest(
    `what SQL has prepared takes turns with all INSERTs into its table: ${way}`,
    async () => {
      await withReplicas(2, {}, async ({ pgpool, nodes }) => {
        const [main] = nodes;
        const [client, other] = [
          await RawClient.login(pgpool.tcp, login, 30_000),
          await RawClient.login(pgpool.tcp, login, 30_000),
        ];
        await client.query("CREATE TABLE numbered (id serial, n int)");
        await client.query("PREPARE s (int) AS INSERT INTO numbered (n) VALUES ($1)");
        for (const sql of ["BEGIN", "INSERT INTO numbered (n) VALUES (1)"]) await other.query(sql);
        const executed = run(client, 2);
        await eventually(
          () => main?.value("SELECT count(*) FROM pg_locks WHERE NOT granted"),
          (waiting) => Number(waiting) > 0,
          { deadlineMs: 30_000, what: "the second to wait for the first" },
        );
        await other.query("COMMIT");
        expect((await executed).errors).toEqual([]);
        const rows = "SELECT string_agg(id || ' ' || n, ', ' ORDER BY id) FROM numbered";
        expect(await valuesOn(nodes, rows)).toEqual(["1 1, 2 2", "1 1, 2 2"]);
      });
    },
    120_000,
  );
}

nativeTest(
  "numbers that each node gives by itself are asked for where they were given",
  async () => {
    await withReplicas(2, {}, async ({ pgpool, nodes }) => {
      const [main, other] = nodes;
      if (main === undefined || other === undefined) return;
      await pgpool.sql(
        "CREATE TABLE p (n int PRIMARY KEY) PARTITION BY RANGE (n); CREATE TABLE q (n int REFERENCES p)",
      );
      // Node 1 has given more of both kinds.
      await other.sql("CREATE TABLE more (n int); DROP TABLE more; SELECT txid_current()");
      await pgpool.sql("CREATE TABLE p1 PARTITION OF p FOR VALUES FROM (0) TO (9)");
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      const value = async (sql: string) => (await client.query(sql)).rows[0]?.[0];
      for (let i = 0; i < 3; i++) {
        await client.query("BEGIN");
        const id = await value("SELECT txid_current()");
        await client.query("INSERT INTO p VALUES (1) ON CONFLICT DO NOTHING");
        expect(await value("SELECT txid_current()")).toBe(id ?? "");
        await client.query("COMMIT");
        expect(await value(`SELECT txid_status(${id})`)).toBe("committed");
        const part = await value("SELECT 'p1'::regclass::oid");
        expect(await value(`SELECT count(*) FROM pg_partition_ancestors(${part})`)).toBe("2");
      }
    });
  },
  120_000,
);

nativeTest(
  "an error is told with its place in the text that the client wrote",
  async () => {
    await withReplicas(2, {}, async ({ pgpool }) => {
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      await client.query("CREATE TABLE t (n int, at timestamptz DEFAULT now())");
      const sql = "INSERT INTO t (n) VALUES (1 + wrong)";
      const place = String(sql.indexOf("wrong") + 1);
      expect((await client.query(sql)).errors[0]?.P).toBe(place);
      client.send(parse("s", sql), sync);
      expect(gatherResult(await client.until("Z")).errors[0]?.P).toBe(place);
    });
  },
  120_000,
);

nativeTest(
  "a function executes what the session has prepared, wherever that is",
  async () => {
    await withReplicas(2, { backend_weight0: 0 }, async ({ pgpool }) => {
      const client = await RawClient.login(pgpool.tcp, login, 30_000);
      await client.query(
        "CREATE FUNCTION run(text) RETURNS SETOF int LANGUAGE plpgsql AS 'BEGIN RETURN QUERY EXECUTE $1; END'",
      );
      await client.query("PREPARE four AS SELECT 4");
      const told = await client.query("SELECT run('EXECUTE four')");
      expect([told.errors, told.rows]).toEqual([[], [["4"]]]);
    });
  },
  120_000,
);
