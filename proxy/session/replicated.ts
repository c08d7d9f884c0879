/**
 * One client's session in native replication and snapshot isolation. A client message becomes a
 * script (see `Ensemble`), which is run to its end before the next is read: the order of statements
 * is then the same on every node. Like `Session` it touches no socket.
 */
import { ROUTE_TYPE, routeTable } from "../../core/admin/show_route.ts";
import { encodeTable, type Table } from "../../core/admin/table.ts";
import { isLive, type NodeId } from "../../core/cluster/state.ts";
import { ProtocolViolation } from "../../core/errors.ts";
import type { ProxyReason, RouteReason } from "../../core/routing/reasons.ts";
import type { Leaves, StatementFacts } from "../../core/sql/facts.ts";
import type { InsertLock } from "../../core/sql/insert_lock.ts";
import { literals, placeBefore, type Rewriting, withLiterals } from "../../core/sql/rewrite.ts";
import { commandComplete, errorResponse, readyForQuery } from "../../core/wire/backend.ts";
import { BACKEND, FRONTEND } from "../../core/wire/codes.ts";
import { type Frame, FrameDecoder, frontendBodySizeMax } from "../../core/wire/frame.ts";
import type { Protocol } from "../routing/route.ts";
import type {
  ClientSession,
  Observer,
  ReplicationPorts,
  SessionEnd,
  SessionPorts,
} from "./desk.ts";
import { anyWriteSql, explainedBy, leftAfter } from "./effects.ts";
import { Ensemble } from "./ensemble.ts";
import { LargeObjects } from "./large_objects.ts";
import {
  queryMessage,
  statusLetter,
  text,
  transactionFailed,
  valuesOf,
  withPlace,
} from "./messages.ts";
import { preludeOf } from "./prelude.ts";
import { type Exchange, Replica, type ReplicaEvents } from "./replica.ts";
import { type ByteSink, FAILED } from "./replies.ts";
import type { Route, SessionRouter } from "./router.ts";
import type { EnsembleHost, Outcome, Pause, Script } from "./scripts.ts";
import { Segments } from "./segments.ts";
import { connectionLost } from "./stand_in.ts";

const none: readonly never[] = [];
const simpleUnit = {
  protocol: "simple",
  executes: true,
  last: true,
  lasting: true,
  along: undefined,
  numbered: none,
  before: () => undefined,
  parameters: undefined,
} as const;

const notRun: Outcome = { failed: true, completed: 0, untold: undefined, readyTold: false };
const nothing = new Uint8Array(0);
const readyFrames = { I: readyForQuery("I"), T: readyForQuery("T"), E: readyForQuery("E") };

/** Bytes of the client beyond which it is not read from while a script runs. */
const AHEAD_BYTES_MAX = 256 * 1024;

/** A question of ours about the catalogs was not answered. */
type AskingFailed = { readonly error: Uint8Array };

/**
 * Where a statement goes, if not to pgpool itself. `unknown`: what had to be asked was not answered, so
 * nobody can say what the nodes would make of it.
 */
export type Destination =
  | { readonly kind: "replicas"; readonly replicas: readonly Replica[]; readonly why: RouteReason }
  | { readonly kind: "proxy"; readonly why: ProxyReason }
  | { readonly kind: "unknown"; readonly error: Uint8Array };

export class ReplicatedSession implements ClientSession, EnsembleHost, ReplicaEvents {
  readonly ports: SessionPorts;
  readonly replication: ReplicationPorts;
  readonly router: SessionRouter;
  readonly ensemble: Ensemble;
  readonly #segments: Segments;
  readonly #largeObjects: LargeObjects;
  readonly #inbox = new FrameDecoder({ bodySizeMax: frontendBodySizeMax });
  observer: Observer | undefined;
  /** An error was answered in an unfinished segment: messages are ignored until Sync. */
  discarding = false;

