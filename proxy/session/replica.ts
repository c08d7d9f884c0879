/**
 * One of several servers that hold the same data, as a session of native replication sees it. It is
 * asked in exchanges: some messages, the last of which it answers with ReadyForQuery. What it says
 * meanwhile goes to the client or not, and is kept as far as it must be compared.
 */
import { BACKEND } from "../../core/wire/codes.ts";
import {
  type BodySizeMax,
  backendBodySizeMax,
  FrameDecoder,
  frameSize,
  HEADER_SIZE,
} from "../../core/wire/frame.ts";
import { NodeLink } from "./replies.ts";
import { Ring } from "./ring.ts";

/**
 * What of an answer the client hears.
 *
 * * `all`: the answer of the only node that is asked, with its ReadyForQuery;
 * * `answer`: the same without, since more is to follow;
 * * `rows`: what must not wait, and no outcome: that of the main node is told when all agree;
 * * `notices`: that of the main node to a COMMIT of ours;
 * * `nothing`: that of the other nodes, and of questions of our own;
 * * `kept`: that of another node, which the client is told should the main node be lost meanwhile.
 */
export type Hearing = "all" | "answer" | "rows" | "notices" | "nothing" | "kept";

export class Exchange {
  readonly hearing: Hearing;
  /** Receives the rows, of which the client then hears nothing. */
  readonly collect: ((row: Uint8Array) => void) | undefined;
  /** A ParameterDescription as the client is to see it. */
  readonly parameters: ((frame: Uint8Array) => Uint8Array) | undefined;
  /** Notices in it are of no concern to the client. */
  readonly quiet: boolean;
  /** Our own preparation of it, on the same node; that it failed is this one's failure. */
  readonly before: Exchange | undefined;
  /** Letter of the last message that completed something, or E. */
  kind = 0;
  /** How many messages of the extended protocol were answered before an error, or in all. */
  completed = 0;
  /** Rows inserted, updated or deleted, for each CommandComplete. */
  readonly rowCounts: number[] = [];
  /** The last CommandComplete or its like, which the client has not been sent. */
  outcome: Uint8Array | undefined;
  /** The ErrorResponse. */
  error: Uint8Array | undefined;
  /** How many messages of it the client has been sent. */
  heard = 0;
  /** What it would be sent, but for the outcome. */
  readonly kept: Uint8Array[] = [];
  /** The server reads data of COPY. */
  copying = false;
  /** Gives the error that the client is to see in the place of the server's, if another. */
  instead: ((error: Uint8Array) => Uint8Array | undefined) | undefined;
  /** CopyInResponse, until the client has it. */
  copyResponse: Uint8Array | undefined;
  ended = false;
  /** The connection was lost before it had ended. */
  lost = false;

  constructor(
    hearing: Hearing,
    options: {
      readonly collect?: ((row: Uint8Array) => void) | undefined;
      readonly before?: Exchange | undefined;
      readonly quiet?: boolean;
      readonly parameters?: ((frame: Uint8Array) => Uint8Array) | undefined;
    } = {},
  ) {
    this.hearing = hearing;
    this.collect = options.collect;
    this.before = options.before;
    this.quiet = options.quiet ?? false;
    this.parameters = options.parameters;
  }

  get failure(): Uint8Array | undefined {
    return this.before?.error ?? this.error;
  }
}

/** What the session hears of its replicas. Called while bytes are being cut: must not call back. */
export interface ReplicaEvents {
  /** Whole messages for the client. */
  toClient(bytes: Uint8Array): void;
  /** What the client has to hear before ReadyForQuery. */
  beforeReady(): readonly Uint8Array[];
  /** What ReadyForQuery is to say, now that `replica` has said its own. */
  clientStatus(replica: Replica): number;
  noteError(replica: Replica, frame: Uint8Array): void;
  noteFrame(replica: Replica, type: number): void;
  /** ParameterStatus, a notification, or a notice that answers nothing. `exchange`: what it is answering meanwhile. */
  aside(replica: Replica, frame: Uint8Array, exchange: Exchange | undefined): void;
}

export class Replica extends NodeLink {
  readonly #decoder = new FrameDecoder({ bodySizeMax: knownSizeMax });
  readonly #asked = new Ring<Exchange>();
  #unsent: Uint8Array[] = [];

  override get busy(): boolean {
    return this.#asked.size > 0;
  }

  /** What it is running has been made to last on another node, or is about to be. */
  isBound = false;

  /** It is the first that was told to commit: should it refuse, then none will. */
  isAhead = false;

  override get isCancellable(): boolean {
    return this.busy && !this.isBound;
  }

  /** It has said all that it was asked, or waits for data of COPY. */
  get rests(): boolean {
    return this.#asked.size === 0 || this.#asked.peek()?.copying === true;
  }

  /** `messages` leave with the next `flush`, joined to what was asked before. */
  ask(exchange: Exchange, messages: Uint8Array): Exchange {
    if (this.lost) {
      exchange.lost = exchange.ended = true;
      return exchange;
    }
    this.#asked.push(exchange);
    this.#unsent.push(messages);
    return exchange;
  }

