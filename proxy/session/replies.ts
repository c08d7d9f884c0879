/**
 * The responses still owed to the client, and the way backend bytes become them.
 *
 * Every message that a backend answers leaves an `Owed` in two queues: the session's `order`, in
 * which the client must see the answers, and the link of each node that was asked, in which that
 * node will give them. A node's bytes go straight through when the answer at the head of its own
 * queue is also the head of `order` and this node is the one that speaks (`main`); they wait when
 * an earlier answer is still to come from elsewhere, and are dropped when another node speaks or
 * when the question was our own (`silent`). Bytes are looked at by frame header; bodies of rows and
 * copy data pass unread, in pieces if they are large (manual: "Message Flow").
 */

import type { NodeId } from "../../core/cluster/state.ts";
import { BACKEND } from "../../core/wire/codes.ts";
import { backendBodySizeMax } from "../../core/wire/frame.ts";
import { PartialFrame } from "./partial_frame.ts";
import { Ring } from "./ring.ts";

/** The part of a connection that a session may use. */
export interface ByteSink {
  /** Returns false when the bytes were taken but the peer is slow: stop producing until drained. */
  send(bytes: Uint8Array): boolean;
  pause(): void;
  resume(): void;
}

export type OwedKind =
  | "Query"
  | "FunctionCall"
  | "Parse"
  | "Bind"
  | "Describe"
  | "Execute"
  | "Close"
  | "Sync";

/** One answer that is due. Reused: never keep one after it is settled. */
export class Owed {
  kind: OwedKind = "Query";
  main: NodeLink | undefined;
  /** Every node that was asked. */
  links: readonly NodeLink[] = [];
  /** How many nodes have still to finish this answer. */
  left = 0;
  /** How many nodes were asked. */
  asked = 0;
  /** Our own question: the client sees nothing of the answer. */
  silent = false;
  /** Silent, but an error in it is the client's: a statement prepared again for the client's Bind. */
  errorsShow = false;
  /** The main node answered with an ErrorResponse. */
  failed = false;
  /** An earlier message had failed: this one was discarded unread. */
  skipped = false;
  /** It was under way on a server that is gone: nobody knows how far it came. */
  interrupted = false;
  /** How many statements of a Query the main node has completed. */
  completed = 0;
  /** Nodes that answered with an ErrorResponse and do not speak. */
  othersFailed: NodeLink[] | undefined;
  /** A Sync that PostgreSQL ignores because it arrived while COPY was reading (manual: "COPY Operations"). */
  duringCopy = false;
  voided = false;
  /** What the session wants to know again when this is settled; opaque here. */
  subject: unknown;
  /** Receives the DataRow frames of a silent answer. */
  collect: ((row: Uint8Array) => void) | undefined;
}

export const IDLE = 0x49; // 'I'
export const IN_TRANSACTION = 0x54; // 'T'
export const FAILED = 0x45; // 'E'

/** Held bytes of one node beyond which its socket is paused. */
const HELD_BYTES_MAX = 256 * 1024;

/** One backend as the session sees it. */
export class NodeLink {
  readonly id: NodeId;
  sink: ByteSink;
  /** Its server is gone; a stand-in answers what is still due. */
  lost = false;
  readonly queue = new Ring<Owed>();
  /**
   * Transaction status of its last ReadyForQuery: one of IDLE, IN_TRANSACTION, FAILED. No longer
   * FAILED once a segment has ended the failed transaction.
   */
  status = IDLE;
  /** Anything was sent since the session began: only then is there something to reset. */
  touched = false;
  /** Part of the extended-protocol segment that no Sync has closed yet. */
  inSegment = false;
  /** It discards what it is sent, or soon will, until Sync: an error was answered. */
  skipping = false;
  /** The server said FATAL or PANIC: its close is expected, and the client knows why. */
  fatal = false;
  /** It failed where the main node did not: the session lets go of it when nothing is owed. */
  diverged = false;
  /** Chunks that wait because an earlier answer is still to come from another node. */
  held: Uint8Array[] | undefined;
  heldBytes = 0;
  readonly partial = new PartialFrame();
  /** Bytes left of a frame that passes (or is dropped) in pieces. */
  bodyLeft = 0;
  bodyForward = false;

