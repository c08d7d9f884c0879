/**
 * The client's side of PCP: connect, log in, ask, hear the answer. One dialogue for every program
 * (spec wire/pcp.md section 6); the texts of failures are those of Pgpool's own library.
 */

import { connect as connectSocket, type Socket } from "node:net";
import { pcpMd5 } from "../core/auth/password.ts";
import { PgpoolError } from "../core/errors.ts";
import { PCP_NAME_SIZE_MAX, pcpResponse } from "../core/pcp/auth.ts";
import { frameOf, type PcpFrame, replyCutter } from "../core/pcp/frame.ts";
import { decodeReport, type PcpReply, type PcpReport, ReplyReader } from "../core/pcp/reply.ts";
import { encodeRequest, type PcpRequest, replyLetter, requestLetter } from "../core/pcp/request.ts";
import { encodeText } from "../core/wire/text.ts";

/** The dialogue failed: the server refused, or there was no talking with it. */
export class PcpFailure extends PgpoolError {
  /** What the server refused with, if it was the server. */
  readonly report: PcpReport | undefined;

  constructor(message: string, report?: PcpReport) {
    super(message, { detail: report?.detail });
    this.report = report;
  }

  /** As Pgpool's own programs print it. */
  get text(): string {
    if (this.message === UNKNOWN) return `${UNKNOWN}\n`;
    if (this.report === undefined) return `ERROR: ${this.message}\n`;
    const { severity, message, detail } = this.report;
    return `${severity}:  ${message}\n${detail === undefined ? "" : `DETAIL:  ${detail}\n`}\n`;
  }
}

/** A server answered something else than what was asked. */
const UNKNOWN = "Unknown Error";

export type PcpTarget =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

export type PcpClientOptions = {
  /** Hears each frame as the programs print it with `-d`. */
  readonly trace?: ((line: string) => void) | undefined;
};

export class PcpClient {
  readonly #socket: Socket;
  readonly #trace: (line: string) => void;
  readonly #cutter = replyCutter();
  /** Set while a frame is awaited. */
  #wake: (() => void) | undefined;
  #ended = false;

  private constructor(socket: Socket, options: PcpClientOptions) {
    this.#socket = socket;
    this.#trace = options.trace ?? (() => {});
    socket.on("data", (chunk: Buffer) => {
      this.#cutter.push(chunk);
      this.#wake?.();
    });
    socket.on("error", () => socket.destroy()); // what is missing is told by whoever waits for it
    socket.on("close", () => {
      this.#ended = true;
      this.#wake?.();
    });
  }

  /** @throws PcpFailure */
  static async connect(target: PcpTarget, options: PcpClientOptions = {}): Promise<PcpClient> {
    const socket = target.kind === "tcp" ? connectSocket(target) : connectSocket(target.path);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", (error) => reject(connectFailure(target, error)));
    });
    socket.setNoDelay(true);
    socket.removeAllListeners("error");
    return new PcpClient(socket, options);
  }

  /** @throws PcpFailure when the server does not let the user in */
  async logIn(user: string, password: Uint8Array): Promise<void> {
    if (encodeText(user).length >= PCP_NAME_SIZE_MAX) {
      throw new PcpFailure("PCP authorization failed. username too long.");
    }
    const { body: salt } = await this.#exchange({ kind: "salt" });
    const response = pcpResponse(pcpMd5(password), user, salt);
    await this.#exchange({ kind: "authenticate", user, response });
  }

  /** @throws PcpFailure, with the server's report when it refused */
  async ask(request: PcpRequest): Promise<PcpReply> {
    this.#send(request, true);
    const reader = new ReplyReader();
    for (;;) {
      const frame = await this.#receive(replyLetter(request));
      const reply = understood(() => reader.add(frame));
      if (reply !== undefined) return reply;
    }
  }

  /** Says goodbye and closes. */
  close(): void {
    if (this.#socket.writable) this.#send({ kind: "disconnect" }, true);
    this.#socket.end();
    // What the server still has to say interests nobody, and must not keep the program.
    this.#socket.destroySoon();
  }

  /** Closes without a word. */
  abandon(): void {
    this.#socket.destroy();
  }

  async #exchange(request: PcpRequest): Promise<PcpFrame> {
    this.#send(request, false);
    return await this.#receive(replyLetter(request));
  }

  #send(request: PcpRequest, traced: boolean): void {
    const bytes = encodeRequest(request);
    this.#socket.write(bytes);
    if (traced)
      this.#trace(`DEBUG: send: tos="${requestLetter(request)}", len=${bytes.length - 1}`);
  }

  /** The next frame of an answer; notices are passed over. */
  async #receive(letter: string): Promise<PcpFrame> {
    for (;;) {
      const frame = await this.#frame();
      this.#trace(`DEBUG: recv: tos="${frame.letter}", len=${frame.body.length + 4}`);
      if (frame.letter === letter) return frame;
      if (frame.letter === "N") continue;
      if (frame.letter !== "E") throw new PcpFailure(UNKNOWN);
      const report = decodeReport(frame);
      throw new PcpFailure(report.message, report);
    }
  }

  async #frame(): Promise<PcpFrame> {
    for (;;) {
      const piece = understood(() => this.#cutter.next());
      if (piece !== undefined) return frameOf(piece);
      if (this.#ended) throw new PcpFailure("unable to read data from socket.");
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
      this.#wake = undefined;
    }
  }
}

/** What cannot be read as PCP is a failure of the dialogue like any other. */
function understood<T>(read: () => T): T {
  try {
    return read();
  } catch (error) {
    if (!(error instanceof PgpoolError)) throw error;
    const { message, detail } = error;
    throw new PcpFailure(detail === undefined ? message : `${message}: ${detail}`);
  }
}

/** The system's own words (strerror(3)) for what goes wrong most often. */
const systemTexts: { readonly [code: string]: string } = {
  ECONNREFUSED: "Connection refused",
  ECONNRESET: "Connection reset by peer",
  EACCES: "Permission denied",
  ENOENT: "No such file or directory",
  EHOSTUNREACH: "No route to host",
  ENETUNREACH: "Network is unreachable",
  ETIMEDOUT: "Connection timed out",
  ENOTSOCK: "Connection refused",
};

function connectFailure(target: PcpTarget, error: Error): PcpFailure {
  const first = error instanceof AggregateError ? (error.errors[0] as Error) : error;
  const { code = "" } = first as { readonly code?: string };
  if (target.kind === "unix") {
    const reason = systemTexts[code] ?? first.message;
    return new PcpFailure(`connection to socket "${target.path}" failed with error "${reason}"`);
  }
  if (["ENOTFOUND", "EAI_AGAIN", "EAI_NONAME", "DNS_ENOTFOUND"].includes(code)) {
    return new PcpFailure('getaddrinfo failed "Name or service not known"');
  }
  const reason = systemTexts[code] ?? first.message;
  return new PcpFailure(`connection to host "${target.host}" failed with error "${reason}"`);
}
