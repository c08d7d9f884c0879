/**
 * From bytes to frames, sans I/O: push chunks of whatever size the socket gave, take whole messages.
 * Start-up packets, which have no type byte, have a decoder of their own. Every size that a peer
 * announces is held against a limit with a name before a byte of it is awaited.
 */

import { ProtocolViolation } from "../errors.ts";
import { ByteReader, int32At } from "./bytes.ts";
import { BACKEND, FRONTEND, REQUEST } from "./codes.ts";
import { StreamCutter } from "./cutter.ts";

export { ByteReader, ByteWriter } from "./bytes.ts";

/**
 * One typed message. `raw` is all of it, `body` what follows type and length. Both are views into the
 * chunk that brought them: whoever keeps one past the current turn copies it.
 */
export type Frame = {
  readonly type: number;
  readonly body: Uint8Array;
  readonly raw: Uint8Array;
};

/** A start-up packet without its length word: PostgreSQL's MAX_STARTUP_PACKET_LENGTH. */
export const STARTUP_BODY_SIZE_MIN = 4;
export const STARTUP_BODY_SIZE_MAX = 10_000;
/** Keys in BackendKeyData and CancelRequest (manual, protocol 3.2; 4 bytes exactly under 3.0). */
export const CANCEL_KEY_SIZE_MIN = 4;
export const CANCEL_KEY_SIZE_MAX = 256;
/** PostgreSQL counts a length word's own four bytes in its limits; ours are of the body alone. */
const LENGTH_SIZE = 4;
/** Any answer to an authentication request: PG_MAX_AUTH_TOKEN_LENGTH. */
export const AUTHENTICATION_BODY_SIZE_MAX = 65_535 - LENGTH_SIZE;
/** Frontend messages that hold no statement and no data: PQ_SMALL_MESSAGE_LIMIT. */
export const SMALL_BODY_SIZE_MAX = 10_000 - LENGTH_SIZE;
/** The others, once logged in: PQ_LARGE_MESSAGE_LIMIT, one gigabyte less two bytes. */
export const LARGE_BODY_SIZE_MAX = 0x3fff_fffe - LENGTH_SIZE;
/** What a server may send before it let us in, and its messages of few fields later: libpq's 30000. */
export const BACKEND_SMALL_BODY_SIZE_MAX = 30_000 - LENGTH_SIZE;

/** The most bytes a body may have: one number, or one for each type. A function may throw. */
export type BodySizeMax = number | ((type: number) => number);

/** A client's messages after login, as PostgreSQL limits them. Refuses types that do not exist. */
export function frontendBodySizeMax(type: number): number {
  switch (type) {
    case FRONTEND.Query:
    case FRONTEND.Parse:
    case FRONTEND.Bind:
    case FRONTEND.FunctionCall:
    case FRONTEND.CopyData:
      return LARGE_BODY_SIZE_MAX;
    case FRONTEND.Authentication:
      return AUTHENTICATION_BODY_SIZE_MAX;
    case FRONTEND.Close:
    case FRONTEND.CopyDone:
    case FRONTEND.CopyFail:
    case FRONTEND.Describe:
    case FRONTEND.Execute:
    case FRONTEND.Flush:
    case FRONTEND.Sync:
    case FRONTEND.Terminate:
      return SMALL_BODY_SIZE_MAX;
    default:
      throw new ProtocolViolation(`invalid frontend message type ${type}`);
  }
}

/** A client's messages while it is asked who it is: nothing but answers to that. */
export function loginBodySizeMax(type: number): number {
  if (type === FRONTEND.Authentication) return AUTHENTICATION_BODY_SIZE_MAX;
  throw new ProtocolViolation(`expected authentication response, got message type ${type}`);
}

/** A server's messages after login, as libpq limits them (VALID_LONG_MESSAGE_TYPE). */
export function backendBodySizeMax(type: number): number {
  switch (type) {
    case BACKEND.CopyData:
    case BACKEND.DataRow:
    case BACKEND.ErrorResponse:
    case BACKEND.FunctionCallResponse:
    case BACKEND.NoticeResponse:
    case BACKEND.NotificationResponse:
    case BACKEND.ParameterDescription:
    case BACKEND.RowDescription:
      return LARGE_BODY_SIZE_MAX;
    default:
      return BACKEND_SMALL_BODY_SIZE_MAX;
  }
}

