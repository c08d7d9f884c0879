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

import { ROUTE_TYPE, routeTable } from "../../core/admin/show_route.ts";
import { encodeTable, type Table } from "../../core/admin/table.ts";
import type { ProxyReason } from "../../core/routing/reasons.ts";
import type { Leaves, StatementFacts } from "../../core/sql/facts.ts";
import { commandComplete, errorResponse, readyForQuery } from "../../core/wire/backend.ts";
import type { Protocol } from "../routing/route.ts";
import { CopyIn } from "./copy_in.ts";
import type { ClientSession, Desk, Observer, SessionEnd, SessionPorts } from "./desk.ts";
import {
  anyWriteSql,
  begins,
  endsTransaction,
  explainedBy,
  forgets,
  leftAfter,
  mayHoldSeveral,
  mayReadCopyData,
  mindsReads,
  takesSnapshot,
} from "./effects.ts";
import { Extended, FAILING } from "./extended.ts";
import { Losses } from "./losses.ts";
import { byteText, queryMessage, statusLetter, text, transactionFailed } from "./messages.ts";
import { Outbound } from "./outbound.ts";
import { PartialFrame } from "./partial_frame.ts";
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
import { type CacheWorld, SessionCache } from "./session_cache.ts";
import { unitAt } from "./unit.ts";

const noNodes: readonly NodeLink["id"][] = [];
const commitMessage = queryMessage("COMMIT");
const cancelled = errorResponse({
  severity: "ERROR",
  code: "57014",
  message: "canceling statement due to user request",
  detail: "It was waiting for a DB node that takes writes.",
});
const idleSize = readyForQuery("I").length;
const emptyQuery = queryMessage("");
const anyQuery = queryMessage("SELECT 1");

const FRONTEND_LENGTH_MAX = 0x3fffffff;
/** Body limit of messages that carry only names and numbers (PostgreSQL's PQ_SMALL_MESSAGE_LIMIT). */
const SMALL_LENGTH_MAX = 10_000;

export class Session implements ReplyEvents, Desk, ClientSession {
  readonly ports: SessionPorts;
  readonly router: SessionRouter;
  readonly replies: Replies;
  readonly out: Outbound;
  readonly #extended: Extended;
  readonly #losses: Losses;
  /** Undefined while the query cache is off. */
  readonly cache: SessionCache | undefined;

  /** The node that takes writes: it speaks when all are asked, and its parameters are the client's. */
  #writeLink: NodeLink;

  #backlog: Uint8Array[] = [];
  #stalled = false;
  #nodesFull = false;
  #walking = false;
  #ended = false;
  #terminating = false;

  readonly #partial = new PartialFrame();
  /** Bytes left of a frame that is passed on in pieces, and where to. */
  #bodyLeft = 0;
  #bodyLinks: readonly NodeLink[] = [];

  /** An error was answered in an unfinished segment: messages are ignored until Sync. */
  discarding = false;
  readonly copyIn = new CopyIn();
  /** Everything passes as it is to the write node: a replication connection (CopyBoth). */
  readonly #transparent: boolean;

  constructor(options: {
    readonly ports: SessionPorts;
    readonly router: SessionRouter;
    readonly nodes: readonly { readonly id: NodeLink["id"]; readonly sink: ByteSink }[];
    readonly writeNode: NodeLink["id"];
    readonly transparent: boolean;
    readonly cache?: CacheWorld | undefined;
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
    this.#losses = new Losses(this, (end) => this.#finish(end));
    this.cache = options.cache && this.#newCache(options.cache);
    this.router.isBound = () => {
      const { lost, inSegment } = this.#writeLink;
      return !this.replies.empty || this.inTransaction || (lost && inSegment);
    };
    this.router.session.parsed = (name) => this.#extended.names.parsed(name);
    this.router.session.lastParsedOn = () => this.#extended.names.lastParsedOn();
  }

  #newCache(world: CacheWorld): SessionCache {
    const extended = this.#extended;
    return new SessionCache(world, this, {
      row: (...asked) => extended.questions.row(...asked),
      catalog: (questions, protocol) => extended.questions.catalog(questions, protocol, true),
    });
  }

  /** Told of every message, while there is one. */
  get observer(): Observer | undefined {
    return this.#observer;
  }
  set observer(observer: Observer | undefined) {
    this.#observer = observer;
    this.#observedStalled = false;
    this.replies.observer = observer;
  }
  #observer: Observer | undefined;
  /** The session stalled before a message that the observer has been told of. */
  #observedStalled = false;

