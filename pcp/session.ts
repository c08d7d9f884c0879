/**
 * One PCP connection: log-in, then requests one after another, each answered before the next is
 * read (spec wire/pcp.md sections 1, 2, 5). Nothing that a peer sends makes it hold more than one
 * request and the chunk that brought it.
 */

import { ConfigError, PgpoolError } from "../core/errors.ts";
import { isToldToClient, LEVEL_NUMBER, type MessageLevel } from "../core/log.ts";
import { PCP_NAME_SIZE_MAX, provesPassword } from "../core/pcp/auth.ts";
import { frameOf, PcpError, type PcpFrame, requestCutter } from "../core/pcp/frame.ts";
import {
  encodeAuthenticated,
  encodeError,
  encodeNotice,
  encodeSalt,
  encodeTexts,
} from "../core/pcp/reply.ts";
import { decodeRequest, type PcpRequest } from "../core/pcp/request.ts";
import type { Log, LogSeverity } from "../core/ports.ts";
import { encodeText } from "../core/wire/text.ts";
import { type PcpCommand, perform } from "./commands.ts";
import type { PcpConn, PcpConnHandler, PcpDesk } from "./desk.ts";

export type PcpWorld = {
  readonly desk: PcpDesk;
  /** The content of pcp.conf, read anew for each log-in. Rejects with a PcpError. */
  readonly passwords: () => Promise<Uint8Array>;
  /** Four bytes of chance. */
  readonly salt: () => Uint8Array;
  /** Calls back once, unless cancelled by what it returns. */
  readonly after: (delayMs: number, callback: () => void) => () => void;
  /** How long a peer may take to log in; 0 is for ever. */
  readonly loginLimitMs: () => number;
};

/** How long a peer whom we have closed may take to read what we said last. */
const GOODBYE_MS = 5_000;

export class PcpSession implements PcpConnHandler {
  readonly #conn: PcpConn;
  readonly #world: PcpWorld;
  readonly #log: Log;
  readonly #onClose: (session: PcpSession) => void;
  readonly #cutter = requestCutter();
  #salt: Uint8Array | undefined;
  #user: string | undefined;
  #clientMinMessages: MessageLevel = "notice";
  #working = false;
  #closed = false;
  #cancelTimer: () => void;
  /** Set while the peer does not read. */
  #drained: (() => void) | undefined;

  constructor(
    conn: PcpConn,
    world: PcpWorld,
    options: { readonly log: Log; readonly onClose: (session: PcpSession) => void },
  ) {
    this.#conn = conn;
    this.#world = world;
    this.#log = options.log;
    this.#onClose = options.onClose;
    const limitMs = world.loginLimitMs();
    this.#cancelTimer =
      limitMs === 0 ? () => {} : world.after(limitMs, () => this.refuse("log-in took too long"));
    conn.handler = this;
  }

  /** Whether somebody has proved who he is. */
  get loggedIn(): boolean {
    return this.#user !== undefined;
  }

  /** Sends a peer away who has not logged in. */
  refuse(detail: string): void {
    this.#fail(notAuthenticated(detail));
  }

