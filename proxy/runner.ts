/**
 * One client from accept to goodbye: log-in, a set of backends from the pool or newly opened, the
 * session between them, and at the end the clean-up that lets the next client have the set. The
 * session decides; this carries out, and owns the sockets.
 */
import { BackendRefused } from "../core/auth/client.ts";
import { isLive, mainNode, type NodeId, writeNode } from "../core/cluster/state.ts";
import type { Config } from "../core/config/schema.ts";
import { rebase } from "../core/config/session.ts";
import { BackendUnavailable, PgpoolError, TooManyClients } from "../core/errors.ts";
import type { Log, LogSource } from "../core/ports.ts";
import type { StatementFacts } from "../core/sql/facts.ts";
import {
  authenticationOk,
  backendKeyData,
  decodeBackend,
  errorField,
  errorResponse,
  noticeResponse,
  readyForQuery,
  toErrorResponse,
} from "../core/wire/backend.ts";
import { ForeignPacket, frameOf, loginBodySizeMax } from "../core/wire/frame.ts";
import { type Backend, openBackend, resetBackend } from "./backend.ts";
import { Channel, ChannelClosed, HandshakeFailed } from "./channel.ts";
import type { Engine } from "./engine.ts";
import { BackendSet } from "./pool.ts";
import { routingRules } from "./routing/rules.ts";
import type { SessionEnd, SessionPorts } from "./session/desk.ts";
import { IDLE, type NodeLink } from "./session/replies.ts";
import { SessionRouter } from "./session/router.ts";
import { Session } from "./session/session.ts";
import { firstRequest, LogIn, type StartupRequest } from "./session/startup.ts";
import type { Slot, SlotActivity } from "./slots.ts";
import type { Conn, ConnHandler, PeerAddress } from "./transport/conn.ts";

/** Databases whose connections are never kept (spec wire/pooling.md section 4). */
const neverPooled = new Set(["template0", "template1", "postgres", "regression"]);
const resetTimeoutMs = 10_000;

export class Runner {
  readonly #engine: Engine;
  readonly #conn: Conn;
  readonly #abort = new AbortController();
  readonly source: LogSource;
  readonly startedAt: number;
  /** When its log-in began, without the time that it waited for a slot. */
  logInSince: number;
  readonly #log: Log;
  slot: Slot | undefined;
  request: StartupRequest | undefined;
  set: BackendSet | undefined;
  session: Session | undefined;
  router: SessionRouter | undefined;
  /** Milliseconds, by the engine's coarse clock: when the client last said something. */
  lastHeardAt: number;
  /** The last statement that went to each node, for SHOW pool_pools. */
  readonly #statements: (string | undefined)[] = [];
  /** What this client has changed for itself by PGPOOL SET. */
  #own: Config | undefined;
  #cancelKey: { readonly processId: number; readonly secretKey: Uint8Array } | undefined;
  #slotAwaited = false;
  #done = false;

  constructor(engine: Engine, conn: Conn) {
    this.#engine = engine;
    this.#conn = conn;
    this.startedAt = engine.clock();
    this.logInSince = this.startedAt;
    this.lastHeardAt = this.startedAt;
    this.source = { processName: "CHILD", applicationName: "child", pid: engine.pid };
    this.#log = engine.log.as(this.source);
  }

  get config(): Config {
    return this.#own ?? this.#engine.config;
  }

