/**
 * One data plane: listeners' clients, slots, pool, routing rules and caches, without globals, so
 * that there may be several. It keeps the last `ClusterState` it was given and tells the control
 * plane what its sessions notice.
 */
import type { OrderResult, Quiet } from "../core/cluster/control.ts";
import type { NodeHealth } from "../core/cluster/health.ts";
import type { ClusterState, NodeId } from "../core/cluster/state.ts";
import { isLive, replicates, writeNode } from "../core/cluster/state.ts";
import type { Config } from "../core/config/schema.ts";
import { PgpoolError, ShuttingDown } from "../core/errors.ts";
import type { Clock, Log, Random } from "../core/ports.ts";
import type { StatementFacts } from "../core/sql/facts.ts";
import { encodeFrontend } from "../core/wire/frontend.ts";
import {
  type Backend,
  type BackendAddress,
  type BackendWorld,
  sendCancel,
  takesConnections,
} from "./backend.ts";
import { QueryCache } from "./cache/query_cache.ts";
import { RecentWrites } from "./cache/recent_writes.ts";
import { RelationCache } from "./cache/relcache.ts";
import type { SharedResults } from "./cache/shared_results.ts";
import type { Versioned } from "./cache/table_versions.ts";
import { Counters } from "./counters.ts";
import type { StatementParser } from "./parser.ts";
import { Patience } from "./patience.ts";
import { type BackendSet, isComplete, Pool } from "./pool.ts";
import { type RoutingRules, routingRules } from "./routing/rules.ts";
import { Runner } from "./runner.ts";
import type { LoginWorld } from "./session/startup.ts";
import { type Slot, Slots } from "./slots.ts";
import { SnapshotGate } from "./snapshots.ts";
import type { Conn } from "./transport/conn.ts";

/** What a session tells the control plane. */
export interface EngineControl {
  /** The first connection of a node that was only configured so far. */
  connected(node: NodeId): void;
  /** A node did not answer: it should be detached. */
  suspect(node: NodeId, why: string): void;
  /** A connection to a node has ended, and not by our doing. */
  lost(node: NodeId, sign: LossSign, why: string): void;
  /**
   * Nodes that gave other answers than the rest to a statement that all of them ran: what they hold
   * is not what the others hold. Resolves when they are detached, or when that is refused, as for a
   * node with DISALLOW_TO_FAILOVER; never rejects.
   */
  disagreed(nodes: readonly NodeId[], why: string): Promise<OrderResult>;
  healthOf(node: NodeId): NodeHealth;
}

/** The server ended it with a FATAL word, or without a word, or the network failed. */
export type LossSign = "shutdown" | "eof" | "error";

/** Answers SHOW pool_nodes and its kin, and PGPOOL commands: everything but ReadyForQuery. */
export type AdminAnswer = (runner: Runner, facts: StatementFacts) => Uint8Array;

export type EngineOptions = {
  readonly config: Config;
  readonly state: ClusterState;
  readonly parser: StatementParser;
  readonly login: LoginWorld;
  readonly backendWorld: BackendWorld;
  readonly control: EngineControl;
  readonly answer: AdminAnswer;
  readonly log: Log;
  readonly clock: Clock;
  /** Milliseconds from some moment on: it does not jump when the machine's clock is set. */
  readonly steadyClock: Clock;
  readonly random: Random;
  readonly pid: number;
  /** Statements as they may be logged: without the passwords in them. */
  readonly redact: (sql: string) => string;
  /** Where several pgpools keep results together; without it they are kept here. */
  readonly sharedResults?: (onChanged: (dependency: Versioned) => void) => SharedResults;
};

const cancelTimeoutMs = 10_000;
const probeTimeoutMs = 5000;
/** Says nothing of importance: any answer to it will do. */
const probeStartup = encodeFrontend({
  kind: "StartupMessage",
  major: 3,
  minor: 0,
  parameters: new Map([["user", "pgpool"]]),
});
const tickMs = 1000;