  close(): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#cancelTimer();
    this.#cancelTimer = this.#world.after(GOODBYE_MS, () => this.#conn.destroy());
    this.#conn.end();
  }

  onData(chunk: Uint8Array): void {
    if (this.#closed) return;
    this.#cutter.push(chunk);
    if (!this.#working) void this.#work();
  }

  onDrain(): void {
    this.#drained?.();
    this.#drained = undefined;
  }

  onClose(): void {
    this.#closed = true;
    this.#cancelTimer();
    this.onDrain();
    this.#onClose(this);
  }

  /** Serves what has come, one request at a time; meanwhile nothing more is read. */
  async #work(): Promise<void> {
    this.#working = true;
    this.#conn.pause();
    try {
      for (;;) {
        const piece = this.#closed ? undefined : this.#cutter.next();
        if (piece === undefined) break;
        await this.#serve(frameOf(piece));
      }
    } catch (error) {
      this.#fail(error); // its next byte cannot be trusted
    } finally {
      this.#working = false;
      if (!this.#closed) this.#conn.resume();
    }
  }

  async #serve(frame: PcpFrame): Promise<void> {
    if (!this.loggedIn && frame.letter !== "M" && frame.letter !== "R") {
      throw frame.letter === "X" ? new Goodbye() : notAuthenticated("connection not authorized");
    }
    this.#say("DEBUG1", "received PCP packet", `PCP packet type of service '${frame.letter}'`);
    const request = decodeRequest(frame);
    try {
      await this.#answer(request);
    } catch (error) {
      if (!isRefusal(error)) throw error;
      this.#tell(error);
    }
  }

  async #answer(request: PcpRequest): Promise<void> {
    switch (request.kind) {
      case "salt":
        this.#salt = this.#world.salt();
        return await this.#send([encodeSalt(this.#salt)]);
      case "authenticate":
        return await this.#authenticate(request.user, request.response);
      case "set":
        return await this.#set(request.name, request.value);
      case "disconnect":
        throw new Goodbye();
      default:
        return await this.#perform(request);
    }
  }

  async #perform(command: PcpCommand): Promise<void> {
    const { frames, afterwards } = await perform(command, this.#world.desk);
    await this.#send(frames);
    afterwards?.();
  }

  /** A salt is good for one attempt. */
  async #authenticate(user: string, response: string): Promise<void> {
    const salt = this.#salt;
    this.#salt = undefined;
    this.#user = undefined;
    if (salt === undefined) throw new PcpError("authentication failed", { severity: "FATAL" });
    const file = await this.#world.passwords();
    const tooLong = [user, response].some((text) => encodeText(text).length > PCP_NAME_SIZE_MAX);
    if (tooLong || !provesPassword(file, { user, response, salt })) {
      throw new PcpError(`authentication failed for user "${user}"`, {
        severity: "FATAL",
        detail: "username and/or password does not match",
      });
    }
    this.#user = user;
    this.#cancelTimer();
    await this.#send([encodeAuthenticated()]);
  }

  /** The one thing a client may set: which messages of this connection it is told. */
  async #set(name: string, value: string): Promise<void> {
    this.#say("LOG", `set configuration parameter, "${name} TO ${value}"`);
    const refused = (detail: string) =>
      new PcpError("PCP: set configuration parameter failed", { detail });
    if (name !== "client_min_messages") throw refused(`invalid parameter "${name}"`);
    const level = levelNamed(value);
    if (level === undefined) throw refused(`invalid value "${value}" for parameter "${name}"`);
    this.#clientMinMessages = level;
    this.#say("DEBUG1", `PCP setting parameter "${name}" to "${value}"`);
    await this.#send([encodeTexts("a")]);
  }

  /** Piece by piece, as fast as the peer reads. */
  async #send(frames: Iterable<Uint8Array>): Promise<void> {
    let batch: Uint8Array[] = [];
    let size = 0;
    for (const frame of frames) {
      batch.push(frame);
      size += frame.length;
      if (size < SEND_SIZE) continue;
      await this.#put(batch);
      batch = [];
      size = 0;
    }
    await this.#put(batch);
  }

  async #put(batch: readonly Uint8Array[]): Promise<void> {
    if (batch.length === 0 || this.#closed) return;
    if (this.#conn.send(Buffer.concat(batch))) return;
    await new Promise<void>((resolve) => {
      this.#drained = resolve;
    });
  }

  /** Into the log, and to the client when it wants to know. */
  #say(severity: LogSeverity, message: string, detail?: string): void {
    this.#log.write(severity, message, { detail });
    if (this.#closed || !this.loggedIn || !isToldToClient(severity, this.#clientMinMessages))
      return;
    const name = severity.startsWith("DEBUG") ? "DEBUG" : severity;
    this.#conn.send(encodeNotice({ severity: name, sqlstate: "XX000", message, detail }));
  }

  /** An error that the connection survives. */
  #tell(error: PgpoolError): void {
    const { message, detail, hint, sqlstate } = error;
    this.#log.write("ERROR", message, { detail, hint });
    if (this.#closed) return;
    this.#conn.send(encodeError({ severity: "ERROR", sqlstate, message, detail, hint }));
  }

  /** The last that the peer hears. */
  #fail(error: unknown): void {
    if (this.#closed) return;
    if (!(error instanceof Goodbye)) {
      const { message, detail, hint } =
        error instanceof PgpoolError ? error : new PcpError("internal error of the PCP server");
      const cause = error instanceof PgpoolError ? detail : String(error);
      this.#log.write("FATAL", message, { detail: cause, hint });
      const report = { severity: "FATAL", sqlstate: "XX000", message, detail, hint };
      this.#conn.send(encodeError(report));
    }
    this.close();
  }
}

/** So much of an array is put together before it is sent. */
const SEND_SIZE = 32 * 1024;

/** The client has said that it goes. */
class Goodbye extends Error {}

const notAuthenticated = (detail: string): PcpError =>
  new PcpError("authentication failed for new PCP connection", { severity: "FATAL", detail });

/**
 * What is answered, and leaves the connection as it is; a mistake of ours is not. That a wrong
 * configuration file ends the start of a server does not matter to who asks for a reload.
 */
function isRefusal(error: unknown): error is PgpoolError {
  if (error instanceof ConfigError) return true;
  return error instanceof PgpoolError && error.severity === "ERROR";
}

const UNNAMED: readonly MessageLevel[] = ["fatal", "panic"];

/** Any case; `commerror` is what Pgpool has between LOG and INFO. */
function levelNamed(value: string): MessageLevel | undefined {
  const name = value.toLowerCase();
  if (name === "commerror") return "info";
  const levels = Object.keys(LEVEL_NUMBER) as MessageLevel[];
  return levels.find((level) => level === name && !UNNAMED.includes(level));
}
