/**
 * One client from accept to goodbye: log-in, a set of backends from the pool or newly opened, the
 * session between them, and at the end the clean-up that lets the next client have the set. The
 * session decides; this carries out, and owns the sockets.
 */
import { BackendRefused } from "../core/auth/client.ts";
import type { BackendSecret } from "../core/auth/dialogue.ts";
import {
  type BackendNode,
  type ClusterState,
  isLive,
  mainNode,
  type NodeId,
  replicates,
  writeNode,
} from "../core/cluster/state.ts";
import type { Config } from "../core/config/schema.ts";
import { rebase } from "../core/config/session.ts";
import { BackendUnavailable, PgpoolError, TooManyClients } from "../core/errors.ts";
import { isToldToClient } from "../core/log.ts";
import type { Log, LogSource } from "../core/ports.ts";
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
import { type Backend, type BackendLogin, openBackend, resetBackend } from "./backend.ts";
import { Channel, ChannelClosed, HandshakeFailed } from "./channel.ts";
import type { Engine, LossSign } from "./engine.ts";
import { logsMessages, MessageLog, nodeLine } from "./message_log.ts";
import { Opening, openEverywhere } from "./opening.ts";
import { BackendSet } from "./pool.ts";
import { routingRules } from "./routing/rules.ts";
import type { ClientSession, ReplicationPorts, SessionEnd, SessionPorts } from "./session/desk.ts";
import { ReplicatedSession } from "./session/replicated.ts";
import { IDLE, type NodeLink } from "./session/replies.ts";
import { SessionRouter } from "./session/router.ts";
import { Session } from "./session/session.ts";
import type { CacheWorld } from "./session/session_cache.ts";
import { firstRequest, LogIn, type StartupRequest } from "./session/startup.ts";
import type { Slot, SlotActivity } from "./slots.ts";
import type { Conn, ConnHandler, PeerAddress } from "./transport/conn.ts";
import { awaitWriteNode, findWriteNode } from "./write_node.ts";

/** Databases whose connections are never kept (spec wire/pooling.md section 4). */
const neverPooled = new Set(["template0", "template1", "postgres", "regression"]);
const resetTimeoutMs = 10_000;

export class Runner {
  readonly #engine: Engine;
  readonly #conn: Conn;
  readonly #abort = new AbortController();
  /** While it logs in. */
  #channel: Channel | undefined;
  readonly source: LogSource;
  readonly startedAt: number;
  /** When its log-in began, without the time that it waited for a slot. */
  logInSince: number;
  readonly #log: Log;
  /** Made when a setting first asks for it. */
  #messages: MessageLog | undefined;
  slot: Slot | undefined;
  request: StartupRequest | undefined;
  set: BackendSet | undefined;
  session: ClientSession | undefined;
  router: SessionRouter | undefined;
  /** Milliseconds, by the engine's coarse clock: when the client last said something. */
  lastHeardAt: number;
  /** The last statement that went to each node, for SHOW pool_pools. */
  readonly #statements: (string | undefined)[] = [];
  /** What this client has changed for itself by PGPOOL SET. */
  #own: Config | undefined;
  #cancelKey: { readonly processId: number; readonly secretKey: Uint8Array } | undefined;
  #slotAwaited = false;
  /** A statement waits for a node that takes writes. */
  #homeless = false;
  /** It waits no longer. */
  #givenUp = false;
  #done = false;

  constructor(engine: Engine, conn: Conn) {
    this.#engine = engine;
    this.#conn = conn;
    this.startedAt = engine.clock();
    this.logInSince = this.startedAt;
    this.lastHeardAt = this.startedAt;
    this.source = { processName: "CHILD", applicationName: "child", pid: engine.pid };
    this.#log = engine.log.as(this.source, () => this.#own);
  }

  get config(): Config {
    return this.#own ?? this.#engine.config;
  }

  /** PGPOOL SET and RESET. */
  configure(config: Config): void {
    this.#own = config === this.#engine.config ? undefined : config;
    this.router?.useRules(this.#own && routingRules(this.#own));
    this.#observe();
  }

  /** Messages are logged, or not, as this client's configuration says now. */
  #observe(): void {
    const { session } = this;
    if (session === undefined) return;
    if (logsMessages(this.config)) this.#messages ??= this.#newMessageLog();
    session.observer = logsMessages(this.config) ? this.#messages : undefined;
  }

