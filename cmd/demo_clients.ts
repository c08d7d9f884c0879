/** The clients of the failover demonstration: each keeps one session and notes what became of it. */
import { setTimeout as delay } from "node:timers/promises";
import { connectTo, portOfNode, type Stage } from "./demo_stage.ts";
import { type SqlClient, SqlError } from "./sql_client.ts";

/** Between two statements, so that the demonstration leaves the machine to others. */
const pauseMs = 2;

/** Times are performance.now(). `port` is that of the server that took it. */
export type Ack = { readonly number: number; readonly at: number; readonly port: number };
export type Failure = { readonly at: number; readonly message: string };

abstract class Client {
  protected readonly stage: Stage;
  /** Connections that ended without our doing. */
  sessionsLost = 0;
  #sql: SqlClient | undefined;
  #stopping = false;
  readonly #done: Promise<void>;

  constructor(stage: Stage) {
    this.stage = stage;
    // Who ends the demonstration need not wait for the answer to a statement.
    stage.signal.addEventListener("abort", () => this.#sql?.close());
    this.#done = Promise.resolve().then(() => this.#run()); // once the subclass is complete
  }

  /** Resolves when the last statement has been answered. */
  async stop(): Promise<void> {
    this.#stopping = true;
    await this.#done;
  }

  protected abstract connect(): Promise<SqlClient>;
  protected abstract act(sql: SqlClient): Promise<void>;

  async #run(): Promise<void> {
    while (!this.#stopping && !this.stage.signal.aborted) {
      try {
        this.#sql ??= await this.connect();
        await this.act(this.#sql);
      } catch {
        // An error of a statement is noted where it arises; this is the end of the connection.
        if (this.#sql !== undefined) this.sessionsLost++;
        this.#sql?.close();
        this.#sql = undefined;
      }
      await delay(pauseMs);
    }
    this.#sql?.close();
  }
}

/** Inserts 1, 2, 3, … A number whose write failed is not tried again. */
export class Writer extends Client {
  readonly acked: Ack[] = [];
  readonly failed: Failure[] = [];
  #next = 1;

  protected connect(): Promise<SqlClient> {
    return connectTo(this.stage);
  }

  protected async act(sql: SqlClient): Promise<void> {
    const number = this.#next++;
    try {
      const text = `INSERT INTO visits VALUES (${number}) RETURNING inet_server_port()`;
      const port = Number(await sql.value(text));
      this.acked.push({ number, at: performance.now(), port });
    } catch (error) {
      const message = error instanceof Error ? error.message : String(error);
      this.failed.push({ at: performance.now(), message });
      if (!(error instanceof SqlError)) throw error;
    }
  }
}

/** Counts what is there, in a session whose node for reads is a standby. */
export class Reader extends Client {
  reads = 0;
  failures = 0;
  slowestMs = 0;

  /** A session's node is drawn by lot: with three nodes it rarely takes more than a few draws. */
  protected async connect(): Promise<SqlClient> {
    for (;;) {
      const sql = await connectTo(this.stage);
      const port = Number(await sql.value("SELECT inet_server_port()"));
      if (port !== portOfNode(this.stage, 0)) return sql;
      sql.close();
      this.stage.signal.throwIfAborted();
    }
  }

  protected async act(sql: SqlClient): Promise<void> {
    const start = performance.now();
    try {
      await sql.value("SELECT count(*) FROM visits");
      this.reads++;
    } catch (error) {
      this.failures++;
      if (!(error instanceof SqlError)) throw error;
    }
    this.slowestMs = Math.max(this.slowestMs, performance.now() - start);
  }
}