  constructor(id: NodeId, sink: ByteSink) {
    this.id = id;
    this.sink = sink;
  }

  /** It is answering. */
  get busy(): boolean {
    return this.queue.size > 0;
  }

  /** What it is doing may be cancelled. */
  get isCancellable(): boolean {
    return this.busy;
  }
}

/** What the session hears. Called while bytes are being walked: must not call back into `receive`. */
export interface ReplyEvents {
  /** An answer is complete on every node that was asked. */
  settled(owed: Owed): void;
  /** `frame` is an ErrorResponse that the main node of `owed` gave. */
  failed(owed: Owed, link: NodeLink, frame: Uint8Array): void;
  /** A node that does not speak failed where the main node did not: it is no longer in step. */
  diverged(link: NodeLink): void;
  /** What the node says is no message: it cannot be listened to any more. */
  broken(link: NodeLink): void;
  /**
   * The server spoke of an error while nothing was owed (it is shutting down, a timeout, …). Returns
   * whether the client is to see it.
   */
  unasked(link: NodeLink): boolean;
  /**
   * The server says that it ends this connection because it is itself going down, or somebody told it
   * to. Returns whether the session keeps that to itself until it is clear which.
   */
  farewell(link: NodeLink, frame: Uint8Array): boolean;
  /** A ParameterStatus frame, whole. Returns whether the client is to see it. */
  parameterStatus(link: NodeLink, frame: Uint8Array): boolean;
  /** Nothing is owed any more. */
  drained(): void;
  /** COPY … FROM STDIN has begun on the main node of `owed`. */
  copyBegan(owed: Owed): void;
}

const noLinks: readonly NodeLink[] = [];

export class Replies {
  readonly #client: ByteSink;
  readonly #events: ReplyEvents;
  readonly #order = new Ring<Owed>();
  readonly #spare: Owed[] = [];
  readonly links: (NodeLink | undefined)[] = [];
  /** Links whose sockets wait for the client to read. */
  #clientFull = false;
  #advancing = false;
  /** Something was owed since `drained` was last reported. */
  #busy = false;
  /** Frames nobody asked for (notifications, notices) that came while another answer was under way. */
  #later: Uint8Array[] = [];
  /** Told of every frame, once, while there is one. */
  observer: { fromNode(node: NodeId, type: number): void } | undefined;
  /** Is given all that the client is sent, while there is one: the query cache listens so. */
  tap: ((bytes: Uint8Array) => void) | undefined;
  /** The node that answers for the cluster's transaction status. */
  statusLink: NodeLink | undefined;

  constructor(client: ByteSink, events: ReplyEvents) {
    this.#client = client;
    this.#events = events;
  }

  get empty(): boolean {
    return this.#order.size === 0;
  }

  get size(): number {
    return this.#order.size;
  }

  /** The client does not read as fast as it is answered. */
  get clientFull(): boolean {
    return this.#clientFull;
  }

  attach(id: NodeId, sink: ByteSink): NodeLink {
    const link = new NodeLink(id, sink);
    this.links[id] = link;
    return link;
  }

  /** True when every answer still owed comes from `link` alone, so that a further message for it keeps the order by itself. */
  onlyOwedBy(link: NodeLink): boolean {
    return link.queue.size === this.#order.size && this.#multiOwed === 0;
  }
  #multiOwed = 0;

