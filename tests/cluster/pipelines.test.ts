/**
 * What a client is told through pgpool is what PostgreSQL alone would have told it: generated
 * conversations go, byte for byte the same, to a PostgreSQL and through pgpool to a primary with a
 * standby, and the answers are compared message by message.
 *
 * The standby has applied whatever is committed (remote_apply), so that where a read went cannot
 * matter. Not compared is only what has to differ: see `tell`.
 *
 *   FC_RUNS=10000 FC_SEED=7 bun test tests/cluster/pipelines.test.ts
 */
import { afterAll, beforeAll, test } from "bun:test";
import fc from "fast-check";
import { frameOf } from "../../core/wire/frame.ts";
import { traceBackend, traceFrontend } from "../../core/wire/trace.ts";
import {
  type ConfigValue,
  eventually,
  frame,
  Pgpool,
  Postgres,
  RawClient,
  type RawFrame,
  Scope,
  superuser,
  type Target,
} from "./harness.ts";
import { putBack, setUp } from "./pipelines_sql.ts";
import { query, type Step, sequence, wayOut } from "./pipelines_talk.ts";

const { FC_SEED, FC_RUNS, FC_DEADLINE_MS } = process.env;
const runs = Number(FC_RUNS ?? 200);
/** The gate asks the same questions each time; others by hand, as above. */
const seed = Number(FC_SEED ?? 20_261_122);
/** Conversations at the same time, each in a database of its own. */
const workers = 6;

type Way = {
  readonly name: string;
  readonly share: number;
  readonly raw?: true;
  readonly config: Readonly<Record<string, ConfigValue>>;
};
/** Weight 0 leaves the primary no reads, but where they must not go elsewhere. */
const ways: readonly Way[] = [
  {
    name: "reads on the standby",
    share: 3,
    config: { disable_load_balance_on_write: "transaction" },
  },
  {
    name: "each statement chooses",
    share: 2,
    config: { statement_level_load_balance: true, backend_weight0: 1 },
  },
  {
    name: "reads on the primary after a write",
    share: 1,
    config: { disable_load_balance_on_write: "always" },
  },
  {
    name: "reads answered from memory",
    share: 2,
    config: { memory_cache_enabled: true, disable_load_balance_on_write: "transaction" },
  },
  { name: "raw mode", share: 1, raw: true, config: { backend_clustering_mode: "raw" } },
];

let scope: Scope;
let alone: Postgres;
let pgpools: readonly Pgpool[];

const settings = {
  max_prepared_transactions: 40,
  lock_timeout: "5s",
  // The record of a rollback is soon with the standby, and so are its locks gone.
  wal_writer_delay: "10ms",
  autovacuum: "off",
  hot_standby_feedback: "on",
};

beforeAll(async () => {
  scope = new Scope();
  const databases = Array.from({ length: workers }, (_, worker) => `w${worker}`);
  alone = await Postgres.create(scope, { settings, databases });
  const primary = await Postgres.create(scope, { settings, databases });
  for (const database of databases) {
    for (const server of [alone, primary]) {
      for (const statement of setUp) await server.sql(statement, database);
    }
  }
  const standby = await primary.createSynchronousStandby();
  pgpools = await Promise.all(
    ways.map(async ({ raw, config }) => {
      const backends = (raw ? [primary] : [primary, standby]).map(({ host, port }, id) => ({
        host,
        port,
        weight: id,
      }));
      const pgpool = await Pgpool.create(scope, {
        backends,
        config: { num_init_children: workers + 2, ...config },
      });
      await pgpool.untilServing("w0");
      return pgpool;
    }),
  );
}, 300_000);
afterAll(() => scope.close());

// ---------------------------------------------------------------- a conversation

/** No answer may take longer, however busy the machine is. */
const deadlineMs = Number(FC_DEADLINE_MS ?? 15_000);

/** What a client was told; `ended`: and then the connection was closed. */
type Told = { readonly lines: readonly string[]; readonly ended: boolean };

/** One client of one of the two, kept for as many sequences as it survives. */
class Talker {
  readonly #target: Target;
  readonly #database: string;
  #client: RawClient | undefined;

  constructor(target: Target, database: string) {
    this.#target = target;
    this.#database = database;
  }

