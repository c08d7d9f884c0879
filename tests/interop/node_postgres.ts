/** The script of the driver tests for node-postgres. */
import pg from "pg";
import { cancelRequest, eventually, int32s, RawClient } from "../cluster/harness.ts";
import { Transcript } from "./transcript.ts";

/** What pg.Client has beside its published types, and a cancel request needs. */
type WithKey = { readonly processID: number; readonly secretKey: number };

export async function nodePostgres(port: number): Promise<string[]> {
  const transcript = new Transcript();
  const client = new pg.Client({
    host: "127.0.0.1",
    port,
    user: "postgres",
    database: "test",
    application_name: "node_postgres",
  });
  client.on("notice", (notice) => transcript.say("notice", [notice.severity, notice.message]));
  await client.connect();
  try {
    for (const part of [types, errors, transactions, prepared, listen, copy, large]) {
      await part(client, transcript);
    }
    await cancel(client, transcript, port);
  } finally {
    await client.end();
  }
  return transcript.lines;
}

type Part = (client: pg.Client, transcript: Transcript) => Promise<void>;

const types: Part = async (client, transcript) => {
  const sql = `SELECT 1 AS i, 9007199254740993::int8 AS big, 1.50::numeric AS n, 'x'::text AS t,
    NULL AS nothing, true AS b, '{1,2,NULL}'::int[] AS a, '{"k": [1]}'::jsonb AS j,
    '\\x00ff'::bytea AS raw, '2020-02-29 12:00:00+00'::timestamptz AS at, 'NaN'::float8 AS nan`;
  const simple = await client.query(sql);
  transcript.say("types", [
    simple.rows,
    simple.fields.map((f) => [f.name, f.dataTypeID, f.format]),
  ]);
  const extended = await client.query(`${sql}, $1::text AS p, $2::int AS q`, ["é€😀", 7]);
  transcript.say("types with parameters", extended.rows);
  transcript.say(
    "array rows",
    await rowsOnly(client, "SELECT g, g * g FROM generate_series(1, 3) g"),
  );
  const several = (await client.query(
    "SELECT 1 AS a; SELECT 2 AS b; SHOW DateStyle",
  )) as unknown as pg.QueryResult[];
  transcript.say(
    "several statements",
    several.map(({ rows, command }) => [command, rows]),
  );
  transcript.say("empty query", (await client.query("")).rows);
};

async function rowsOnly(client: pg.Client, text: string): Promise<unknown> {
  return (await client.query({ text, rowMode: "array" })).rows;
}

const errors: Part = async (client, transcript) => {
  await transcript.fails("syntax", () => client.query("SELEKT 1"));
  await transcript.fails("table", () => client.query("SELECT * FROM no_such_table"));
  await transcript.fails("division", () => client.query("SELECT 1 / $1::int", [0]));
  await transcript.fails("type", () => client.query("SELECT $1::int", ["not a number"]));
  await transcript.fails("within several", () => client.query("SELECT 1; SELECT 1/0; SELECT 2"));
  await client.query("DO $$ BEGIN RAISE WARNING 'careful'; RAISE NOTICE 'by the way'; END $$");
  transcript.say("alive", (await client.query("SELECT 'still here' AS x")).rows);
};

const transactions: Part = async (client, transcript) => {
  await client.query(
    "DROP TABLE IF EXISTS node_pg; CREATE TABLE node_pg (id int PRIMARY KEY, v text)",
  );
  await client.query("BEGIN");
  await client.query("INSERT INTO node_pg VALUES ($1, $2), ($3, $4)", [1, "one", 2, "two"]);
  transcript.say("own write", (await client.query("SELECT count(*) FROM node_pg")).rows);
  await client.query("SAVEPOINT s");
  await transcript.fails("duplicate", () => client.query("INSERT INTO node_pg VALUES (1)"));
  await transcript.fails("aborted", () => client.query("SELECT 1"));
  await client.query("ROLLBACK TO s");
  const updated = await client.query("UPDATE node_pg SET v = 'TWO' WHERE id = 2 RETURNING *");
  transcript.say("returning", [updated.rowCount, updated.command, updated.rows]);
  transcript.say("commit", (await client.query("COMMIT")).command);
  transcript.say("after", (await client.query("SELECT * FROM node_pg ORDER BY id")).rows);
  await client.query("BEGIN; DELETE FROM node_pg; ROLLBACK");
  transcript.say("rolled back", (await client.query("SELECT count(*) FROM node_pg")).rows);
  await client.query("BEGIN");
  await transcript.fails("fails", () => client.query("SELECT 1/0"));
  transcript.say("commit of a failed one", (await client.query("COMMIT")).command);
};

