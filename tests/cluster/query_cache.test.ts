/**
 * The query cache never tells a client what PostgreSQL would not have told it at that moment under
 * its own rights: each answer through pgpool is compared with that of a twin session on the server.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import {
  cString,
  describeStatement,
  eventually,
  frame,
  Pgpool,
  Postgres,
  parse,
  pcpAdmin,
  RawClient,
  Scope,
  sync,
} from "./harness.ts";
import { forgotten, kept, notKept, objects, settings } from "./query_cache_cases.ts";
import { countHits, hitsOf, run, shown, Twins } from "./query_cache_stage.ts";

let scope: Scope;
let server: Postgres;
let pgpool: Pgpool;
/** Writes go through pgpool, as everybody's who wants the cache to know. */
let writer: RawClient;

beforeAll(async () => {
  scope = new Scope();
  server = await Postgres.create(scope, {
    databases: ["test", "second"],
    settings: { max_prepared_transactions: 5 },
  });
  for (const sql of objects) await server.sql(sql);
  pgpool = await Pgpool.create(scope, {
    backends: [server],
    pcpUsers: [pcpAdmin],
    config: {
      num_init_children: 20,
      memory_cache_enabled: true,
      cache_safe_memqcache_table_list: "v_safe,v_safe_tenant",
      cache_unsafe_memqcache_table_list: "unsafe_.*",
    },
  });
  await pgpool.untilServing();
  writer = await RawClient.login(pgpool.tcp, { user: "postgres", database: "test" }, 30_000);
}, 300_000);
afterAll(async () => {
  writer?.destroy();
  await scope.close();
});

const open: Twins[] = [];
afterEach(() => {
  for (const each of open.splice(0)) each.leave();
});

async function twins(
  user = "postgres",
  parameters: Record<string, string> = {},
  database = "test",
): Promise<Twins> {
  const made = await Twins.login(pgpool, server, { user, database, parameters });
  open.push(made);
  return made;
}

describe("is kept", () => {
  test.each([...kept])("%s", async (sql) => {
    const client = await twins();
    expect(await countHits(pgpool, () => client.thrice(sql))).toBeGreaterThanOrEqual(2);
  });
});

describe("is not kept, and right", () => {
  test.each(notKept.map((row) => [...row] as [string, string]))("%s: %s", async (_, sql) => {
    const client = await twins("postgres");
    expect(await countHits(pgpool, () => client.thrice(sql))).toBe(0);
  });

  test("a table of the list of unsafe ones", async () => {
    await writer.rows("CREATE TABLE unsafe_one AS SELECT 1 AS i");
    const client = await twins();
    expect(await countHits(pgpool, () => client.thrice("SELECT * FROM unsafe_one"))).toBe(0);
  });

  test("a temporary table in the place of another", async () => {
    const [first, second] = [await twins(), await twins()];
    await first.thrice("SELECT b FROM t WHERE i = 1");
    await second.both("CREATE TEMP TABLE t AS SELECT 1 AS i, 'temporary' AS b");
    expect((await second.thrice("SELECT b FROM t WHERE i = 1")).rows).toEqual([["temporary"]]);
    expect((await first.thrice("SELECT b FROM t WHERE i = 1")).rows).toEqual([["row 1"]]);
    await second.both("DROP TABLE t");
    expect((await second.thrice("SELECT b FROM t WHERE i = 1")).rows).toEqual([["row 1"]]);
  });
});

