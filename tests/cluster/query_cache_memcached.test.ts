/**
 * The query cache in memcached: several pgpools share it, it outlives them, and losing it costs speed
 * alone. Whatever is found in it, the answers are PostgreSQL's.
 */
import { afterAll, afterEach, beforeAll, expect, test } from "bun:test";
import { connect } from "node:net";
import {
  eventually,
  findProgram,
  freePort,
  Pgpool,
  Postgres,
  pause,
  RawClient,
  Scope,
  type ServerProcess,
} from "./harness.ts";
import { countHits, hitsOf, Twins } from "./query_cache_stage.ts";

let scope: Scope;
let server: Postgres;
let memcached: ServerProcess;
let port: number;
let pgpools: [Pgpool, Pgpool];

async function startMemcached(): Promise<ServerProcess> {
  const program = findProgram("memcached");
  if (program === undefined) throw new Error("memcached is not installed");
  const started = scope.start({
    name: "memcached",
    argv: [program, "-u", "nobody", "-l", "127.0.0.1", "-p", String(port), "-m", "64"],
    logPath: `${scope.dir}/memcached.log`,
  });
  await started.untilReady(async () => (await say("version")).startsWith("VERSION"));
  return started;
}

/** One command of memcached's text protocol, up to a line that ends an answer. */
async function say(command: string): Promise<string> {
  const socket = connect(port, "127.0.0.1");
  try {
    return await new Promise((resolve, reject) => {
      let told = "";
      socket.on("error", reject);
      socket.on("data", (chunk: Buffer) => {
        told += chunk.toString("latin1");
        if (/(?:^|\n)(?:END|STORED|OK|DELETED|ERROR|VERSION [^\r]*)\r\n$/.test(told)) resolve(told);
      });
      socket.on("close", () => reject(new Error(`memcached hung up after ${told}`)));
      socket.write(Buffer.from(`${command}\r\n`, "latin1"));
    });
  } finally {
    socket.destroy();
  }
}

const startPgpool = (args: readonly string[] = []) =>
  Pgpool.create(scope, {
    backends: [server],
    args,
    config: {
      num_init_children: 16,
      memory_cache_enabled: true,
      memqcache_method: "memcached",
      memqcache_memcached_host: "127.0.0.1",
      memqcache_memcached_port: port,
    },
  });

beforeAll(async () => {
  scope = new Scope();
  server = await Postgres.create(scope);
  await server.sql("CREATE TABLE t (i int PRIMARY KEY, b text); INSERT INTO t VALUES (1, 'one')");
  port = await freePort();
  memcached = await startMemcached();
  pgpools = [await startPgpool(), await startPgpool()];
  for (const pgpool of pgpools) await pgpool.untilServing();
}, 300_000);
afterAll(() => scope.close());

const open: Twins[] = [];
afterEach(() => {
  for (const each of open.splice(0)) each.leave();
});
async function twins(pgpool: Pgpool): Promise<Twins> {
  const made = await Twins.login(pgpool, server);
  open.push(made);
  return made;
}

const sql = "SELECT * FROM t ORDER BY i";

/** Until an answer has come from memory; what was answered is right each time. */
async function untilHit(client: Twins, pgpool: Pgpool, text = sql): Promise<void> {
  const before = await hitsOf(pgpool);
  await eventually(
    async () => {
      await client.same(text);
      return await hitsOf(pgpool);
    },
    (hits) => hits > before,
    { what: "an answer from memory", deadlineMs: 20_000 },
  );
}

async function write(pgpool: Pgpool, text: string): Promise<void> {
  await pgpool.sql(text);
}