  /** Notes that `main`, which speaks, and the rest of `links` will answer a message of this kind. */
  expect(kind: OwedKind, main: NodeLink, links: readonly NodeLink[], subject: unknown): Owed {
    const owed = this.#spare.pop() ?? new Owed();
    owed.kind = kind;
    owed.main = main;
    owed.subject = subject;
    owed.links = links;
    owed.asked = 1;
    main.queue.push(owed);
    for (const link of links) {
      if (link === main) continue;
      link.queue.push(owed);
      owed.asked++;
    }
    owed.left = owed.asked;
    if (owed.asked > 1) this.#multiOwed++;
    this.#busy = true;
    this.#order.push(owed);
    return owed;
  }

  /** The transaction status that the client is to be told: the status node's, unless any node failed. */
  status(): number {
    let status = this.statusLink?.status ?? IDLE;
    if (status === IDLE) return IDLE; // a transaction that is left elsewhere is about to be ended
    for (const link of this.links) {
      if (link === undefined || link.diverged) continue;
      if (link.status === FAILED || (link.skipping && link.status === IN_TRANSACTION)) {
        status = FAILED;
      }
    }
    return status;
  }

  /** The client's socket is slow: `link` and any other that speaks is paused until `clientDrained`. */
  clientDrained(): void {
    if (!this.#clientFull) return;
    this.#clientFull = false;
    for (const link of this.links) if (link && link.heldBytes < HELD_BYTES_MAX) link.sink.resume();
  }

  /** The client has been sent a part of a message: nothing but the rest of it may follow. */
  get midMessage(): boolean {
    return this.links.some((link) => link !== undefined && link.bodyLeft > 0 && link.bodyForward);
  }

  /** Sends bytes of our own to the client; only right when nothing earlier is owed. */
  toClient(bytes: Uint8Array): void {
    this.tap?.(bytes);
    if (this.#client.send(bytes)) return;
    this.#clientFull = true;
    for (const link of this.links) link?.sink.pause();
  }

  /** Sends a message of our own that answers nothing: behind the message that is half sent, if one is. */
  aside(frame: Uint8Array): void {
    if (this.midMessage) this.#later.push(frame);
    else this.toClient(frame);
  }

  receive(link: NodeLink, chunk: Uint8Array): void {
    if (link.held !== undefined) {
      this.#hold(link, chunk);
      return;
    }
    this.#walk(link, chunk);
    this.#advance();
  }

  /**
   * The node is gone. What it still owed is dropped; the subjects of answers in which it was to
   * speak are returned, in order, so that the session can answer in its place. Then call `proceed`.
   */
  drop(link: NodeLink): OwedKind[] {
    const unanswered: OwedKind[] = [];
    this.links[link.id] = undefined;
    link.held = undefined;
    for (let owed = link.queue.shift(); owed !== undefined; owed = link.queue.shift()) {
      if (owed.main === link && !owed.silent && !owed.voided) unanswered.push(owed.kind);
      owed.left--;
      if (owed.main === link) {
        owed.silent = true;
        owed.failed = true;
        owed.main = undefined;
      }
    }
    return unanswered;
  }

  /** The server of this link is gone: `standIn` answers from now on what it still owes. */
  replace(link: NodeLink, standIn: ByteSink): void {
    link.sink = standIn;
    link.lost = true;
    link.fatal = false;
    for (let i = 0; i < link.queue.size; i++) {
      const owed = link.queue.at(i);
      if (owed !== undefined) owed.interrupted = true;
    }
  }

  /** Bytes that the stand-in says. Half a message of the server before it counts for nothing. */
  receiveInstead(link: NodeLink, bytes: Uint8Array): void {
    link.partial.clear();
    link.bodyLeft = 0;
    this.receive(link, bytes);
  }

  /** To be called after `drop`, when the client has been told: what waited behind goes on. */
  proceed(): void {
    this.#advance();
  }

  #hold(link: NodeLink, chunk: Uint8Array): void {
    if (link.held === undefined) link.held = [];
    link.held.push(chunk);
    link.heldBytes += chunk.length;
    if (link.heldBytes >= HELD_BYTES_MAX) link.sink.pause();
  }

  /** Whether `owed` is what the client waits for, once answers that say nothing more are out of the way. */
  #isNext(owed: Owed): boolean {
    let head = this.#order.peek();
    while (head !== undefined && head !== owed && head.left === 0 && head.asked === 1) {
      this.#order.shift();
      this.#events.settled(head);
      this.#recycle(head);
      head = this.#order.peek();
    }
    return head === owed;
  }