const prepared: Part = async (client, transcript) => {
  for (let i = 0; i < 8; i++) {
    const query = { name: "by id", text: "SELECT v FROM node_pg WHERE id = $1", values: [i % 3] };
    transcript.say(`prepared ${i}`, (await client.query(query)).rows);
  }
  const insert = "INSERT INTO node_pg VALUES ($1, $2) RETURNING id";
  for (let i = 10; i < 14; i++) {
    const query = { name: "insert", text: insert, values: [i, `row ${i}`] };
    transcript.say(`insert ${i}`, (await client.query(query)).rows);
  }
  await client.query("PREPARE by_sql (int) AS SELECT v FROM node_pg WHERE id = $1");
  transcript.say("EXECUTE", (await client.query("EXECUTE by_sql(12)")).rows);
  await client.query("DEALLOCATE by_sql");
  await transcript.fails("deallocated", () => client.query("EXECUTE by_sql(12)"));
};

const listen: Part = async (client, transcript) => {
  const heard = new Promise<pg.Notification>((resolve) => client.once("notification", resolve));
  await client.query("LISTEN news");
  await client.query("SELECT pg_notify('news', 'extra, extra')");
  const { channel, payload, processId } = await heard;
  const { rows } = await client.query("/*REPLICATION*/ SELECT pg_backend_pid() AS pid");
  transcript.say("notification", [channel, payload, processId === rows[0].pid]);
  await client.query("UNLISTEN *");
};

const copy: Part = async (client, transcript) => {
  const lines = Array.from({ length: 5_000 }, (_, i) => `${i + 100}\tcopied ${i}\n`).join("");
  transcript.say("copy in", await copyIn(client, "COPY node_pg FROM STDIN", lines));
  const out = await copyOut(client, "COPY (SELECT * FROM node_pg ORDER BY id) TO STDOUT");
  transcript.say("copy out", out);
  await transcript.fails("copy in of nonsense", () =>
    copyIn(client, "COPY node_pg FROM STDIN", "x\n"),
  );
  transcript.say("alive after it", (await client.query("SELECT count(*) FROM node_pg")).rows);
};

/** node-postgres leaves COPY to its users: these are as small as a query of their own can be. */
function copyIn(client: pg.Client, text: string, data: string): Promise<string> {
  return submit(client, text, {
    handleCopyInResponse: (connection) => {
      connection.sendCopyFromChunk(Buffer.from(data));
      connection.endCopyFrom();
    },
  });
}

function copyOut(client: pg.Client, text: string): Promise<string> {
  const chunks: Buffer[] = [];
  const handlers = {
    handleCopyData: ({ chunk }: { chunk: Buffer }) => {
      chunks.push(Buffer.from(chunk)); // the parser will use its memory again
    },
  };
  return submit(client, text, handlers).then((tag) => `${tag} ${Buffer.concat(chunks).toString()}`);
}

type CopyConnection = {
  query(text: string): void;
  sendCopyFromChunk(chunk: Buffer): void;
  endCopyFrom(): void;
};

function submit(
  client: pg.Client,
  text: string,
  handlers: {
    handleCopyInResponse?: (connection: CopyConnection) => void;
    handleCopyData?: (message: { chunk: Buffer }) => void;
  },
): Promise<string> {
  return new Promise((resolve, reject) => {
    let tag = "";
    client.query({
      submit: (connection: unknown) => (connection as CopyConnection).query(text),
      handleCommandComplete: (message: { text: string }) => {
        tag = message.text;
      },
      handleError: reject,
      handleReadyForQuery: () => resolve(tag),
      ...handlers,
    } as unknown as pg.Submittable);
  });
}

const large: Part = async (client, transcript) => {
  const text = "0123456789".repeat(300_000);
  const { rows } = await client.query("SELECT $1::text AS echo, length($1) AS n", [text]);
  transcript.say("three megabytes there and back", [rows[0].n, rows[0].echo]);
  const many = await client.query(
    "SELECT i, repeat(chr(65 + i % 26), 500) AS s FROM generate_series(1, 20000) i",
  );
  transcript.say("twenty thousand rows", [many.rowCount, JSON.stringify(many.rows)]);
};

async function cancel(client: pg.Client, transcript: Transcript, port: number): Promise<void> {
  const { processID, secretKey } = client as unknown as WithKey;
  // The cancel request may overtake the query, so it is repeated until the query has ended.
  let over = false;
  const sleeping = transcript
    .fails("cancelled", () => client.query("SELECT pg_sleep(600)"))
    .finally(() => {
      over = true;
    });
  await eventually(async () => {
    const request = await RawClient.connect({ host: "127.0.0.1", port });
    request.send(cancelRequest(processID, int32s(secretKey)));
    await request.closed();
    return over;
  });
  await sleeping;
  // A last request may still be under way: it hits the next statement or nothing.
  for (let tries = 0, quiet = 0; quiet < 3 && tries < 50; tries++) {
    quiet = await client.query("SELECT pg_sleep(0.05)").then(
      () => quiet + 1,
      () => 0,
    );
  }
  transcript.say("alive after it", (await client.query("SELECT 1 AS one")).rows);
}
