/**
 * A small SQL client for our own commands, which must not need psql: one connection without TLS, the
 * simple protocol, values as text.
 */
import { connect, type Socket } from "node:net";
import { BackendRefused, loginToBackend } from "../core/auth/client.ts";
import { runDialogue } from "../core/auth/dialogue.ts";
import { deriveScramKeysAsync } from "../core/auth/scram_keys.ts";
import { BackendUnavailable, PgpoolError } from "../core/errors.ts";
import { decodeBackend } from "../core/wire/backend.ts";
import { backendBodySizeMax, type Frame, FrameDecoder } from "../core/wire/frame.ts";
import { encodeFrontend } from "../core/wire/frontend.ts";
import { decodeText, encodeText } from "../core/wire/text.ts";

/** Where a server listens. */
export type SqlTarget =
  | { readonly host: string; readonly port: number }
  /** The path of the Unix socket itself. */
  | { readonly path: string };

export type SqlLogin = {
  readonly user: string;
  readonly database: string;
  readonly applicationName?: string;
  /** For servers that ask for one: without it their demand is an error. */
  readonly password?: string | undefined;
};

export type SqlResult = {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
};

/** The server answered with an error: `message` is its text, `sqlstate` its code. */
export class SqlError extends PgpoolError {
  override readonly sqlstate: string;

  constructor(message: string, sqlstate: string, detail?: string) {
    super(message, { detail });
    this.sqlstate = sqlstate;
  }
}

const loginTimeoutMs = 10_000;

export class SqlClient {
  readonly #socket: Socket;
  readonly #decoder = new FrameDecoder({ bodySizeMax: backendBodySizeMax });
  readonly #inbox: Frame[] = [];
  #wake: (() => void) | undefined;
  #ended: Error | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on("data", (chunk: Uint8Array) => this.#receive(chunk));
    socket.on("error", (error) => this.#end(error));
    socket.on("close", () => this.#end(new Error("the server closed the connection")));
  }

  /** Connects and logs in. Rejects after 10 seconds without an answer. */
  static async connect(target: SqlTarget, login: SqlLogin): Promise<SqlClient> {
    const client = new SqlClient(
      "path" in target ? connect(target.path) : connect(target.port, target.host),
    );
    const { user, database, applicationName = "pgpool", password } = login;
    const parameters = new Map(
      Object.entries({ user, database, application_name: applicationName }),
    );
    const timer = setTimeout(
      () => client.#end(new Error("the server did not answer")),
      loginTimeoutMs,
    );
    try {
      client.#send({ kind: "StartupMessage", major: 3, minor: 0, parameters });
      await client.#authenticate(user, password);
      await client.#untilReady();
      return client;
    } catch (error) {
      client.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }

  /** Runs one or more statements and returns the rows of the last one that has any. */
  async query(sql: string): Promise<SqlResult> {
    this.#send({ kind: "Query", sql });
    return await this.#untilReady();
  }

  /** First column of the first row. */
  async value(sql: string): Promise<string | null> {
    return (await this.query(sql)).rows[0]?.[0] ?? null;
  }

  close(): void {
    if (this.#ended === undefined) this.#send({ kind: "Terminate" });
    this.#socket.end();
    this.#socket.destroySoon();
  }

  async #authenticate(user: string, password: string | undefined): Promise<void> {
    const scramNonce = Buffer.from(crypto.getRandomValues(new Uint8Array(18))).toString("base64");
    try {
      await runDialogue(loginToBackend({ user, scramNonce }), {
        send: (bytes) => void this.#socket.write(bytes),
        receive: () => this.#next(),
        derive: deriveScramKeysAsync,
        secretFor: () => {
          if (password !== undefined) return { kind: "clear", password: encodeText(password) };
          throw new SqlError("the server asks for a password", "28000");
        },
      });
    } catch (error) {
      if (!(error instanceof BackendRefused)) throw error;
      throw sqlErrorOf(error.response);
    }
  }

  #send(message: Parameters<typeof encodeFrontend>[0]): void {
    this.#socket.write(encodeFrontend(message));
  }

  #receive(chunk: Uint8Array): void {
    try {
      for (const frame of this.#decoder.push(chunk)) this.#inbox.push(frame);
    } catch (error) {
      this.#end(error instanceof Error ? error : new Error(String(error)));
    }
    this.#wake?.();
  }

  #end(error: Error): void {
    this.#ended ??= error;
    this.#socket.destroy();
    this.#wake?.();
  }

  async #next(): Promise<Frame> {
    for (;;) {
      const frame = this.#inbox.shift();
      if (frame !== undefined) return frame;
      if (this.#ended !== undefined) {
        throw new BackendUnavailable(this.#ended.message, { cause: this.#ended });
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
  }

  /** Reads the answer to its end. A FATAL error ends it too: no ReadyForQuery follows that one. */
  async #untilReady(): Promise<SqlResult> {
    let columns: readonly string[] = [];
    let rows: (readonly (string | null)[])[] = [];
    let failure: SqlError | undefined;
    for (;;) {
      const frame = await this.#next().catch((error: unknown) => {
        throw failure ?? error;
      });
      const message = decodeBackend(frame);
      if (message.kind === "RowDescription") {
        columns = message.fields.map((field) => field.name);
        rows = [];
      } else if (message.kind === "DataRow") {
        rows.push(message.values.map((value) => (value === null ? null : decodeText(value))));
      } else if (message.kind === "ErrorResponse") {
        failure ??= sqlErrorOf(frame.raw);
      } else if (message.kind === "ReadyForQuery") {
        if (failure !== undefined) throw failure;
        return { columns, rows };
      }
    }
  }
}

/** `response` is a whole ErrorResponse. */
function sqlErrorOf(response: Uint8Array): SqlError {
  const frames = new FrameDecoder({ bodySizeMax: backendBodySizeMax }).push(response);
  for (const message of [...frames].map(decodeBackend)) {
    if (message.kind !== "ErrorResponse") continue;
    const field = (code: string): string | undefined =>
      message.fields.find((entry) => entry.code === code)?.value;
    return new SqlError(field("M") ?? "", field("C") ?? "", field("D"));
  }
  return new SqlError("the server refused", "08P01");
}

/** One connection, one query. */
export async function queryOnce(
  target: SqlTarget,
  login: SqlLogin,
  sql: string,
): Promise<SqlResult> {
  const client = await SqlClient.connect(target, login);
  try {
    return await client.query(sql);
  } finally {
    client.close();
  }
}