describe("belongs to those settings and that role alone", () => {
  const everything = "SELECT i, b, at, n, f FROM t WHERE i < 4 ORDER BY i";

  test.each([...settings])("%s", async (setting) => {
    const [plain, set] = [await twins("alice"), await twins("alice")];
    await plain.thrice(everything);
    await set.thrice(everything);
    await set.both(setting);
    await set.thrice(everything);
    await plain.thrice(everything);
    await set.both("DISCARD ALL");
    await set.thrice(everything);
    await set.both("BEGIN");
    await set.same(everything);
    await set.both(setting.replace("SET ", "SET LOCAL ").replace("false)", "true)"));
    await set.thrice(everything);
    await set.both("ROLLBACK");
    await set.thrice(everything);
  });

  test("a setting of the start-up packet", async () => {
    const sql = "SELECT at, b FROM t WHERE i = 3";
    const plain = await twins("alice");
    await plain.thrice(sql);
    for (const options of ["-c TimeZone=Asia/Tokyo", "-c search_path=other,public"]) {
      await (await twins("alice", { options })).thrice(sql);
    }
    await (await twins("alice", { TimeZone: "America/New_York" })).thrice(sql);
    await plain.thrice(sql);
  });

  test("ALTER ROLE and ALTER DATABASE SET count for those who log in afterwards", async () => {
    const sql = "SELECT at FROM t WHERE i = 4";
    const before = await twins("alice");
    await before.thrice(sql);
    for (const what of ["ROLE alice", "DATABASE test"]) {
      await writer.rows(`ALTER ${what} SET TimeZone TO 'Asia/Tokyo'`);
      await before.thrice(sql);
      // A start-up packet of its own, so that no connection of before is used again.
      await (await twins("alice", { application_name: what })).thrice(sql);
      await before.thrice(sql);
      await writer.rows(`ALTER ${what} RESET TimeZone`);
    }
  });

  test("the user, and the database", async () => {
    await writer.rows("CREATE TABLE private AS SELECT 1 AS i; GRANT SELECT ON private TO alice");
    await (await twins("alice")).thrice("SELECT * FROM private");
    expect((await (await twins("bob")).same("SELECT * FROM private")).codes).toEqual(["42501"]);
    const there = await twins("postgres", {}, "second");
    expect((await there.same("SELECT * FROM private")).codes).toEqual(["42P01"]);
  });

  test("a role taken in a transaction and given back at its end", async () => {
    const client = await twins("alice");
    await writer.rows("CREATE TABLE mine AS SELECT 1 AS i; GRANT SELECT ON mine TO alice");
    await client.thrice("SELECT * FROM mine");
    await client.both("BEGIN; SET LOCAL ROLE team");
    expect((await client.same("SELECT * FROM mine")).codes).toEqual(["42501"]);
    await client.both("ROLLBACK");
    await client.thrice("SELECT * FROM mine");
  });

  test.each([
    ["a savepoint gone back to", "BEGIN|SAVEPOINT s|SET search_path TO other", "ROLLBACK TO s"],
    ["SET LOCAL beside BEGIN", "BEGIN; SET LOCAL search_path TO other", "SELECT 1; COMMIT"],
    ["a function that claims to be stable", "SELECT 1", "SELECT f_stable_sets()"],
  ])("%s", async (_, before, after) => {
    const client = await twins();
    const sql = "SELECT b FROM t WHERE i = 2";
    await client.thrice(sql);
    for (const statement of before.split("|")) await client.both(statement);
    await client.thrice(sql);
    await client.both(after);
    await client.thrice(sql);
  });

  test("a schema in the search path that one may look into from now on", async () => {
    const client = await twins("alice", { options: "-c search_path=hidden,public" });
    await client.thrice("SELECT b FROM t WHERE i = 3");
    await writer.rows("GRANT USAGE ON SCHEMA hidden TO alice");
    expect((await client.thrice("SELECT b FROM t WHERE i = 3")).rows).toEqual([["hidden"]]);
  });
});

describe("is forgotten with", () => {
  test.each(forgotten.map((row) => [...row] as [string, string, string, string]))(
    "%s",
    async (_, made, read, change) => {
      await writer.rows(made);
      await writer.rows("GRANT SELECT ON ALL TABLES IN SCHEMA public TO alice");
      const client = await twins("alice");
      const others = await twins("postgres");
      await client.same(read);
      await others.thrice(read);
      for (const statement of change.split("|")) await writer.rows(statement);
      await client.same(read);
      await others.thrice(read);
      await client.thrice(read);
    },
  );

  test("most of these were answered from memory before", async () => {
    const client = await twins();
    await writer.rows("CREATE TABLE y (i int)");
    const hits = await countHits(pgpool, async () => {
      for (let i = 0; i < 5; i++) {
        await client.thrice("TABLE y");
        await writer.rows("INSERT INTO y VALUES (1)");
      }
    });
    expect(hits).toBe(10);
  });

  test("what is written elsewhere leaves it alone", async () => {
    await writer.rows("CREATE TABLE calm AS SELECT 1 AS i; CREATE TABLE busy (i int)");
    const client = await twins();
    await client.thrice("TABLE calm");
    await client.thrice("TABLE busy");
    await writer.rows("INSERT INTO busy VALUES (1)");
    expect(await countHits(pgpool, () => client.same("TABLE calm"))).toBe(1);
  });

  test("COPY", async () => {
    await writer.rows("CREATE TABLE x_copy (i int)");
    const client = await twins();
    await client.thrice("TABLE x_copy");
    const data = frame("d", Buffer.from("1\n2\n"));
    writer.send(frame("Q", cString("COPY x_copy FROM STDIN")), data, frame("c"));
    await writer.until("Z");
    expect((await client.thrice("TABLE x_copy")).rows).toHaveLength(2);
  });
});

