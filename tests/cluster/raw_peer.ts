/**
 * One end of a PostgreSQL conversation in the raw: any bytes out, each message in as it came. Both
 * the test client and the mock server are such an end. Written apart from core/wire on purpose, so
 * that a mistake there is not repeated here.
 */
import type { Socket } from "node:net";
import { patient } from "./machine.ts";

export type RawFrame = { readonly type: string; readonly body: Buffer };

/** Fields of an ErrorResponse or NoticeResponse by their letter: S severity, C SQLSTATE, M text. */
export type ErrorFields = {
  readonly [letter in
    | "S"
    | "V"
    | "C"
    | "M"
    | "D"
    | "H"
    | "P"
    | "q"
    | "W"
    | "F"
    | "L"
    | "R"]?: string;
};

export const protocolVersion = (major: number, minor: number): number => (major << 16) | minor;
export const sslRequest: Buffer = int32s(8, 80877103);

export function int32s(...values: number[]): Buffer {
  const bytes = Buffer.alloc(values.length * 4);
  values.forEach((value, i) => {
    bytes.writeUInt32BE(value >>> 0, i * 4);
  });
  return bytes;
}

export const cString = (text: string): Buffer => Buffer.from(`${text}\0`, "utf8");

/** A typed message with a true length. */
export function frame(type: string, ...parts: Uint8Array[]): Buffer {
  const body = Buffer.concat(parts);
  return Buffer.concat([Buffer.from(type, "latin1"), int32s(body.length + 4), body]);
}

export function startupPacket(
  parameters: Readonly<Record<string, string>>,
  version = protocolVersion(3, 0),
): Buffer {
  const pairs = Object.entries(parameters).flatMap(([name, value]) => [
    cString(name),
    cString(value),
  ]);
  const body = Buffer.concat([int32s(version), ...pairs, Buffer.from([0])]);
  return Buffer.concat([int32s(body.length + 4), body]);
}

export function cancelRequest(pid: number, secret: Uint8Array): Buffer {
  return Buffer.concat([int32s(12 + secret.length, 80877102, pid), secret]);
}

/** The fields of an `E` or `N` body. */
export function errorFields(body: Buffer): ErrorFields {
  const fields: Record<string, string> = {};
  for (const field of body.toString("utf8").split("\0")) {
    if (field.length > 0) fields[field.slice(0, 1)] = field.slice(1);
  }
  return fields;
}

export class RawPeer {
  readonly #deadlineMs: number;
  #socket: Socket;
  #received: Buffer = Buffer.alloc(0);
  #ended = false;
  #wake: () => void = () => undefined;

  /** Every wait is bounded by `deadlineMs`, as `patient` makes it. */
  constructor(socket: Socket, deadlineMs: number) {
    this.#deadlineMs = patient(deadlineMs);
    this.#socket = socket;
    this.#listen(socket);
  }

  get ended(): boolean {
    return this.#ended;
  }

  send(...bytes: Uint8Array[]): void {
    this.#socket.write(Buffer.concat(bytes));
  }

  /** The other side's next message; undefined once it has closed the connection. */
  async next(): Promise<RawFrame | undefined> {
    const whole = () => {
      if (this.#received.length < 5) return undefined;
      const size = 1 + this.#received.readUInt32BE(1);
      return this.#received.length < size ? undefined : size;
    };
    await this.#until(() => whole() !== undefined, "a message");
    const size = whole();
    if (size === undefined) return undefined;
    const bytes = this.#take(size);
    return { type: bytes.toString("latin1", 0, 1), body: bytes.subarray(5) };
  }

  /** Messages up to and including the first of these types, or up to the end of the connection. */
  async until(...types: string[]): Promise<RawFrame[]> {
    const frames: RawFrame[] = [];
    for (;;) {
      const received = await this.next();
      if (received === undefined) return frames;
      frames.push(received);
      if (types.includes(received.type)) return frames;
    }
  }

  /** Exactly this many bytes (fewer if the connection ends), for answers that are no message. */
  async bytes(count: number): Promise<Buffer> {
    await this.#until(() => this.#received.length >= count, `${count} bytes`);
    return this.#take(Math.min(count, this.#received.length));
  }

  /** Waits for the other side to close, and returns all the messages it sent before. */
  async closed(): Promise<RawFrame[]> {
    return this.until();
  }

  /** Bytes given to `send` that the kernel has not taken yet: a peer that stalls makes it stay. */
  get unsent(): number {
    return this.#socket.writableLength;
  }

  /** Stops reading, as a client does that hangs: the kernel's buffers fill up. */
  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** Sends what is left and says that no more will come. */
  end(): void {
    this.#socket.end();
  }

  /** Vanishes without a goodbye. */
  destroy(): void {
    this.#socket.destroy();
    this.#ended = true;
  }

  /** Puts another socket in place: TLS over the one so far. */
  protected async replaceSocket(wrap: (plain: Socket) => Promise<Socket>): Promise<void> {
    const plain = this.#socket;
    plain.removeAllListeners();
    this.#socket = await wrap(plain);
    this.#listen(this.#socket);
  }

  #listen(socket: Socket): void {
    socket.on("data", (chunk: Buffer) => {
      this.#received = this.#received.length === 0 ? chunk : Buffer.concat([this.#received, chunk]);
      this.#wake();
    });
    const end = () => {
      this.#ended = true;
      this.#wake();
    };
    socket.on("end", end);
    socket.on("close", end);
    socket.on("error", end); // a reset is an end as well; what was received before still counts
  }

  #take(count: number): Buffer {
    const bytes = this.#received.subarray(0, count);
    this.#received = this.#received.subarray(count);
    return bytes;
  }

  async #until(holds: () => boolean, what: string): Promise<void> {
    if (holds() || this.#ended) return;
    await new Promise<void>((resolve, reject) => {
      const seen = () => this.#received.subarray(0, 200).toString("latin1");
      const timer = setTimeout(
        () => reject(new Error(`no ${what} within ${this.#deadlineMs} ms; so far: ${seen()}`)),
        this.#deadlineMs,
      );
      this.#wake = () => {
        if (!holds() && !this.#ended) return;
        clearTimeout(timer);
        this.#wake = () => undefined;
        resolve();
      };
    });
  }
}