test("what one pgpool has kept another shows, and what one writes is void for both", async () => {
  const [first, second] = [await twins(pgpools[0]), await twins(pgpools[1])];
  await untilHit(first, pgpools[0]);
  const before = await hitsOf(pgpools[1]);
  await eventually(
    async () => {
      await second.same(sql);
      return await hitsOf(pgpools[1]);
    },
    (hits) => hits > before,
    { what: "the other's result" },
  );
  for (let i = 2; i < 8; i++) {
    await write(pgpools[i % 2] as Pgpool, `INSERT INTO t VALUES (${i}, 'new')`);
    await first.same(sql);
    await second.same(sql);
    await second.same(sql);
  }
  await untilHit(second, pgpools[1]);
});

test("definitions and rights that one changes the other heeds", async () => {
  await write(pgpools[0], "CREATE ROLE eve LOGIN; GRANT SELECT ON t TO eve");
  const eve = await Twins.login(pgpools[1], server, { user: "eve" });
  open.push(eve);
  await untilHit(eve, pgpools[1]);
  await write(pgpools[0], "REVOKE SELECT ON t FROM eve");
  expect((await eve.same(sql)).codes).toEqual(["42501"]);
  await write(pgpools[0], "GRANT SELECT ON t TO eve; ALTER TABLE t ENABLE ROW LEVEL SECURITY");
  expect((await eve.same(sql)).rows).toEqual([]);
  await write(pgpools[0], "ALTER TABLE t DISABLE ROW LEVEL SECURITY");
  expect((await eve.thrice(sql)).rows.length).toBeGreaterThan(0);
});

test("triggers that one creates the other heeds when it writes", async () => {
  await write(pgpools[0], "CREATE TABLE log (i int); CREATE TABLE noted (i int)");
  const reader = await twins(pgpools[0]);
  await untilHit(reader, pgpools[0], "SELECT count(*) FROM log");
  await write(pgpools[1], "INSERT INTO noted VALUES (0)");
  await write(
    pgpools[0],
    `CREATE FUNCTION note() RETURNS trigger LANGUAGE plpgsql AS
       'BEGIN INSERT INTO log VALUES (NEW.i); RETURN NEW; END'`,
  );
  await write(
    pgpools[0],
    "CREATE TRIGGER note AFTER INSERT ON noted FOR EACH ROW EXECUTE FUNCTION note()",
  );
  await untilHit(reader, pgpools[0], "SELECT count(*) FROM log");
  await write(pgpools[1], "INSERT INTO noted VALUES (1)");
  expect((await reader.same("SELECT count(*) FROM log")).rows).toEqual([["1"]]);
});

test("results outlive a restart, but not one with --clear-oidmaps", async () => {
  const before = await startPgpool();
  await before.untilServing();
  await untilHit(await twins(before), before);
  await before.stop();
  const after = await startPgpool();
  await after.untilServing();
  await after.logged(/query cache uses memcached/);
  const client = await twins(after);
  expect(await countHits(after, () => client.same(sql))).toBe(1);
  await after.stop();
  const cleared = await startPgpool(["-C"]);
  await cleared.untilServing();
  await cleared.logged(/query cache uses memcached/);
  const another = await twins(cleared);
  expect(await countHits(cleared, () => another.same(sql))).toBe(0);
  await untilHit(another, cleared);
});

test("what is cut short, changed or somebody else's is not shown", async () => {
  const client = await twins(pgpools[0]);
  const texts = [1, 2, 3, 4].map((i) => `SELECT b, ${i} FROM t WHERE i = 1`);
  for (const text of texts) await untilHit(client, pgpools[0], text);
  const dump = await say("lru_crawler metadump all");
  const keys = [...dump.matchAll(/key=(pgpool%3Ar%3A\S+)/g)].map(([, key = ""]) =>
    decodeURIComponent(key),
  );
  expect(keys.length).toBeGreaterThanOrEqual(texts.length);
  const values = new Map<string, string>();
  for (const key of keys) {
    const found = /^VALUE \S+ \d+ \d+\r\n(.*)\r\nEND\r\n$/s.exec(await say(`get ${key}`));
    if (found?.[1] !== undefined) values.set(key, found[1]);
  }
  const all = [...values.values()];
  for (const [i, key] of [...values.keys()].entries()) {
    const value = values.get(key) ?? "";
    const spoilt = [
      value.slice(0, value.length - 7),
      `${value.slice(0, -9)}${String.fromCharCode(value.charCodeAt(value.length - 9) ^ 1)}${value.slice(-8)}`,
      all[(i + 1) % all.length] ?? "",
      "somebody else's",
    ][i % 4] as string;
    const told = await say(`set ${key} 0 0 ${spoilt.length}\r\n${spoilt}`);
    expect(told).toBe("STORED\r\n");
  }
  const before = await hitsOf(pgpools[0]);
  for (const text of texts) await client.same(text);
  expect(await hitsOf(pgpools[0])).toBe(before);
  for (const text of texts) await untilHit(client, pgpools[0], text);
});