export class Engine {
  config: Config;
  rules: RoutingRules;
  login: LoginWorld;
  backendWorld: BackendWorld;
  readonly parser: StatementParser;
  readonly relcache: RelationCache;
  readonly writes: RecentWrites;
  /** Undefined while memory_cache_enabled is off. */
  readonly queryCache: QueryCache | undefined;
  readonly control: EngineControl;
  readonly log: Log;
  readonly clock: Clock;
  readonly #steadyClock: Clock;
  readonly random: Random;
  readonly pid: number;
  readonly startedAt: number;
  readonly pool: Pool;
  readonly slots: Slots;
  readonly counters = new Counters();
  readonly snapshots = new SnapshotGate();
  readonly patience = new Patience(
    (node) => this.#answers(node),
    (node, isDoubtful) => this.#noteDoubt(node, isDoubtful),
  );
  /** `clock()` as of the last second: cheap enough for each chunk. */
  coarseNow: number;
  readonly #answer: AdminAnswer;
  readonly #redact: (sql: string) => string;
  readonly #runners = new Set<Runner>();
  readonly #runnerOfSlot: (Runner | undefined)[] = [];
  readonly #cancelKeys = new Map<string, Runner>();
  #state: ClusterState;
  #closing = false;
  #ticker: ReturnType<typeof setInterval> | undefined;
  #onEmpty: (() => void) | undefined;
  #emptied: Promise<void> | undefined;

  constructor(options: EngineOptions) {
    const { config, clock } = options;
    this.config = config;
    this.rules = routingRules(config);
    this.login = options.login;
    this.backendWorld = options.backendWorld;
    this.parser = options.parser;
    this.relcache = new RelationCache({
      sizeMax: config.relcache_size,
      expireMs: config.relcache_expire * 1000,
      shared: config.enable_shared_relcache,
      clock,
    });
    this.writes = new RecentWrites({
      clock,
      sizeMax: config.track_table_mutation_table_size,
      params: config,
    });
    this.queryCache = config.memory_cache_enabled
      ? new QueryCache({
          params: config,
          clock: options.steadyClock,
          ...(options.sharedResults && { shared: options.sharedResults }),
        })
      : undefined;
    this.control = options.control;
    this.log = options.log;
    this.clock = clock;
    this.#steadyClock = options.steadyClock;
    this.random = options.random;
    this.pid = options.pid;
    this.#answer = options.answer;
    this.#redact = options.redact;
    this.#state = options.state;
    this.startedAt = clock();
    this.coarseNow = this.startedAt;
    const count = config.num_init_children;
    this.pool = new Pool({ slotCount: count, placesPerSlot: config.max_pool });
    this.slots = new Slots({ count, firstPid: options.pid + 1, now: this.coarseNow });
    this.#ticker = setInterval(() => this.#tick(), tickMs);
  }

  get state(): ClusterState {
    return this.#state;
  }

  /** Clients of any kind: in a session, logging in, waiting for a slot. */
  get clientCount(): number {
    return this.#runners.size;
  }

  runnerAt(slot: Slot): Runner | undefined {
    return this.#runnerOfSlot[slot.index];
  }

  answer(runner: Runner, facts: StatementFacts): Uint8Array {
    return this.#answer(runner, facts);
  }

  /** A statement as it may appear in the log. */
  shown(sql: string): string {
    return this.#redact(sql);
  }

  addressOf(node: NodeId): BackendAddress {
    const backend = this.config.backends[node];
    return {
      id: node,
      hostname: backend?.hostname ?? "",
      port: backend?.port ?? 0,
      connectTimeoutMs: backend?.connect_timeout ?? 10_000,
    };
  }

  // ---------------------------------------------------------------- clients

  accept(conn: Conn): void {
    if (this.#closing) {
      conn.destroy();
      return;
    }
    const runner = new Runner(this, conn);
    this.#runners.add(runner);
    void runner.run();
  }

  slotTaken(slot: Slot, runner: Runner): void {
    this.#runnerOfSlot[slot.index] = runner;
  }