  /** Says all steps and returns what was answered: to the row that holds `marker`, if all goes well. */
  async hold(steps: readonly Step[], marker: string): Promise<Told> {
    const told: RawFrame[] = [];
    try {
      await this.#hold(steps, marker, told);
    } catch (error) {
      this.leave(); // what is still to come must not be taken for the next answers
      return { lines: [...told.map(tell), String(error)], ended: true };
    }
    return { lines: told.map(tell), ended: this.#client?.ended === true };
  }

  async #hold(steps: readonly Step[], marker: string, told: RawFrame[]): Promise<void> {
    this.#client ??= await RawClient.login(
      this.#target,
      { user: superuser, database: this.#database },
      deadlineMs,
    );
    const client = this.#client;
    let ready = 0;
    let due = 0;
    const read = async (enough: (answers: number, failed: boolean) => boolean) => {
      let failed = false;
      for (let answers = 0; !enough(answers, failed); answers++) {
        const answer = await client.next();
        if (answer === undefined) return;
        told.push(answer);
        if (answer.type === "Z") ready++;
        failed ||= answer.type === "E";
      }
    };
    let failedBefore = false;
    for (const { messages, ready: earned, wait } of steps) {
      client.send(...messages);
      due += earned;
      if (wait === "ready") await read(() => ready >= due);
      else if (wait === "answer" && !failedBefore) await read((answers) => answers > 0);
      failedBefore = wait === "answer" && (failedBefore || told.at(-1)?.type === "E");
    }
    client.send(query(`SELECT '${marker}'`));
    const isMarker = ({ type, body }: RawFrame) => type === "D" && body.includes(marker);
    for (let seen = false; ; ) {
      const answer = await client.next();
      if (answer === undefined) break;
      told.push(answer);
      seen ||= isMarker(answer);
      if (seen && answer.type === "Z") break;
    }
  }

  leave(): void {
    this.#client?.destroy();
    this.#client = undefined;
  }
}

/**
 * One line for each message, without what differs between any two servers: the numbers of tables,
 * which depend on what was created before; the process id in a notification; the page of a row that
 * was waited for; and the place in PostgreSQL's source that an error comes from, since some errors are pgpool's own, in its words.
 */
function tell({ type, body }: RawFrame): string {
  const raw = frame(type, body);
  if (type === "A") raw.fill(0, 5, 9);
  if (type === "T") hideTables(raw);
  if (type === "d") return `B\tCopyData\t${body.toString("utf8")}`;
  const line = traceBackend(frameOf(raw), { regress: type === "E" || type === "N" });
  return line.replace(sourcePlace, "").replace(rowPlace, "tuple (p,n)");
}

const sourcePlace = / F "SSSS" L "SSSS" R "SSSS"/;
/** Where a row lies that was waited for, in the words of an error's context. */
const rowPlace = /tuple \(\d+,\d+\)/;

function hideTables(raw: Buffer): void {
  let at = 7;
  for (let columns = raw.readUInt16BE(5); columns > 0; columns--) {
    at = raw.indexOf(0, at) + 1;
    raw.fill(0, at, at + 4);
    at += 18;
  }
}

/**
 * A message in a failed transaction may be wrong for another reason too: which of the two the client
 * is told may differ where a statement or portal has to be sought on another node.
 */
function isSame(expected: string, told = ""): boolean {
  const isError = (line: string) => line.includes("ErrorResponse");
  const aborted = expected.includes('"25P02"') || told.includes('"25P02"');
  return expected === told || (aborted && isError(expected) && isError(told));
}

/**
 * A server that closes while there is something unread resets the connection: what it said last may
 * never arrive, at the client or at pgpool, which then says that it has lost the server. What did
 * arrive must be the same.
 */
function areSame(expected: Told, told: Told): boolean {
  if (!expected.ended) {
    if (told.ended || expected.lines.length !== told.lines.length) return false;
    return expected.lines.every((line, i) => isSame(line, told.lines[i]));
  }
  const lost = told.lines.findIndex((line) => line.includes(lostServer));
  if (lost < 0 && !told.ended) return false;
  const arrived = told.lines.slice(0, lost < 0 ? undefined : lost);
  const common = Math.min(expected.lines.length, arrived.length);
  return expected.lines.slice(0, common).every((line, i) => isSame(line, arrived[i]));
}
const lostServer = 'M "unable to read data from DB node';

/** Both conversations, for whoever must understand a difference. */
function report(steps: readonly Step[], expected: readonly string[], told: readonly string[]) {
  const longer = expected.length > told.length ? expected : told;
  const wrong = longer.findIndex((_, index) => !isSame(expected[index] ?? "", told[index]));
  const around = (lines: readonly string[]) =>
    lines
      .slice(0, wrong + 6)
      .map((line, index) => `${index === wrong ? "->" : "  "} ${line}`)
      .slice(Math.max(0, wrong - 60));
  const said = steps.flatMap(({ messages, wait }) => [
    ...messages.map((raw) => `   ${traceFrontend(frameOf(raw))}`),
    ...(wait === "nothing" ? [] : [`   (waits: ${wait})`]),
  ]);
  const parts = [
    ["the client said:", ...said],
    ["PostgreSQL answered:", ...around(expected)],
    ["through pgpool:", ...around(told)],
  ];
  return [`answer ${wrong} differs`, ...parts.flat()].join("\n").replaceAll("\t", " ");
}

