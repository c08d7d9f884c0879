/**
 * A PostgreSQL server made of a script: for what a real one does only when it is broken, malicious
 * or dying. Without a script it is well behaved: trusts everybody and answers simple queries.
 */
import { createServer, type Server, type Socket } from "node:net";
import { freePort, type Scope } from "./machine.ts";
import { cString, frame, int32s, type RawFrame, RawPeer } from "./raw_peer.ts";

export type MockScript = {
  /** In place of the whole session, start-up packet included. */
  readonly onConnect?: (session: MockSession) => Promise<void>;
  /** In place of AuthenticationOk; afterwards the login goes on as usual unless it was ended. */
  readonly onLogin?: (session: MockSession) => Promise<void>;
  /** A simple query; answers "done" when the script has answered it, ReadyForQuery included. */
  readonly onQuery?: (session: MockSession, sql: string) => Promise<"done" | "as usual">;
};

/** Codes in the first word of a start-up packet that is none. */
const requests = { ssl: 80877103, gss: 80877104, cancel: 80877102 } as const;

const reported = {
  server_version: "15.0",
  client_encoding: "UTF8",
  server_encoding: "UTF8",
  DateStyle: "ISO, MDY",
  integer_datetimes: "on",
  standard_conforming_strings: "on",
  TimeZone: "UTC",
} as const;

export class MockSession extends RawPeer {
  /** Of the start-up packet, in the order in which they came. */
  readonly parameters = new Map<string, string>();
  readonly queries: string[] = [];
  readonly number: number;

  constructor(socket: Socket, number: number) {
    super(socket, 60_000);
    this.number = number;
  }

  /** The process id that the client is told. */
  get pid(): string {
    return String(10_000 + this.number);
  }

  /** The code and the rest of one packet without a type byte. */
  async packet(): Promise<{ code: number; body: Buffer }> {
    const length = await this.bytes(4);
    if (length.length < 4) return { code: 0, body: Buffer.alloc(0) };
    const rest = await this.bytes(length.readUInt32BE(0) - 4);
    return { code: rest.readUInt32BE(0), body: rest.subarray(4) };
  }

  /** Reads up to the start-up packet, refusing encryption; false when the peer wanted no session. */
  async startup(): Promise<boolean> {
    for (;;) {
      const { code, body } = await this.packet();
      if (code === 0 || code === requests.cancel) return false;
      if (code === requests.ssl || code === requests.gss) {
        this.send(Buffer.from("N"));
        continue;
      }
      const words = body.toString("utf8").split("\0");
      for (let i = 0; words[i]; i += 2) this.parameters.set(words[i] ?? "", words[i + 1] ?? "");
      return true;
    }
  }

  /** All from after the authentication to ReadyForQuery. */
  ready(): void {
    const statuses = Object.entries(reported).map(([name, value]) =>
      frame("S", cString(name), cString(value)),
    );
    this.send(...statuses, frame("K", int32s(Number(this.pid), 77)), frame("Z", Buffer.from("I")));
  }

  error(severity: string, sqlstate: string, message: string): void {
    const fields = [`S${severity}`, `V${severity}`, `C${sqlstate}`, `M${message}`].map(cString);
    this.send(frame("E", ...fields, Buffer.from([0])));
  }

  /** One row of one text column, and ReadyForQuery. */
  answer(value: string, tag = "SELECT 1"): void {
    this.send(rowDescription("mock"), dataRow(value), frame("C", cString(tag)), idle);
  }

  done(tag: string): void {
    this.send(frame("C", cString(tag)), idle);
  }
}

export const idle: Buffer = frame("Z", Buffer.from("I"));

export function rowDescription(column: string): Buffer {
  const text = 25;
  const field = Buffer.concat([cString(column), int32s(0), Buffer.alloc(2), int32s(text)]);
  return frame(
    "T",
    Buffer.from([0, 1]),
    field,
    Buffer.from([255, 255]),
    int32s(-1),
    Buffer.alloc(2),
  );
}

export function dataRow(value: string): Buffer {
  const bytes = Buffer.from(value);
  return frame("D", Buffer.from([0, 1]), int32s(bytes.length), bytes);
}

export class MockPostgres {
  readonly host = "127.0.0.1";
  readonly port: number;
  /** Every connection so far, cancel requests included. */
  readonly sessions: MockSession[] = [];
  /** May be replaced at any time; a session uses the one of the moment. */
  script: MockScript;
  readonly #server: Server;

  private constructor(port: number, script: MockScript) {
    this.port = port;
    this.script = script;
    this.#server = createServer((socket) => {
      const session = new MockSession(socket, this.sessions.length);
      this.sessions.push(session);
      this.#serve(session)
        .catch(() => undefined) // a peer that leaves, or that is late, ends its session only
        .finally(() => session.destroy());
    });
  }

  static async create(scope: Scope, script: MockScript = {}): Promise<MockPostgres> {
    const mock = new MockPostgres(await freePort(), script);
    await new Promise<void>((resolve) => mock.#server.listen(mock.port, mock.host, resolve));
    scope.defer(() => mock.close());
    return mock;
  }

  get open(): MockSession[] {
    return this.sessions.filter((session) => !session.ended);
  }

  close(): void {
    this.#server.close();
    for (const session of this.open) session.destroy();
  }

  async #serve(session: MockSession): Promise<void> {
    if (this.script.onConnect !== undefined) return this.script.onConnect(session);
    if (!(await session.startup())) return;
    if (this.script.onLogin === undefined) session.send(frame("R", int32s(0)));
    else await this.script.onLogin(session);
    if (session.ended) return;
    session.ready();
    for (;;) {
      const message = await session.next();
      if (message === undefined || message.type === "X") return;
      await this.#converse(session, message);
    }
  }

  async #converse(session: MockSession, { type, body }: RawFrame): Promise<void> {
    if (type !== "Q") {
      if (type === "S") session.send(idle);
      return;
    }
    const sql = body.toString("utf8", 0, body.length - 1);
    session.queries.push(sql);
    if ((await this.script.onQuery?.(session, sql)) === "done" || session.ended) return;
    answerAsUsual(session, sql);
  }
}

function answerAsUsual(session: MockSession, sql: string): void {
  if (/pg_is_in_recovery/i.test(sql)) session.answer("f");
  else if (/version\(\)/i.test(sql)) session.answer("PostgreSQL 15.0 (mock)");
  else if (/^\s*select/i.test(sql)) session.answer("1");
  else session.done(sql.trim().split(/\s+/).slice(0, 1).join("").toUpperCase());
}
