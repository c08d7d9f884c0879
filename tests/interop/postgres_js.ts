/** The script of the driver tests for postgres.js, which pipelines and prepares by default. */

import { Readable } from "node:stream";
import { text as readText } from "node:stream/consumers";
import { pipeline } from "node:stream/promises";
import postgres from "postgres";
import { Transcript } from "./transcript.ts";

type Sql = postgres.Sql<Record<string, never>>;
type Part = (sql: Sql, transcript: Transcript) => Promise<void>;

/** `untilAsleep` resolves when a session is in `pg_sleep`. */
export async function postgresJs(
  port: number,
  untilAsleep: () => Promise<void>,
): Promise<string[]> {
  const transcript = new Transcript();
  const sql = postgres({
    host: "127.0.0.1",
    port,
    username: "postgres",
    database: "test",
    max: 1,
    fetch_types: true,
    connection: { application_name: "postgres_js" },
    onnotice: ({ severity, message }) => transcript.say("notice", [severity, message]),
  });
  try {
    for (const part of [
      types,
      errors,
      transactions,
      pipelines,
      cursors,
      copy,
      large,
      cancel(untilAsleep),
    ]) {
      await part(sql, transcript);
    }
    await listen(sql, transcript);
  } finally {
    await sql.end({ timeout: 10 });
  }
  return transcript.lines;
}

const types: Part = async (sql, transcript) => {
  transcript.say(
    "types",
    await sql`SELECT 1 AS i, 9007199254740993::int8 AS big, 1.50::numeric AS n, NULL AS nothing,
      ${"é€😀"}::text AS t, ${[1, 2, 3]}::int[] AS a, ${sql.json({ k: [1] })}::jsonb AS j,
      ${Buffer.from([0, 255])}::bytea AS raw, ${new Date(0)}::timestamptz AS at`,
  );
  const described = await sql`SELECT * FROM pg_am WHERE oid = ${0}`.describe();
  transcript.say("describe", [
    described.types,
    described.columns.map(({ name, type }) => [name, type]),
  ]);
  transcript.say("simple", await sql.unsafe("SELECT 1 AS a; SELECT 2 AS b").simple());
  transcript.say("values", await sql`SELECT g, g * g FROM generate_series(1, 3) g`.values());
};

const errors: Part = async (sql, transcript) => {
  await transcript.fails("syntax", () => sql`SELEKT 1`);
  await transcript.fails("division", () => sql`SELECT 1 / ${0}::int`);
  await transcript.fails("table", () => sql`SELECT * FROM no_such_table`);
  await sql`DO $$ BEGIN RAISE NOTICE 'by the way'; END $$`;
  transcript.say("alive", await sql`SELECT 'still here' AS x`);
};

const transactions: Part = async (sql, transcript) => {
  await sql.unsafe(
    "DROP TABLE IF EXISTS postgres_js; CREATE TABLE postgres_js (id int PRIMARY KEY, v text)",
  );
  const committed = await sql.begin(async (tx) => {
    await tx`INSERT INTO postgres_js ${tx([
      { id: 1, v: "one" },
      { id: 2, v: "two" },
    ])}`;
    const inner = tx.savepoint(async (inside) => {
      await inside`INSERT INTO postgres_js VALUES (1, 'again')`;
    });
    await transcript.fails("savepoint", () => inner);
    return tx`SELECT * FROM postgres_js ORDER BY id`;
  });
  transcript.say("committed", committed);
  const rolledBack = sql.begin(async (tx) => {
    await tx`DELETE FROM postgres_js`;
    throw new Error("changed my mind");
  });
  await transcript.fails("rolled back", () => rolledBack);
  transcript.say("after", await sql`SELECT * FROM postgres_js ORDER BY id`);
  transcript.say(
    "read only",
    await sql.begin("READ ONLY", (tx) => [tx`SELECT count(*) FROM postgres_js`]),
  );
  await transcript.fails("write in it", () =>
    sql.begin("READ ONLY", (tx) => [tx`INSERT INTO postgres_js VALUES (9, 'no')`]),
  );
};

/** One connection: all of these are sent before the first answer is here. */
const pipelines: Part = async (sql, transcript) => {
  const results = await Promise.allSettled([
    sql`SELECT 1 AS first`,
    sql`INSERT INTO postgres_js VALUES (${50}, 'piped') RETURNING id`,
    sql`SELECT v FROM postgres_js WHERE id = ${50}`,
    sql`SELECT 1 / ${0}::int`,
    sql`SELECT v FROM postgres_js WHERE id = ${1}`,
    sql`UPDATE postgres_js SET v = 'updated' WHERE id = ${50}`,
    ...Array.from({ length: 100 }, (_, i) => sql`SELECT ${i}::int * 2 AS twice`),
    sql`SELECT v FROM postgres_js WHERE id = ${50}`,
  ]);
  const told = results.map((result) =>
    result.status === "fulfilled" ? result.value : (result.reason as postgres.PostgresError).code,
  );
  transcript.say("pipeline", told);
};

const cursors: Part = async (sql, transcript) => {
  const sums: number[] = [];
  for await (const rows of sql<{ i: number }[]>`SELECT i FROM generate_series(1, 1000) i`.cursor(
    90,
  )) {
    sums.push(rows.reduce((sum, { i }) => sum + i, 0));
  }
  transcript.say("cursor", sums);
  await sql`SELECT i FROM generate_series(1, 1000) i`.cursor(10, (rows) => {
    transcript.say("left early", rows.length);
    return sql.CLOSE;
  });
  transcript.say("alive after it", await sql`SELECT 1 AS one`);
};

const copy: Part = async (sql, transcript) => {
  const lines = Array.from({ length: 5_000 }, (_, i) => `${i + 100}\tcopied ${i}\n`);
  await pipeline(Readable.from(lines), await sql`COPY postgres_js FROM STDIN`.writable());
  // A few kilobytes only: 3.4.9 leaves its socket paused after an answer above a stream's buffer.
  const out =
    await sql`COPY (SELECT * FROM postgres_js ORDER BY id LIMIT 300) TO STDOUT`.readable();
  transcript.say("copy", await readText(out));
  transcript.say("copied", await sql`SELECT count(*) FROM postgres_js`);
};

const large: Part = async (sql, transcript) => {
  const text = "0123456789".repeat(300_000);
  transcript.say("three megabytes", await sql`SELECT ${text}::text AS echo`);
  const rows =
    await sql`SELECT i, repeat(chr(65 + i % 26), 500) AS s FROM generate_series(1, 20000) i`;
  transcript.say("twenty thousand rows", [rows.count, JSON.stringify(rows)]);
};

const cancel =
  (untilAsleep: () => Promise<void>): Part =>
  async (sql, transcript) => {
    const sleeping = sql`SELECT pg_sleep(600)`;
    const failing = transcript.fails("cancelled", () => sleeping);
    // The driver asks once, and a server that has not begun yet heeds nobody.
    await untilAsleep();
    sleeping.cancel();
    await failing;
    transcript.say("alive after it", await sql`SELECT 1 AS one`);
  };

const listen: Part = async (sql, transcript) => {
  let tell: (payload: string) => void = () => undefined;
  const heard = new Promise<string>((resolve) => {
    tell = resolve;
  });
  const { unlisten } = await sql.listen("news", (payload) => tell(payload));
  await sql.notify("news", "extra, extra");
  transcript.say("notification", await heard);
  await unlisten();
};
