/**
 * Concurrent readers and writers through pgpool with the query cache, checked against a history.
 *
 *   FC_SEED=7 SECONDS=60 bun test tests/cluster/query_cache_consistency.test.ts
 */
import { describe, expect, test } from "bun:test";
import { type Dice, diceOf } from "../random.ts";
import {
  type ConfigValue,
  eventually,
  Pgpool,
  Postgres,
  pause,
  type QueryResult,
  RawClient,
  Scope,
} from "./harness.ts";
import { History } from "./query_cache_history.ts";
import { hitsOf } from "./query_cache_stage.ts";

const { FC_SEED, SECONDS } = process.env;
const seed = Number(FC_SEED ?? 20_261_129);
const seconds = Number(SECONDS ?? 6);
const keys = 4;

const objects = [
  "CREATE TABLE c (k int PRIMARY KEY, v int NOT NULL)",
  `INSERT INTO c SELECT k, 0 FROM generate_series(0, ${keys - 1}) k`,
  "CREATE FUNCTION bump(int) RETURNS int LANGUAGE sql AS 'UPDATE c SET v = v + 1 WHERE k = $1 RETURNING v'",
];

/** The rows of one that must succeed. */
function numbersOf({ rows, errors }: QueryResult): number[][] {
  if (errors[0] !== undefined) throw new Error(errors[0].M);
  return rows.map((row) => row.map(Number));
}

const simple = async (client: RawClient, sql: string) => numbersOf(await client.query(sql));
const extended = async (client: RawClient, sql: string, value: number) =>
  numbersOf(await client.extended(sql, [value]));

async function writeOnce(client: RawClient, dice: Dice, history: History): Promise<void> {
  const key = dice(keys);
  const update = `UPDATE c SET v = v + 1 WHERE k = ${key} RETURNING v`;
  const kind = dice(7);
  let rows: number[][];
  if (kind === 0)
    rows = await extended(client, "UPDATE c SET v = v + 1 WHERE k = $1 RETURNING v", key);
  else if (kind === 1) rows = await simple(client, `SELECT bump(${key})`);
  else if (kind === 2) {
    // Everybody sees it some time before this client is told.
    rows = await simple(client, `BEGIN; ${update}; COMMIT; SELECT pg_sleep(0.03)`);
  } else if (kind === 4 || kind === 5) {
    await simple(client, "BEGIN");
    rows = await simple(client, update);
    const seen = await simple(client, `SELECT v FROM c WHERE k = ${key}`);
    if (seen[0]?.[0] !== rows[0]?.[0]) throw new Error("a transaction does not see what it wrote");
    await simple(client, kind === 4 ? "COMMIT" : "ROLLBACK");
    if (kind === 5) return;
  } else rows = await simple(client, update);
  history.acknowledge(key, rows[0]?.[0] ?? Number.NaN, performance.now());
}

async function readOnce(
  client: RawClient,
  session: string,
  dice: Dice,
  history: History,
): Promise<void> {
  const key = dice(keys);
  const note = (of: number, value: number | undefined, sentAt: number) =>
    history.read({ session, key: of, value: value ?? Number.NaN, sentAt });
  const sentAt = performance.now();
  switch (dice(3)) {
    case 0: {
      const rows = await extended(client, "SELECT v FROM c WHERE k = $1", key);
      note(key, rows[0]?.[0], sentAt);
      return;
    }
    case 1: {
      const rows = await simple(client, "SELECT k, v FROM c ORDER BY k");
      for (const [k, v] of rows) note(k ?? -1, v, sentAt);
      return;
    }
    default: {
      const rows = await simple(client, `SELECT v FROM c WHERE k = ${key}`);
      note(key, rows[0]?.[0], sentAt);
    }
  }
}

/** Readers and writers at the same time; a writer pauses now and then, or nothing would ever be kept. */
async function play(
  pgpool: Pgpool,
  options: { readonly writers: number; readonly readers: readonly string[] },
): Promise<{ readonly watched: History; readonly others: History }> {
  const [watched, others] = [new History(), new History()];
  const until = performance.now() + seconds * 1000;
  const clients: RawClient[] = [];
  const log = async (app: string) => {
    const parameters = { application_name: app };
    const login = { user: "postgres", database: "test", parameters };
    const client = await RawClient.login(pgpool.tcp, login, 60_000);
    clients.push(client);
    return client;
  };
  try {
    const writing = Array.from({ length: options.writers }, async (_, i) => {
      const [client, dice] = [await log("writer"), diceOf(seed + i)];
      while (performance.now() < until) {
        await writeOnce(client, dice, watched);
        await pause(dice(20));
      }
    });
    const reading = options.readers.map(async (app, i) => {
      const [client, dice] = [await log(app), diceOf(seed + 100 + i)];
      const history = app === "elsewhere" ? others : watched;
      while (performance.now() < until) await readOnce(client, `reader ${i}`, dice, history);
    });
    await Promise.all([...writing, ...reading]);
  } finally {
    for (const client of clients) client.destroy();
  }
  return { watched, others };
}

async function start(
  scope: Scope,
  backends: readonly Postgres[],
  config: Readonly<Record<string, ConfigValue>>,
): Promise<Pgpool> {
  const pgpool = await Pgpool.create(scope, {
    backends,
    config: { num_init_children: 20, memory_cache_enabled: true, ...config },
  });
  await pgpool.untilServing();
  return pgpool;
}

describe(`with the query cache (seed ${seed})`, () => {
  test("no session reads what a commit has overtaken, or sees its own past undone", async () => {
    await using scope = new Scope();
    const server = await Postgres.create(scope);
    for (const sql of objects) await server.sql(sql);
    const pgpool = await start(scope, [server], {});
    const { watched } = await play(pgpool, { writers: 3, readers: Array(5).fill("reader") });
    expect(watched.staleReads()).toEqual([]);
    expect(watched.undone()).toEqual([]);
    expect(watched.writes).toBeGreaterThan(20);
    expect(await hitsOf(pgpool)).toBeGreaterThan(100);
  }, 300_000);

  test("what a standby that lags has answered is not kept past a commit", async () => {
    await using scope = new Scope();
    const primary = await Postgres.create(scope);
    for (const sql of objects) await primary.sql(sql);
    const standby = await primary.createStandby({ recovery_min_apply_delay: "150ms" });
    await eventually(
      () => standby.value("SELECT count(*) FROM c"),
      (count) => count === String(keys),
      { what: "the table on the standby" },
    );
    const pgpool = await start(scope, [primary, standby], {
      backend_weight0: 0,
      backend_weight1: 1,
      app_name_redirect_preference_list: "reader:primary,elsewhere:standby",
    });
    // Only readers whose own answers are the primary's can tell what must not have been kept.
    const readers = ["reader", "elsewhere", "reader", "elsewhere", "elsewhere"];
    const { watched, others } = await play(pgpool, { writers: 2, readers });
    expect(watched.staleReads()).toEqual([]);
    expect(watched.undone()).toEqual([]);
    expect(others.reads).toBeGreaterThan(100);
    expect(await hitsOf(pgpool)).toBeGreaterThan(20);
  }, 300_000);
});

test("a history finds what cannot be", () => {
  const history = new History();
  history.acknowledge(1, 5, 10);
  history.read({ session: "a", key: 1, value: 4, sentAt: 9 });
  history.read({ session: "a", key: 1, value: 4, sentAt: 11 });
  history.read({ session: "a", key: 1, value: 3, sentAt: 8 });
  expect(history.staleReads()).toHaveLength(1);
  expect(history.undone()).toHaveLength(1);
});