  /** PGPOOL SET and RESET. */
  configure(config: Config): void {
    this.#own = config === this.#engine.config ? undefined : config;
    this.router?.useRules(this.#own && routingRules(this.#own));
  }

  /** The configuration was read again; what the client set for itself stays. */
  reconfigured(base: Config): void {
    if (this.#own !== undefined) this.configure(rebase(this.#own, base, this.#engine.config));
  }

  statementOn(node: NodeId): string | undefined {
    return this.#statements[node];
  }

  get peer(): PeerAddress {
    return this.#conn.peer;
  }

  get activity(): SlotActivity {
    if (this.session === undefined) return "Connecting";
    if (this.session.busy) return "Execute command";
    return this.session.inTransaction ? "Idle in transaction" : "Idle";
  }

  /** Never rejects: whatever goes wrong ends this client and nobody else. */
  async run(): Promise<void> {
    const channel = new Channel(this.#conn, { bodySizeMax: loginBodySizeMax });
    channel.onClosed = () => this.#abort.abort(new ChannelClosed("the client is gone"));
    const { signal } = this.#abort;
    signal.addEventListener("abort", () => channel.giveUp(signal.reason as Error), { once: true });
    try {
      this.#refuseWhenReserved();
      if (!(await this.#logIn(channel))) this.#conn.end();
    } catch (error) {
      this.#refuse(error);
      this.session?.end({ kind: "broken", why: "the session could not begin" });
    } finally {
      if (this.session === undefined) this.#release();
    }
  }

  /** Ends the session (or the log-in) from outside: shutdown, an idle limit, an operator. */
  terminate(error: PgpoolError): void {
    this.#abort.abort(error);
    if (this.session === undefined) return;
    this.#logError(error);
    this.session.end({ kind: "broken", why: error.message }, toErrorResponse(error));
  }

  // ---------------------------------------------------------------- log-in

  /** authentication_timeout is over: the client is let go without a word, as Pgpool does. */
  loginTimedOut(): void {
    this.#log.write("LOG", "authentication timeout");
    this.#abort.abort(new ChannelClosed("authentication timeout"));
    this.#conn.destroy();
  }

  /** Its time is the client's to use up; waiting for a slot is not the client's fault. */
  get isLoggingIn(): boolean {
    return this.session === undefined && !this.#slotAwaited && !this.#done;
  }

  #refuseWhenReserved(): void {
    const { reserved_connections, num_init_children } = this.#engine.config;
    if (reserved_connections === 0) return;
    if (this.#engine.clientCount <= num_init_children - reserved_connections) return;
    throw new TooManyClients("Sorry, too many clients already");
  }

  /** False when there is nothing to serve: a cancel request, a protocol that is not ours. */
  async #logIn(channel: Channel): Promise<boolean> {
    const engine = this.#engine;
    this.#logConnection();
    const first = await firstRequest(channel, engine.login.tls);
    if (first.kind === "cancel") await engine.cancel(first.processId, first.secretKey);
    if (first.kind !== "session") return false;
    const { request } = first;
    this.request = request;
    this.source.user = request.user;
    this.source.database = request.database;
    if (request.applicationName !== "") this.source.applicationName = request.applicationName;
    if (mainNode(engine.state) === undefined) throw allNodesDown();
    this.slot = await this.#awaitSlot();
    const logIn = await LogIn.begin(engine.login, channel, request);
    const set = await this.#checkOut(logIn, request, this.slot);
    this.#abort.signal.throwIfAborted();
    this.#startSession(channel, request, set);
    return true;
  }

  async #awaitSlot(): Promise<Slot> {
    const engine = this.#engine;
    const askedAt = engine.clock();
    this.#slotAwaited = true;
    const slot = await engine.slots.acquire(this.#abort.signal);
    this.#slotAwaited = false;
    this.logInSince += engine.clock() - askedAt;
    engine.slotTaken(slot, this);
    return slot;
  }

  #logConnection(): void {
    if (!this.#engine.config.log_connections) return;
    const { peer } = this.#conn;
    const where = peer.kind === "unix" ? "host=[local]" : `host=${peer.host} port=${peer.port}`;
    this.#log.write("LOG", "new connection received", { detail: `connecting ${where}` });
  }

  // ---------------------------------------------------------------- backends

  async #checkOut(logIn: LogIn, request: StartupRequest, slot: Slot): Promise<BackendSet> {
    const { pool } = this.#engine;
    for (;;) {
      const set = request.replication
        ? undefined
        : pool.take(request.key, slot.index, this.#engine.clock());
      if (set === undefined) break;
      this.set = set;
      if (this.#engine.isUsable(set)) {
        await this.#reuse(logIn, set);
        return set;
      }
      this.#engine.discard(set);
      this.set = undefined;
    }
    const victim = pool.makeRoom(slot.index);
    victim?.close();
    this.set = await this.#open(logIn, request);
    pool.add(this.set, slot.index);
    return this.set;
  }

  /** A client that fails here leaves the set as it is, for those who may have it. */
  async #reuse(logIn: LogIn, set: BackendSet): Promise<void> {
    try {
      await logIn.reuse(set);
    } catch (error) {
      this.set = undefined;
      this.#engine.keep(set);
      throw error;
    }
  }

  async #open(logIn: LogIn, request: StartupRequest): Promise<BackendSet> {
    const { state, clock } = this.#engine;
    const needed = writeNode(state);
    if (needed === undefined) throw allNodesDown();
    const alone = request.replication || state.mode === "raw";
    const wanted = alone ? [needed] : state.nodes.filter(isLive).map((node) => node.id);
    const opened = await Promise.allSettled(
      wanted.map((node) => this.#openNode(node, logIn, request)),
    );
    const backends: (Backend | undefined)[] = [];
    for (const outcome of opened) {
      if (outcome.status === "fulfilled") backends[outcome.value.node] = outcome.value;
    }
    const closeAll = () => {
      for (const backend of backends) backend?.close();
    };
    const neededOutcome = opened[wanted.indexOf(needed)];
    if (neededOutcome?.status !== "fulfilled") {
      closeAll();
      throw neededOutcome?.reason ?? allNodesDown();
    }
    try {
      logIn.conclude(
        backends.filter((backend) => backend !== undefined).map((each) => each.demand),
      );
    } catch (error) {
      closeAll();
      throw error;
    }
    const { demand } = neededOutcome.value;
    const secret = await logIn.secretGiven(demand);
    return new BackendSet({ identity: request, backends, demand, secret, now: clock() });
  }

  async #openNode(node: NodeId, logIn: LogIn, request: StartupRequest): Promise<Backend> {
    const engine = this.#engine;
    const login = {
      startup: request.packet,
      user: request.user,
      secretFor: logIn.secretFor.bind(logIn),
    };
    try {
      const backend = await openBackend(
        engine.backendWorld,
        engine.addressOf(node),
        login,
        this.#abort.signal,
      );
      engine.control.connected(node);
      return backend;
    } catch (error) {
      if (error instanceof BackendUnavailable && !this.#abort.signal.aborted) {
        throw this.#unreachable(node, error);
      }
      throw error;
    }
  }

  /** A node that does not answer: it is detached or not, as `failover_on_backend_error` says. */
  #unreachable(node: NodeId, error: BackendUnavailable): BackendUnavailable {
    const { config, control } = this.#engine;
    this.#log.write("LOG", error.message, { detail: error.detail });
    const allowed = config.backends[node]?.flag.allowToFailover ?? true;
    if (config.failover_on_backend_error && allowed) {
      control.suspect(node, error.detail ?? error.message);
      return new BackendUnavailable("failed to create a backend connection", {
        detail: "executing failover on backend",
        sqlstate: "XX000",
      });
    }
    return new BackendUnavailable(`failed to create a backend ${node} connection`, {
      detail: "not executing failover because failover_on_backend_error is off",
      sqlstate: "XX000",
    });
  }

  // ---------------------------------------------------------------- session

  #startSession(channel: Channel, request: StartupRequest, set: BackendSet): void {
    const engine = this.#engine;
    const state = engine.state;
    const preferred = writeNode(state);
    const speaks =
      preferred !== undefined && set.backends[preferred] !== undefined
        ? preferred
        : set.backends.findIndex((backend) => backend !== undefined);
    const main = set.backends[speaks];
    if (main === undefined) throw allNodesDown();
    this.router = new SessionRouter({
      engine,
      user: request.user,
      database: request.database,
      applicationName: request.applicationName,
      nodes: set.backends.flatMap((backend) => backend?.node ?? []),
      reset: set.useCount === 1 || engine.config.reset_query_list.some(dropsTemporaries),
    });
    const strings = main.parameters.get("standard_conforming_strings");
    this.router.standardStrings = strings === undefined || !isOff(strings);
    const session = new Session({
      ports: this.#portsOf(set),
      router: this.router,
      nodes: set.backends.flatMap((each) => (each ? [{ id: each.node, sink: each.conn }] : [])),
      writeNode: main.node,
      transparent: request.replication,
    });
    this.session = session;
    for (const backend of set.backends) if (backend) this.#attach(session, backend);
    if (this.#done) return; // the write node was lost meanwhile: the client has been told
    this.#cancelKey = engine.registerCancelKey(main, this);
    const rest = channel.takeRest();
    this.#conn.handler = this.#clientHandler(session);
    this.#conn.resume();
    this.#conn.send(greetingOf(main));
    for (const chunk of rest) session.fromClient(chunk);
  }

  #clientHandler(session: Session): ConnHandler {
    const engine = this.#engine;
    return {
      onData: (chunk) => {
        this.lastHeardAt = engine.coarseNow;
        session.fromClient(chunk);
      },
      onDrain: () => session.clientDrained(),
      onClose: (error) => {
        this.#logMistake(error);
        session.end({ kind: "broken", why: "the client closed the connection" });
      },
    };
  }

