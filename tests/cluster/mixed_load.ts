/**
 * Clients that do what applications do, at the same time and to the same rows: for the replication
 * modes, after which every node must have the same in it. All that is chosen comes from the seed.
 */
import {
  cString,
  eventually,
  frame,
  gatherResult,
  int32s,
  type Postgres,
  type QueryResult,
  RawClient,
  superuser,
  type Target,
} from "./harness.ts";

/** What the clients work on; `pgpool_catalog` is what insert_lock.sql makes. */
export const mixedSchema = `
  CREATE SCHEMA pgpool_catalog;
  CREATE TABLE pgpool_catalog.insert_lock (reloid oid PRIMARY KEY);
  CREATE TABLE accounts (id int PRIMARY KEY, n int NOT NULL, changed timestamptz);
  INSERT INTO accounts SELECT g, 0 FROM generate_series(1, 20) g;
  CREATE TABLE log (
    id serial PRIMARY KEY, who int, what text,
    at timestamptz NOT NULL DEFAULT now(), day date DEFAULT CURRENT_DATE,
    clock timestamp DEFAULT clock_timestamp()
  );
  CREATE TABLE events (id int GENERATED ALWAYS AS IDENTITY, at timestamptz(3) DEFAULT CURRENT_TIMESTAMP);
  CREATE TABLE items (id int PRIMARY KEY, made timestamptz, times int NOT NULL DEFAULT 0);
  CREATE TABLE tickets_used (ticket bigint, who int);
  CREATE SEQUENCE tickets;
`;

/** Every table that the clients write to. */
const tables = ["accounts", "log", "events", "items", "tickets_used"];
const sequences = ["log_id_seq", "events_id_seq", "tickets"];

/** Per table its rows as text, in order, and per sequence where it is. */
export async function contentsOf(node: Postgres): Promise<Record<string, readonly string[]>> {
  const found: Record<string, readonly string[]> = {};
  for (const name of tables) {
    const rows = await node.sql(`SELECT t::text AS row FROM ${name} t ORDER BY 1`);
    found[name] = rows.map(({ row }) => String(row));
  }
  for (const name of sequences) {
    found[name] = [String(await node.value(`SELECT last_value FROM ${name}`))];
  }
  return found;
}

/** Rows that one has and the other has not, in words; none if they are the same. */
export function differencesOf(
  one: Readonly<Record<string, readonly string[]>>,
  other: Readonly<Record<string, readonly string[]>>,
): string[] {
  return Object.entries(one).flatMap(([name, rows]) => {
    const others = other[name] ?? [];
    const lacking = (from: readonly string[], rows: readonly string[]) => {
      const left = [...from];
      return rows.filter((row) => {
        const at = left.indexOf(row);
        if (at >= 0) left.splice(at, 1);
        return at < 0;
      });
    };
    return [
      ...lacking(others, rows).map((row) => `${name} - ${row}`),
      ...lacking(rows, others).map((row) => `${name} + ${row}`),
    ];
  });
}

/** How a statement is said. */
type Way = "simple" | "extended" | "named" | "prepared";

type Saying = {
  readonly sql: string;
  /** For `$1` and so on, where the way has parameters; written into the text where it has none. */
  readonly values?: readonly (string | number)[];
  readonly way?: Way;
};

type Random = (below: number) => number;

/** What may go wrong without anything being wrong with the nodes. */
const expectedErrors: ReadonlySet<string> = new Set([
  "40P01", // deadlock
  "40001", // serialization
  "23505", // unique
  "22012", // division by zero, which the load asks for
  "25P02", // behind any of them
  "XX001", // the number of rows differs, so nothing was done
  "XX000", // a deadlock on one node alone: the session ends, and nothing was done
  "57000", // the session ends since a node is recovered
]);