/** Type and length. */
export const HEADER_SIZE = 5;

/** Only `raw` is made for each frame: most frames are relayed without a look at their bodies. */
class FrameView implements Frame {
  readonly type: number;
  readonly raw: Uint8Array;

  constructor(raw: Uint8Array) {
    this.type = raw[0] as number;
    this.raw = raw;
  }

  get body(): Uint8Array {
    return this.raw.subarray(HEADER_SIZE);
  }
}

/** The frame that one whole encoded message is. */
export function frameOf(raw: Uint8Array): Frame {
  if (raw.length < HEADER_SIZE || int32At(raw, 1) !== raw.length - 1) {
    throw new ProtocolViolation("invalid message length");
  }
  return new FrameView(raw);
}

/**
 * Cuts a stream of typed messages into frames. `bodySizeMax` may be changed at any time and is in
 * force for every frame not yet yielded. After a violation the decoder is of no further use.
 */
export class FrameDecoder {
  bodySizeMax: BodySizeMax;
  readonly #cutter = new StreamCutter(HEADER_SIZE, (bytes, at) => this.#sizeOf(bytes, at));

  constructor(options: { readonly bodySizeMax: BodySizeMax }) {
    this.bodySizeMax = options.bodySizeMax;
  }

  /**
   * Takes the chunk at once and yields each whole frame there is. A consumer that stops early loses
   * nothing: the remaining frames come with the next `push`, or as bytes from `rest`.
   */
  push(chunk: Uint8Array): Generator<Frame> {
    this.#cutter.push(chunk);
    return this.#frames();
  }

  /** Takes the chunk; its frames are then had from `next`. For loops that want no generator. */
  add(chunk: Uint8Array): void {
    this.#cutter.push(chunk);
  }

  /** The next whole frame, or undefined when more bytes are needed. */
  next(): Frame | undefined {
    const raw = this.#cutter.next();
    return raw === undefined ? undefined : new FrameView(raw);
  }

  /** Bytes pushed and not yet yielded. */
  get buffered(): number {
    return this.#cutter.buffered;
  }

  /** How many bytes the frame that has begun lacks, as far as is known; 0 when none has. */
  get missing(): number {
    return this.#cutter.missing;
  }

  /** Takes the bytes not yet yielded away, to be pushed into the decoder of the next phase. */
  rest(): Uint8Array {
    return this.#cutter.rest();
  }

  *#frames(): Generator<Frame> {
    for (let frame = this.next(); frame !== undefined; frame = this.next()) yield frame;
  }

  #sizeOf(bytes: Uint8Array, at: number): number {
    return frameSize(bytes, at, this.bodySizeMax);
  }
}

/** The whole size of the frame whose header begins at `at`. Throws ProtocolViolation when it may not be. */
export function frameSize(bytes: Uint8Array, at: number, bodySizeMax: BodySizeMax): number {
  const length = int32At(bytes, at + 1);
  const limit = typeof bodySizeMax === "number" ? bodySizeMax : bodySizeMax(bytes[at] as number);
  if (length < LENGTH_SIZE || length - LENGTH_SIZE > limit) {
    const detail = `type ${bytes[at]}, length ${length}, body limit ${limit}`;
    throw new ProtocolViolation("invalid message length", { detail });
  }
  return 1 + length;
}

/** What a client may say before it has a session. */
export type StartupPacket =
  | {
      readonly kind: "StartupMessage";
      readonly major: number;
      readonly minor: number;
      /** In the client's order. Empty unless `major` is 3: other layouts are not known here. */
      readonly parameters: Map<string, string>;
      readonly raw: Uint8Array;
    }
  | { readonly kind: "SSLRequest" }
  | { readonly kind: "GSSENCRequest" }
  | {
      readonly kind: "CancelRequest";
      readonly processId: number;
      /** 4…256 bytes; a view, as a frame's body is. */
      readonly secretKey: Uint8Array;
    }
  /** The client began TLS at once (PostgreSQL 17's sslnegotiation=direct): see `rest`. */
  | { readonly kind: "DirectTls" };

/** First byte of a TLS record that holds a handshake. As a length's first byte it is 352 MB. */
const TLS_HANDSHAKE = 0x16;

