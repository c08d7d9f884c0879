/**
 * One data plane: listeners' clients, slots, pool, routing rules and caches, without globals, so
 * that there may be several. It keeps the last `ClusterState` it was given and tells the control
 * plane what its sessions notice.
 */
import type { ClusterState, NodeId } from "../core/cluster/state.ts";
import { isLive } from "../core/cluster/state.ts";
import type { Config } from "../core/config/schema.ts";
import { PgpoolError, ShuttingDown } from "../core/errors.ts";
import type { Clock, Log, Random } from "../core/ports.ts";
import type { StatementFacts } from "../core/sql/facts.ts";
import { type Backend, type BackendAddress, type BackendWorld, sendCancel } from "./backend.ts";
import { RelationCache } from "./cache/relcache.ts";
import { Counters } from "./counters.ts";
import type { StatementParser } from "./parser.ts";
import { type BackendSet, Pool } from "./pool.ts";
import { type RoutingRules, routingRules } from "./routing/rules.ts";
import { Runner } from "./runner.ts";
import type { LoginWorld } from "./session/startup.ts";
import { type Slot, Slots } from "./slots.ts";
import type { Conn } from "./transport/conn.ts";

/** What a session tells the control plane. */
export interface EngineControl {
  /** The first connection of a node that was only configured so far. */
  connected(node: NodeId): void;
  /** A node did not answer: it should be detached. */
  suspect(node: NodeId, why: string): void;
}

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
  readonly random: Random;
  readonly pid: number;
  /** Statements as they may be logged: without the passwords in them. */
  readonly redact: (sql: string) => string;
};

const cancelTimeoutMs = 10_000;
const tickMs = 1000;

export class Engine {
  config: Config;
  rules: RoutingRules;
  login: LoginWorld;
  backendWorld: BackendWorld;
  readonly parser: StatementParser;
  readonly relcache: RelationCache;
  readonly control: EngineControl;
  readonly log: Log;
  readonly clock: Clock;
  readonly random: Random;
  readonly pid: number;
  readonly startedAt: number;
  readonly pool: Pool;
  readonly slots: Slots;
  readonly counters = new Counters();
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
      clock,
    });
    this.control = options.control;
    this.log = options.log;
    this.clock = clock;
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

  /** Every node that is to be used now must have a connection that is still open. */
  isUsable(set: BackendSet): boolean {
    const { nodes, mode } = this.#state;
    const open = (backend: Backend | undefined) => backend !== undefined && !backend.closed;
    if (mode === "raw") return set.backends.some(open);
    return nodes.every((node) => {
      const backend = set.backends[node.id];
      return isLive(node) ? open(backend) : backend === undefined || open(backend);
    });
  }

  keep(set: BackendSet): void {
    if (this.#closing || !this.isUsable(set) || !this.pool.release(set, this.clock())) {
      this.discard(set);
      return;
    }
    for (const backend of set.backends) backend?.watch(() => this.discard(set));
  }

  discard(set: BackendSet): void {
    this.pool.remove(set);
    set.close();
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
    if (set === undefined || session === undefined) {
      this.log.write("LOG", `invalid cancel key: pid:${processId} keylen:${secretKey.length}`);
      return;
    }
    const busy = set.backends.filter(
      (backend): backend is Backend =>
        backend !== undefined && (session.replies.links[backend.node]?.queue.size ?? 0) > 0,
    );
    await Promise.all(busy.map((backend) => this.#cancelOn(backend)));
  }

  async #cancelOn(backend: Backend): Promise<void> {
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
    this.#state = state;
    const unusable = this.pool.removeIdle((set) => !this.isUsable(set));
    for (const set of unusable) set.close();
  }

  reconfigure(config: Config, login: LoginWorld, backendWorld: BackendWorld): void {
    const previous = this.config;
    this.config = config;
    this.rules = routingRules(config);
    this.login = login;
    this.backendWorld = backendWorld;
    for (const runner of this.#runners) runner.reconfigured(previous);
  }

  #tick(): void {
    this.coarseNow = this.clock();
    const { authentication_timeout, connection_life_time, child_life_time } = this.config;
    if (authentication_timeout > 0) this.#endSlowLogins(authentication_timeout);
    this.#endIdleClients();
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

  // ---------------------------------------------------------------- the end

  /** Smart: waits until the last client has left; else ends them all. Resolves when none is left. */
  async stop(mode: "smart" | "fast"): Promise<void> {
    this.#closing = true;
    for (const set of this.pool.removeIdle(() => true)) set.close();
    if (mode === "fast") {
      for (const runner of this.#runners) runner.terminate(shuttingDown());
    }
    if (this.#runners.size > 0) {
      await new Promise<void>((resolve) => {
        this.#onEmpty = resolve;
      });
    }
    clearInterval(this.#ticker);
    this.#ticker = undefined;
  }

  /** A second, harder stop while a smart one waits. */
  terminateAll(): void {
    for (const runner of this.#runners) runner.terminate(shuttingDown());
  }
}

class ClientIdle extends PgpoolError {
  override readonly sqlstate = "57000";
}

const shuttingDown = () => new ShuttingDown("terminating connection due to administrator command");

const keyOf = (processId: number, secretKey: Uint8Array): string =>
  `${processId} ${Buffer.from(secretKey).toString("hex")}`;