describe("in the extended protocol", () => {
  const one = "SELECT i, b, n FROM t WHERE i = $1";

  test("answers depend on types, values, formats and what is described", async () => {
    const client = await twins();
    const hits = await countHits(pgpool, async () => {
      for (let i = 0; i < 3; i++) {
        for (const value of ["1", "2", null, "99"]) {
          await client.sameFrames(parse("", one), ...run("", [value]));
          await client.sameFrames(parse("", one), ...run("", [value], [1]));
          await client.sameFrames(parse("", one, [20]), ...run("", [value], [0, 1, 0]));
          const [bind, , execute] = run("", [value]) as [Buffer, Buffer, Buffer];
          await client.sameFrames(parse("", one), bind, execute, sync);
          await client.sameFrames(bind, execute, sync);
        }
      }
    });
    expect(hits).toBeGreaterThanOrEqual(2 * 4 * 4);
  });

  test("what no server has seen yet is there when it is asked for", async () => {
    const client = await twins();
    for (let i = 0; i < 3; i++) await client.sameFrames(parse("", one), ...run("", ["1"]));
    await client.sameFrames(describeStatement(""), sync);
    await client.sameFrames(parse("", one), ...run("", ["1"]));
    await client.sameFrames(...run("", ["7"]));
    await client.sameFrames(parse("", one), ...run("", ["1"]));
    await client.same("SELECT 1");
    await client.sameFrames(...run("", ["1"])); // a simple query has taken its name
  });

  test("a value that is a date of today is not kept", async () => {
    const client = await twins();
    const sql = "SELECT count(*) FROM t WHERE d < $1::date";
    const again = async () => {
      for (let i = 0; i < 3; i++) await client.sameFrames(parse("", sql), ...run("", ["Today"]));
    };
    expect(await countHits(pgpool, again)).toBe(0);
  });

  test("a statement whose result has become another is refused, as by PostgreSQL", async () => {
    await writer.rows("CREATE TABLE px AS SELECT 1 AS i");
    const [old, fresh] = [await twins(), await twins()];
    const sql = "SELECT * FROM px";
    await old.sameFrames(parse("s", sql), sync);
    for (let i = 0; i < 3; i++) await old.sameFrames(...run("s"));
    await writer.rows("ALTER TABLE px ADD j int");
    for (let i = 0; i < 3; i++) await fresh.sameFrames(parse("", sql), ...run(""));
    await fresh.sameFrames(parse("s", sql), sync);
    for (let i = 0; i < 3; i++) await fresh.sameFrames(...run("s"));
    expect(await old.sameFrames(...run("s"))).toBe("EZ");
    await writer.rows("CREATE TABLE of_no_concern (i int)");
    const hits = await countHits(pgpool, async () => {
      for (let i = 0; i < 4; i++) await fresh.sameFrames(...run("s"));
    });
    expect(hits).toBeGreaterThanOrEqual(2);
  });
});

describe("in a transaction", () => {
  test("a setting that is undone with a savepoint", async () => {
    const client = await twins();
    const sql = "SELECT at FROM t WHERE i = 5";
    await client.thrice(sql);
    for (const statement of ["BEGIN", "SAVEPOINT a", "SET TimeZone TO 'Asia/Tokyo'"]) {
      await client.both(statement);
    }
    await client.thrice(sql);
    await client.both("ROLLBACK TO a");
    await client.thrice(sql);
    await client.both("COMMIT");
    await client.thrice(sql);
  });

  test("reads of committed rows come from memory, until it has written", async () => {
    await writer.rows("CREATE TABLE tx AS SELECT 1 AS i");
    const client = await twins();
    await client.thrice("TABLE tx");
    await client.proxied.rows("BEGIN");
    const read = () => client.proxied.rows("TABLE tx");
    expect(await countHits(pgpool, read)).toBe(1);
    await writer.rows("UPDATE tx SET i = 2");
    expect(await read()).toEqual([{ i: "2" }]);
    await client.proxied.rows("UPDATE tx SET i = 3");
    expect(await countHits(pgpool, read)).toBe(0);
    expect(await read()).toEqual([{ i: "3" }]);
    await client.proxied.rows("ROLLBACK");
    expect(await read()).toEqual([{ i: "2" }]);
  });

  test("SET TRANSACTION knows of a read that no server has seen", async () => {
    const client = await twins();
    await client.thrice("TABLE t");
    await client.both("BEGIN");
    await client.same("TABLE t");
    const { codes } = await client.same("SET TRANSACTION ISOLATION LEVEL SERIALIZABLE");
    expect(codes).toEqual(["25001"]);
    await client.both("ROLLBACK");
  });

  test.each(["REPEATABLE READ", "SERIALIZABLE"])("%s has a snapshot of its own", async (level) => {
    await writer.rows("CREATE TABLE IF NOT EXISTS snap AS SELECT 1 AS i");
    const client = await twins();
    await client.thrice("TABLE snap");
    await client.proxied.rows(`BEGIN ISOLATION LEVEL ${level}`);
    const [before] = await client.proxied.rows("TABLE snap");
    await writer.rows("UPDATE snap SET i = i + 1");
    await client.direct.rows("TABLE snap");
    expect(await client.proxied.rows("TABLE snap")).toEqual([before as { i: string }]);
    await client.proxied.rows("COMMIT");
    await client.thrice("TABLE snap");
  });
});