test("without memcached everything goes on, and what comes back is void", async () => {
  const [reader, other] = [await twins(pgpools[0]), await twins(pgpools[1])];
  await untilHit(reader, pgpools[0]);
  memcached.signal("SIGSTOP");
  await write(pgpools[0], "INSERT INTO t VALUES (20, 'while it hangs')");
  await reader.same(sql);
  await write(pgpools[1], "INSERT INTO t VALUES (21, 'while it hangs')");
  await other.same(sql);
  memcached.signal("SIGCONT");
  await reader.same(sql);
  await other.same(sql);
  await untilHit(reader, pgpools[0]);
  await untilHit(other, pgpools[1]);
  await memcached.stop("SIGKILL");
  await write(pgpools[0], "INSERT INTO t VALUES (22, 'while it is gone')");
  await reader.thrice(sql);
  await other.thrice(sql);
  memcached = await startMemcached();
  await untilHit(reader, pgpools[0]);
  await untilHit(other, pgpools[1]);
  await write(pgpools[1], "INSERT INTO t VALUES (23, 'it is back')");
  await reader.thrice(sql);
  await untilHit(other, pgpools[1]);
}, 300_000);

test("readers and writers of two pgpools never see what was overtaken", async () => {
  await write(pgpools[0], "CREATE TABLE c (v int); INSERT INTO c VALUES (0)");
  let acknowledged = 0;
  const until = performance.now() + 4000;
  // Longer where little is done in that time.
  const isOver = () =>
    performance.now() >= until && (acknowledged > 20 || performance.now() >= until + 60_000);
  const writer = async (pgpool: Pgpool) => {
    const client = await RawClient.login(
      pgpool.tcp,
      { user: "postgres", database: "test" },
      30_000,
    );
    while (!isOver()) {
      const [{ v } = {}] = await client.rows("UPDATE c SET v = v + 1 RETURNING v");
      acknowledged = Math.max(acknowledged, Number(v));
      await pause(acknowledged % 3 === 0 ? 25 : 1);
    }
    client.destroy();
  };
  const stale: string[] = [];
  const reader = async (pgpool: Pgpool) => {
    const client = await RawClient.login(
      pgpool.tcp,
      { user: "postgres", database: "test" },
      30_000,
    );
    for (let last = 0; !isOver(); ) {
      const least = Math.max(last, acknowledged);
      const [{ v } = {}] = await client.rows("SELECT v FROM c");
      last = Number(v);
      if (last < least) stale.push(`${last} after ${least}`);
    }
    client.destroy();
  };
  const before = (await hitsOf(pgpools[0])) + (await hitsOf(pgpools[1]));
  await Promise.all([
    ...pgpools.map(writer),
    ...[0, 1, 0, 1].map((i) => reader(pgpools[i] as Pgpool)),
  ]);
  expect(stale).toEqual([]);
  expect(acknowledged).toBeGreaterThan(20);
  expect((await hitsOf(pgpools[0])) + (await hitsOf(pgpools[1]))).toBeGreaterThan(before);
}, 300_000);