  #newMessageLog(): MessageLog {
    return new MessageLog({
      log: this.#log,
      config: () => this.config,
      pidOf: (node) => this.set?.backends[node]?.processId ?? 0,
      shown: (text) => this.#engine.shown(text),
    });
  }

  /** The configuration was read again; what the client set for itself stays. */
  reconfigured(base: Config): void {
    if (this.#own !== undefined) this.configure(rebase(this.#own, base, this.#engine.config));
    else this.#observe();
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
    this.#channel = channel;
    try {
      this.#refuseWhenReserved();
      if (!(await this.#logIn(channel))) this.#conn.end();
    } catch (error) {
      this.#refuse(error);
      this.session?.end({ kind: "broken", why: "the session could not begin" });
    } finally {
      this.#channel = undefined;
      if (this.session === undefined) this.#release();
    }
  }

  /** Whatever this client waits for, it waits no longer. */
  #giveUp(reason: Error): void {
    this.#abort.abort(reason);
    this.#channel?.giveUp(reason);
  }

  /** Ends the session (or the log-in) from outside: shutdown, an idle limit, an operator. */
  terminate(error: PgpoolError): void {
    this.#giveUp(error);
    if (this.session === undefined) return;
    this.#logError(error);
    this.session.end({ kind: "broken", why: error.message }, toErrorResponse(error));
  }

  // ---------------------------------------------------------------- log-in

  /** authentication_timeout is over: the client is let go without a word, as Pgpool does. */
  loginTimedOut(): void {
    this.#log.write("LOG", "authentication timeout");
    this.#giveUp(new ChannelClosed("authentication timeout"));
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
    if (first.kind === "cancel") this.#logCancel(first.processId);
    if (first.kind === "cancel") await engine.cancel(first.processId, first.secretKey);
    if (first.kind !== "session") return false;
    const { request } = first;
    this.request = request;
    this.source.user = request.user;
    this.source.database = request.database;
    if (request.applicationName !== "") this.source.applicationName = request.applicationName;
    await awaitWriteNode(engine, this.#abort.signal);
    if (mainNode(engine.state) === undefined) throw allNodesDown();
    this.slot = await this.#awaitSlot();
    const logIn = await LogIn.begin(engine.login, channel, request);
    await awaitWriteNode(engine, this.#abort.signal);
    const set = await this.#checkOut(logIn, request, this.slot);
    this.#abort.signal.throwIfAborted();
    this.#startSession(channel, request, set);
    return true;
  }

  #logCancel(processId: number): void {
    if (!this.#engine.config.log_client_messages) return;
    const detail = `process id: ${processId}`;
    this.#log.write("LOG", "Cancel message from frontend.", { detail });
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
    const { state, clock, patience } = this.#engine;
    const needed = writeNode(state);
    if (needed === undefined) throw allNodesDown();
    const alone = request.replication || state.mode === "raw";
    const opening = new Opening(this.#abort.signal, (node, signal) =>
      this.#openNode(node, request, logIn.secretFor.bind(logIn), signal),
    );
    try {
      const first = opening.begin(needed);
      for (const { id } of alone ? [] : state.nodes.filter(isLive)) {
        if (id !== needed && !patience.isDoubtful(id)) void opening.begin(id);
      }
      const { demand } = await first;
      if (replicates(state)) await openEverywhere(opening, this.#engine, this.#abort.signal);
      else if (opening.pending.size > 0) await patience.for(opening, () => !logIn.isAsking);
      const backends = opening.opened;
      logIn.conclude(backends.flatMap((each) => each?.demand ?? []));
      const secret = await logIn.secretGiven(demand);
      return new BackendSet({ identity: request, backends, demand, secret, now: clock() });
    } catch (error) {
      opening.abandon();
      throw error;
    }
  }

  async #openNode(
    node: NodeId,
    request: StartupRequest,
    secretFor: BackendLogin["secretFor"],
    signal: AbortSignal,
  ): Promise<Backend> {
    const { backendWorld, control } = this.#engine;
    const login = { startup: request.packet, user: request.user, secretFor };
    try {
      const address = this.#engine.addressOf(node);
      const backend = await openBackend(backendWorld, address, login, signal);
      control.connected(node);
      return backend;
    } catch (error) {
      if (error instanceof BackendUnavailable && !signal.aborted) {
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
    const backends = inUse(set, engine.state);
    const preferred = writeNode(engine.state);
    const main = backends.find(({ node }) => node === preferred) ?? backends[0];
    if (main === undefined) throw allNodesDown();
    const { state } = engine;
    if (replicates(state) && backends.length < state.nodes.filter(isLive).length) {
      throw attachedMeanwhile();
    }
    this.router = new SessionRouter({
      engine,
      user: request.user,
      database: request.database,
      applicationName: request.applicationName,
      nodes: backends.map(({ node }) => node),
      reset: set.useCount === 1 || engine.config.reset_query_list.some(dropsTemporaries),
    });
    const strings = main.parameters.get("standard_conforming_strings");
    this.router.standardStrings = strings === undefined || !isOff(strings);
    const session = this.#newSession(request, set, backends, main, this.router);
    this.session = session;
    this.#observe();
    for (const backend of backends) this.#attach(session, backend);
    if (this.#done) return; // the write node was lost meanwhile: the client has been told
    this.#cancelKey = engine.registerCancelKey(main, this);
    const rest = channel.takeRest();
    this.#conn.handler = this.#clientHandler(session);
    this.#conn.resume();
    this.#conn.send(greetingOf(main));
    for (const chunk of rest) session.fromClient(chunk);
  }

  #cacheWorld({ database }: StartupRequest, set: BackendSet): CacheWorld | undefined {
    const cache = this.#engine.queryCache;
    if (cache === undefined) return undefined;
    return {
      cache,
      database,
      pidOf: ({ id }) => set.backends[id]?.processId ?? 0,
      majorOf: ({ id }) => majorOf(set.backends[id]?.parameters.get("server_version")),
      noteHit: (sql) => {
        if (!this.config.log_per_node_statement) return;
        const detail = `query result fetched from cache. statement: ${this.#engine.shown(sql)}`;
        this.#log.write("LOG", "fetch from memory cache", { detail });
      },
    };
  }

  #newSession(
    request: StartupRequest,
    set: BackendSet,
    backends: readonly Backend[],
    main: Backend,
    router: SessionRouter,
  ): ClientSession {
    const ports = this.#portsOf(set);
    const nodes = backends.map(({ node, conn }) => ({ id: node, sink: conn }));
    const transparent = request.replication;
    if (replicates(this.#engine.state) && !transparent) {
      return new ReplicatedSession({
        ports,
        replication: this.#replicationPorts(set),
        router,
        nodes,
        parameters: main.parameters,
      });
    }
    const cache = transparent ? undefined : this.#cacheWorld(request, set);
    return new Session({ ports, router, nodes, writeNode: main.node, transparent, cache });
  }

  #replicationPorts(set: BackendSet): ReplicationPorts {
    const engine = this.#engine;
    return {
      settings: () => this.config,
      warn: (message, detail) => this.#log.write("WARNING", message, { detail }),
      cancel: ({ id }) => engine.cancelOn(set.backends[id]),
      lost: (link) => void this.#judgeReplica(link),
      enter: (errand) => engine.snapshots.enter(errand),
      leave: (turn) => engine.snapshots.leave(turn),
    };
  }

  #clientHandler(session: ClientSession): ConnHandler {
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

  #attach(session: ClientSession, backend: Backend): void {
    const link = session.links[backend.node];
    if (link === undefined) return;
    backend.onIdleLost = undefined;
    backend.conn.handler = {
      onData: (chunk) => session.fromNode(link, chunk),
      onDrain: () => session.nodeDrained(),
      onClose: (error) => {
        backend.markClosed();
        this.#logMistake(error);
        session.nodeLost(link, error?.message ?? lostByEof);
        this.#engine.control.lost(link.id, lossSign(link, error), error?.message ?? lostByEof);
      },
    };
    if (backend.closed) session.nodeLost(link, lostByEof);
  }

  #portsOf(set: BackendSet): SessionPorts {
    const engine = this.#engine;
    return {
      client: this.#conn,
      ended: (end) => void this.#finish(end),
      soon: queueMicrotask,
      saidGoodbye: (link) => void this.#judge(link),
      writeNodeNeeded: () => void this.#findHome(set),
      disagreed: async (links, why) => {
        const ids = links.map(({ id }) => id);
        return (await engine.control.disagreed(ids, why)).kind === "done";
      },
      writeNodeMoved: ({ id: from }, { id: to }) =>
        this.#tellDifferences(set.backends[from]?.parameters, set.backends[to]?.parameters),
      dropped: (link, why) => this.#dropped(set, link, why),
      parameterStatus: (link, frame) => set.backends[link.id]?.rememberParameter(frame),
      answer: (_sql, facts) => engine.answer(this, facts),
      noteUnparsable: (sql) => this.#logUnparsable(sql),
      noteError: (link, frame, simple) => this.#noteError(set, link, frame, simple),
      noteStatement: (sql) => {
        if (this.config.log_statement) this.#log.write("LOG", `statement: ${engine.shown(sql)}`);
      },
      noteNodeStatement: (link, label, sql, facts, why) => {
        if (label === "" || label === "Execute") {
          engine.counters.statement(link.id, facts.counter);
          engine.counters.routed(link.id, why);
        }
        this.#noteNode(set, link, label, sql);
      },
    };
  }

  #noteNode(set: BackendSet, link: NodeLink, label: string, sql: string): void {
    const engine = this.#engine;
    this.#statements[link.id] = sql.length > STATEMENT_SHOWN_MAX ? shortened(sql) : sql;
    const { log_per_node_statement, notice_per_node_statement } = this.config;
    if (!log_per_node_statement && !notice_per_node_statement) return;
    const text = label === "" ? engine.shown(sql) : `${label}: ${engine.shown(sql)}`;
    if (log_per_node_statement) {
      const pid = set.backends[link.id]?.processId ?? 0;
      this.#log.write("LOG", nodeLine(link.id, pid, text));
    }
    if (notice_per_node_statement && isToldToClient("NOTICE", this.config.client_min_messages)) {
      const message = `DB node id: ${link.id} statement: ${text}`;
      const notice = noticeResponse({ severity: "NOTICE", code: "00000", message });
      this.session?.aside(notice);
    }
  }

  // ---------------------------------------------------------------- another node for writes

  /**
   * The cluster has changed. `gone`: nodes that were in use until now. `joined`: nodes that get every
   * write from now on, where it is us who replicate; a session that began without them would write
   * past them.
   */
  clusterChanged(gone: readonly BackendNode[], joined: readonly BackendNode[]): void {
    const { session } = this;
    if (session === undefined || this.#done) return;
    if (joined.some(({ id }) => session.links[id] === undefined)) {
      this.terminate(attachedMeanwhile());
      return;
    }
    for (const { id, isRetired } of gone) {
      const link = session.links[id];
      if (link === undefined) continue;
      if (isRetired) session.retire(link);
      else session.nodeLost(link, detached);
    }
    if (this.#homeless) session.nodesChanged();
  }

  /** A server that ends a connection may be going down, or may have been told to end just this one. */
  async #judge(link: NodeLink): Promise<void> {
    const { packet } = this.request ?? {};
    if (packet === undefined) return;
    const isAlive = await this.#engine.takesConnections(link.id, packet);
    this.session?.verdict(link, isAlive);
  }

  /** A cancel request. Returns whether what it was meant for was waiting here. */
  cancelWaiting(): boolean {
    if (!this.#homeless || this.session?.cancelWaiting() !== true) return false;
    this.#givenUp = !this.session.busy;
    return true;
  }

  /**
   * A connection that ends where we replicate: its node leaves the cluster, and the session goes on
   * without it; or it does not, and the session is over.
   */
  async #judgeReplica(link: NodeLink): Promise<void> {
    const { packet } = this.request ?? {};
    const engine = this.#engine;
    if (packet === undefined) return;
    const until = engine.clock() + LEAVES_WITHIN_MS;
    const isMember = () => engine.state.nodes.some((node) => node.id === link.id && isLive(node));
    if (!(await engine.takesConnections(link.id, packet))) {
      while (isMember() && !this.#done && engine.clock() < until) await engine.stateChanged(1000);
    }
    if (isMember()) this.session?.verdict(link, true);
  }

  async #findHome(set: BackendSet): Promise<void> {
    const { request, session } = this;
    if (request === undefined || session === undefined) return;
    this.#givenUp = false;
    if (this.#homeless) return;
    this.#homeless = true;
    const secretFor = () => secretOf(set);
    const failure = await findWriteNode(
      {
        isOver: () => this.#done || this.#givenUp || !session.writeLink.lost,
        mayAdopt: () => session.leftNothing,
        follow: () => session.nodesChanged(),
        makeDo: () => {
          this.router?.makeDo();
          session.nodesChanged();
        },
        open: (node, limitMs) =>
          this.#within(limitMs, (signal) => this.#openNode(node, request, secretFor, signal)),
        adopt: (backend) => {
          const before = set.backends[backend.node]?.parameters;
          set.replace(backend);
          session.adopt(backend.node, backend.conn);
          this.#attach(session, backend);
          this.#tellDifferences(before, backend.parameters);
        },
      },
      this.#engine,
    );
    this.#homeless = false;
    if (failure !== undefined) this.terminate(failure);
  }

  async #within<T>(limitMs: number, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const late = new AbortController();
    const timer = setTimeout(() => late.abort(new Error(`no answer in ${limitMs} ms`)), limitMs);
    try {
      return await work(AbortSignal.any([this.#abort.signal, late.signal]));
    } finally {
      clearTimeout(timer);
    }
  }

  /** Parameters that another server reports otherwise, as in_hot_standby and server_version. */
  #tellDifferences(before: Backend["parameters"] | undefined, now = before): void {
    if (before === undefined || now === undefined || before === now) return;
    for (const [name, frame] of now) {
      const old = before.get(name);
      if (old === undefined || !Buffer.from(old).equals(frame)) this.session?.aside(frame);
    }
  }

  #logUnparsable(sql: string): void {
    const { peer } = this.#conn;
    const who = peer.kind === "unix" ? "local client" : `client ${peer.host}(${peer.port})`;
    const text = this.#engine.shown(sql);
    this.#log.write("LOG", `Unable to parse the query: "${text}" from ${who}`);
  }

  #noteError(set: BackendSet, link: NodeLink, frame: Uint8Array, simple: boolean): void {
    const engine = this.#engine;
    const { severity, message } = reportOf(frame);
    engine.counters.failure(link.id, severity);
    const node = `DB node id: ${link.id}`;
    // Behind it others may be on their way already: the last statement sent is not the one meant.
    if (!simple || link.queue.size > 1) {
      this.#log.write("LOG", `Error message from backend: ${node} message: "${message}"`);
      return;
    }
    const pid = set.backends[link.id]?.processId ?? 0;
    const sql = engine.shown(this.#statements[link.id] ?? "");
    this.#log.write(
      "LOG",
      `pool_send_and_wait: Error or notice message from backend: : ${node} backend pid: ${pid} statement: "${sql}" message: "${message}"`,
    );
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
    // What is being opened is not needed.
    if (this.#homeless) this.#abort.abort(new ChannelClosed("the session is over"));
    const { set, session } = this;
    this.#conn.handler = deaf;
    this.#conn.end();
    if (this.#cancelKey !== undefined) this.#engine.forgetCancelKey(this.#cancelKey);
    this.#messages?.end();
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
  async #clean(set: BackendSet, session: ClientSession): Promise<boolean> {
    const { config } = this.#engine;
    if (!config.connection_cache || this.request?.replication) return false;
    if (neverPooled.has(set.identity.database)) return false;
    if (this.config.log_statement) {
      const { links } = session;
      const open = links.some((link) => link !== undefined && link.status !== IDLE);
      for (const sql of resetQueries(config, open)) this.#log.write("LOG", `statement: ${sql}`);
    }
    const cleaning: Promise<boolean>[] = [];
    for (const backend of set.backends) {
      if (backend === undefined) continue;
      const link = session.links[backend.node];
      if (link === undefined || backend.closed) return false;
      if (!link.touched) continue;
      const queries = resetQueries(config, link.status !== IDLE);
      for (const sql of queries) this.#messages?.toNode(backend.node, sql);
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

/** The set's connections, without those to nodes that were detached while the client logged in. */
function inUse(set: BackendSet, state: ClusterState): readonly Backend[] {
  const used: Backend[] = [];
  for (const backend of set.backends) {
    if (backend === undefined) continue;
    const node = state.nodes[backend.node];
    if (node !== undefined && isLive(node)) used.push(backend);
    else backend.close();
  }
  return used;
}

/** Of the server_version in a ParameterStatus frame. */
const majorOf = (frame: Uint8Array | undefined): number =>
  frame === undefined
    ? 0
    : Number.parseInt(Buffer.from(frame).toString().split("\0").at(-2) ?? "", 10);

/** The value of a ParameterStatus frame is `off`. */
const isOff = (frame: Uint8Array): boolean => Buffer.from(frame).toString().endsWith("\0off\0");

type Report = { readonly severity: "panic" | "fatal" | "error"; readonly message: string };

/** An ErrorResponse as SHOW pool_backend_stats counts it and the log tells it. */
function reportOf(frame: Uint8Array): Report {
  const report = decodeBackend(frameOf(frame));
  if (report.kind !== "ErrorResponse") return { severity: "error", message: "" };
  const word = errorField(report, "V") ?? errorField(report, "S");
  const severity = word === "PANIC" ? "panic" : word === "FATAL" ? "fatal" : "error";
  return { severity, message: errorField(report, "M") ?? "" };
}

/** What the servers were shown when the set was opened serves for one more of them. */
async function secretOf({ secret }: BackendSet): Promise<BackendSecret> {
  if (secret !== undefined) return secret;
  throw new BackendUnavailable("failed to authenticate to another backend", {
    detail: "it asks for a password, and the one before did not",
  });
}

/** What makes a connection fit for the next session: ABORT where a transaction is open. */
const resetQueries = (config: Config, inTransaction: boolean): readonly string[] =>
  config.reset_query_list.filter((sql) => sql !== "ABORT" || inTransaction);

const dropsTemporaries = (sql: string): boolean => /^\s*discard\s+(all|temp)/i.test(sql);

/** Characters of a statement that SHOW pool_pools has room for. */
const STATEMENT_SHOWN_MAX = 1023;
/** A copy: a slice would keep the whole of a long statement in memory. */
const shortened = (sql: string): string =>
  Buffer.from(sql.slice(0, STATEMENT_SHOWN_MAX)).toString();

function lossSign(link: NodeLink, error: Error | undefined): LossSign {
  if (link.fatal) return "shutdown";
  return error === undefined ? "eof" : "error";
}

/** How long a session waits for the verdict on a node that does not answer, in milliseconds. */
const LEAVES_WITHIN_MS = 30_000;

const detached = "the node was detached";
const lostByEof = "EOF encountered with backend";

const deaf: ConnHandler = { onData() {}, onDrain() {}, onClose() {} };

const attachedMeanwhile = () =>
  new BackendUnavailable("terminating connection because a DB node was attached", {
    sqlstate: "57P01",
    detail: "this session began without it, and its writes would not reach it",
    hint: "connect again",
  });

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

const welcome = authenticationOk();
const ready = readyForQuery("I");

/** What follows a log-in, in PostgreSQL's order, in one write. */
function greetingOf(main: Backend): Uint8Array {
  const parts: Uint8Array[] = [];
  if (main.negotiated !== undefined) parts.push(main.negotiated);
  parts.push(welcome, ...main.takeNotices(), ...main.parameters.values());
  if (main.secretKey.length > 0) parts.push(backendKeyData(main.processId, main.secretKey));
  parts.push(ready);
  return Buffer.concat(parts);
}