export type MixedLoadOptions = {
  readonly pgpool: { readonly tcp: Target };
  readonly user?: string;
  readonly seed: number;
  readonly clients: number;
  /** Of each client, at most. */
  readonly transactions: number;
  /** Statements whose effect depends on what other sessions have committed. */
  readonly predicates?: boolean;
};

export class MixedLoad {
  readonly #options: MixedLoadOptions;
  /** By SQLSTATE. */
  readonly errors = new Map<string, number>();
  /** Errors that no client should have got, as text. */
  readonly surprises: string[] = [];
  committed = 0;
  sessionsLost = 0;
  /** Marks in `log` whose transaction was acknowledged. */
  readonly marks: string[] = [];
  readonly #done: Promise<void>;

  constructor(options: MixedLoadOptions) {
    this.#options = options;
    const { clients } = options;
    this.#done = Promise.all(Array.from({ length: clients }, (_, id) => this.#run(id))).then(
      () => {},
    );
  }

  async untilCommitted(count: number): Promise<void> {
    await eventually(
      () => this.committed,
      (committed) => committed >= count,
      { deadlineMs: 120_000, what: `${count} transactions` },
    );
  }

  /** Nobody begins another transaction. */
  stop(): Promise<void> {
    this.#stopping = true;
    return this.#done;
  }
  #stopping = false;

  /** Resolves when every client has done its transactions. */
  done(): Promise<void> {
    return this.#done;
  }

  toString(): string {
    const errors = [...this.errors].map(([code, count]) => `${count} ${code}`).join(", ");
    const { seed } = this.#options;
    return `seed ${seed}: ${this.committed} committed, ${this.sessionsLost} sessions lost, ${errors}`;
  }

  async #run(id: number): Promise<void> {
    const random = randomOf(this.#options.seed * 1000 + id);
    let worker: Worker | undefined;
    const { pgpool, transactions, user = superuser } = this.#options;
    for (let i = 0; i < transactions && !this.#stopping; i++) {
      try {
        worker ??= await Worker.login(pgpool.tcp, user, id);
        await this.#transaction(worker, random, `${id}/${i}`);
      } catch (error) {
        if (!(error instanceof SessionOver)) throw error;
        this.sessionsLost++;
        this.#count(error.code, error.message);
        worker?.client.destroy();
        worker = undefined;
      }
    }
    await worker?.client.terminate();
  }

  #count(code: string, message: string): void {
    this.errors.set(code, (this.errors.get(code) ?? 0) + 1);
    if (!expectedErrors.has(code) && !code.startsWith("57P") && code !== "08006") {
      this.surprises.push(`${code} ${message}`);
    }
  }

  async #transaction(worker: Worker, random: Random, mark: string): Promise<void> {
    const pick = () => this.#statement(random, worker, mark);
    if (random(10) < 4) {
      if (await this.#say(worker, pick(), random)) this.committed++;
      return;
    }
    const sayings: Saying[] = [{ sql: "BEGIN" }];
    const nested = random(5) === 0;
    if (nested) sayings.push({ sql: "SAVEPOINT a" });
    for (let left = 1 + random(4); left > 0; left--) sayings.push(...pick());
    if (random(8) === 0) sayings.push({ sql: "SELECT 1 / 0" });
    if (nested) sayings.push({ sql: random(2) === 0 ? "ROLLBACK TO a" : "RELEASE a" });
    sayings.push({ sql: "INSERT INTO log (who, what) VALUES ($1, $2)", values: [worker.id, mark] });
    const commits = random(7) > 0;
    sayings.push({ sql: commits ? "COMMIT" : "ROLLBACK" });
    let whole = true;
    for (const saying of sayings) {
      const result = await worker.say(saying, waysOf(random));
      whole = this.#note(result, saying.sql) && whole;
    }
    if (whole && commits) {
      this.committed++;
      this.marks.push(mark);
    }
  }

  async #say(worker: Worker, sayings: readonly Saying[], random: Random): Promise<boolean> {
    let whole = true;
    for (const saying of sayings) {
      whole = this.#note(await worker.say(saying, waysOf(random)), saying.sql) && whole;
    }
    return whole;
  }

  #note({ errors }: QueryResult, sql: string): boolean {
    for (const { C = "", M = "" } of errors) this.#count(C, `${M} in: ${sql}`);
    return errors.length === 0;
  }

  /** One thing to do, in one or a few statements. */
  #statement(random: Random, worker: Worker, mark: string): readonly Saying[] {
    const account = 1 + random(20);
    const item = 1 + random(12);
    const things: (() => readonly Saying[])[] = [
      () => [{ sql: "INSERT INTO log (who, what) VALUES ($1, $2)", values: [worker.id, mark] }],
      () => [
        {
          sql: "INSERT INTO log (who, at) VALUES ($1, now()), ($1, CURRENT_TIMESTAMP)",
          values: [worker.id],
        },
      ],
      () => [
        {
          sql: "INSERT INTO log (who, day) SELECT g, DEFAULT_DAY FROM generate_series(1, 2) g".replace(
            "DEFAULT_DAY",
            "CURRENT_DATE - g",
          ),
        },
      ],
      () => [{ sql: "INSERT INTO events DEFAULT VALUES" }],
      () => [
        {
          sql: "UPDATE accounts SET n = n + $2, changed = now() WHERE id = $1",
          values: [account, random(9)],
        },
      ],
      () => [
        {
          sql: "UPDATE accounts SET n = n - 1 WHERE id IN ($1, $2)",
          values: [account, 1 + random(20)],
        },
      ],
      () => [
        { sql: "SELECT n FROM accounts WHERE id = $1 FOR UPDATE", values: [account] },
        { sql: "UPDATE accounts SET changed = clock_timestamp() WHERE id = $1", values: [account] },
      ],
      () => [{ sql: "DELETE FROM items WHERE id = $1", values: [item] }],
      () => [{ sql: "INSERT INTO items (id, made) VALUES ($1, LOCALTIMESTAMP)", values: [item] }],
      () => [
        {
          sql: "INSERT INTO items VALUES ($1, now()) ON CONFLICT (id) DO UPDATE SET made = now(), times = items.times + 1",
          values: [item],
        },
      ],
      () => [
        { sql: "SELECT nextval('tickets')" },
        { sql: "INSERT INTO tickets_used VALUES ($1, $2)", values: [random(1000), worker.id] },
      ],
      () => [
        {
          sql: "CREATE TEMP TABLE IF NOT EXISTS mine (v int, at timestamptz DEFAULT now())",
          way: "simple",
        },
        { sql: "INSERT INTO mine (v) VALUES ($1)", values: [random(100)] },
        { sql: "INSERT INTO tickets_used SELECT max(v), count(*) FROM mine" },
        { sql: "DROP TABLE mine", way: "simple" },
      ],
      () => [
        {
          sql: `UPDATE accounts SET n = n + 1 WHERE id = ${account}; INSERT INTO events DEFAULT VALUES`,
          way: "simple",
        },
      ],
      () => [
        {
          // Where it ends in a deadlock, the number stays taken.
          sql: `INSERT INTO events DEFAULT VALUES; UPDATE accounts SET n = n + 1 WHERE id = ${account}`,
          way: "simple",
        },
      ],
      () => [{ sql: "SELECT count(*) FROM log" }],
    ];
    if (this.#options.predicates === true) {
      things.push(
        () => [{ sql: "UPDATE accounts SET n = n + 1 WHERE n % 3 = $1", values: [random(3)] }],
        () => [{ sql: "INSERT INTO tickets_used SELECT sum(n), count(*) FROM accounts" }],
      );
    }
    return things[random(things.length)]?.() ?? [];
  }
}

