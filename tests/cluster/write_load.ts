/**
 * A writing load that keeps books: clients insert numbers into `acked (id int)`, each number once, and
 * note which were acknowledged, by which server, and what went wrong.
 */
import { eventually, type Pgpool, pause, RawClient, superuser } from "./harness.ts";

/** `at` is performance.now(); `port` that of the server which took it. */
export type Ack = { readonly id: number; readonly at: number; readonly port: number };

export class WriteLoad {
  readonly acked: Ack[] = [];
  /** Messages of statements and log-ins that failed. */
  readonly failures: string[] = [];
  /** Sessions that ended under their client. */
  sessionsLost = 0;
  readonly #pgpool: Pgpool;
  readonly #clients: Promise<void>[];
  readonly #pauseMs: number;
  #next = 1;
  #stopping = false;

  constructor(pgpool: Pgpool, clients: number, pauseMs = 0) {
    this.#pgpool = pgpool;
    this.#pauseMs = pauseMs;
    this.#clients = Array.from({ length: clients }, () => this.#run());
  }

  async #run(): Promise<void> {
    let client: RawClient | undefined;
    while (!this.#stopping) {
      try {
        client ??= await RawClient.login(
          this.#pgpool.tcp,
          { user: superuser, database: "test" },
          60_000,
        );
        if (await this.#insert(client)) {
          if (this.#pauseMs > 0) await pause(this.#pauseMs);
          continue;
        }
      } catch (error) {
        this.failures.push(error instanceof Error ? error.message : String(error));
        if (client !== undefined) this.sessionsLost++;
        client?.destroy();
        client = undefined;
      }
      await pause(20); // refused: whoever insists does not do so without drawing breath
    }
    await client?.terminate();
  }

  /** False when the server refused; throws when the session is over. */
  async #insert(client: RawClient): Promise<boolean> {
    const id = this.#next++;
    const sql = `INSERT INTO acked VALUES (${id}) RETURNING inet_server_port()`;
    const { rows, errors, status } = await client.query(sql);
    const [error] = errors;
    if (status === undefined) throw new Error(error?.M ?? "the connection ended");
    if (error !== undefined) {
      this.failures.push(`${error.C}: ${error.M}`);
      return false;
    }
    this.acked.push({ id, at: performance.now(), port: Number(rows[0]?.[0]) });
    return true;
  }

  async untilAcked(count: number, deadlineMs = 30_000): Promise<void> {
    await eventually(
      () => this.acked.length,
      (acked) => acked >= count,
      { deadlineMs, what: `${count} acknowledged inserts` },
    );
  }

  /** The first write that another server than the one of this port took, as soon as there is one. */
  async firstAckElsewhere(port: number, deadlineMs: number): Promise<Ack> {
    const find = () => this.acked.find((ack) => ack.port !== port);
    const found = await eventually(find, Boolean, {
      deadlineMs,
      what: "a write on another server",
    });
    if (found === undefined) throw new Error("unreachable: eventually returned what it refuses");
    return found;
  }

  /** Resolves when all clients have left. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#clients);
  }

  /** Of the numbers that a server has: acknowledged ones that are missing, and what is there twice. */
  compare(found: readonly number[]): { readonly missing: number[]; readonly twice: number } {
    const there = new Set(found);
    const missing = this.acked.map(({ id }) => id).filter((id) => !there.has(id));
    return { missing, twice: found.length - there.size };
  }
}
