/**
 * One client's session: client messages in, routing decisions taken, bytes for the nodes out; what
 * the nodes answer finds its way back through `Replies`. The session touches no socket: it speaks
 * to sinks, and is told of bytes, losses and the end (design: decide apart from do).
 *
 * A message goes out as soon as it is read, unless the order of answers or the state that routing
 * depends on would be in doubt: then the session stalls until what is owed has arrived. Two rules
 * keep it exact. Messages follow each other without waiting only while they go to one node, which
 * keeps their order itself. And once a segment (messages up to a Sync, one implicit transaction)
 * has reached the primary, the rest of it stays there.
 */

import type { StatementFacts } from "../../core/sql/facts.ts";
import { errorResponse, readyForQuery } from "../../core/wire/backend.ts";
import type { Reprepare } from "../routing/routes.ts";
import type { Desk, SessionEnd, SessionPorts } from "./desk.ts";
import { forgets, readsCopyData } from "./effects.ts";
import { Extended, FAILING } from "./extended.ts";
import { queryMessage, statusLetter, text, transactionFailed } from "./messages.ts";
import { Outbound } from "./outbound.ts";
import {
  type ByteSink,
  FAILED,
  IDLE,
  IN_TRANSACTION,
  int32,
  type NodeLink,
  type Owed,
  Replies,
  type ReplyEvents,
} from "./replies.ts";
import type { SessionRouter } from "./router.ts";

const noLinks: readonly NodeLink[] = [];
const noNodes: readonly NodeLink["id"][] = [];

/** Stands for what routing cannot see into, as a function called by number: it may write anything. */
const anyWriteSql = "INSERT INTO pg_largeobject DEFAULT VALUES";

const commitMessage = queryMessage("COMMIT");

const FRONTEND_LENGTH_MAX = 0x3fffffff;
/** Body limit of messages that carry only names and numbers (PostgreSQL's PQ_SMALL_MESSAGE_LIMIT). */
const SMALL_LENGTH_MAX = 10_000;

export class Session implements ReplyEvents, Desk {
  readonly ports: SessionPorts;
  readonly router: SessionRouter;
  readonly replies: Replies;
  readonly out: Outbound;
  readonly #extended: Extended;

  /** The node that takes writes: it speaks when all are asked, and its parameters are the client's. */
  #writeLink: NodeLink;

  #backlog: Uint8Array[] = [];
  #stalled = false;
  #nodesFull = false;
  #walking = false;
  #ended = false;
  #terminating = false;

  /** A frame of which not all has come, when it must be read whole. */
  #partial: Uint8Array[] = [];
  #partialBytes = 0;
  #partialNeeded = 0;
  /** Bytes left of a frame that is passed on in pieces, and where to. */
  #bodyLeft = 0;
  #bodyLinks: readonly NodeLink[] = [];

  /** An error was answered in an unfinished segment: messages are ignored until Sync. */
  discarding = false;
  /** The nodes that read COPY data from the client, until CopyDone or CopyFail. */
  copyLinks: readonly NodeLink[] = noLinks;
  copying = false;
  /** The answer of the COPY that `copyLinks` belong to. */
  #copyOwed: Owed | undefined;
  /** Everything passes as it is to the write node: a replication connection (CopyBoth). */
  readonly #transparent: boolean;