const waysOf = (random: Random): Way =>
  (["simple", "extended", "named", "prepared"] as const)[random(4)] ?? "simple";

/** The session ended under its client. */
class SessionOver extends Error {
  readonly code: string;
  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

class Worker {
  readonly client: RawClient;
  readonly id: number;
  /** Texts by the name under which they were parsed, or prepared by SQL. */
  readonly #known = new Map<string, string>();

  private constructor(client: RawClient, id: number) {
    this.client = client;
    this.id = id;
  }

  static async login(target: Target, user: string, id: number): Promise<Worker> {
    const login = { user, database: "test" };
    // While a failover is under way log-ins may be refused.
    const client = await eventually(() => RawClient.login(target, login, 60_000), undefined, {
      deadlineMs: 60_000,
      what: "a log-in",
    });
    return new Worker(client, id);
  }

  async say({ sql, values = [], way }: Saying, drawn: Way): Promise<QueryResult> {
    const result = await this.#sayBy(way ?? drawn, sql, values);
    const [error] = result.errors;
    if (result.status === undefined) {
      throw new SessionOver(error?.C ?? "08006", error?.M ?? "the connection ended");
    }
    return result;
  }

  async #sayBy(way: Way, sql: string, values: readonly (string | number)[]): Promise<QueryResult> {
    switch (way) {
      case "simple":
        return this.client.query(written(sql, values));
      case "extended":
        return this.#extended("", sql, values, true);
      case "named": {
        const name = `n${this.#nameOf(sql)}`;
        const isNew = !this.#known.has(name);
        return await this.#extended(name, sql, values, isNew);
      }
      case "prepared":
        return this.#prepared(sql, values);
    }
  }