  get links(): readonly (NodeLink | undefined)[] {
    return this.replies.links;
  }

  aside(frame: Uint8Array): void {
    this.replies.aside(frame);
  }

  get writeLink(): NodeLink {
    return this.#writeLink;
  }

  get inTransaction(): boolean {
    return this.#writeLink.status !== IDLE;
  }

  /** It owes the client answers, also those to what it has not sent on yet. */
  get busy(): boolean {
    return !this.replies.empty || this.#stalled;
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
    const bytes = this.#partial.empty ? chunk : this.#partial.join(chunk);
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
        if (!taken) this.#partial.keep(bytes.subarray(at), needed);
        break;
      }
      if (this.#observer !== undefined) this.#observe(this.#observer, bytes, at, at + needed);
      if (!this.#message(bytes[at] as number, bytes, at, at + needed)) {
        this.#observedStalled = this.#observer !== undefined;
        this.#stall(bytes.subarray(at));
        break;
      }
      at += needed + this.#answered;
      this.#answered = 0;
    }
    this.out.flush();
    this.#walking = false;
  }

  /** Bytes behind the present message that need not be read: they were answered with it. */
  #answered = 0;

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

  /** Once for each message, though one before which the session stalled is read again. */
  #observe(observer: Observer, bytes: Uint8Array, at: number, end: number): void {
    if (this.#observedStalled) this.#observedStalled = false;
    else observer.fromClient(bytes, at, end);
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
    this.#observer?.fromClient(bytes, at, end);
    this.#bodyLeft = at + size - end;
    this.#bodyLinks = this.copyIn.links;
    this.#passCopy(at, end);
    return true;
  }

  /** Returns false when the message must wait: the session stalls before it. */
  #message(type: number, bytes: Uint8Array, at: number, end: number): boolean {
    if (this.discarding && type !== 0x53 && type !== 0x58) return true;
    if (this.copyIn.links.length > 0 && !belongsToCopy(type)) {
      return this.#outOfPlace(type, at, end);
    }
    switch (type) {
      case 0x51: // Query
        return this.#query(bytes, at, end);
      case 0x50: // Parse
        return this.#unit(bytes, at, end) ?? this.#extended.parse(bytes, at, end);
      case 0x42: // Bind
        return this.#unit(bytes, at, end) ?? this.#extended.bind(bytes, at, end);
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
        this.#passCopy(at, end);
        return true;
      case 0x63: // CopyDone
      case 0x66: // CopyFail
        this.#passCopy(at, end);
        this.copyIn.ended();
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
    const segment = this.#extended.segmentBeforeQuery(facts);
    if (segment === "wait") return this.waitDrained();
    const route = this.router.decide(facts, sql, "simple");
    if (route.kind === "ask") {
      return this.#extended.questions.catalog(
        route.questions,
        "simple",
        takesSnapshot(facts, "Execute"),
      );
    }
    if (route.kind === "proxy") {
      return this.replies.empty ? this.#answer(route.why, sql, facts) : this.waitDrained();
    }
    if (route.why === "unknown_statement" && this.#extended.ownDeallocated(facts) !== undefined) {
      return this.replies.empty ? this.#deallocateOwn(facts) : this.waitDrained();
    }
    let links = this.linksOf(route.nodes);
    let { why } = route;
    if (segment !== undefined && !links.includes(segment)) {
      links = this.linksOf([segment.id]);
      why = "segment";
    }
    const holders = facts.cursor === undefined ? undefined : this.#extended.holdersOf(facts.cursor);
    if (holders === "wait") return this.waitDrained();
    links = holders ?? links;
    if (this.cache !== undefined && segment === undefined) {
      const found = this.#lookUp(this.cache, facts, sql, links);
      if (found !== "pass") return found === "answered";
    }
    if (this.cache?.mayGo(facts) === false) return false;
    const isCarried =
      !links.includes(this.#writeLink) || this.#extended.names.carry(facts, sql, "simple");
    if (!isCarried) return this.waitDrained();
    const main = this.speaker(links);
    if (!this.mayFollow(links, main)) return this.waitDrained();
    const targets = this.targetsOf(facts, links, main);
    const joinsWork = segment !== undefined && this.#extended.hasWorked && begins(facts);
    if (mindsReads(facts) && this.cache?.takeUnseen()) this.#readOn(targets);
    if (segment !== undefined) this.#extended.segmentEnded(targets);
    if (facts.endsWithin) this.#endElsewhere();
    this.#extended.querySent(facts);
    this.router.noteSent(facts);
    this.cache?.sent(facts);
    this.ports.noteStatement(sql);
    if (facts.statement.kind === "unparsable") this.ports.noteUnparsable(sql);
    for (const link of targets) this.ports.noteNodeStatement(link, "", sql, facts, why);
    const owed = this.replies.expect("Query", main, targets, facts);
    if (joinsWork) this.#lateBegin = owed;
    this.cache?.listen();
    this.cache?.follow(owed);
    this.#sendQuery(targets, main, route.otherNodesSql, at, end);
    this.noteCopy(owed, facts, targets);
    if (forgets(facts)) this.holdNext();
    return true;
  }

  /** Whether the client is answered from memory. */
  #lookUp(
    cache: SessionCache,
    facts: StatementFacts,
    sql: string,
    links: readonly NodeLink[],
  ): "answered" | "pass" | "stall" {
    const [link] = links;
    if (link === undefined || links.length > 1 || !this.replies.empty) return "pass";
    const found = cache.look({ facts, sql, key: sql, values: "", link, protocol: "simple" });
    if (found === "pass" || found === "stall") return found;
    this.ports.noteStatement(sql);
    this.#extended.querySent(facts);
    this.#answerKept(found);
    return "answered";
  }

  /** One statement of the extended protocol, if it can be answered at once; else undefined. */
  #unit(bytes: Uint8Array, at: number, end: number): boolean | undefined {
    const { cache } = this;
    if (cache === undefined || !this.replies.empty || this.discarding) return undefined;
    const unit = unitAt(bytes, at);
    const statement = unit && this.#extended.statementOf(unit, bytes);
    if (unit === undefined || statement === undefined) return undefined;
    const { facts, sql } = statement;
    if (facts.statement.kind !== "select" || statement.definitions !== cache.definitions) {
      return undefined;
    }
    const route = this.router.decide(facts, sql, "extended");
    const [link, another] = route.kind === "nodes" ? this.linksOf(route.nodes) : [];
    if (link === undefined || another !== undefined) return undefined;
    const values = byteText(bytes, unit.valuesAt, unit.bindEnd);
    const parts = `${unit.parse === undefined ? "" : "P"}${unit.describes ? "D" : ""}`;
    const key = `${sql}\0${parts}\0${statement.parameterTypes}\0${values}`;
    const found = cache.look({ facts, sql, key, values, link, protocol: "extended" });
    if (found === "stall") return false;
    if (found === "pass") {
      cache.listen();
      return undefined;
    }
    this.ports.noteStatement(sql);
    this.#extended.answered(unit, statement);
    if (this.#observer !== undefined) this.#observeAnswered(this.#observer, bytes, end, unit.end);
    this.#answered = unit.end - end;
    this.#answerKept(found);
    return true;
  }

  #observeAnswered(observer: Observer, bytes: Uint8Array, from: number, to: number): void {
    for (let at = from; at < to; ) {
      const end = at + 1 + int32(bytes, at + 1);
      observer.fromClient(bytes, at, end);
      at = end;
    }
  }

  /** The answer ends with a ReadyForQuery that says "idle". */
  #answerKept(bytes: Uint8Array): void {
    if (!this.inTransaction) {
      this.replies.toClient(bytes);
      return;
    }
    this.replies.toClient(bytes.subarray(0, -idleSize));
    this.replies.toClient(readyForQuery(statusLetter(this.replies.status())));
  }

  /** These nodes are to have run a query in their transaction, as the client has in its own. */
  #readOn(links: readonly NodeLink[]): void {
    this.#extended.readOn(links.filter((link) => link.inSegment));
    for (const link of links) {
      // A Query would end the segment, and with it what is not in a block.
      if (link.inSegment || link.status !== IN_TRANSACTION) continue;
      this.replies.expect("Query", link, [], undefined).silent = true;
      this.out.send(link, anyQuery);
    }
  }

  /** A text that ends the transaction may begin another, which is the write node's alone. */
  #endElsewhere(): void {
    for (const link of this.replies.links) {
      if (link === undefined || link === this.#writeLink) continue;
      if (link.status !== IDLE && !link.inSegment) this.#extended.endTransaction(link);
    }
  }

  /** A BEGIN behind work of its own segment, which becomes part of its transaction. */
  #lateBegin: Owed | undefined;

  /**
   * COMMIT, ROLLBACK and what belongs to a transaction mean nothing to a node that has none (spec
   * load-balance.md 4.1): it began within a longer text, and so on the write node alone. An open
   * segment is one, which ROLLBACK undoes.
   */
  targetsOf(
    facts: StatementFacts,
    links: readonly NodeLink[],
    main: NodeLink,
  ): readonly NodeLink[] {
    const ends = endsTransaction(facts);
    if (links.length === 1 || !(this.inTransaction || ends)) return links;
    return links.filter(
      (link) => link === main || link.status !== IDLE || (ends && link.inSegment),
    );
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

  #answer(why: ProxyReason, sql: string, facts: StatementFacts): boolean {
    this.#extended.querySent(facts);
    if (why === "failed_transaction") {
      this.replies.toClient(transactionFailed);
      this.replies.toClient(readyForQuery("E"));
      return true;
    }
    const explained = explainedBy(facts);
    const table = explained === undefined ? undefined : this.explain(explained, "simple");
    if (explained !== undefined && table === undefined) return false;
    this.ports.noteStatement(sql);
    const answer =
      table === undefined ? this.ports.answer(sql, facts) : encodeTable(table, ROUTE_TYPE);
    this.replies.toClient(answer);
    this.replies.toClient(readyForQuery(statusLetter(this.replies.status())));
    return true;
  }

  #deallocateOwn(facts: StatementFacts): true {
    this.#extended.querySent(facts);
    this.#extended.noteSqlDone(facts);
    this.replies.toClient(commandComplete("DEALLOCATE"));
    this.replies.toClient(readyForQuery(statusLetter(this.replies.status())));
    return true;
  }

  explain(sql: string, protocol: Protocol): Table | undefined {
    const facts = this.router.facts(sql);
    const foreseen = this.router.foresee(facts, sql, protocol);
    if (foreseen.kind === "ask") {
      this.#extended.questions.catalog(foreseen.questions, protocol, false);
      return undefined;
    }
    const { route, why } = foreseen;
    if (route.kind === "proxy") return routeTable(why, []);
    const bound = this.#extended.boundTo(facts, route, protocol);
    const links = bound?.links ?? this.linksOf(route.nodes);
    const main = this.speaker(links);
    const again = route.reprepare;
    const first = again && (again.sql ?? `the Parse of "${again.name}"`);
    const targets = this.targetsOf(facts, links, main).map((link) => ({
      node: link.id,
      role: this.router.roleOf(link.id),
      instead: link === main ? undefined : route.otherNodesSql,
      first,
    }));
    return routeTable(bound === undefined ? why : { ...why, why: bound.why, rule: "" }, targets);
  }

  #functionCall(at: number, end: number): boolean {
    const link = this.#writeLink;
    if (!this.mayFollow([link], link)) return this.waitDrained();
    if (this.cache?.mayGo(undefined) === false) return false;
    this.cache?.sentUnknown();
    this.replies.expect("FunctionCall", link, [], undefined);
    this.out.pass(link, at, end);
    return true;
  }

  // ---------------------------------------------------------------- COPY

  #passCopy(at: number, end: number): void {
    const { links } = this.copyIn;
    if (links.length > 0) this.out.passAll(links, at, end);
  }

  /**
   * COPY reads this message and fails of it, once it is certain that COPY is what reads. It may have
   * failed before of something else; then the message stands on its own, and only now can it be
   * known where it goes. So another goes ahead that does nothing.
   */
  #outOfPlace(type: number, at: number, end: number): boolean {
    const { copyIn } = this;
    if (copyIn.probing) return false;
    if (!copyIn.reading) return this.waitDrained();
    if (copyIn.needsProbe) {
      const owed = this.replies.expect(
        "Query",
        this.speaker(copyIn.links),
        copyIn.links,
        undefined,
      );
      owed.silent = true;
      for (const link of copyIn.links) this.out.send(link, emptyQuery);
      copyIn.probe(owed, type);
      return false;
    }
    this.#passCopy(at, end);
    this.discarding = true; // in the extended protocol nothing more is read before Sync
    copyIn.ended();
    return true;
  }

  noteCopy(owed: Owed, facts: StatementFacts, links: readonly NodeLink[]): void {
    if (mayReadCopyData(facts)) this.copyIn.expect(owed, links, mayHoldSeveral(facts));
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
    if (this.#writeLink.lost && this.#needsWriteNode(links)) return false;
    if (this.#losses.areJudged(links)) return false;
    if (this.replies.empty) return true;
    if (this.#holding || links.length > 1 || !this.replies.onlyOwedBy(main)) return false;
    // A read outside of the transaction must not go on as if it had not failed.
    return main === this.#writeLink || main.status === this.#writeLink.status;
  }

  /**
   * The node that takes writes is gone, and this is not part of what it took with it: the message
   * waits until there is another one.
   */
  #needsWriteNode(links: readonly NodeLink[]): boolean {
    const lost = this.#writeLink;
    if (lost.status !== IDLE || lost.inSegment || !links.includes(lost)) return false;
    if (this.replies.empty) this.ports.writeNodeNeeded();
    return true;
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

  /**
   * A cancel request. A statement that waits for a node that takes writes fails of it, as one that a
   * server is executing would; what it would have written is not lost but was never begun. Returns
   * whether one was waiting.
   */
  cancelWaiting(): boolean {
    const waiting = this.#backlog[0];
    const isWaiting = this.#stalled && !this.#walking && this.replies.empty && this.#writeLink.lost;
    if (!isWaiting || waiting === undefined || waiting[0] === 0x53) return false;
    this.dropStalled();
    if (waiting[0] === 0x51 || waiting[0] === 0x46) {
      this.replies.toClient(cancelled);
      this.replies.toClient(readyForQuery(statusLetter(this.replies.status())));
    } else this.#extended.refuse(cancelled);
    this.#goOn();
    return true;
  }

  dropStalled(): void {
    this.#observedStalled = false;
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
    this.cache?.drained();
    this.#holding = false;
    this.copyIn.drained();
    this.#dropLeaving();
    if (this.#ended) return;
    this.#followWriteNode();
    if (this.#endStrayTransactions()) return;
    if (this.#terminating) {
      this.#finish({ kind: "terminate" });
      return;
    }
    this.#goOn();
  }

  resume(): void {
    if (!this.#ended) this.#goOn();
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
      this.#observer?.toNode(link.id, "COMMIT");
      this.out.send(link, commitMessage);
    }
    return !this.replies.empty;
  }

  /** Another node has become the primary: between transactions the session goes over to it. */
  #followWriteNode(): void {
    const { writeNode } = this.router;
    const from = this.#writeLink;
    if (writeNode === undefined || writeNode === from.id || this.inTransaction) return;
    const link = this.replies.links[writeNode];
    if (link === undefined || link.lost || (from.lost && from.inSegment)) return;
    if (from.lost) this.replies.drop(from);
    this.#writesGoTo(link);
  }

  #writesGoTo(link: NodeLink): void {
    const from = this.#writeLink;
    this.#writeLink = link;
    this.replies.statusLink = link;
    this.ports.writeNodeMoved(from, link);
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
    this.cache?.settled(owed);
    this.copyIn.settled(owed);
    switch (owed.kind) {
      case "Query":
        this.router.noteReady(statusLetter(this.#writeLink.status));
        if (!owed.silent) this.#queryDone(owed, owed.subject as StatementFacts);
        if (owed === this.#lateBegin && !owed.failed) this.noteWrite(owed);
        this.#extended.queryEnded(owed.failed);
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

  #queryDone(owed: Owed, facts: StatementFacts): void {
    this.#extended.names.noteForgotten(facts, owed);
    if (!owed.failed) this.noteDone(owed, facts);
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
    this.router.noteError(this.#writeLink.status === FAILED ? "write_node" : "elsewhere", true);
    for (const link of this.replies.links) {
      if (link?.status === IN_TRANSACTION && !link.skipping) this.#extended.failTransaction(link);
    }
  }

  noteWrite(owed: Owed): void {
    this.noteDone(owed, this.router.facts(anyWriteSql));
  }

  noteDone(owed: Owed, facts: StatementFacts): void {
    this.#noteDone(owed, facts);
    if (facts.statement.kind !== "execute" || facts.multiStatement) return;
    for (const executed of this.#extended.names.executedBy(facts))
      this.#noteDone(owed, executed.facts);
  }

  #noteDone(owed: Owed, facts: StatementFacts): void {
    const nodes = facts.prepares.length === 0 ? noNodes : owed.links.map(({ id }) => id);
    this.router.noteDone(facts, nodes);
    if (facts.counter === "select") this.cache?.noteSelect();
    this.#extended.noteSqlDone(facts);
    this.#left = leftAfter(this.#left, facts);
  }

  failed(owed: Owed, link: NodeLink, frame: Uint8Array): void {
    if (owed.silent && !owed.errorsShow) return;
    if (this.copyIn.probeRead(owed, frame)) this.dropStalled();
    this.ports.noteError(link, frame, owed.kind === "Query");
    const { writeLink } = this;
    if (link !== writeLink && writeLink.status === IN_TRANSACTION && !writeLink.skipping) {
      this.#extended.failTransaction(writeLink);
    }
    const where = link === writeLink ? "write_node" : "elsewhere";
    this.router.noteError(where, writeLink.status !== IDLE || link.status !== IDLE);
    this.#extended.failed(owed, link);
  }

  readonly #leaving: { readonly link: NodeLink; readonly why: string }[] = [];
  diverged(link: NodeLink): void {
    this.#leaving.push({ link, why: "its answer differs from the main node's" });
  }

  /** An operator has detached a node: what it is doing for this session it may finish. */
  retire(link: NodeLink): void {
    const why = "the node was detached";
    const isFree = link.queue.size === 0 && !link.inSegment;
    if (isFree || link === this.#writeLink) this.nodeLost(link, why);
    else this.#leaving.push({ link, why });
  }

  /** A node that failed where the main node did not would answer later reads from another state. */
  #dropLeaving(): void {
    if (this.#leaving.length === 0) return;
    for (const { link, why } of this.#leaving.splice(0)) {
      if (this.replies.links[link.id] !== link) continue;
      this.replies.drop(link);
      this.router.lost(link.id);
      this.ports.dropped(link, why);
    }
    this.nodeDrained(); // if it was one of these that took no more, nobody else would say so
  }

  broken(link: NodeLink): void {
    const why = "invalid message length from backend";
    // Nobody knows what a server that talks nonsense has done: no stand-in could speak for it.
    if (link === this.#writeLink) this.#losses.end(link, why, link.fatal);
    else this.nodeLost(link, why);
  }

  farewell(link: NodeLink, frame: Uint8Array): boolean {
    if (this.#transparent) return false;
    this.#losses.farewell(link, frame);
    return true;
  }

  unasked(link: NodeLink): boolean {
    return link === this.#writeLink && link.fatal;
  }

  parameterStatus(link: NodeLink, frame: Uint8Array): boolean {
    this.ports.parameterStatus(link, frame);
    this.cache?.parameterChanged(link);
    if (link !== this.#writeLink) return false;
    this.#noteParameter(frame);
    return true;
  }

  #noteParameter(frame: Uint8Array): void {
    const [name, value] = text(frame, 5, frame.length).split("\0");
    if (name === "standard_conforming_strings") this.router.standardStrings = value !== "off";
  }

  copyBegan(owed: Owed): void {
    if (this.copyIn.began(owed)) this.#goOn();
  }

  nodeLost(link: NodeLink, message: string): void {
    if (this.#uses(link)) this.#losses.lost(link, message);
  }

  verdict(link: NodeLink, isAlive: boolean): void {
    if (this.#uses(link)) this.#losses.verdict(link, isAlive);
  }

  #uses(link: NodeLink): boolean {
    return !this.#ended && this.replies.links[link.id] === link;
  }

  failTransaction(link: NodeLink): void {
    this.#extended.failTransaction(link);
  }

  /** The cluster is not what it was: a statement that waits for a node to write to may go on. */
  nodesChanged(): void {
    if (this.#ended || !this.replies.empty || this.#walking) return;
    this.#followWriteNode();
    this.#goOn();
  }

  /** Whether all that this session is made of can be had on a new connection. */
  get leftNothing(): boolean {
    return this.#left === "nothing";
  }
  /** What passes bytes on has a state that nobody here knows. */
  get left(): Leaves {
    return this.#transparent ? "state" : this.#left;
  }
  #left: Leaves = "nothing";

  get ended(): boolean {
    return this.#ended;
  }

  /**
   * A new connection takes the place of one that was lost. Only between transactions, while nothing
   * is owed; `nodesChanged` is to follow when the sink's bytes find their way to `fromNode`.
   */
  adopt(id: NodeLink["id"], sink: ByteSink): NodeLink {
    const before = this.replies.links[id];
    if (before !== undefined) this.replies.drop(before);
    const link = this.replies.attach(id, sink);
    this.#alones[id] = undefined;
    this.router.regained(id);
    this.cache?.connected(link);
    if (before === this.#writeLink) this.#writesGoTo(link);
    return link;
  }

  // ---------------------------------------------------------------- the end

  #terminate(): boolean {
    if (this.copyIn.links.length > 0) {
      if (this.copyIn.mayBeOver && !this.replies.empty) return this.waitDrained();
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
    this.cache?.ended();
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