  /** Settled answers leave the order; then a node whose turn has come may speak. */
  #advance(): void {
    if (this.#advancing) return;
    this.#advancing = true;
    for (;;) {
      this.#settle();
      const link = this.#order.peek()?.main;
      if (link?.held === undefined) break;
      const chunks = link.held;
      link.held = undefined;
      link.heldBytes = 0;
      for (const chunk of chunks) {
        if (link.held !== undefined) this.#hold(link, chunk);
        else this.#walk(link, chunk);
      }
      if (link.held === undefined && !this.#clientFull) link.sink.resume();
    }
    this.#advancing = false;
    if (this.#order.size > 0) return;
    if (this.#later.length > 0) for (const frame of this.#later.splice(0)) this.toClient(frame);
    if (!this.#busy) return;
    this.#busy = false;
    this.#events.drained();
  }

  #settle(): void {
    for (let owed = this.#order.peek(); owed?.left === 0; owed = this.#order.peek()) {
      this.#order.shift();
      if (owed.asked > 1) this.#multiOwed--;
      const answersReady =
        owed.kind === "Sync" || owed.kind === "Query" || owed.kind === "FunctionCall";
      // First: the transaction of a node that is out of step is the client's no longer.
      if (owed.othersFailed !== undefined && !owed.failed) {
        for (const link of owed.othersFailed) {
          link.diverged = true;
          this.#events.diverged(link);
        }
      }
      this.#events.settled(owed);
      if (answersReady && owed.asked > 1 && !owed.silent && !owed.voided) {
        this.toClient(readyForQuery(this.status()));
      }
      this.#recycle(owed);
    }
  }

  #recycle(owed: Owed): void {
    owed.main = undefined;
    owed.subject = undefined;
    owed.links = noLinks;
    owed.collect = undefined;
    owed.silent = false;
    owed.errorsShow = false;
    owed.failed = false;
    owed.skipped = false;
    owed.interrupted = false;
    owed.completed = 0;
    owed.othersFailed = undefined;
    owed.duringCopy = false;
    owed.voided = false;
    if (this.#spare.length < 64) this.#spare.push(owed);
  }

  /**
   * Walks whole frames and pieces of large ones. Everything between `runStart` and `at` is for the
   * client and goes out in one write.
   */
  #walk(link: NodeLink, chunk: Uint8Array): void {
    const bytes = link.partial.empty ? chunk : link.partial.join(chunk);
    if (bytes === undefined) return;
    const end = bytes.length;
    let at = 0;
    let runStart = 0;
    if (link.bodyLeft > 0) {
      at = Math.min(link.bodyLeft, end);
      link.bodyLeft -= at;
      if (!link.bodyForward) runStart = at;
    }
    while (at < end) {
      if (end - at < 5) {
        this.#flush(bytes, runStart, at);
        link.partial.keep(bytes.subarray(at), 5);
        return;
      }
      const type = bytes[at] as number;
      const length = int32(bytes, at + 1);
      const frameEnd = at + 1 + length;
      if (!isPlausible(type, length)) {
        this.#flush(bytes, runStart, at);
        this.#events.broken(link);
        return;
      }
      const owed = this.#head(link);
      const mine =
        owed === undefined ||
        (owed.main === link && (!owed.silent || (owed.errorsShow && type === 0x45)));
      if (mine && owed !== undefined && !this.#isNext(owed)) {
        this.#flush(bytes, runStart, at);
        runStart = at;
        this.#settle(); // a ReadyForQuery of our own may be due before it
        if (owed !== this.#order.peek()) {
          this.#hold(link, bytes.subarray(at));
          return;
        }
      }
      if (frameEnd > end) {
        if (!passesInPieces(type) || owed === undefined || owed.collect !== undefined) {
          this.#flush(bytes, runStart, at);
          link.partial.keep(bytes.subarray(at), frameEnd - at);
          return;
        }
        this.observer?.fromNode(link.id, type);
        link.bodyLeft = frameEnd - end;
        link.bodyForward = mine;
        if (!mine) {
          this.#flush(bytes, runStart, at);
          runStart = end;
        }
        at = end;
        break;
      }
      if (this.observer !== undefined) this.observer.fromNode(link.id, type);
      let forward = this.#note(link, owed, type, bytes, at, frameEnd) && mine;
      if (forward && owed === undefined && this.#order.size > 0) {
        this.#later.push(bytes.slice(at, frameEnd));
        forward = false;
      }
      if (!forward) {
        this.#flush(bytes, runStart, at);
        runStart = frameEnd;
      }
      at = frameEnd;
    }
    this.#flush(bytes, runStart, at);
  }

  /** The answer this node is giving now; a Sync that COPY swallowed will never be answered. */
  #head(link: NodeLink): Owed | undefined {
    let owed = link.queue.peek();
    while (owed?.voided) {
      link.queue.shift();
      owed.left--;
      owed = link.queue.peek();
    }
    return owed;
  }

  /** Learns what a frame means. Returns false when the client must not see it, whoever speaks. */
  #note(
    link: NodeLink,
    owed: Owed | undefined,
    type: number,
    bytes: Uint8Array,
    at: number,
    end: number,
  ): boolean {
    switch (type) {
      case 0x44: // DataRow
        owed?.collect?.(bytes.subarray(at, end));
        return true;
      case 0x5a: // ReadyForQuery
        return this.#noteReady(link, owed, bytes, at);
      case 0x43: // CommandComplete
        if (owed?.main === link) owed.completed++;
        if (owed?.kind === "Execute") this.#done(link, owed);
        return true;
      case 0x49: // EmptyQueryResponse
      case 0x73: // PortalSuspended
        if (owed?.kind === "Execute") this.#done(link, owed);
        return true;
      case 0x31: // ParseComplete
        if (owed?.kind === "Parse") this.#done(link, owed);
        return true;
      case 0x32: // BindComplete
        if (owed?.kind === "Bind") this.#done(link, owed);
        return true;
      case 0x33: // CloseComplete
        if (owed?.kind === "Close") this.#done(link, owed);
        return true;
      case 0x54: // RowDescription
      case 0x6e: // NoData
        if (owed?.kind === "Describe") this.#done(link, owed);
        return true;
      case 0x45: // ErrorResponse
        return this.#noteError(link, owed, bytes.subarray(at, end));
      case 0x53: // ParameterStatus
        return this.#events.parameterStatus(link, bytes.subarray(at, end));
      case 0x47: // CopyInResponse
        if (owed !== undefined) this.#noteCopyIn(link, owed);
        return true;
      default:
        return true;
    }
  }