  constructor(options: {
    readonly ports: SessionPorts;
    readonly router: SessionRouter;
    readonly nodes: readonly { readonly id: NodeLink["id"]; readonly sink: ByteSink }[];
    readonly writeNode: NodeLink["id"];
    readonly transparent: boolean;
  }) {
    this.ports = options.ports;
    this.router = options.router;
    this.replies = new Replies(options.ports.client, this);
    this.out = new Outbound(() => this.#pauseForNodes());
    for (const node of options.nodes) this.replies.attach(node.id, node.sink);
    const writeLink = this.replies.links[options.writeNode];
    if (writeLink === undefined) throw new Error(`no connection to node ${options.writeNode}`);
    this.#writeLink = writeLink;
    this.replies.statusLink = writeLink;
    this.#transparent = options.transparent;
    this.#extended = new Extended(this);
    this.router.session.parsedNodes = (name) => this.#extended.nodesOf(name);
  }

  get writeLink(): NodeLink {
    return this.#writeLink;
  }

  get inTransaction(): boolean {
    return this.#writeLink.status !== IDLE;
  }

  get busy(): boolean {
    return !this.replies.empty;
  }

  // ---------------------------------------------------------------- bytes from the client

  fromClient(chunk: Uint8Array): void {
    if (this.#ended || this.#terminating) return;
    if (this.#transparent) {
      this.out.open(chunk);
      this.out.pass(this.#writeLink, 0, chunk.length);
      this.out.flush();
      return;
    }
    if (this.#stalled || this.#walking) {
      this.#backlog.push(chunk);
      return;
    }
    if (this.replies.empty) this.#followWriteNode();
    this.#walk(chunk);
  }

  /** All that `send` had left in the client's socket is gone. */
  clientDrained(): void {
    this.replies.clientDrained();
  }

  /** A node takes bytes again. */
  nodeDrained(): void {
    if (!this.#nodesFull) return;
    this.#nodesFull = false;
    if (!this.#stalled) this.ports.client.resume();
  }

  #pauseForNodes(): void {
    this.#nodesFull = true;
    this.ports.client.pause();
  }

  #walk(chunk: Uint8Array): void {
    const bytes = this.#partialBytes > 0 ? this.#join(chunk) : chunk;
    if (bytes === undefined) return;
    this.#walking = true;
    this.out.open(bytes);
    const end = bytes.length;
    let at = this.#passBody(bytes);
    while (at < end && !this.#ended && !this.#terminating) {
      const needed = this.#frameSize(bytes, at, end);
      if (needed === 0) break;
      if (needed > end - at) {
        const taken = needed >= 0 && this.#passPieces(bytes, at, needed, end);
        if (!taken) this.#keep(bytes.subarray(at), needed);
        break;
      }
      if (!this.#message(bytes[at] as number, bytes, at, at + needed)) {
        this.#stall(bytes.subarray(at));
        break;
      }
      at += needed;
    }
    this.out.flush();
    this.#walking = false;
  }

  /** The size of the frame at `at`, type and length included; 5 when not even that is there; 0 when it is refused. */
  #frameSize(bytes: Uint8Array, at: number, end: number): number {
    if (end - at < 5) return 5;
    const length = int32(bytes, at + 1);
    const limit = isSmall(bytes[at] as number) ? SMALL_LENGTH_MAX : FRONTEND_LENGTH_MAX;
    if (length < 4 || length > limit) {
      this.violation("invalid message length");
      return 0;
    }
    return 1 + length;
  }

  /** What is left of a frame that began in an earlier chunk. */
  #passBody(bytes: Uint8Array): number {
    if (this.#bodyLeft === 0) return 0;
    const taken = Math.min(this.#bodyLeft, bytes.length);
    this.#bodyLeft -= taken;
    if (this.#bodyLinks.length > 0) this.out.passAll(this.#bodyLinks, 0, taken);
    return taken;
  }

  /** Copy data need not be there whole. */
  #passPieces(bytes: Uint8Array, at: number, size: number, end: number): boolean {
    if (end - at < 5 || bytes[at] !== 0x64 || this.discarding) return false;
    this.#bodyLeft = at + size - end;
    this.#bodyLinks = this.copyLinks;
    if (this.copyLinks.length > 0) this.out.passAll(this.copyLinks, at, end);
    return true;
  }

  #keep(bytes: Uint8Array, needed: number): void {
    this.#partial = [bytes];
    this.#partialBytes = bytes.length;
    this.#partialNeeded = needed;
  }

  #join(chunk: Uint8Array): Uint8Array | undefined {
    this.#partial.push(chunk);
    this.#partialBytes += chunk.length;
    if (this.#partialBytes < this.#partialNeeded) return undefined;
    const whole = new Uint8Array(this.#partialBytes);
    let at = 0;
    for (const piece of this.#partial) {
      whole.set(piece, at);
      at += piece.length;
    }
    this.#partial = [];
    this.#partialBytes = 0;
    return whole;
  }

  /** Returns false when the message must wait: the session stalls before it. */
  #message(type: number, bytes: Uint8Array, at: number, end: number): boolean {
    if (this.discarding && type !== 0x53 && type !== 0x58) return true;
    if (this.copyLinks.length > 0 && !belongsToCopy(type)) return this.#outOfPlace(at, end);
    switch (type) {
      case 0x51: // Query
        return this.#query(bytes, at, end);
      case 0x50: // Parse
        return this.#extended.parse(bytes, at, end);
      case 0x42: // Bind
        return this.#extended.bind(bytes, at, end);
      case 0x44: // Describe
        return this.#extended.describe(bytes, at, end);
      case 0x45: // Execute
        return this.#extended.execute(bytes, at, end);
      case 0x43: // Close
        return this.#extended.close(bytes, at, end);
      case 0x53: // Sync
        return this.#extended.sync(at, end);
      case 0x48: // Flush
        return this.#extended.flush(at, end);
      case 0x64: // CopyData
        if (this.copyLinks.length > 0) this.out.passAll(this.copyLinks, at, end);
        return true;
      case 0x63: // CopyDone
      case 0x66: // CopyFail
        if (this.copyLinks.length > 0) this.out.passAll(this.copyLinks, at, end);
        this.copyLinks = noLinks;
        return true;
      case 0x46: // FunctionCall
        return this.#functionCall(at, end);
      case 0x58: // Terminate
        return this.#terminate();
      default:
        this.violation(`invalid frontend message type ${type}`);
        return true;
    }
  }

  // ---------------------------------------------------------------- simple query

  #query(bytes: Uint8Array, at: number, end: number): boolean {
    const sql = text(bytes, at + 5, end - 1);
    if (bytes[end - 1] !== 0) return this.violation("invalid string in message");
    const facts = this.router.facts(sql);
    const segment = this.#extended.segmentBeforeQuery();
    if (segment === "wait") return this.waitDrained();
    const route = this.router.decide(facts, sql, "simple");
    if (route.kind === "ask") return this.#extended.ask(route.questions, "simple");
    if (route.kind === "proxy") {
      if (!this.replies.empty) return this.waitDrained();
      this.#answer(route.why, sql, facts);
      return true;
    }
    if (route.reprepare !== undefined && this.replies.empty) this.#prepareAgain(route.reprepare);
    let links = this.linksOf(route.nodes);
    if (segment !== undefined && !links.includes(segment)) links = this.linksOf([segment.id]);
    const main = this.speaker(links);
    if (!this.mayFollow(links, main)) return this.waitDrained();
    if (segment !== undefined) this.#extended.segmentEnded();
    this.#extended.querySent();
    const targets = this.#targetsOf(facts, links, main);
    this.router.noteSent(facts);
    this.ports.noteStatement(sql, facts);
    for (const link of targets) this.ports.noteNodeStatement(link, "", sql, facts);
    const owed = this.replies.expect("Query", main, targets, facts);
    this.#sendQuery(targets, main, route.otherNodesSql, at, end);
    this.noteCopy(owed, facts, targets);
    if (forgets(facts)) this.holdNext();
    return true;
  }

  /** COMMIT and ROLLBACK mean nothing to a node that has no transaction (spec load-balance.md 4.1). */
  #targetsOf(
    facts: StatementFacts,
    links: readonly NodeLink[],
    main: NodeLink,
  ): readonly NodeLink[] {
    if (links.length === 1 || !endsTransaction(facts)) return links;
    return links.filter((link) => link === main || link.status !== IDLE);
  }