  #script: Script | undefined;
  #pause: Pause | undefined;
  #proceeding = false;
  #ended = false;
  /** The client has gone, and what it began is brought to its end. */
  #orphaned: SessionEnd | undefined;
  #clientFull = false;
  #nodesFull = false;
  #clientAhead = false;
  #left: Leaves = "nothing";
  /** Connections that are gone while their nodes are members of the cluster. */
  readonly #doubtful = new Set<Replica>();
  /** Detached by an operator, and still used until the transaction is over. */
  readonly #retiring = new Set<Replica>();

  constructor(options: {
    readonly ports: SessionPorts;
    readonly replication: ReplicationPorts;
    readonly router: SessionRouter;
    readonly nodes: readonly { readonly id: NodeId; readonly sink: ByteSink }[];
    /** ParameterStatus by name, as the client was told at its log-in. */
    readonly parameters: ReadonlyMap<string, Uint8Array>;
  }) {
    this.ports = options.ports;
    this.#told = new Map(options.parameters);
    this.replication = options.replication;
    this.router = options.router;
    this.ensemble = new Ensemble(this);
    this.#segments = new Segments(this);
    this.#largeObjects = new LargeObjects(this.ensemble);
    for (const { id, sink } of options.nodes) this.ensemble.links[id] = new Replica(id, sink);
    this.ensemble.changed();
    this.router.isBound = () => this.busy;
    this.router.session.parsed = (name) => this.#segments.parsed(name);
  }

  get links(): readonly (Replica | undefined)[] {
    return this.ensemble.links;
  }

  get writeLink(): Replica {
    const link = this.ensemble.main ?? this.links.find((each) => each !== undefined);
    if (link === undefined) throw new Error("no connection to any node");
    return link;
  }

  get inTransaction(): boolean {
    return this.ensemble.inTransaction;
  }

  get busy(): boolean {
    return this.#script !== undefined || this.ensemble.internal;
  }

  get leftNothing(): boolean {
    return this.#left === "nothing";
  }

  // ---------------------------------------------------------------- the client