describe("what runs code of a user's", () => {
  test("a temporary function that writes", async () => {
    await writer.rows("CREATE TABLE by_temp (i int)");
    const [reader, client] = [await twins(), await twins()];
    await reader.thrice("TABLE by_temp");
    await client.proxied.rows(
      "CREATE FUNCTION pg_temp.w() RETURNS int LANGUAGE sql AS 'INSERT INTO by_temp VALUES (1) RETURNING i'",
    );
    await reader.thrice("TABLE by_temp");
    await client.proxied.rows("SELECT pg_temp.w()");
    expect((await reader.thrice("TABLE by_temp")).rows).toEqual([["1"]]);
  });

  test("a function that promises to change nothing, and sets something", async () => {
    await writer.rows(
      "CREATE FUNCTION f_sets() RETURNS text LANGUAGE plpgsql STABLE AS 'BEGIN RETURN set_config(''TimeZone'', ''Asia/Tokyo'', false); END'",
    );
    const client = await twins();
    const sql = "SELECT at FROM t WHERE i = 6";
    await client.thrice(sql);
    await client.both("SELECT f_sets()");
    await client.thrice(sql);
  });

  test("a cursor, whenever it is fetched from", async () => {
    await writer.rows(
      "CREATE TABLE by_fetch (i int); CREATE FUNCTION f_fetch() RETURNS int LANGUAGE sql AS 'INSERT INTO by_fetch VALUES (1) RETURNING i'",
    );
    const [reader, client] = [await twins(), await twins()];
    await client.proxied.rows("BEGIN");
    await client.proxied.rows("DECLARE c CURSOR FOR SELECT f_fetch()");
    await reader.thrice("TABLE by_fetch");
    await client.proxied.rows("FETCH 1 FROM c");
    await reader.thrice("TABLE by_fetch");
    await client.proxied.rows("COMMIT");
    expect((await reader.thrice("TABLE by_fetch")).rows).toEqual([["1"]]);
  });
});

test("a writer that leaves in the middle of its statement is waited for", async () => {
  await writer.rows("CREATE TABLE left_behind AS SELECT 1 AS i");
  const reader = await twins();
  await reader.thrice("TABLE left_behind");
  const leaving = await twins();
  leaving.proxied.send(frame("Q", cString("UPDATE left_behind SET i = 2 FROM pg_sleep(1) AS s")));
  await eventually(
    () => server.value("SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'UPDATE left%'"),
    (count) => count === "1",
    { what: "the UPDATE to begin" },
  );
  leaving.leave();
  await eventually(
    async () => {
      await reader.same("TABLE left_behind");
      return await server.value("SELECT i FROM left_behind");
    },
    (i) => i === "2",
    { what: "the UPDATE to end without its client" },
  );
  await reader.thrice("TABLE left_behind");
  await eventually(
    () => countHits(pgpool, () => reader.thrice("TABLE left_behind")),
    (hits) => hits > 0,
    { what: "the table to be kept again" },
  );
});

