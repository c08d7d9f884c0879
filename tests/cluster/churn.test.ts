/**
 * Many clients that come, speak in every way, fall silent and vanish, more of them than there are
 * slots. Each result carries the number of the question, so that an answer given to the wrong
 * client, or in the wrong order, is seen; at the end the ledger must balance.
 */
import { expect, test } from "bun:test";
import { type Dice, diceOf } from "../random.ts";
import {
  bind,
  cancelRequest,
  closeStatement,
  cString,
  execute,
  frame,
  gatherResult,
  Ledger,
  monitor,
  Pgpool,
  Postgres,
  parse,
  RawClient,
  Scope,
  sync,
} from "./harness.ts";

const sessions = 500;
const workers = 24;

type Act = (client: RawClient, ask: () => string, random: Dice) => Promise<"goes on" | "gone">;

const only = (client: RawClient, sql: string) =>
  client.query(sql).then(({ rows, errors }) => errors[0]?.C ?? rows.map(([value]) => value).join());

const simple: Act = async (client, ask) => {
  const question = ask();
  expect(await only(client, `SELECT '${question}'`)).toBe(question);
  return "goes on";
};

const large: Act = async (client, ask, random) => {
  const question = ask();
  const { rows } = await client.query(
    `SELECT '${question}' || repeat('x', g) FROM generate_series(1, ${50 + random(400)}) g`,
  );
  expect(rows.every(([value]) => value?.startsWith(`${question}x`))).toBe(true);
  return "goes on";
};

const several: Act = async (client, ask) => {
  const [a, b] = [ask(), ask()];
  expect(await only(client, `SELECT '${a}'; SELECT '${b}'`)).toBe(`${a},${b}`);
  return "goes on";
};

const failing: Act = async (client, ask) => {
  expect(await only(client, "SELECT 1/0")).toBe("22012");
  return simple(client, ask, () => 0);
};

/** The same statement names in every session, each with a text of its own. */
const prepared: Act = async (client, ask, random) => {
  const name = `s${random(3)}`;
  const question = ask();
  client.send(
    closeStatement(name),
    parse(name, `SELECT '${question}', $1`),
    bind(name, [question]),
    execute(),
    sync,
  );
  const { rows, errors } = gatherResult(await client.until("Z"));
  expect([errors, rows]).toEqual([[], [[question, question]]]);
  return "goes on";
};

const pipelined: Act = async (client, ask, random) => {
  const questions = Array.from({ length: 2 + random(20) }, ask);
  const messages = questions.flatMap((question) => [
    parse("", "SELECT $1::text"),
    bind("", [question]),
    execute(),
    ...(random(3) === 0 ? [sync] : []),
  ]);
  const syncs = messages.filter((message) => message === sync).length;
  client.send(...messages, sync);
  const answers: (string | null)[] = [];
  for (let left = syncs + 1; left > 0; left--) {
    for (const [value] of gatherResult(await client.until("Z")).rows) answers.push(value ?? null);
  }
  expect(answers).toEqual(questions);
  return "goes on";
};

const transaction: Act = async (client, ask, random) => {
  const question = ask();
  await client.rows(`BEGIN; SET LOCAL app.question = '${question}'`);
  await client.rows(`INSERT INTO questions VALUES ('${question}')`);
  expect(await only(client, "SELECT current_setting('app.question')")).toBe(question);
  await client.rows(random(2) === 0 ? "COMMIT" : "ROLLBACK");
  return "goes on";
};

/** What a session sets must not be seen by the next one on the same connection. */
const marking: Act = async (client, ask) => {
  expect(await only(client, "SELECT current_setting('app.mark', true)")).toBe("");
  await client.rows(`SET app.mark = '${ask()}'`);
  return "gone";
};

const vanishing: Act = async (client, ask, random) => {
  const sql = `SELECT '${ask()}', pg_sleep(0.0${random(5)}) FROM generate_series(1, 3)`;
  client.send(frame("Q", cString(sql)));
  if (random(2) === 0) await client.next();
  client.destroy();
  return "gone";
};

const acts = [
  ...[simple, simple, large, several, failing, prepared, prepared, pipelined, pipelined],
  ...[transaction, vanishing, marking],
];

const seed = Math.floor(Math.random() * 2 ** 31);
test(`no client gets another's answer (seed ${seed})`, async () => {
  await using scope = new Scope();
  const primary = await Postgres.create(scope);
  await primary.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN; CREATE TABLE questions (q text)`);
  const standby = await primary.createStandby();
  const pgpool = await Pgpool.create(scope, {
    backends: [primary, standby],
    config: { num_init_children: 8, max_pool: 2, sr_check_user: monitor },
  });
  await pgpool.untilServing();
  let started = 0;
  let asked = 0;
  const work = async (worker: number) => {
    const random = diceOf(seed + worker);
    const ask = () => `q${worker}.${++asked}`;
    while (started++ < sessions) await oneSession(pgpool, ask, random);
  };
  await Promise.all(Array.from({ length: workers }, (_, worker) => work(worker)));
  expect(asked).toBeGreaterThan(sessions);
  const ledger = await Ledger.open(pgpool, primary);
  await ledger.balanced();
  await ledger.close();
}, 300_000);

async function oneSession(pgpool: Pgpool, ask: () => string, random: Dice): Promise<void> {
  const client = await RawClient.connect(pgpool.tcp, 60_000);
  const parameters = { application_name: `app${random(2)}` };
  const { error, key } = await client.login({ user: "postgres", database: "test", parameters });
  expect(error).toBeUndefined();
  for (let left = 1 + random(8); left > 0; left--) {
    const act = acts[random(acts.length)] ?? simple;
    if ((await act(client, ask, random)) === "gone") break;
  }
  // A cancel request for a session that has nothing to do must hit nobody, then or later.
  if (key !== undefined && random(10) === 0) {
    const request = await RawClient.connect(pgpool.tcp, 60_000);
    request.send(cancelRequest(key.pid, key.secret));
    await request.closed();
  }
  if (random(8) === 0) client.destroy();
  else if (!client.ended) await client.terminate();
}