  fromClient(chunk: Uint8Array): void {
    if (this.#ended) return;
    this.#inbox.add(chunk);
    this.#proceed();
    if (this.#script === undefined || this.#pause === "client") return;
    if (this.#inbox.buffered < AHEAD_BYTES_MAX || this.#clientAhead) return;
    this.#clientAhead = true;
    this.ports.client.pause();
  }

  unread(message: Frame): void {
    this.#unread = message;
  }
  #unread: Frame | undefined;

  nextMessage(): Frame | undefined {
    const again = this.#unread;
    this.#unread = undefined;
    if (again !== undefined) return again;
    try {
      const frame = this.#inbox.next();
      if (frame !== undefined) this.observer?.fromClient(frame.raw, 0, frame.raw.length);
      return frame;
    } catch (error) {
      if (!(error instanceof ProtocolViolation)) throw error;
      this.violation(error.message);
      return undefined;
    }
  }

  toClient(bytes: Uint8Array): void {
    if (this.#ended || this.#orphaned !== undefined || this.ports.client.send(bytes)) return;
    this.#clientFull = true;
    for (const link of this.links) link?.sink.pause();
  }

  aside(frame: Uint8Array): void;
  aside(replica: Replica, frame: Uint8Array, exchange: Exchange | undefined): void;
  aside(from: Replica | Uint8Array, frame?: Uint8Array, exchange?: Exchange): void {
    if (from instanceof Uint8Array) this.toClient(from);
    else if (frame !== undefined) this.#asideOf(from, frame, exchange);
  }

  #asideOf(replica: Replica, frame: Uint8Array, exchange: Exchange | undefined): void {
    const type = frame[0];
    if (type === BACKEND.ParameterStatus) this.ports.parameterStatus(replica, frame);
    if (replica !== this.ensemble.main) return;
    const passes = exchange === undefined || exchange.hearing === "all";
    if (type === BACKEND.ParameterStatus) {
      const [name, value] = text(frame, 5, frame.length).split("\0");
      if (name === "standard_conforming_strings") this.router.standardStrings = value !== "off";
      this.#parameters.set(name ?? "", frame.slice());
      if (passes) for (const each of this.beforeReady()) this.toClient(each);
    } else if (type === BACKEND.NotificationResponse && !passes) this.#notifications.push(frame);
    else this.toClient(frame);
  }

  /** What has changed since the client last heard ReadyForQuery: PostgreSQL tells it just before. */
  readonly #parameters = new Map<string, Uint8Array>();
  /** What the client knows. */
  readonly #told: Map<string, Uint8Array>;

  /** `last`: what completed the statement, where the client has not been told. */
  ready(last: Uint8Array = nothing): void {
    const ready = readyFrames[statusLetter(this.ensemble.status)];
    this.toClient(Buffer.concat([last, ...this.beforeReady(), ready]));
  }

  beforeReady(): readonly Uint8Array[] {
    if (this.#parameters.size === 0 && this.#notifications.length === 0) return none;
    return [...this.#notifications.splice(0), ...this.#newParameters()];
  }

  /** That came within a statement, or with a COMMIT of ours: PostgreSQL tells them when it is ready. */
  readonly #notifications: Uint8Array[] = [];

  /** A setting that was undone with our transaction is what it was. */
  #newParameters(): readonly Uint8Array[] {
    const changed = [...this.#parameters].filter(([name, frame]) => {
      const old = this.#told.get(name);
      return old === undefined || !Buffer.from(old).equals(frame);
    });
    for (const [name, frame] of changed) this.#told.set(name, frame);
    this.#parameters.clear();
    return changed.map(([, frame]) => frame);
  }

  clientDrained(): void {
    if (!this.#clientFull) return;
    this.#clientFull = false;
    for (const link of this.links) link?.sink.resume();
  }

  nodeDrained(): void {
    if (!this.#nodesFull) return;
    this.#nodesFull = false;
    if (!this.#clientAhead) this.ports.client.resume();
  }

  // ---------------------------------------------------------------- the nodes

  fromNode(link: Replica, chunk: Uint8Array): void {
    if (this.#ended || link.lost) return;
    try {
      link.receive(chunk, this);
    } catch (error) {
      if (!(error instanceof ProtocolViolation)) throw error;
      this.nodeLost(link, "invalid message length from backend");
      return;
    }
    this.#proceed();
  }

  clientStatus(): number {
    return this.ensemble.status;
  }

  noteError(replica: Replica, frame: Uint8Array): void {
    this.ports.noteError(replica, frame, false);
  }

  noteFrame(replica: Replica, type: number): void {
    this.observer?.fromNode(replica.id, type);
  }

  /**
   * The others have the same data and the same transaction, so the session can go on with them, but
   * only when the node leaves the cluster: else it would not hear of what is written from now on.
   */
  nodeLost(link: Replica, message: string): void {
    if (this.#ended || this.links[link.id] !== link) return;
    const node = this.router.cluster.nodes[link.id];
    const isMember = node !== undefined && isLive(node);
    if (!link.lost) {
      link.lose(message);
      this.ensemble.changed();
      this.router.lost(link.id);
      this.ports.dropped(link, message);
      this.nodeDrained(); // it may be the one that took no more
      if (isMember) {
        this.#doubtful.add(link);
        this.replication.lost(link);
      }
    }
    if (!isMember) this.#letGo(link);
    this.#proceed();
  }

  #letGo(link: Replica): void {
    this.#doubtful.delete(link);
    this.#retiring.delete(link);
    if (!link.lost) {
      link.lose("the node was detached");
      this.router.lost(link.id);
      this.ports.dropped(link, link.why);
    }
    if (this.links[link.id] === link) this.ensemble.forget(link);
  }

  retire(link: Replica): void {
    if (this.links[link.id] !== link) return;
    if (link.lost) this.#letGo(link);
    else this.#retiring.add(link);
    this.#proceed();
  }

  verdict(link: Replica, isAlive: boolean): void {
    if (this.#ended || !isAlive || !this.#doubtful.has(link)) return;
    const end = { kind: "broken", why: link.why } as const;
    this.toClient(link.lastWords ?? connectionLost("FATAL", link, link.why));
    this.#doubtful.delete(link);
    if (link.isBound) {
      // Others have made last what it may lack: they bring it to its end.
      this.ensemble.parted(link);
      this.end(end);
      this.#proceed();
      return;
    }
    if (this.ensemble.members.some(({ isAhead }) => isAhead)) {
      // What that one answers holds for all: the others bring it to its end.
      this.end(end);
      this.#proceed();
      return;
    }
    // Nothing lasts on the others yet: with their connections they undo what they have of it. What
    // it refuses with its last words it has not made last either.
    const hasRefused = link.lastWords !== undefined && !link.hasCompleted;
    if (link.isAhead && !hasRefused) this.ensemble.parted(link);
    for (const each of this.ensemble.members) {
      if (each.isCancellable) void this.replication.cancel(each);
    }
    this.#finish(end);
  }

  /** There is always a node that takes writes, or the session is over. */
  cancelWaiting(): boolean {
    return false;
  }

  nodesChanged(): void {
    if (!this.#ended) this.#proceed();
  }

  tick(): void {
    this.ensemble.tick();
  }

  adopt(id: NodeId, sink: ByteSink): Replica {
    const link = new Replica(id, sink);
    this.ensemble.links[id] = link;
    this.ensemble.changed();
    this.router.regained(id);
    return link;
  }

  wake(): void {
    this.#proceed();
  }

  // ---------------------------------------------------------------- scripts

  /** Runs what can be run: the script that is under way, then those of the messages behind it. */
  #proceed(): void {
    if (this.#proceeding) return;
    this.#proceeding = true;
    while (!this.#ended) {
      if (this.#script === undefined) {
        if (this.#orphaned !== undefined) {
          this.#finish(this.#orphaned);
          break;
        }
        if (!this.ensemble.internal && !this.inTransaction) this.#dropRetired();
        const message = this.nextMessage();
        if (message === undefined) break;
        this.#script = this.#scriptFor(message);
        continue;
      }
      if (this.#mustWait()) {
        if (this.#flush()) break;
        continue;
      }
      const step = this.#script.next();
      if (this.#ended) break;
      if (step.done === true) this.#script = this.#pause = undefined;
      else {
        this.#pause = step.value;
        if (step.value === "client") {
          if (this.#orphaned !== undefined) this.#finish(this.#orphaned);
          else this.#flush();
          break;
        }
      }
    }
    this.#proceeding = false;
    this.#readClient();
  }

  #mustWait(): boolean {
    switch (this.#pause) {
      case undefined:
      case "client":
        return false;
      case "answers":
        return (
          this.#doubtful.size > 0 ||
          this.ensemble.isCancelling ||
          this.ensemble.members.some(({ rests }) => !rests)
        );
      case "turn":
        return this.ensemble.waitsItsTurn;
    }
  }

  /** What was asked leaves. Always true: then it is waited for. */
  #flush(): true {
    for (const replica of this.ensemble.members) {
      if (replica.flush()) continue;
      this.#nodesFull = true;
      this.ports.client.pause();
    }
    return true;
  }

  #readClient(): void {
    if (this.#ended || !this.#clientAhead) return;
    if (this.#script !== undefined && this.#inbox.buffered >= AHEAD_BYTES_MAX) return;
    this.#clientAhead = false;
    if (!this.#nodesFull) this.ports.client.resume();
  }

  #scriptFor(frame: Frame): Script | undefined {
    const { type } = frame;
    if (this.discarding && type !== FRONTEND.Sync && type !== FRONTEND.Terminate) return undefined;
    switch (type) {
      case FRONTEND.Query:
        return this.#query(frame);
      case FRONTEND.Parse:
      case FRONTEND.Bind:
      case FRONTEND.Describe:
      case FRONTEND.Execute:
      case FRONTEND.Close:
      case FRONTEND.Sync:
      case FRONTEND.Flush:
        return this.#segments.scriptFor(frame);
      case FRONTEND.FunctionCall:
        return this.#functionCall(frame);
      case FRONTEND.Terminate:
        this.#finish({ kind: "terminate" });
        return undefined;
      case FRONTEND.CopyData:
      case FRONTEND.CopyDone:
      case FRONTEND.CopyFail:
        return undefined; // PostgreSQL ignores them where nothing reads them
      default:
        this.violation(`invalid frontend message type ${type}`);
        return undefined;
    }
  }

  // ---------------------------------------------------------------- simple query

  *#query({ raw }: Frame): Script {
    const sql = text(raw, 5, raw.length - 1);
    if (raw[raw.length - 1] !== 0) {
      this.violation("invalid string in message");
      return;
    }
    if (this.#segments.isPending) yield* this.#segments.runPending();
    if (this.discarding) return;
    const facts = this.router.facts(sql);
    const way =
      this.#decideAtOnce(facts, sql, "simple") ?? (yield* this.decide(facts, sql, "simple"));
    if (way.kind === "unknown") {
      this.#segments.querySent();
      this.toClient(way.error);
      yield* this.#conclude(facts, notRun, this.ensemble.members, "simple");
      return;
    }
    if (way.kind === "proxy" || this.#segments.deallocatesOwn(facts)) {
      yield* this.#answer(way.why, sql, facts);
      return;
    }
    this.#segments.querySent();
    let message = raw;
    let placeOf: ((place: number) => number) | undefined;
    this.renewPrepared(facts);
    const rewriting = this.rewriting(facts, sql, way.replicas);
    const question = rewriting && {
      asked: rewriting.asked,
      answer: (values: readonly (string | null)[]) => {
        message = queryMessage(withLiterals(sql, rewriting, values));
        placeOf = (place) => placeBefore(sql, rewriting, literals(values), place);
      },
    };
    // Within a transaction, then, which has one time.
    const isSteady = rewriting?.steady === true && facts.inBlock === "undone";
    const locks = this.locks(facts, sql, way.replicas);
    const prelude = preludeOf({
      ensemble: this.ensemble,
      protocol: "simple",
      locks,
      questions: question === undefined || isSteady ? [] : [question],
    });
    this.noteSent(facts, sql);
    const outcome = yield* this.ensemble.run(
      {
        ...simpleUnit,
        sql,
        facts,
        repeatable: facts.destination === "either",
        prelude,
        along: isSteady ? question : undefined,
        numbered: locks.map(({ table }) => table),
        message: () => message,
        before: (replica) => this.#segments.carried(facts, sql, replica),
        note: (replica, exchange) => {
          const changed = placeOf;
          if (changed !== undefined) exchange.instead = (error) => withPlace(error, changed);
          this.ports.noteNodeStatement(replica, "", sql, facts, way.why);
        },
      },
      way.replicas,
    );
    yield* this.#conclude(facts, outcome, way.replicas, "simple");
  }

  *#functionCall(frame: Frame): Script {
    const { raw } = frame;
    yield* this.#segments.runPending();
    if (this.discarding) return;
    const facts = this.router.facts(anyWriteSql);
    const replicas = this.ensemble.members;
    let message = raw;
    const numbered = yield* this.#largeObjects.preludeOf(frame, replicas, (bytes) => {
      message = bytes;
    });
    const outcome = yield* this.ensemble.run(
      {
        ...simpleUnit,
        protocol: "extended", // a Query of ours would take the client's unnamed statement
        sql: "function call",
        facts,
        repeatable: false,
        prelude: numbered,
        message: () => message,
        note: () => {},
      },
      replicas,
    );
    yield* this.#conclude(facts, outcome, replicas, "extended");
  }

  /** ReadyForQuery, behind the end of a transaction that is ours. */
  *#conclude(
    facts: StatementFacts,
    { failed, untold, readyTold }: Outcome,
    replicas: readonly Replica[],
    protocol: Protocol,
  ): Script {
    let error: Uint8Array | undefined;
    if (!readyTold) {
      if (this.ensemble.internal) error = yield* this.ensemble.finish(protocol);
      this.ready(failed ? undefined : (error ?? untold));
    }
    this.noteDone(facts, failed || error !== undefined, replicas);
    if (this.ensemble.inTransaction) return;
    this.router.noteReady("I"); // what it has defined is committed
    this.#segments.transactionEnded();
  }

  *#answer(why: RouteReason | ProxyReason, sql: string, facts: StatementFacts): Script {
    this.#segments.querySent();
    if (why === "failed_transaction") this.toClient(transactionFailed);
    else if (this.#segments.deallocatesOwn(facts)) {
      this.#segments.noteSqlDone(facts);
      this.toClient(commandComplete("DEALLOCATE"));
    } else {
      const explained = explainedBy(facts);
      const told = explained === undefined ? undefined : yield* this.explain(explained, "simple");
      this.ports.noteStatement(sql);
      if (told === undefined) this.toClient(this.ports.answer(sql, facts));
      else if ("error" in told) {
        this.toClient(told.error);
        this.noteDone(facts, true, this.ensemble.members);
      } else this.toClient(encodeTable(told, ROUTE_TYPE));
    }
    const error = yield* this.ensemble.finish("simple");
    if (error !== undefined) this.toClient(error);
    this.ready();
  }

  /** PGPOOL EXPLAIN ROUTE. */
  *explain(sql: string, protocol: Protocol): Script<Table | AskingFailed> {
    const facts = this.router.facts(sql);
    for (;;) {
      const foreseen = this.router.foresee(facts, sql, protocol);
      if (foreseen.kind === "ask") {
        const failed = yield* this.#askCatalog(foreseen.questions);
        if (failed !== undefined) return failed;
        continue;
      }
      const { route, why } = foreseen;
      if (route.kind === "proxy") return routeTable(why, []);
      const targets = route.nodes.map((node) => ({
        node,
        role: this.router.roleOf(node),
        instead: undefined,
        first: undefined,
      }));
      return routeTable(why, targets);
    }
  }

  // ---------------------------------------------------------------- where to

  *decide(facts: StatementFacts, sql: string, protocol: Protocol): Script<Destination> {
    const { ensemble, router } = this;
    if (ensemble.isSnapshotMode && ensemble.inTransaction) {
      yield* ensemble.takeSnapshot({ facts, protocol }, ensemble.members);
    }
    for (;;) {
      const route = router.decide(facts, sql, protocol);
      if (route.kind !== "ask") return this.#destinationOf(route);
      if (ensemble.status === FAILED) {
        return { kind: "replicas", replicas: ensemble.members, why: "replicated" };
      }
      const failed = yield* this.#askCatalog(route.questions);
      if (failed !== undefined) return { kind: "unknown", error: failed.error };
    }
  }

  /** Where nothing has to be asked before. */
  #decideAtOnce(facts: StatementFacts, sql: string, protocol: Protocol): Destination | undefined {
    if (this.ensemble.isSnapshotMode) return undefined;
    const route = this.router.decide(facts, sql, protocol);
    return route.kind === "ask" ? undefined : this.#destinationOf(route);
  }

  #destinationOf(route: Exclude<Route, { kind: "ask" }>): Destination {
    if (route.kind === "proxy") return route;
    const { why } = route;
    return { kind: "replicas", replicas: this.#replicasOf(route.nodes, why), why };
  }

  /** What is to be put into it for several nodes; and EXECUTE gives its parameters wherever it goes. */
  rewriting(
    facts: StatementFacts,
    sql: string,
    replicas: readonly Replica[],
  ): Rewriting | undefined {
    const isMeant = replicas.length > 1 || facts.executed.length > 0;
    if (isMeant && !this.ensemble.failed) return this.router.rewriting(facts, sql);
    this.router.session.adding.clear();
    return undefined;
  }

  /** What SQL's PREPARE has made and this executes, for the tables as they are now. */
  renewPrepared({ executed }: StatementFacts): void {
    if (!this.ensemble.failed) for (const name of executed) this.router.renewPrepared(name);
  }

  locks(facts: StatementFacts, sql: string, replicas: readonly Replica[]): readonly InsertLock[] {
    if (replicas.length === 1 || this.ensemble.status === FAILED) return [];
    return this.router.insertLocks(facts, sql);
  }

  #replicasOf(nodes: readonly NodeId[], why: RouteReason): readonly Replica[] {
    const { links, ensemble } = this;
    if (why === "replicated" || why === "multi_statement") return ensemble.members;
    const found: Replica[] = [];
    for (const id of nodes) {
      const link = links[id];
      if (link !== undefined && !link.lost) found.push(link);
    }
    const { main } = ensemble;
    return found.length > 0 || main === undefined ? found : [main];
  }

  /** When it cannot be asked the transaction has failed, and on every node. */
  *#askCatalog(
    questions: Parameters<SessionRouter["questionSql"]>[0],
  ): Script<AskingFailed | undefined> {
    const { ensemble, router } = this;
    for (;;) {
      const { main } = ensemble;
      if (main === undefined) return yield* ensemble.nobodyLeft("no DB node is left");
      const [answer] = yield* ensemble.ask([main], router.questionSql(questions));
      if (answer === undefined || answer.lost) continue;
      if (answer.error !== undefined) {
        yield* ensemble.failTogether();
        return { error: answer.error };
      }
      router.answered(questions, valuesOf(answer.rows[0]), main.id);
      return undefined;
    }
  }

  // ---------------------------------------------------------------- what is remembered

  noteSent(facts: StatementFacts, sql: string): void {
    this.router.noteSent(facts);
    this.ports.noteStatement(sql);
    if (facts.statement.kind === "unparsable") this.ports.noteUnparsable(sql);
  }

  /** A statement has been answered. */
  noteDone(facts: StatementFacts, failed: boolean, replicas: readonly Replica[]): void {
    const { router, ensemble } = this;
    router.noteReady(statusLetter(ensemble.status));
    if (failed) {
      router.noteError("write_node", ensemble.inTransaction);
      if (!ensemble.inTransaction) router.noteOver();
      return;
    }
    router.noteDone(
      facts,
      replicas.map(({ id }) => id),
    );
    this.#segments.noteSqlDone(facts);
    this.#left = leftAfter(this.#left, facts);
  }

  // ---------------------------------------------------------------- the end

  #dropRetired(): void {
    for (const link of this.#retiring) this.#letGo(link);
  }

  violation(message: string): void {
    const error = errorResponse({ severity: "FATAL", code: "08P01", message });
    this.end({ kind: "broken", why: message }, error);
  }

  /** What some nodes have run is run on all, though the client is gone. */
  end(end: SessionEnd, error?: Uint8Array): void {
    if (this.#ended) return;
    if (this.#orphaned !== undefined) {
      if (this.#proceeding) this.#finish(this.#orphaned); // its script can do no more
      return;
    }
    if (error !== undefined) this.toClient(error);
    const { mustFinish, othersRun, members } = this.ensemble;
    for (const replica of othersRun ? [] : members) {
      if (replica.isCancellable) void this.replication.cancel(replica);
    }
    if (!mustFinish || this.#proceeding || this.#pause === "client") {
      this.#finish(end);
      return;
    }
    this.#orphaned = end;
    this.ensemble.abandon();
    this.clientDrained();
  }

  #finish(end: SessionEnd): void {
    if (this.#ended) return;
    this.#ended = true;
    this.ensemble.close();
    this.ports.ended(end);
  }
}