  #attach(session: Session, backend: Backend): void {
    const link = session.replies.links[backend.node];
    if (link === undefined) return;
    backend.onIdleLost = undefined;
    backend.conn.handler = {
      onData: (chunk) => session.fromNode(link, chunk),
      onDrain: () => session.nodeDrained(),
      onClose: (error) => {
        backend.markClosed();
        this.#logMistake(error);
        session.nodeLost(link, error?.message ?? lostByEof);
      },
    };
    if (backend.closed) session.nodeLost(link, lostByEof);
  }

  #portsOf(set: BackendSet): SessionPorts {
    const engine = this.#engine;
    return {
      client: this.#conn,
      ended: (end) => void this.#finish(end),
      dropped: (link, why) => this.#dropped(set, link, why),
      parameterStatus: (link, frame) => set.backends[link.id]?.rememberParameter(frame),
      answer: (_sql, facts) => engine.answer(this, facts),
      noteError: (link, frame) => engine.counters.failure(link.id, severityOf(frame)),
      noteStatement: (sql) => {
        if (this.config.log_statement) this.#log.write("LOG", `statement: ${engine.shown(sql)}`);
      },
      noteNodeStatement: (link, label, sql, facts) => this.#noteNode(set, link, label, sql, facts),
    };
  }

  #noteNode(
    set: BackendSet,
    link: NodeLink,
    label: string,
    sql: string,
    facts: StatementFacts,
  ): void {
    const engine = this.#engine;
    if (label === "" || label === "Execute") engine.counters.statement(link.id, facts.counter);
    this.#statements[link.id] = sql.length > STATEMENT_SHOWN_MAX ? shortened(sql) : sql;
    const { log_per_node_statement, notice_per_node_statement } = this.config;
    if (!log_per_node_statement && !notice_per_node_statement) return;
    const text = label === "" ? engine.shown(sql) : `${label}: ${engine.shown(sql)}`;
    if (log_per_node_statement) {
      const pid = set.backends[link.id]?.processId ?? 0;
      const message = `DB node id: ${link.id} backend pid: ${pid} statement: ${text}`;
      this.#log.write("LOG", message);
    }
    if (notice_per_node_statement) {
      const message = `DB node id: ${link.id} statement: ${text}`;
      const notice = noticeResponse({ severity: "NOTICE", code: "00000", message });
      this.session?.replies.aside(notice);
    }
  }

  #dropped(set: BackendSet, link: NodeLink, why: string): void {
    this.#log.write("LOG", `DB node id: ${link.id} is not used by this session any more`, {
      detail: why,
    });
    set.backends[link.id]?.close();
  }

  // ---------------------------------------------------------------- the end

  async #finish(end: SessionEnd): Promise<void> {
    if (this.#done) return;
    this.#done = true;
    const { set, session } = this;
    this.#conn.handler = deaf;
    this.#conn.end();
    if (this.#cancelKey !== undefined) this.#engine.forgetCancelKey(this.#cancelKey);
    this.#logDisconnection();
    try {
      const keep = end.kind === "terminate" && set !== undefined && session !== undefined;
      if (keep && (await this.#clean(set, session))) this.#engine.keep(set);
      else if (set !== undefined) this.#engine.discard(set);
    } finally {
      this.set = undefined;
      this.#release();
    }
  }

  /** Makes the set fit for the next client. Only nodes that this session spoke to need it. */
  async #clean(set: BackendSet, session: Session): Promise<boolean> {
    const { config } = this.#engine;
    if (!config.connection_cache || this.request?.replication) return false;
    if (neverPooled.has(set.identity.database)) return false;
    const cleaning: Promise<boolean>[] = [];
    for (const backend of set.backends) {
      if (backend === undefined) continue;
      const link = session.replies.links[backend.node];
      if (link === undefined || backend.closed) return false;
      if (!link.touched) continue;
      const queries = config.reset_query_list.filter(
        (sql) => sql !== "ABORT" || link.status !== IDLE,
      );
      if (queries.length > 0) cleaning.push(resetBackend(backend, queries, resetTimeoutMs));
    }
    return (await Promise.all(cleaning)).every((clean) => clean);
  }

  #refuse(thrown: unknown): void {
    // What was awaited failed because it was given up: the reason for that is the news.
    const { aborted, reason } = this.#abort.signal;
    const error: unknown = aborted && !(thrown instanceof ChannelClosed) ? reason : thrown;
    if (error instanceof ChannelClosed) {
      if (error instanceof HandshakeFailed) {
        this.#log.write("LOG", "could not accept SSL connection", { detail: error.message });
      }
      this.#conn.destroy();
      return;
    }
    this.#logError(error);
    this.#conn.handler = deaf;
    if (!(error instanceof ForeignPacket)) this.#conn.send(answerTo(error));
    this.#conn.end();
  }

  #logError(error: unknown): void {
    if (error instanceof PgpoolError) {
      const { severity, message, detail, hint } = error;
      this.#log.write(severity, message, { detail, hint });
      if (error.cause instanceof PgpoolError) {
        this.#log.write("LOG", error.cause.message, { detail: error.cause.detail });
      }
      return;
    }
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.#log.write("ERROR", "internal error", { detail: stack });
  }

  /** What our own code threw in the middle of a session ends that session, and is told here. */
  #logMistake(error: Error | undefined): void {
    const ours = [TypeError, RangeError, ReferenceError, SyntaxError];
    if (ours.some((kind) => error instanceof kind)) this.#logError(error);
  }

  /** An error that only the client's own command is to blame for. */
  logFrontendError(error: PgpoolError): void {
    this.#log.write("FRONTEND_ERROR", error.message, { detail: error.detail, hint: error.hint });
  }

  #logDisconnection(): void {
    if (!this.#engine.config.log_disconnections || this.request === undefined) return;
    const { user, database } = this.request;
    const ms = this.#engine.clock() - this.startedAt;
    const pad = (value: number, width: number) => String(Math.floor(value)).padStart(width, "0");
    const time = `${Math.floor(ms / 3_600_000)}:${pad((ms / 60_000) % 60, 2)}:${pad((ms / 1000) % 60, 2)}.${pad(ms % 1000, 3)}`;
    const { peer } = this.#conn;
    const where = peer.kind === "unix" ? "host=[local]" : `host=${peer.host} port=${peer.port}`;
    this.#log.write(
      "LOG",
      `frontend disconnection: session time: ${time} user=${user} database=${database} ${where}`,
    );
  }

  /** Gives back what the client held, however far it came. */
  #release(): void {
    if (this.set !== undefined) this.#engine.discard(this.set);
    this.set = undefined;
    this.#engine.clientGone(this);
  }
}