  #noteReady(link: NodeLink, owed: Owed | undefined, bytes: Uint8Array, at: number): boolean {
    link.status = bytes[at + 5] as number;
    link.skipping = false;
    if (owed === undefined) return false;
    if (owed.kind !== "Sync" && owed.kind !== "Query" && owed.kind !== "FunctionCall") return false;
    this.#done(link, owed);
    if (owed.asked > 1) return false; // answered by #settle, when the last node is ready
    bytes[at + 5] = this.status();
    return true;
  }

  #noteError(link: NodeLink, owed: Owed | undefined, frame: Uint8Array): boolean {
    if (isFatal(frame)) {
      link.fatal = true;
      if (isFarewell(frame) && this.#events.farewell(link, frame)) return false;
    }
    if (owed === undefined) return this.#events.unasked(link);
    // A standby that goes down takes its answer with it, not the client: `drop` will follow.
    if (link.fatal && link !== this.statusLink) return false;
    if (owed.main === link) {
      owed.failed = true;
      this.#events.failed(owed, link, frame);
    } else {
      // The main node may fail too, later: only when all have answered is it known.
      owed.othersFailed ??= [];
      owed.othersFailed.push(link);
    }
    if (owed.kind !== "Query" && owed.kind !== "FunctionCall" && owed.kind !== "Sync") {
      link.skipping = true;
      this.#skipToSync(link);
    }
    return true;
  }

  /** After an error PostgreSQL reads and discards messages until Sync (manual: "Extended Query"). */
  #skipToSync(link: NodeLink): void {
    const failing = link.queue.peek();
    for (let owed = this.#head(link); owed && owed.kind !== "Sync"; owed = this.#head(link)) {
      if (owed.main === link) {
        owed.failed = true;
        owed.skipped = owed !== failing;
      }
      this.#done(link, owed);
    }
  }

  #noteCopyIn(link: NodeLink, owed: Owed): void {
    if (owed.main === link) this.#events.copyBegan(owed);
    // Those of another COPY behind it are not meant.
    for (let i = 1; link.queue.at(i)?.duringCopy; i++) {
      const sync = link.queue.at(i);
      if (sync !== undefined) sync.voided = true;
    }
  }

  #done(link: NodeLink, owed: Owed): void {
    link.queue.shift();
    owed.left--;
    this.#head(link); // nothing more may come, and so nothing else pass over what was swallowed
  }

  #flush(bytes: Uint8Array, from: number, to: number): void {
    if (to > from)
      this.toClient(from === 0 && to === bytes.length ? bytes : bytes.subarray(from, to));
  }
}