  /** Data of COPY, or what ends them. */
  add(bytes: Uint8Array): void {
    if (this.lost) return;
    const last = this.#unsent.at(-1);
    const joined = last && join(last, bytes);
    if (joined === undefined) this.#unsent.push(bytes);
    else this.#unsent[this.#unsent.length - 1] = joined;
  }

  /** Returns false when the server takes bytes more slowly than they come. */
  flush(): boolean {
    const unsent = this.#unsent;
    const [first] = unsent;
    if (first === undefined) return true;
    this.touched = true;
    const bytes = unsent.length === 1 ? first : Buffer.concat(unsent);
    this.#unsent = [];
    return this.sink.send(bytes);
  }

  /** How the connection was lost. */
  why = "";

  /** The connection is gone: whatever was asked will not be answered. */
  lose(why: string): void {
    this.lost = true;
    this.why = why;
    this.status = 0x49;
    this.#unsent = [];
    for (let each = this.#asked.shift(); each !== undefined; each = this.#asked.shift()) {
      each.lost = each.ended = true;
      each.copying = false;
    }
  }

  /** Throws ProtocolViolation when it is no message. */
  receive(chunk: Uint8Array, events: ReplicaEvents): void {
    let at = this.#decoder.missing > 0 ? this.#complete(chunk, events) : 0;
    this.#chunk = chunk;
    while (chunk.length - at >= HEADER_SIZE) {
      const to = at + frameSize(chunk, at, knownSizeMax);
      if (to > chunk.length) break;
      this.#frame(at, to, events);
      at = to;
    }
    this.#tell(events);
    this.#chunk = nothing;
    if (at === chunk.length) return;
    this.#decoder.add(chunk.subarray(at));
    this.#decoder.next(); // it is not there yet, and what there is of it is kept
  }

  /** The frame that began in an earlier chunk. Returns how many bytes of this one belong to it. */
  #complete(chunk: Uint8Array, events: ReplicaEvents): number {
    let at = 0;
    while (at < chunk.length) {
      const to = Math.min(at + this.#decoder.missing, chunk.length);
      this.#decoder.add(chunk.subarray(at, to));
      at = to;
      const frame = this.#decoder.next();
      if (frame === undefined) continue;
      this.#chunk = frame.raw;
      this.#frame(0, frame.raw.length, events);
      this.#tell(events);
      break;
    }
    return at;
  }

  #frame(from: number, to: number, events: ReplicaEvents): void {
    const type = this.#chunk[from] as number;
    events.noteFrame(this, type);
    // These may come at any time and belong to no answer.
    if (type === BACKEND.ParameterStatus || type === BACKEND.NotificationResponse) {
      this.#tell(events);
      events.aside(this, this.#raw(from, to), this.#asked.peek());
      return;
    }
    if (!this.#note(type, from, to, events)) return;
    if (this.#runTo !== from) {
      this.#tell(events);
      this.#runFrom = from;
    }
    this.#runTo = to;
  }

  #raw(from: number, to: number): Uint8Array {
    return this.#chunk.subarray(from, to);
  }