  readonly #names = new Map<string, number>();
  #nameOf(sql: string): number {
    const known = this.#names.get(sql) ?? this.#names.size;
    this.#names.set(sql, known);
    return known;
  }

  async #prepared(sql: string, values: readonly (string | number)[]): Promise<QueryResult> {
    if (!/^(?:INSERT|UPDATE|DELETE)/.test(sql)) return this.client.query(written(sql, values));
    const name = `p${this.#nameOf(sql)}`;
    if (!this.#known.has(name)) {
      const made = await this.client.query(`PREPARE ${name} AS ${sql}`);
      if (made.errors.length > 0 || made.status === undefined) return made;
      this.#known.set(name, sql);
    }
    const list = values.map((value) => (typeof value === "number" ? value : `'${value}'`));
    return this.client.query(`EXECUTE ${name}${list.length > 0 ? `(${list.join(", ")})` : ""}`);
  }

  async #extended(
    name: string,
    sql: string,
    values: readonly (string | number)[],
    parses: boolean,
  ): Promise<QueryResult> {
    const none = Buffer.alloc(2);
    const count = Buffer.alloc(2);
    count.writeUInt16BE(values.length);
    const bound = values.map((value) => {
      const bytes = Buffer.from(String(value));
      return Buffer.concat([int32s(bytes.length), bytes]);
    });
    this.client.send(
      ...(parses ? [frame("P", cString(name), cString(sql), none)] : []),
      frame("B", cString(""), cString(name), none, count, ...bound, none),
      frame("D", Buffer.from("P"), cString("")),
      frame("E", cString(""), int32s(0)),
      frame("S"),
    );
    const frames = await this.client.until("Z");
    if (name !== "" && frames.some(({ type }) => type === "1")) this.#known.set(name, sql);
    return gatherResult(frames);
  }
}

/** Values in the place of parameters. */
const written = (sql: string, values: readonly (string | number)[]): string =>
  sql.replace(/\$(\d+)/g, (_, number) => {
    const value = values[Number(number) - 1];
    return typeof value === "number" ? String(value) : `'${value}'`;
  });

/** mulberry32: small, and the same everywhere for the same seed. */
function randomOf(seed: number): Random {
  let state = seed;
  return (below) => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return Math.floor((((t ^ (t >>> 14)) >>> 0) / 2 ** 32) * below);
  };
}
