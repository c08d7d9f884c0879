/**
 * What pgpool knows of tables and functions, on each PostgreSQL of this machine: what views and
 * partitions hide, that nothing is asked twice, and that no answer outlives what it was about. The
 * servers' logs are the witnesses of every question.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { eventually, everyPostgres, Pgpool, Postgres, type RawClient, Scope } from "./harness.ts";
import type { Settings } from "./load_balance_stage.ts";

const objects = [
  "CREATE TABLE t (i int); INSERT INTO t VALUES (1)",
  "CREATE UNLOGGED TABLE unlogged (i int); INSERT INTO unlogged VALUES (1)",
  "CREATE VIEW v AS SELECT * FROM t",
  "CREATE VIEW v_unlogged AS SELECT * FROM unlogged",
  "CREATE VIEW v_deep AS SELECT v.i FROM v, v_unlogged",
  "CREATE MATERIALIZED VIEW m AS SELECT * FROM unlogged",
  "CREATE VIEW v_m AS SELECT * FROM m",
  "CREATE VIEW v_random AS SELECT random() AS r",
  "CREATE VIEW v_now AS SELECT now() AS n",
  "CREATE VIEW v_catalog AS SELECT relname FROM pg_class LIMIT 1",
  "CREATE FUNCTION f_vol() RETURNS int LANGUAGE sql AS 'SELECT 1'",
  "CREATE FUNCTION f_stable() RETURNS int LANGUAGE sql STABLE AS 'SELECT 1'",
  "CREATE VIEW v_vol AS SELECT 1 AS i WHERE EXISTS (SELECT f_vol())",
  "CREATE VIEW v_stable AS SELECT f_stable() AS i",
  "CREATE TABLE p (i int) PARTITION BY LIST (i)",
  "CREATE TABLE p1 PARTITION OF p FOR VALUES IN (1); INSERT INTO p VALUES (1)",
  "CREATE TABLE q (i int) PARTITION BY LIST (i)",
  "CREATE UNLOGGED TABLE q1 PARTITION OF q FOR VALUES IN (1); INSERT INTO q VALUES (1)",
  "CREATE VIEW v_q AS SELECT * FROM q",
  "CREATE SCHEMA hidden; CREATE UNLOGGED TABLE hidden.shadow (i int); INSERT INTO hidden.shadow VALUES (1)",
  "CREATE TABLE shadow (i int); INSERT INTO shadow VALUES (1)",
  "CREATE TABLE a (i int); CREATE TABLE b (i int); CREATE TABLE c (i int); CREATE TABLE d (i int)",
  "CREATE ROLE u1 LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO u1",
  "GRANT USAGE ON SCHEMA hidden TO u1; GRANT ALL ON ALL TABLES IN SCHEMA hidden TO u1",
];

for (const install of await everyPostgres()) {
  describe(`with PostgreSQL ${install.major}`, () => {
    let scope: Scope;
    let primary: Postgres;
    let standby: Postgres;
    let pgpool: Pgpool;

    beforeAll(async () => {
      scope = new Scope();
      primary = await Postgres.create(scope, { install, settings: { log_statement: "all" } });
      for (const sql of objects) await primary.sql(sql);
      standby = await primary.createStandby();
      pgpool = await start(scope);
      await standby.catchUpWith(primary);
    }, 300_000);
    afterAll(() => scope.close());

    async function start(own: Scope, settings: Settings = {}): Promise<Pgpool> {
      const made = await Pgpool.create(own, {
        backends: [primary, standby],
        config: { backend_weight0: 0, num_init_children: 8, ...settings },
      });
      await made.untilServing();
      return made;
    }

    const session = <T>(
      body: (client: RawClient) => Promise<T>,
      { user = "postgres", at = pgpool } = {},
    ): Promise<T> =>
      at.loginWhole({ user, database: "test" }).then((client) => client.during(body));

    /** The node that answers a read of this, or the SQLSTATE of its error. */
    async function where(client: RawClient, from: string): Promise<number | string | undefined> {
      const { rows, errors } = await client.query(`SELECT inet_server_port() FROM ${from}`);
      if (errors[0] !== undefined) return errors[0].C;
      return [primary, standby].findIndex(({ port }) => String(port) === rows[0]?.[0]);
    }

    /** How often the catalogs of a server were asked while `body` ran. */
    async function questions(server: Postgres, body: () => Promise<unknown>): Promise<number> {
      const asked = () => server.log().split(/execute pgpool_ask/).length - 1;
      const before = asked();
      await body();
      return asked() - before;
    }

    const rows: readonly [what: string, from: string, node: number][] = [
      ["a table", "t", 1],
      ["an unlogged table", "unlogged", 0],
      ["a table of two schemas, one of them unlogged", "shadow", 0],
      ["the one that is not, by its schema", "public.shadow", 1],
      ["a view over a table", "v", 1],
      ["a view over an unlogged table", "v_unlogged", 0],
      ["a view over such a view", "v_deep", 0],
      ["a materialized view over an unlogged table, which has rows of its own", "m", 1],
      ["a view over that", "v_m", 1],
      ["a partitioned table", "p", 1],
      ["one with an unlogged partition", "q", 0],
      ["a view over that", "v_q", 0],
      ["a view that calls a volatile function of PostgreSQL's", "v_random", 0],
      ["one that calls a stable one", "v_now", 1],
      ["a view that calls a volatile function of ours", "v_vol", 0],
      ["one that calls a stable one", "v_stable", 1],
      ["a system catalog", "pg_class LIMIT 1", 0],
      ["a view over one", "v_catalog", 1],
      ["information_schema", "information_schema.tables LIMIT 1", 1],
      ["a volatile function", "f_vol()", 0],
      ["a stable function", "f_stable()", 1],
      ["a name of a WITH query", "(WITH w AS (SELECT 1) SELECT * FROM w) AS x", 1],
    ];
    test.each(rows)("%s is read where it can be: %s", async (_, from, node) => {
      expect(await session((client) => where(client, from))).toBe(node);
    });

    test("nothing is asked twice, whoever asks, in whatever session, role and search path", async () => {
      const read = async (client: RawClient) => {
        const seen: unknown[] = [];
        for (const from of ["t", "v_deep", "p", "f_vol()", "shadow"])
          seen.push(await where(client, from));
        return seen;
      };
      await session(read);
      const again = await questions(primary, async () => {
        for (let i = 0; i < 4; i++) {
          for (const user of ["postgres", "u1"]) {
            await session(
              async (client) => {
                expect(await read(client)).toEqual([1, 0, 1, 0, 0]);
                if (user === "postgres") await client.rows("SET ROLE u1");
                await client.rows("SET search_path TO hidden, public");
                expect(await read(client)).toEqual([1, 0, 1, 0, 0]);
              },
              { user },
            );
          }
        }
      });
      // Each session asks once whether it has temporary tables, and of four names whether one is that.
      console.log(`80 reads in 8 sessions of known tables asked ${again} questions`);
      expect(again).toBeLessThanOrEqual(8 * (1 + 4));
      const longSession = await session(async (client) => {
        for (let i = 0; i < 2; i++) await read(client);
        return await questions(primary, async () => {
          for (let i = 0; i < 50; i++) await read(client);
        });
      });
      expect(longSession).toBe(0);
    });

    test("a definition that is changed is known at once, by every session", async () => {
      await session(async (mine) => {
        const other = await pgpool.loginWhole({ user: "u1", database: "test" });
        const changes: readonly [string, string, number][] = [
          ["ALTER TABLE t SET UNLOGGED", "t", 0],
          ["ALTER TABLE t SET LOGGED", "t", 1],
          ["ALTER FUNCTION f_stable() VOLATILE", "f_stable()", 0],
          ["ALTER FUNCTION f_stable() VOLATILE", "v_stable", 0],
          ["ALTER FUNCTION f_stable() STABLE", "v_stable", 1],
          ["CREATE OR REPLACE VIEW v AS SELECT i FROM unlogged", "v", 0],
          ["CREATE OR REPLACE VIEW v AS SELECT i FROM t", "v", 1],
          ["DO $$ BEGIN ALTER TABLE t SET UNLOGGED; END $$", "v", 0],
          ["ALTER TABLE t SET LOGGED", "v", 1],
        ];
        for (const [sql, from, node] of changes) {
          await mine.rows(sql);
          await standby.catchUpWith(primary);
          expect([sql, from, await where(other, from)]).toEqual([sql, from, node]);
          expect(await where(mine, from)).toBe(node);
        }
        await other.terminate();
      });
    }, 300_000);

    test("what a transaction defines is its own until it commits, and nobody's after ROLLBACK", async () => {
      await session(async (mine) => {
        const other = await pgpool.loginWhole({ user: "u1", database: "test" });
        for (const [end, node] of [
          ["ROLLBACK", 1],
          ["COMMIT", 0],
        ] as const) {
          await mine.rows("BEGIN");
          await mine.rows(
            "CREATE OR REPLACE FUNCTION f_stable() RETURNS int LANGUAGE sql AS 'SELECT 2'",
          );
          expect(await where(mine, "f_stable()")).toBe(0);
          expect(await where(other, "f_stable()")).toBe(1);
          await mine.rows(end);
          expect([end, await where(mine, "f_stable()"), await where(other, "f_stable()")]).toEqual([
            end,
            node,
            node,
          ]);
        }
        await mine.rows("ALTER FUNCTION f_stable() STABLE");
        await other.terminate();
      });
    });

    test("a temporary table is known to its session alone", async () => {
      await session(async (mine) => {
        await mine.rows("CREATE TEMP TABLE p AS SELECT 1 AS i");
        expect(await where(mine, "p")).toBe(0);
        await mine.rows("DROP TABLE p");
        expect(await where(mine, "p")).toBe(1);
      });
      expect(await session((other) => where(other, "p"))).toBe(1);
    });

    test("what EXPLAIN ANALYZE or a view's function has created is known as well", async () => {
      await primary.sql(`CREATE FUNCTION make() RETURNS int LANGUAGE plpgsql AS
        'BEGIN CREATE TEMP TABLE made AS SELECT 1 AS i; RETURN 1; END'`);
      await primary.sql("CREATE VIEW v_make AS SELECT make()");
      await standby.catchUpWith(primary);
      await session(async (client) => {
        expect(await where(client, "analyzed")).toBe("42P01");
        await client.rows("EXPLAIN ANALYZE CREATE TEMP TABLE analyzed AS SELECT 1 AS i");
        expect(await where(client, "analyzed")).toBe(0);
      });
      await session(async (client) => {
        await client.rows("SELECT * FROM v_make");
        expect(await where(client, "made")).toBe(0);
      });
    });

    test("another database of the same name is another one", async () => {
      await primary.sql("CREATE DATABASE doubled", "postgres");
      await primary.sql("CREATE TABLE t AS SELECT 1 AS i", "doubled");
      await standby.catchUpWith(primary);
      const read = async () => {
        const client = await pgpool.loginWhole({ user: "postgres", database: "doubled" });
        const node = await where(client, "t");
        await client.terminate();
        return node;
      };
      expect(await read()).toBe(1);
      await session(async (client) => {
        await client.rows("DROP DATABASE doubled WITH (FORCE)");
        await client.rows("CREATE DATABASE doubled");
      });
      await primary.sql("CREATE UNLOGGED TABLE t AS SELECT 1 AS i", "doubled");
      await standby.catchUpWith(primary);
      expect(await read()).toBe(0);
    });

    test.each(["SHOW work_mem", "", "PGPOOL EXPLAIN ROUTE SELECT 1", "LOCK TABLE t"])(
      "SET TRANSACTION may follow %j, as without us",
      async (first) => {
        await session(async (client) => {
          await client.rows("SET default_transaction_isolation TO DEFAULT"); // its level is to be asked
          await client.query("BEGIN");
          await client.query(first);
          const { errors } = await client.query("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ");
          expect(errors).toEqual([]);
          expect(await client.rows("SHOW transaction_isolation")).toEqual([
            { transaction_isolation: "repeatable read" },
          ]);
          await client.query("ROLLBACK");
        });
      },
    );

    test("relcache_expire: what nobody saw being changed is noticed when it is over", async () => {
      await using own = new Scope();
      const at = await start(own, { relcache_expire: 1 });
      await session(
        async (client) => {
          expect(await where(client, "a")).toBe(-1); // no row
          await primary.sql("INSERT INTO a VALUES (1)");
          await standby.catchUpWith(primary);
          expect(await where(client, "a")).toBe(1);
          await primary.sql("ALTER TABLE a SET UNLOGGED");
          await eventually(
            () => where(client, "a"),
            (node) => node === 0,
            { what: "the table to be known as unlogged" },
          );
          await primary.sql("ALTER TABLE a SET LOGGED");
          await standby.catchUpWith(primary);
          await eventually(
            () => where(client, "a"),
            (node) => node === 1,
          );
        },
        { at },
      );
    }, 300_000);

    test("relcache_size: the cache is small, the answers are right", async () => {
      await using own = new Scope();
      const at = await start(own, { relcache_size: 1 });
      await session(
        async (client) => {
          for (let i = 0; i < 3; i++) {
            expect(await where(client, "t, v, p, m, v_now")).toBe(1);
            expect(await where(client, "t, v, p, m, v_unlogged")).toBe(0);
          }
        },
        { at },
      );
    });

    test("enable_shared_relcache = off: each session learns for itself", async () => {
      const asked: number[] = [];
      for (const enable_shared_relcache of [true, false]) {
        await using own = new Scope();
        const at = await start(own, { enable_shared_relcache, check_temp_table: "none" });
        const read = () => session((client) => where(client, "t"), { at });
        await read();
        asked.push(
          await questions(primary, async () => [await read(), await read(), await read()]),
        );
      }
      expect(asked).toEqual([0, 3]);
    });

    test("relcache_query_target: the node for reads is asked, but for what only the primary knows", async () => {
      await using own = new Scope();
      const target = { relcache_query_target: "load_balance_node", check_temp_table: "none" };
      const at = await start(own, target);
      await session(
        async (client) => {
          const onPrimary = await questions(primary, async () => {
            const onStandby = await questions(standby, async () => {
              expect(await where(client, "t")).toBe(1);
              expect(await where(client, "v_unlogged")).toBe(0);
            });
            expect(onStandby).toBe(2);
          });
          expect(onPrimary).toBe(0);
          await client.rows("BEGIN");
          await client.rows("CREATE UNLOGGED TABLE fresh AS SELECT 1 AS i");
          expect(await where(client, "fresh")).toBe(0);
          await client.rows("ROLLBACK");
          at.reload({ ...target, relcache_query_target: "primary" });
          await at.logged(/reload config files/);
          const later = await questions(primary, async () => {
            await eventually(async () => {
              await client.rows("ALTER TABLE b SET (fillfactor = 90)"); // nothing is known any more
              return await questions(primary, () => where(client, "p"));
            });
          });
          expect(later).toBeGreaterThan(0);
        },
        { at },
      );
    });
  });
}