/** The names of prepared transactions are the server's: each worker has its own. */
function stepsFor(steps: readonly Step[], worker: number): readonly Step[] {
  const digit = "0".charCodeAt(0) + worker;
  return steps.map((step) => ({
    ...step,
    messages: step.messages.map((raw) => withDigit(raw, digit)),
  }));
}

const afterwards: readonly Step[] = [
  { messages: wayOut, ready: 0, wait: "nothing" },
  { messages: putBack.map((text) => query(text)), ready: 0, wait: "nothing" },
];

const placeholder = Buffer.from("'g$W'");
function withDigit(raw: Uint8Array, digit: number): Uint8Array {
  const at = Buffer.from(raw.buffer, raw.byteOffset, raw.length).indexOf(placeholder);
  if (at < 0) return raw;
  const copy = raw.slice();
  // As long as before: 'g$3'.
  copy[at + 3] = digit;
  return copy;
}

class Pair {
  readonly #worker: number;
  readonly #direct: Talker;
  readonly #proxied: Talker;
  #count = 0;
  /** The databases are as `putBack` leaves them. */
  #clean = false;

  constructor(pgpool: Pgpool, worker: number) {
    this.#worker = worker;
    const database = `w${worker}`;
    this.#direct = new Talker({ host: alone.host, port: alone.port }, database);
    this.#proxied = new Talker(pgpool.tcp, database);
  }

  /** Rejects with a report when the two answer differently. */
  async check(sequence: readonly Step[]): Promise<void> {
    if (!this.#clean) await this.#cleanUp();
    this.#clean = false;
    const [expected, told] = await this.#both(sequence);
    const same = areSame(expected, told);
    this.#clean = same && !expected.ended;
    if (!this.#clean) this.leave();
    if (!same) throw new Error(report(sequence, expected.lines, told.lines));
  }

  /** On new connections; those given up may hold locks for another moment. */
  async #cleanUp(): Promise<void> {
    const failed = (lines: readonly string[]) =>
      lines.filter((line) => line.includes("ErrorResponse") && !line.includes('"42704"')).length;
    await eventually(
      () => this.#both([]),
      (both) => both.every(({ lines, ended }) => !ended && failed(lines) === 0),
      { what: "a clean database" },
    );
  }

  async #both(sequence: readonly Step[]): Promise<readonly [Told, Told]> {
    const steps = stepsFor([...sequence, ...afterwards], this.#worker);
    const marker = `end of ${++this.#count}`;
    return await Promise.all([this.#direct.hold(steps, marker), this.#proxied.hold(steps, marker)]);
  }

  leave(): void {
    this.#direct.leave();
    this.#proxied.leave();
  }
}

/** `count` sequences, shared out to the workers; each has its own stream of chance. */
async function compare(pgpool: Pgpool, seed: number, count: number): Promise<void> {
  const work = async (worker: number) => {
    const numRuns = Math.floor((count + worker) / workers);
    if (numRuns === 0) return;
    const pair = new Pair(pgpool, worker);
    try {
      await fc.assert(
        fc.asyncProperty(sequence, (steps) => pair.check(steps)),
        { seed: seed + worker, numRuns, reporter: throwReport },
      );
    } finally {
      pair.leave();
    }
  };
  const all = await Promise.allSettled(Array.from({ length: workers }, (_, i) => work(i)));
  for (const result of all) if (result.status === "rejected") throw result.reason;
}

/** In place of the bytes of the messages, what they mean. */
function throwReport(details: fc.RunDetails<[steps: readonly Step[]]>): void {
  if (!details.failed) return;
  const { seed, numRuns, numShrinks, errorInstance } = details;
  const words = errorInstance instanceof Error ? errorInstance.message : String(errorInstance);
  throw new Error(`seed ${seed}, run ${numRuns}, made smaller ${numShrinks} times\n${words}`);
}

const shares = ways.reduce((sum, { share }) => sum + share, 0);
for (const [index, { name, share }] of ways.entries()) {
  const count = Math.ceil((runs * share) / shares);
  test(
    `${count} conversations are the same with ${name} (seed ${seed})`,
    () => compare(pgpools[index] as Pgpool, seed, count),
    60_000 + count * 1_000,
  );
}