  #sendQuery(
    targets: readonly NodeLink[],
    main: NodeLink,
    otherNodesSql: string | undefined,
    at: number,
    end: number,
  ): void {
    if (otherNodesSql === undefined) {
      this.out.passAll(targets, at, end);
      return;
    }
    const other = queryMessage(otherNodesSql);
    for (const link of targets) {
      if (link === main) this.out.pass(link, at, end);
      else this.out.send(link, other);
    }
  }

  /** A statement that PREPARE made elsewhere lives on the write node from now on. */
  #prepareAgain({ name, sql }: Reprepare): void {
    const owed = this.replies.expect("Query", this.#writeLink, [], undefined);
    owed.silent = true;
    owed.errorsShow = true;
    this.out.send(this.#writeLink, queryMessage(sql));
    this.router.session.prepared.set(name, { nodes: [this.#writeLink.id], sql });
  }

  #answer(why: string, sql: string, facts: StatementFacts): void {
    if (why === "failed_transaction") {
      this.replies.toClient(transactionFailed);
      this.replies.toClient(readyForQuery("E"));
      return;
    }
    this.ports.noteStatement(sql, facts);
    this.replies.toClient(this.ports.answer(sql, facts));
    this.replies.toClient(readyForQuery(statusLetter(this.replies.status())));
  }

  #functionCall(at: number, end: number): boolean {
    const link = this.#writeLink;
    if (!this.mayFollow([link], link)) return this.waitDrained();
    this.replies.expect("FunctionCall", link, [], undefined);
    this.out.pass(link, at, end);
    return true;
  }

  /** COPY reads this message and fails of it, once it is certain that COPY is what reads. */
  #outOfPlace(at: number, end: number): boolean {
    if (!this.copying) return this.waitDrained();
    this.out.passAll(this.copyLinks, at, end);
    this.copyLinks = noLinks;
    return true;
  }

  noteCopy(owed: Owed, facts: StatementFacts, links: readonly NodeLink[]): void {
    if (!readsCopyData(facts)) return;
    this.copyLinks = links;
    this.copying = false;
    this.#copyOwed = owed;
  }

  // ---------------------------------------------------------------- waiting and order

  linksOf(nodes: readonly NodeLink["id"][]): readonly NodeLink[] {
    const links = this.replies.links;
    const only = nodes[0];
    if (nodes.length === 1 && only !== undefined) {
      const link = links[only];
      return this.#alone(link ?? this.#writeLink);
    }
    const found = nodes.map((id) => links[id]).filter((link) => link !== undefined);
    return found.length === 0 ? this.#alone(this.#writeLink) : found;
  }

  /** Lists of one, made once: the usual case allocates nothing. */
  readonly #alones: (readonly NodeLink[] | undefined)[] = [];
  #alone(link: NodeLink): readonly NodeLink[] {
    const known = this.#alones[link.id];
    if (known !== undefined) return known;
    const alone = [link];
    this.#alones[link.id] = alone;
    return alone;
  }

  /** Of the nodes asked, the one whose answers the client sees. */
  speaker(links: readonly NodeLink[]): NodeLink {
    if (links.includes(this.#writeLink)) return this.#writeLink;
    return links[0] ?? this.#writeLink;
  }

  /** Whether a message for `links` may go out while earlier answers are still owed. */
  mayFollow(links: readonly NodeLink[], main: NodeLink): boolean {
    if (this.replies.empty) return true;
    if (this.#holding || links.length > 1 || !this.replies.onlyOwedBy(main)) return false;
    // A read outside of the transaction must not go on as if it had not failed.
    return main === this.#writeLink || main.status === this.#writeLink.status;
  }

  holdNext(): void {
    this.#holding = true;
  }
  #holding = false;

  /** Stalls until nothing is owed. An open segment is flushed, or its answers would never come. */
  waitDrained(): false {
    this.#extended.flushOwed();
    return false;
  }

  dropStalled(): void {
    const rest = this.#backlog[0];
    if (rest !== undefined) this.#backlog[0] = rest.subarray(1 + int32(rest, 1));
  }

  #stall(rest: Uint8Array): void {
    this.#stalled = true;
    this.#backlog.unshift(rest.slice());
    this.ports.client.pause();
  }

  /** Nothing is owed any more: what waited goes on. */
  drained(): void {
    this.#holding = false;
    this.#dropDiverged();
    if (this.#ended) return;
    this.#followWriteNode();
    if (this.#endStrayTransactions()) return;
    if (this.#terminating) {
      this.#finish({ kind: "terminate" });
      return;
    }
    this.#goOn();
  }

  /** Reads again from where the session stalled; it may stall there again. */
  #goOn(): void {
    if (!this.#stalled || this.#walking) return;
    this.#stalled = false;
    while (!this.#stalled && !this.#ended) {
      const chunk = this.#backlog.shift();
      if (chunk === undefined) break;
      this.#walk(chunk);
    }
    if (!this.#stalled && !this.#nodesFull) this.ports.client.resume();
  }

  /**
   * The write node's transaction is over where another node's is not: PREPARE TRANSACTION, or a
   * COMMIT inside a multi-statement query, which goes to the write node alone.
   */
  #endStrayTransactions(): boolean {
    if (this.inTransaction) return false;
    for (const link of this.replies.links) {
      if (link === undefined || link.status === IDLE || link.inSegment) continue;
      this.replies.expect("Query", link, this.linksOf([link.id]), undefined).silent = true;
      this.out.send(link, commitMessage);
    }
    return !this.replies.empty;
  }

  /** Another node has become the primary: between transactions the session goes over to it. */
  #followWriteNode(): void {
    const { writeNode } = this.router;
    if (writeNode === undefined || writeNode === this.#writeLink.id || this.inTransaction) return;
    const link = this.replies.links[writeNode];
    if (link === undefined) return;
    this.#writeLink = link;
    this.replies.statusLink = link;
  }

  // ---------------------------------------------------------------- what the nodes say

  fromNode(link: NodeLink, chunk: Uint8Array): void {
    if (this.#ended) return;
    if (this.#transparent) {
      this.replies.toClient(chunk);
      return;
    }
    this.replies.receive(link, chunk);
  }

  settled(owed: Owed): void {
    if (owed === this.#copyOwed) {
      this.#copyOwed = undefined;
      this.copyLinks = noLinks;
      this.copying = false;
    }
    switch (owed.kind) {
      case "Query":
        this.router.noteReady(statusLetter(this.#writeLink.status));
        if (!owed.silent && !owed.failed) this.noteDone(owed, owed.subject as StatementFacts);
        break;
      case "FunctionCall":
        this.router.noteReady(statusLetter(this.#writeLink.status));
        if (!owed.failed) this.noteWrite(owed);
        break;
      case "Sync":
        this.router.noteReady(statusLetter(this.#writeLink.status));
        if (owed.duringCopy && !owed.voided) this.#extended.syncOthers(owed.links);
        break;
      default:
        this.#extended.settled(owed);
        return;
    }
    if (this.#writeLink.status === IDLE) this.#transactionEnded(owed);
    else if (owed.subject !== FAILING && this.replies.status() === FAILED) this.#failTogether();
  }

  #transactionEnded(owed: Owed): void {
    if (owed.failed || owed.kind === "Sync") this.router.noteOver();
    this.#extended.transactionEnded();
    for (const link of this.replies.links) {
      if (link === undefined || link.status === IDLE) continue;
      if (link.queue.size === 0 && !link.inSegment) this.#extended.endTransaction(link);
    }
  }

  /** One transaction to the client is one on each node: when it has failed on one, it fails on all. */
  #failTogether(): void {
    this.router.noteError(true);
    for (const link of this.replies.links) {
      if (link?.status === IN_TRANSACTION && !link.skipping) this.#extended.failTransaction(link);
    }
  }

  noteWrite(owed: Owed): void {
    this.noteDone(owed, this.router.facts(anyWriteSql));
  }

  noteDone(owed: Owed, facts: StatementFacts): void {
    const nodes = facts.prepares.length === 0 ? noNodes : owed.links.map(({ id }) => id);
    this.router.noteDone(facts, nodes);
    this.#extended.noteSqlDone(facts);
  }

  failed(owed: Owed, link: NodeLink, frame: Uint8Array): void {
    if (owed.silent && !owed.errorsShow) return;
    this.ports.noteError(link, frame);
    const { writeLink } = this;
    if (link !== writeLink && writeLink.status === IN_TRANSACTION && !writeLink.skipping) {
      this.#extended.failTransaction(writeLink);
    }
    this.router.noteError(this.#writeLink.status !== IDLE || link.status !== IDLE);
    this.#extended.failed(owed, link);
  }

  #diverged: NodeLink[] = [];
  diverged(link: NodeLink): void {
    this.#diverged.push(link);
  }

  /** A node that failed where the main node did not would answer later reads from another state. */
  #dropDiverged(): void {
    if (this.#diverged.length === 0) return;
    for (const link of this.#diverged.splice(0)) {
      this.replies.drop(link);
      this.router.lost(link.id);
      this.ports.dropped(link, "its answer differs from the main node's");
    }
    this.nodeDrained(); // if it was one of these that took no more, nobody else would say so
  }

  broken(link: NodeLink): void {
    this.nodeLost(link, "invalid message length from backend");
  }

  unasked(link: NodeLink): boolean {
    return link === this.#writeLink && link.fatal;
  }

  parameterStatus(link: NodeLink, frame: Uint8Array): boolean {
    this.ports.parameterStatus(link, frame);
    if (link !== this.#writeLink) return false;
    this.#noteParameter(frame);
    return true;
  }

  #noteParameter(frame: Uint8Array): void {
    const [name, value] = text(frame, 5, frame.length).split("\0");
    if (name === "standard_conforming_strings") this.router.standardStrings = value !== "off";
  }

  copyIn(owed: Owed): void {
    if (owed !== this.#copyOwed) return;
    this.copying = true;
    this.#goOn();
  }

  /**
   * A node's connection is gone. A standby with nothing of ours under way is simply not used any
   * more; a statement it was running fails with a clear error; without the write node the session
   * cannot go on.
   */
  nodeLost(link: NodeLink, message: string): void {
    if (this.#ended || this.replies.links[link.id] !== link) return;
    if (link.bodyLeft > 0 && link.bodyForward) {
      // The client waits for the rest of a message that will not come: no word would reach it.
      this.ports.dropped(link, message);
      this.#finish({ kind: "broken", why: message });
      return;
    }
    const unanswered = this.replies.drop(link);
    this.router.lost(link.id);
    this.ports.dropped(link, message);
    if (link === this.#writeLink) {
      const told = link.fatal || this.replies.midMessage;
      if (!told) this.replies.toClient(connectionLost("FATAL", link, message));
      this.#finish({ kind: "broken", why: message });
      return;
    }
    this.nodeDrained(); // it may be the one that took no more
    if (unanswered.length > 0) this.#answerInPlace(link, unanswered, message);
    this.replies.proceed();
  }

  #answerInPlace(link: NodeLink, unanswered: readonly string[], message: string): void {
    const inTransaction = this.#writeLink.status === IN_TRANSACTION;
    if (inTransaction) {
      this.router.noteError(true);
      this.#extended.failTransaction(this.#writeLink);
    }
    const status = statusLetter(this.replies.status());
    let failing = false;
    for (const kind of unanswered) {
      if (!failing) this.replies.toClient(connectionLost("ERROR", link, message));
      failing = true;
      if (kind === "Query" || kind === "FunctionCall" || kind === "Sync") {
        this.replies.toClient(readyForQuery(status));
        failing = false;
      }
    }
    this.discarding = failing;
  }

  // ---------------------------------------------------------------- the end

  #terminate(): boolean {
    if (this.copyLinks.length > 0) {
      // Servers that wait for data would answer nothing: their connections are given up.
      this.#finish({ kind: "broken", why: "the client left in the middle of COPY" });
      return true;
    }
    this.#terminating = true;
    this.#extended.closeSegment();
    if (this.replies.empty) this.#finish({ kind: "terminate" });
    return true;
  }

  violation(message: string): true {
    this.end(
      { kind: "broken", why: message },
      errorResponse({ severity: "FATAL", code: "08P01", message }),
    );
    return true;
  }

  /** Ends the session from outside, with an error that the client is shown when it can be. */
  end(end: SessionEnd, error?: Uint8Array): void {
    if (this.#ended) return;
    if (error !== undefined && !this.replies.midMessage) this.replies.toClient(error);
    this.#finish(end);
  }

  #finish(end: SessionEnd): void {
    if (this.#ended) return;
    this.#ended = true;
    this.out.flush();
    this.ports.ended(end);
  }
}

/** CopyData, CopyDone, CopyFail, Flush, Sync, Terminate. */
function belongsToCopy(type: number): boolean {
  switch (type) {
    case 0x64:
    case 0x63:
    case 0x66:
    case 0x48:
    case 0x53:
    case 0x58:
      return true;
    default:
      return false;
  }
}

/** Messages that carry only names and numbers. */
function isSmall(type: number): boolean {
  switch (type) {
    case 0x44: // Describe
    case 0x45: // Execute
    case 0x43: // Close
    case 0x53: // Sync
    case 0x48: // Flush
    case 0x58: // Terminate
    case 0x63: // CopyDone
      return true;
    default:
      return false;
  }
}

function endsTransaction(facts: StatementFacts): boolean {
  const { statement } = facts;
  if (statement.kind !== "transaction") return false;
  return statement.control.kind === "commit" || statement.control.kind === "rollback";
}

function connectionLost(severity: "ERROR" | "FATAL", link: NodeLink, message: string): Uint8Array {
  return errorResponse({
    severity,
    code: "57P01",
    message: `unable to read data from DB node ${link.id}`,
    detail: message,
  });
}