/** The longest length of each type of message that a server sends; 0 for a type that none does. */
const lengthMax = new Float64Array(256);
for (const type of Object.values(BACKEND)) lengthMax[type] = backendBodySizeMax(type) + 4;

/** A server that talks nonsense is believed nothing. */
function isPlausible(type: number, length: number): boolean {
  if (type === BACKEND.ReadyForQuery) return length === 5;
  return length >= 4 && length <= (lengthMax[type] as number);
}

/** DataRow, CopyData and FunctionCallResponse can be large and complete nothing. */
function passesInPieces(type: number): boolean {
  return type === 0x44 || type === 0x64 || type === 0x56;
}

export function int32(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] as number) << 24) |
    ((bytes[at + 1] as number) << 16) |
    ((bytes[at + 2] as number) << 8) |
    (bytes[at + 3] as number)
  );
}

/** True when the severity field (V, never translated; S before PostgreSQL 9.6) is FATAL or PANIC. */
function isFatal(frame: Uint8Array): boolean {
  let at = 5;
  while (at < frame.length && frame[at] !== 0) {
    const field = frame[at];
    if (field === 0x56 || (field === 0x53 && at === 5)) {
      const first = frame[at + 1];
      const second = frame[at + 2];
      if (first === 0x46 && second === 0x41) return true; // FA
      if (first === 0x50 && second === 0x41) return true; // PA
    }
    at = frame.indexOf(0, at) + 1;
    if (at === 0) return false;
  }
  return false;
}

/** Shut down by an administrator or by a crash: the server's end, or this connection's alone. */
function isFarewell(frame: Uint8Array): boolean {
  for (let at = 5; at < frame.length && frame[at] !== 0; at = frame.indexOf(0, at) + 1) {
    if (frame[at] !== 0x43) continue; // C, the SQLSTATE
    const code = Buffer.from(frame.subarray(at + 1, at + 6)).toString("latin1");
    return code === "57P01" || code === "57P02";
  }
  return false;
}

function readyForQuery(status: number): Uint8Array {
  return Uint8Array.of(0x5a, 0, 0, 0, 5, status);
}