/** The value of a ParameterStatus frame is `off`. */
const isOff = (frame: Uint8Array): boolean => Buffer.from(frame).toString().endsWith("\0off\0");

/** How SHOW pool_backend_stats counts an ErrorResponse. */
function severityOf(frame: Uint8Array): "panic" | "fatal" | "error" {
  const message = decodeBackend(frameOf(frame));
  if (message.kind !== "ErrorResponse") return "error";
  const severity = errorField(message, "V") ?? errorField(message, "S");
  return severity === "PANIC" ? "panic" : severity === "FATAL" ? "fatal" : "error";
}

const dropsTemporaries = (sql: string): boolean => /^\s*discard\s+(all|temp)/i.test(sql);

/** Characters of a statement that SHOW pool_pools has room for. */
const STATEMENT_SHOWN_MAX = 1023;
/** A copy: a slice would keep the whole of a long statement in memory. */
const shortened = (sql: string): string =>
  Buffer.from(sql.slice(0, STATEMENT_SHOWN_MAX)).toString();

const lostByEof = "EOF encountered with backend";

const deaf: ConnHandler = { onData() {}, onDrain() {}, onClose() {} };

const allNodesDown = () =>
  new BackendUnavailable("pgpool is not accepting any new connections", {
    sqlstate: "08S01",
    detail: "all backend nodes are down, pgpool requires at least one valid node",
    hint: "repair the backend nodes and restart pgpool",
  });

function answerTo(error: unknown): Uint8Array {
  if (error instanceof BackendRefused) return error.response;
  return error instanceof PgpoolError ? toErrorResponse(error) : internalError;
}

const internalError = errorResponse({
  severity: "FATAL",
  code: "XX000",
  message: "internal error",
  hint: "see pgpool log for details",
});

/** What follows a log-in, in PostgreSQL's order, in one write. */
function greetingOf(main: Backend): Uint8Array {
  const parts: Uint8Array[] = [];
  if (main.negotiated !== undefined) parts.push(main.negotiated);
  parts.push(authenticationOk(), ...main.takeNotices(), ...main.parameters.values());
  if (main.secretKey.length > 0) parts.push(backendKeyData(main.processId, main.secretKey));
  parts.push(readyForQuery("I"));
  return Buffer.concat(parts);
}