test("bytes and numbers stay within their bounds, whatever is asked", async () => {
  const own = await Pgpool.create(scope, {
    backends: [server],
    config: {
      memory_cache_enabled: true,
      memqcache_total_size: 200_000,
      memqcache_cache_block_size: 10_000,
      memqcache_maxcache: 5000,
      memqcache_max_num_cache: 50,
    },
  });
  await own.untilServing();
  const client = await RawClient.login(own.tcp, { user: "postgres", database: "test" }, 30_000);
  for (let i = 0; i < 300; i++)
    await client.rows(`SELECT ${i}, repeat('x', ${10 * i}) FROM t WHERE i = 1`);
  const large = "SELECT repeat('x', 6000) FROM t WHERE i = 1";
  for (let i = 0; i < 3; i++) await client.rows(large);
  expect(await hitsOf(own)).toBeLessThan(10);
  expect(await shown(own, "pool_cache", "num_cache_entries")).toBeLessThanOrEqual(50);
  expect(await shown(own, "pool_cache", "used_cache_entries_size")).toBeLessThan(200_000);
  expect(await shown(own, "pool_cache_stats", "evicted")).toBeGreaterThan(50);
  client.destroy();
});

test("operators can look at it and clear it", async () => {
  const client = await twins();
  await client.thrice("SELECT * FROM t WHERE i = 9");
  expect(await countHits(pgpool, () => client.same("SELECT * FROM t WHERE i = 9"))).toBe(1);
  const { notices } = await client.proxied.query(
    "PGPOOL SET CACHE DELETE 'SELECT * FROM t WHERE i = 9'",
  );
  expect(notices.map(({ M }) => M)).toEqual([
    'query cache deleted. query: "SELECT * FROM t WHERE i = 9"',
  ]);
  expect(await countHits(pgpool, () => client.same("SELECT * FROM t WHERE i = 9"))).toBe(0);
  const done = await pgpool.pcp(["invalidate-query-cache"]);
  expect(done.code).toBe(0);
  await pgpool.logged(/all query cache in shared memory deleted/);
  const [cleared] = await pgpool.show("pool_cache");
  expect(cleared).toMatchObject({ num_cache_entries: "0", used_cache_entries_size: "0" });
  expect(await shown(pgpool, "pool_cache_stats", "forgotten_by_command")).toBeGreaterThan(0);
});

test("memqcache_expire is the life of a result", async () => {
  const own = await Pgpool.create(scope, {
    backends: [server],
    config: { memory_cache_enabled: true, memqcache_expire: 1 },
  });
  await own.untilServing();
  const client = await RawClient.login(own.tcp, { user: "postgres", database: "test" }, 30_000);
  const sql = "SELECT * FROM t WHERE i = 10";
  for (let i = 0; i < 3; i++) await client.rows(sql);
  await eventually(
    async () => {
      await client.rows(sql);
      return await shown(own, "pool_cache_stats", "expired");
    },
    (expired) => expired > 0,
    { what: "a result to expire" },
  );
  client.destroy();
});

test("lists and memqcache_auto_cache_invalidation are read again with the configuration", async () => {
  const own = await Pgpool.create(scope, {
    backends: [server],
    config: { memory_cache_enabled: true },
  });
  await own.untilServing();
  await own.sql("CREATE TABLE again AS SELECT 1 AS i; GRANT SELECT ON again TO alice");
  const client = await RawClient.login(own.tcp, { user: "alice", database: "test" }, 30_000);
  const thrice = async () => {
    for (let i = 0; i < 3; i++) await client.query("TABLE again");
  };
  const reloaded = async (changes: Readonly<Record<string, string | boolean>>) => {
    own.reload(changes);
    const [name = "", value] = Object.entries(changes)[0] ?? [];
    await eventually(
      () => own.sql(`PGPOOL SHOW ${name}`),
      ([row]) => Object.values(row ?? {})[0] === (value === false ? "off" : value),
      { what: "the reload" },
    );
  };
  expect(await countHits(own, thrice)).toBe(2);
  await reloaded({ cache_unsafe_memqcache_table_list: "aga.*" });
  await own.sql("UPDATE again SET i = 2");
  expect(await countHits(own, thrice)).toBe(0);
  await reloaded({
    memqcache_auto_cache_invalidation: false,
    cache_unsafe_memqcache_table_list: "",
  });
  expect(await countHits(own, thrice)).toBe(2);
  await own.sql("UPDATE again SET i = 3");
  expect((await client.query("TABLE again")).rows).toEqual([["2"]]); // as was asked for
  await own.sql("REVOKE SELECT ON again FROM alice");
  expect((await client.query("TABLE again")).errors.map(({ C }) => C)).toEqual(["42501"]);
  client.destroy();
});