  /** Frames for the client that lie side by side leave in one write. */
  #chunk = nothing;
  #runFrom = 0;
  #runTo = 0;
  #tell(events: ReplicaEvents): void {
    const from = this.#runFrom;
    const to = this.#runTo;
    this.#runFrom = this.#runTo = 0;
    if (to === from) return;
    const chunk = this.#chunk;
    events.toClient(from === 0 && to === chunk.length ? chunk : chunk.subarray(from, to));
  }

  /** Returns whether the client is to see it as it is. */
  #note(type: number, from: number, to: number, events: ReplicaEvents): boolean {
    const exchange = this.#asked.peek();
    if (exchange === undefined) {
      if (type === BACKEND.NoticeResponse) events.aside(this, this.#raw(from, to), exchange);
      if (type === BACKEND.ErrorResponse) {
        const raw = this.#raw(from, to);
        if (isFatal(raw)) this.#endsWith(raw, false);
      }
      return false;
    }
    if (type === BACKEND.ReadyForQuery) return this.#ready(exchange, from, events);
    const { hearing } = exchange;
    switch (type) {
      case BACKEND.ErrorResponse:
        return this.#failed(exchange, this.#raw(from, to), events);
      case BACKEND.CommandComplete:
      case BACKEND.EmptyQueryResponse:
      case BACKEND.PortalSuspended:
        exchange.kind = type;
        exchange.completed++;
        if (type === BACKEND.CommandComplete) {
          exchange.rowCounts.push(rowsChanged(this.#chunk, from, to));
        }
        if (hearing === "all" || hearing === "answer") break;
        if (hearing === "rows") this.#tellOutcome(exchange, events);
        exchange.outcome = this.#raw(from, to);
        return false;
      case BACKEND.CopyInResponse:
        exchange.copying = true;
        exchange.copyResponse = this.#raw(from, to);
        return false;
      case BACKEND.ParseComplete:
      case BACKEND.BindComplete:
      case BACKEND.CloseComplete:
      case BACKEND.NoData:
      case BACKEND.RowDescription:
      case BACKEND.FunctionCallResponse:
        exchange.kind = type;
        exchange.completed++;
        break;
      case BACKEND.DataRow:
        if (exchange.collect === undefined) break;
        exchange.collect(this.#raw(from, to));
        return false;
    }
    if (hearing === "nothing") return false;
    if (type === BACKEND.NoticeResponse && exchange.quiet) return false;
    if (hearing === "kept") {
      exchange.kept.push(this.#raw(from, to));
      return false;
    }
    if (type === BACKEND.ParameterDescription && exchange.parameters !== undefined) {
      this.#tell(events);
      events.toClient(exchange.parameters(this.#raw(from, to)));
      exchange.heard++;
      return false;
    }
    if (hearing === "notices") return type === BACKEND.NoticeResponse;
    this.#tellOutcome(exchange, events);
    exchange.heard++;
    return true;
  }

  #failed(exchange: Exchange, raw: Uint8Array, events: ReplicaEvents): boolean {
    const { hearing } = exchange;
    exchange.kind = BACKEND.ErrorResponse;
    exchange.error = exchange.instead?.(raw) ?? raw;
    exchange.copying = false;
    if (isFatal(raw)) {
      this.#endsWith(raw, exchange.rowCounts.length > 0);
      return false; // its connection ends, and then it is found out what that means
    }
    events.noteError(this, raw);
    if (hearing === "rows") this.#tellOutcome(exchange, events);
    if (hearing !== "all" && hearing !== "answer") return false;
    exchange.heard++;
    if (exchange.error === raw) return true;
    this.#tell(events);
    events.toClient(exchange.error);
    return false;
  }

  #endsWith(words: Uint8Array, hasCompleted: boolean): void {
    this.hasCompleted = hasCompleted;
    this.fatal = true;
    this.lastWords = words;
  }
  /** The FATAL error with which the server ends the connection. */
  lastWords: Uint8Array | undefined;
  /** It had completed what it was asked when it said them. */
  hasCompleted = false;

  /** Behind the outcome of one statement comes the answer to the next of the same text. */
  #tellOutcome(exchange: Exchange, events: ReplicaEvents): void {
    if (exchange.outcome === undefined) return;
    this.#tell(events);
    events.toClient(exchange.outcome);
    exchange.outcome = undefined;
    exchange.heard++;
  }

  #ready(exchange: Exchange, from: number, events: ReplicaEvents): boolean {
    const chunk = this.#chunk;
    this.status = chunk[from + HEADER_SIZE] as number;
    exchange.ended = true;
    exchange.copying = false;
    this.#asked.shift();
    if (exchange.hearing !== "all") return false;
    exchange.heard++;
    const before = events.beforeReady();
    if (before.length > 0) this.#tell(events);
    for (const frame of before) events.toClient(frame);
    chunk[from + HEADER_SIZE] = events.clientStatus(this);
    return true;
  }
}

/** By type; one that no server sends has no size. */
const sizeMax = new Float64Array(256).fill(-1);
for (const type of Object.values(BACKEND)) sizeMax[type] = backendBodySizeMax(type);
const knownSizeMax: BodySizeMax = (type) => sizeMax[type] as number;

const nothing: Uint8Array = new Uint8Array(0);

/** One view of two that lie side by side. */
function join(before: Uint8Array, after: Uint8Array): Uint8Array | undefined {
  if (before.buffer !== after.buffer) return undefined;
  if (before.byteOffset + before.length !== after.byteOffset) return undefined;
  return new Uint8Array(before.buffer, before.byteOffset, before.length + after.length);
}

/** Severities that end the connection; the field V is never translated. */
export function isFatal(frame: Uint8Array): boolean {
  const severity = fieldOf(frame, "V") ?? fieldOf(frame, "S");
  return severity === "FATAL" || severity === "PANIC";
}

/** One field of an ErrorResponse. */
export function fieldOf(frame: Uint8Array, code: string): string | undefined {
  const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.length);
  for (let at = 5; at < bytes.length && bytes[at] !== 0; at = bytes.indexOf(0, at) + 1) {
    if (bytes[at] === code.charCodeAt(0)) {
      return bytes.toString("utf8", at + 1, bytes.indexOf(0, at));
    }
  }
  return undefined;
}

/** Of INSERT, UPDATE and DELETE; 0 of anything else (spec native-replication.md 7). */
function rowsChanged(chunk: Uint8Array, from: number, to: number): number {
  const first = chunk[from + HEADER_SIZE];
  if (first !== 0x49 && first !== 0x55 && first !== 0x44) return 0; // I, U, D
  // The number is what stands behind the last blank, in a tag of two or three words.
  let count = 0;
  let unit = 1;
  let at = to - 2;
  for (; at > from; at--, unit *= 10) {
    const digit = (chunk[at] as number) - 0x30;
    if (digit < 0 || digit > 9) break;
    count += digit * unit;
  }
  return unit > 1 && chunk[at] === 0x20 ? count : 0;
}