  clientGone(runner: Runner): void {
    if (!this.#runners.delete(runner)) return;
    const { slot } = runner;
    if (slot !== undefined) {
      this.#runnerOfSlot[slot.index] = undefined;
      this.slots.release(slot, this.clock());
      this.#renewWorn(slot);
    }
    if (this.#runners.size === 0) this.#onEmpty?.();
  }

  /** child_max_connections: a slot that has served so many starts afresh, without its connections. */
  #renewWorn(slot: Slot): void {
    const max = this.config.child_max_connections;
    if (max === 0 || slot.clientCount < max || this.#runnerOfSlot[slot.index] !== undefined) return;
    this.log.write("LOG", `child exiting, ${max} connections reached`);
    this.#renew(slot);
  }

  #renew(slot: Slot): void {
    for (const set of this.pool.removeIdle((each) => this.pool.slotOf(each) === slot.index)) {
      set.close();
    }
    this.slots.renew(slot, this.clock());
  }

  // ---------------------------------------------------------------- backends

  /** Whether a client may be given these connections now. */
  isUsable({ backends }: BackendSet): boolean {
    return isComplete(backends, this.#state, (node) => this.patience.isDoubtful(node));
  }

  keep(set: BackendSet): void {
    if (this.#closing || !this.isUsable(set) || !this.pool.release(set, this.clock())) {
      this.discard(set);
      return;
    }
    const lost = ({ node }: Backend) => {
      this.discard(set);
      this.control.lost(node, "shutdown", "an idle connection was closed by the server");
    };
    for (const backend of set.backends) backend?.watch(lost);
  }

  discard(set: BackendSet): void {
    this.pool.remove(set);
    set.close();
  }

  /**
   * The node on which one of our connections is served by this process, in a session or idle.
   * Servers on different machines may use the same number: then the write node's is meant, since
   * its numbers are those that clients are given and that its catalogs show.
   */
  nodeOfPid(pid: number): NodeId | undefined {
    const preferred = writeNode(this.#state);
    let found: NodeId | undefined;
    for (const { backends } of this.#sets()) {
      for (const backend of backends) {
        if (backend === undefined || backend.closed || backend.processId !== pid) continue;
        if (backend.node === preferred) return preferred;
        found ??= backend.node;
      }
    }
    return found;
  }

  *#sets(): Generator<BackendSet> {
    for (const { set } of this.#runners) if (set !== undefined) yield set;
    yield* this.pool.idle();
  }

  // ---------------------------------------------------------------- cancel requests

  registerCancelKey(backend: Backend, runner: Runner) {
    const { processId, secretKey } = backend;
    this.#cancelKeys.set(keyOf(processId, secretKey), runner);
    return { processId, secretKey };
  }

  forgetCancelKey(key: { readonly processId: number; readonly secretKey: Uint8Array }): void {
    this.#cancelKeys.delete(keyOf(key.processId, key.secretKey));
  }

  /** Passes a cancel request on to the nodes that are answering this client now. */
  async cancel(processId: number, secretKey: Uint8Array): Promise<void> {
    const runner = this.#cancelKeys.get(keyOf(processId, secretKey));
    const { set, session } = runner ?? {};
    if (runner === undefined || set === undefined || session === undefined) {
      this.log.write("LOG", `invalid cancel key: pid:${processId} keylen:${secretKey.length}`);
      return;
    }
    if (runner.cancelWaiting()) return;
    const busy = set.backends.filter(
      (backend): backend is Backend =>
        backend !== undefined && session.links[backend.node]?.isCancellable === true,
    );
    await Promise.all(busy.map((backend) => this.cancelOn(backend)));
  }

  async cancelOn(backend: Backend | undefined): Promise<void> {
    if (backend === undefined) return;
    const { node, processId, secretKey } = backend;
    this.log.write("LOG", `forwarding cancel request to backend ${node}`, {
      detail: `canceling backend pid: ${processId} keylen: ${secretKey.length}`,
    });
    try {
      await sendCancel(this.backendWorld, backend, cancelTimeoutMs);
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      this.log.write("LOG", `could not send cancel request to backend ${node}`, { detail });
    }
  }

  // ---------------------------------------------------------------- changes from outside

  publish(state: ClusterState): void {
    const before = this.#state;
    this.#state = state;
    this.writes.noteDelay(longestDelayMs(state));
    if (writeNode(before) !== writeNode(state)) this.queryCache?.clear("failover");
    const gone = state.nodes.filter((node) => !isLive(node) && isLiveIn(before, node.id));
    const unusable = this.pool.removeIdle((set) => !this.isUsable(set));
    for (const set of unusable) set.close();
    for (const { id } of gone) this.patience.trust(id);
    const joined = replicates(state)
      ? state.nodes.filter((node) => isLive(node) && !isLiveIn(before, node.id))
      : [];
    for (const runner of this.#runners) runner.clusterChanged(gone, joined);
    for (const tell of this.#stateWaiters.splice(0)) tell();
  }
  readonly #stateWaiters: (() => void)[] = [];

  /** Resolves at the next snapshot, at the latest after `timeoutMs`. */
  async stateChanged(timeoutMs: number): Promise<void> {
    let timer: ReturnType<typeof setTimeout> | undefined;
    await new Promise<void>((resolve) => {
      this.#stateWaiters.push(resolve);
      timer = setTimeout(() => {
        const index = this.#stateWaiters.indexOf(resolve);
        if (index >= 0) this.#stateWaiters.splice(index, 1);
        resolve();
      }, timeoutMs);
    });
    clearTimeout(timer);
  }

  // ---------------------------------------------------------------- servers in doubt

  /** Whether a server takes connections. Those who ask at the same time get the same answer. */
  takesConnections(node: NodeId, startup: Uint8Array): Promise<boolean> {
    let asked = this.#asked.get(node);
    if (asked === undefined) {
      const address = this.addressOf(node);
      asked = takesConnections(this.backendWorld, address, startup, probeTimeoutMs).finally(() =>
        this.#asked.delete(node),
      );
      this.#asked.set(node, asked);
    }
    return asked;
  }
  readonly #asked = new Map<NodeId, Promise<boolean>>();

  /** One that is detached is asked by others. */
  async #answers(node: NodeId): Promise<boolean> {
    return !isLiveIn(this.#state, node) || (await this.takesConnections(node, probeStartup));
  }

  #noteDoubt(node: NodeId, isDoubtful: boolean): void {
    if (!isLiveIn(this.#state, node)) return;
    const { hostname, port } = this.addressOf(node);
    const text = isDoubtful
      ? `DB node ${node} (${hostname}:${port}) keeps log-ins waiting: they go on without it until it answers`
      : `DB node ${node} (${hostname}:${port}) is used by log-ins again`;
    this.log.write(isDoubtful ? "WARNING" : "LOG", text);
  }

  reconfigure(config: Config, login: LoginWorld, backendWorld: BackendWorld): void {
    const previous = this.config;
    this.config = config;
    this.rules = routingRules(config);
    this.writes.configure(config);
    this.queryCache?.configure(config);
    this.login = login;
    this.backendWorld = backendWorld;
    for (const runner of this.#runners) runner.reconfigured(previous);
  }

  #tick(): void {
    this.coarseNow = this.clock();
    this.queryCache?.tick();
    const { authentication_timeout, connection_life_time, child_life_time } = this.config;
    if (authentication_timeout > 0) this.#endSlowLogins(authentication_timeout);
    this.#endIdleClients();
    this.snapshots.tick();
    for (const runner of this.#runners) runner.session?.tick?.();
    if (connection_life_time > 0) this.#closeOldSets(connection_life_time);
    if (child_life_time > 0) this.#renewIdleSlots(child_life_time);
  }

  #endSlowLogins(seconds: number): void {
    const before = this.coarseNow - seconds * 1000;
    for (const runner of this.#runners) {
      if (runner.isLoggingIn && runner.logInSince < before) runner.loginTimedOut();
    }
  }

  #endIdleClients(): void {
    if (this.#quietings > 0) this.#endClientsInTheWay();
    for (const runner of this.#runners) {
      const seconds = runner.config.client_idle_limit;
      if (seconds === 0 || runner.session === undefined || runner.session.busy) continue;
      if (this.coarseNow - runner.lastHeardAt <= seconds * 1000) continue;
      runner.terminate(
        new ClientIdle("unable to read data", {
          detail: `child connection forced to terminate due to client_idle_limit:${seconds} is reached`,
        }),
      );
    }
  }

  /** client_idle_limit_in_recovery: while everybody is to leave, idle ones may be made to. */
  #endClientsInTheWay(): void {
    for (const runner of this.#runners) {
      const seconds = runner.config.client_idle_limit_in_recovery;
      if (seconds === 0 || runner.session === undefined) continue;
      if (seconds < 0) {
        runner.terminate(new ClientIdle("connection terminated due to online recovery"));
      } else if (!runner.session.busy && this.coarseNow - runner.lastHeardAt > seconds * 1000) {
        const detail = `child connection forced to terminate due to client_idle_limit_in_recovery:${seconds} is reached`;
        runner.terminate(new ClientIdle("unable to read data", { detail }));
      }
    }
  }

  #closeOldSets(seconds: number): void {
    const before = this.coarseNow - seconds * 1000;
    for (const set of this.pool.removeIdle((each) => each.releasedAt <= before)) set.close();
  }

  #renewIdleSlots(seconds: number): void {
    const before = this.coarseNow - seconds * 1000;
    for (const slot of this.slots.all) {
      const idle = this.#runnerOfSlot[slot.index] === undefined;
      if (idle && slot.lastUsedAt > 0 && slot.lastUsedAt < before) this.#renew(slot);
    }
  }

  // ---------------------------------------------------------------- quiet

  /**
   * New clients wait from now on, until `release`. Resolves when all others have left, after that
   * time, or when `signal` says that nobody waits for it any more; clients that are idle for longer than
   * client_idle_limit_in_recovery are sent away.
   */
  async quiesce(timeoutMs: number, signal?: AbortSignal): Promise<Quiet> {
    this.slots.shut();
    this.#quietings++;
    const until = this.#steadyClock() + timeoutMs;
    const isWanted = () => signal?.aborted !== true && this.#steadyClock() < until;
    while (this.slots.busyCount > 0 && isWanted()) {
      await new Promise((resolve) => setTimeout(resolve, tickMs / 4));
    }
    this.#quietings--;
    let released = false;
    const release = () => {
      if (!released) this.slots.open();
      released = true;
    };
    return { empty: this.slots.busyCount === 0, doubt: () => Promise.resolve(undefined), release };
  }
  #quietings = 0;

  // ---------------------------------------------------------------- the end

  /** Pools nothing any more, and resolves when the last client has left. */
  async untilEmpty(): Promise<void> {
    this.#retire();
    if (this.#runners.size > 0) {
      this.#emptied ??= new Promise((resolve) => {
        this.#onEmpty = resolve;
      });
      await this.#emptied;
    }
    clearInterval(this.#ticker);
    this.queryCache?.shared?.close();
    this.patience.stop();
    this.#ticker = undefined;
  }

  #retire(): void {
    this.#closing = true;
    for (const set of this.pool.removeIdle(() => true)) set.close();
  }

  /** Ends those who wait for a place. */
  turnAway(): void {
    for (const runner of this.#runners) {
      if (runner.slot === undefined) runner.terminate(shuttingDown());
    }
  }

  /** Ends all clients, and pools nothing any more. */
  terminateAll(): void {
    this.#retire();
    for (const runner of this.#runners) runner.terminate(shuttingDown());
  }
}

/** Of the live standbys whose delay is known as a time. */
function longestDelayMs(state: ClusterState): number {
  let longest = 0;
  for (const node of state.nodes) {
    if (isLive(node) && node.delayByTime && node.delay > longest) longest = node.delay;
  }
  return longest / 1000;
}

const isLiveIn = (state: ClusterState, id: NodeId): boolean => {
  const node = state.nodes[id];
  return node !== undefined && isLive(node);
};

class ClientIdle extends PgpoolError {
  override readonly sqlstate = "57000";
}

const shuttingDown = () => new ShuttingDown("terminating connection due to administrator command");

const keyOf = (processId: number, secretKey: Uint8Array): string =>
  `${processId} ${Buffer.from(secretKey).toString("hex")}`;