/**
 * Decodes what comes before the first typed message. After a StartupMessage, a CancelRequest or the
 * beginning of TLS it decodes no more: what followed is in `rest`. After SSLRequest and GSSENCRequest
 * it goes on when asked to; a dialogue that grants them must first see that `buffered` is 0, for what
 * came before encryption could be anyone's.
 */
export class StartupDecoder {
  readonly #cutter = new StreamCutter(LENGTH_SIZE, startupPacketSize);
  #mayBeTls: boolean;
  #done = false;

  /** `encrypted`: the bytes come out of TLS, so that TLS cannot begin. */
  constructor(options: { readonly encrypted?: boolean } = {}) {
    this.#mayBeTls = options.encrypted !== true;
  }

  push(chunk: Uint8Array): Generator<StartupPacket> {
    this.#cutter.push(chunk);
    return this.#packets();
  }

  /** Bytes pushed and not yet yielded. */
  get buffered(): number {
    return this.#cutter.buffered;
  }

  /** Takes the bytes not yet yielded away: for TLS, or for the `FrameDecoder` that comes next. */
  rest(): Uint8Array {
    return this.#cutter.rest();
  }

  *#packets(): Generator<StartupPacket> {
    while (!this.#done) {
      const packet = this.#next();
      if (packet === undefined) return;
      yield packet;
    }
  }

  #next(): StartupPacket | undefined {
    if (this.#mayBeTls) {
      const first = this.#cutter.peek();
      if (first === undefined) return undefined;
      // Only a connection's very first byte can begin TLS.
      this.#mayBeTls = false;
      if (first === TLS_HANDSHAKE) {
        this.#done = true;
        return { kind: "DirectTls" };
      }
    }
    const raw = this.#cutter.next();
    if (raw === undefined) return undefined;
    const packet = decodeStartup(raw);
    this.#done = packet.kind === "StartupMessage" || packet.kind === "CancelRequest";
    return packet;
  }
}

/** No first packet has this length: its sender speaks something else, and gets no answer. */
export class ForeignPacket extends ProtocolViolation {}

function startupPacketSize(bytes: Uint8Array, at: number): number {
  const length = int32At(bytes, at);
  const bodySize = length - LENGTH_SIZE;
  if (bodySize < STARTUP_BODY_SIZE_MIN || bodySize > STARTUP_BODY_SIZE_MAX) {
    throw new ForeignPacket("invalid length of startup packet", { detail: `length ${length}` });
  }
  return length;
}

/** Decodes one whole packet, its length word included. */
export function decodeStartup(raw: Uint8Array): StartupPacket {
  const reader = new ByteReader(raw.subarray(LENGTH_SIZE), "startup packet");
  const code = reader.int32();
  switch (code) {
    case REQUEST.SSL:
      reader.end();
      return { kind: "SSLRequest" };
    case REQUEST.GSSENC:
      reader.end();
      return { kind: "GSSENCRequest" };
    case REQUEST.Cancel:
      return decodeCancelRequest(reader);
    default: {
      const major = code >>> 16;
      const parameters = major === 3 ? decodeParameters(reader) : new Map<string, string>();
      return { kind: "StartupMessage", major, minor: code & 0xffff, parameters, raw };
    }
  }
}

function decodeCancelRequest(reader: ByteReader): StartupPacket {
  const keySize = reader.remaining - 4;
  if (keySize < CANCEL_KEY_SIZE_MIN || keySize > CANCEL_KEY_SIZE_MAX) {
    throw new ForeignPacket("invalid length of cancel request packet");
  }
  return { kind: "CancelRequest", processId: reader.int32(), secretKey: reader.rest() };
}

/**
 * Name and value alternate until an empty name. PostgreSQL lets a repeated parameter overwrite the
 * first; a proxy that decides by one while the server believes the other lets a client be two users.
 */
function decodeParameters(reader: ByteReader): Map<string, string> {
  const parameters = new Map<string, string>();
  while (reader.remaining > 1) {
    const name = reader.cstring();
    if (name === "") throw badStartupLayout();
    const value = reader.cstring();
    if (parameters.has(name)) {
      throw new ProtocolViolation(`duplicate parameter "${name}" in startup packet`);
    }
    parameters.set(name, value);
  }
  if (reader.remaining === 0 || reader.int8() !== 0) throw badStartupLayout();
  return parameters;
}

function badStartupLayout(): ProtocolViolation {
  return new ProtocolViolation("invalid startup packet layout: expected terminator as last byte");
}
