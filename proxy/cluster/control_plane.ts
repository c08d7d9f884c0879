/**
 * The control plane of one pgpool: the live state, the health checks, the streaming check and the
 * transitions, joined. Sessions tell it what they notice (`EngineControl`); PCP and online recovery
 * give it orders (`ClusterControl`).
 */
import type {
  ClusterControl,
  Council,
  Hold,
  OrderResult,
  PromoteOptions,
  Quiet,
} from "../../core/cluster/control.ts";
import { type FailoverRequest, fenceText } from "../../core/cluster/failover.ts";
import type { HealthFacts, NodeHealth } from "../../core/cluster/health.ts";
import {
  type ClusterState,
  changeOf,
  isLive,
  type NodeId,
  replicates,
} from "../../core/cluster/state.ts";
import type { Clock, Log } from "../../core/ports.ts";
import type { EngineControl, LossSign } from "../engine.ts";
import { runCommand } from "./command.ts";
import { failingOf, type ProbeWorld, pause, reasonOf, TooSlow, withBackend } from "./connection.ts";
import { Controller, type StatusStore } from "./controller.ts";
import { Failover } from "./failover.ts";
import { HealthChecks, type TryResult } from "./health_check.ts";
import { StreamingCheck } from "./probes.ts";
import { Promotion } from "./promotion.ts";

export type ControlPlaneOptions = {
  readonly world: ProbeWorld;
  readonly store: StatusStore;
  readonly log: Log;
  readonly clock: Clock;
  readonly pid: number;
  /** health_check_test: what backend_down_request in work_dir says; undefined when there is none. */
  readonly downRequests: () => string | undefined;
  /** Graceful orders: new clients wait until it is released; false when clients were left after that time. */
  readonly quiesce: (timeoutMs: number) => Promise<Quiet>;
  /** The other pgpools; undefined without a watchdog. */
  readonly council?: Council | undefined;
};

/** Least time between two health checks that the end of a connection brings about, in milliseconds. */
const HURRY_MS = 250;

export class ControlPlane implements ClusterControl, EngineControl {
  readonly #options: ControlPlaneOptions;
  readonly #controller: Controller;
  readonly #failover: Failover;
  readonly #streaming: StreamingCheck;
  readonly #health: HealthChecks;
  readonly #promotion: Promotion;
  readonly #stop = new AbortController();
  /** Nodes whose loss is being looked into. */
  readonly #suspected = new Set<NodeId>();
  readonly #hurriedAt = new Map<NodeId, number>();

  constructor(options: ControlPlaneOptions) {
    this.#options = options;
    const { world, log, clock, pid, store, council } = options;
    const config = world.config();
    const { backends, backend_clustering_mode: mode } = config;
    this.#controller = new Controller({ mode, backends, store, log, clock });
    const controller = this.#controller;
    this.#streaming = new StreamingCheck({
      world: { ...world, log: speaker(log, pid, "WORKER", "sr_check_worker") },
      controller,
      mayJudge: () =>
        !this.#failover.busy && !this.#failover.following && council?.isFollowing !== true,
      detachFalse: (node) => {
        if (!this.#leads) return;
        const why = "it calls itself the primary, and is not";
        const request = { kind: "detach", nodes: [node], why } as const;
        void this.#failover.request(request, { confirmed: true, switchover: true });
      },
    });
    this.#promotion = new Promotion({
      world,
      state: () => controller.state,
      log,
      giveBack: (node) => {
        const request = { kind: "attach", node, asBefore: true } as const;
        void this.#failover.request(request, { confirmed: true });
      },
      fence: (lost, heir) =>
        runCommand(fenceText(world.config(), lost, heir), log, this.#stop.signal),
    });
    this.#failover = new Failover({
      controller,
      rules: world.config,
      log,
      pid,
      findPrimary: () => this.#streaming.findPrimary(),
      elect: async (lost) => (this.#leads ? await this.#promotion.elect(lost) : undefined),
      run: async (text) => void (await runCommand(text, log, this.#stop.signal)),
      pause,
      clock,
      judge: async (request, motion) => (await council?.judge(request, motion)) ?? "proceed",
      follow: async (begins) => await council?.follow(begins),
    });
    const healthLog = speaker(log, pid, "HEALTH_CHECK", "health_check");
    this.#health = new HealthChecks({
      factsOf: (node) => this.#healthFacts(node),
      clock,
      after: (ms, wake) => {
        const timer = setTimeout(wake, ms);
        return () => clearTimeout(timer);
      },
      log: healthLog,
      attempt: (node, timeoutMs, signal) => this.#attempt(node, timeoutMs, signal),
      detach: (node, why, switchover) => this.#detach(node, why, switchover),
      attach: (node, restore) => {
        if (restore && replicates(this.state)) return; // it may have missed a write: an operator knows
        const request = { kind: restore ? "restore" : "attach", node } as const;
        void this.#failover.request(request, { confirmed: true });
      },
    });
  }

  get state(): ClusterState {
    return this.#controller.state;
  }

  /** Called with each new snapshot, after the one current now. */
  subscribe(subscriber: (state: ClusterState) => void): void {
    this.#controller.subscribe(subscriber);
  }

  /** Takes over what pgpool_status says, or discards it. Before `start`. */
  recall(discard: boolean): void {
    this.#controller.recall(discard);
  }

  /** Resolves when the primary has been looked for once; the search, and the checks, go on. */
  async start(): Promise<void> {
    let before = this.state;
    this.subscribe((state) => {
      const { joined, primary } = changeOf(before, state);
      before = state;
      if (joined.length > 0) this.#health.check(joined);
      if (!this.#leads) return;
      this.#promotion.joined(joined);
      if (primary !== undefined) this.#promotion.primaryChanged();
    });
    // A watchdog's leader has said who it is.
    if (this.state.primary === undefined) await this.#failover.search();
    if (this.#stop.signal.aborted) return;
    this.#streaming.start();
    this.#promotion.start();
    this.#health.check(this.state.nodes.map(({ id }) => id));
  }

  stop(): void {
    this.#stop.abort(new Error("stopping"));
    this.#health.stop();
    this.#streaming.stop();
    this.#promotion.stop();
    this.#failover.stop();
  }

  /** After a reload: `world.config()` is the new one already. */
  reconfigured(): void {
    this.#controller.reconfigure(this.#options.world.config().backends);
    this.#streaming.reconfigured();
    this.#health.check(this.state.nodes.map(({ id }) => id));
  }

  healthOf(node: NodeId): NodeHealth {
    return { stats: this.#health.statsOf(node), answers: this.#health.answers(node) };
  }

  // ---------------------------------------------------------------- what sessions notice

  connected(node: NodeId): void {
    this.#controller.connected(node);
  }

  suspect(node: NodeId, why: string): void {
    this.#detach(node, why);
  }

  /** No vote is needed: what the nodes said to this pgpool the others cannot know. */
  async disagreed(nodes: readonly NodeId[], why: string): Promise<OrderResult> {
    return await this.#failover.request({ kind: "detach", nodes, why }, { confirmed: true });
  }

  /**
   * A connection has ended. That a server's administrator ended it, or pg_terminate_backend, or the
   * crash of one process, cannot be told apart by the words said: the server is asked.
   */
  lost(node: NodeId, sign: LossSign, why: string): void {
    const state = this.state.nodes[node];
    if (state === undefined || !isLive(state) || this.#stop.signal.aborted) return;
    const config = this.#options.world.config();
    this.#checkSoon(node);
    // Where we replicate, no session can go on until it is clear whether the node still takes part.
    const all = replicates(this.state);
    const grave =
      ((sign === "error" || (sign === "eof" && all)) && config.failover_on_backend_error) ||
      (sign === "shutdown" && (config.failover_on_backend_shutdown || all));
    const allowed = config.backends[node]?.flag.allowToFailover !== false;
    if (grave && allowed) void this.#lookInto(node, why);
  }

  /** At once, unless connections end by the dozen: one check answers for all of them. */
  #checkSoon(node: NodeId): void {
    const now = this.#options.clock();
    if (now - (this.#hurriedAt.get(node) ?? 0) < HURRY_MS) return;
    this.#hurriedAt.set(node, now);
    this.#health.check([node]);
  }

  async #lookInto(node: NodeId, why: string): Promise<void> {
    if (this.#suspected.has(node)) return;
    this.#suspected.add(node);
    try {
      const timeoutMs = this.#options.world.addressOf(node).connectTimeoutMs;
      const result = await this.#attempt(node, timeoutMs, this.#stop.signal);
      if (result.kind === "failed" && !this.#stop.signal.aborted) {
        this.#detach(node, `${why}; then: ${result.why}`);
      }
    } finally {
      this.#suspected.delete(node);
    }
  }

  #detach(node: NodeId, why: string, switchover = node !== this.state.primary): void {
    void this.#failover.request({ kind: "detach", nodes: [node], why }, { switchover });
  }

  /** Alone, or the leader of the watchdog's cluster: standbys are led, and false primaries ended, by one. */
  get #leads(): boolean {
    return this.#options.council?.isLeader ?? true;
  }

  // ---------------------------------------------------------------- what the watchdog's cluster says

  /** What has been decided, or needs no decision, is carried out. */
  async carryOut(request: FailoverRequest): Promise<OrderResult> {
    return await this.#failover.request(request, { decided: true });
  }

  /** Others may have seen meanwhile what we saw: each backend in quarantine is voted on once more. */
  async voteAgain(): Promise<void> {
    const quarantined = this.state.nodes.filter(({ status }) => status === "quarantine");
    for (const { id } of quarantined) {
      const why = "it is in quarantine, and other pgpool nodes have lost it too";
      const motion = { again: true, switchover: id !== this.state.quarantinedPrimary };
      await this.#failover.request({ kind: "detach", nodes: [id], why }, motion);
    }
  }

  // ---------------------------------------------------------------- orders

  async detachNode(node: NodeId, options: { readonly gracefully: boolean }): Promise<OrderResult> {
    const why = "by order of an operator";
    const request = { kind: "detach", nodes: [node], why, byOperator: true } as const;
    return await this.#order(request, options.gracefully);
  }

  async attachNode(node: NodeId): Promise<OrderResult> {
    const others = this.state.nodes.some((each) => isLive(each) && each.id !== node);
    if (replicates(this.state) && others) {
      const message = `node ${node} is attached as it is: what was written without it, it does not have`;
      const hint = "pcp_recovery_node makes it the same as the others, and attaches it";
      this.#options.log.write("WARNING", message, { hint });
    }
    return await this.#order({ kind: "attach", node }, false);
  }

  async promoteNode(node: NodeId, options: PromoteOptions): Promise<OrderResult> {
    const kind = options.switchover ? "switchover" : "promote";
    return await this.#order({ kind, node }, options.gracefully);
  }

  async hold(): Promise<Hold> {
    return await this.#failover.hold();
  }

  async #order(request: FailoverRequest, gracefully: boolean): Promise<OrderResult> {
    const motion = { confirmed: true, switchover: request.kind === "detach" };
    if (!gracefully) return await this.#failover.request(request, motion);
    const refusal = this.#failover.refusalOf(request);
    if (refusal !== undefined) return { kind: "refused", why: refusal };
    const { recovery_timeout: seconds } = this.#options.world.config();
    const quiet = await this.#options.quiesce(seconds * 1000);
    try {
      if (!quiet.empty) {
        const detail = `after recovery_timeout (${seconds} seconds) clients were still connected`;
        return { kind: "refused", why: "clients did not leave in time", detail };
      }
      return await this.#failover.request(request, motion);
    } finally {
      quiet.release();
    }
  }

  // ---------------------------------------------------------------- health

  #healthFacts(id: NodeId): Omit<HealthFacts, "now"> | undefined {
    const config = this.#options.world.config();
    const node = this.state.nodes[id];
    const settings = config.backends[id];
    if (node === undefined || settings === undefined) return undefined;
    const { auto_failback, auto_failback_interval } = config;
    const streams = node.replicationState === "streaming" && !this.#failover.busy;
    return {
      node: id,
      settings,
      status: node.status,
      allowToFailover: settings.flag.allowToFailover,
      streamsAgain: auto_failback && this.state.mode === "streaming_replication" && streams,
      autoFailbackIntervalMs: auto_failback_interval * 1000,
    };
  }

  async #attempt(node: NodeId, limitMs: number, signal: AbortSignal): Promise<TryResult> {
    const { world } = this.#options;
    const config = world.config();
    const backend = config.backends[node];
    if (config.health_check_test && isDownInFile(this.#options.downRequests(), node)) {
      return { kind: "failed", why: "backend_down_request says so", timedOut: false };
    }
    const asker = {
      user: backend?.health_check_user ?? "",
      password: backend?.health_check_password ?? "",
      database: backend?.health_check_database || "postgres",
      applicationName: `health_check${node}`,
      parameter: "health_check_user",
    };
    try {
      await withBackend(world, node, asker, { limitMs, signal }, async () => {});
      return { kind: "answered" };
    } catch (error) {
      if (failingOf(error) === "alive") return { kind: "answered", complaint: reasonOf(error) };
      return { kind: "failed", why: reasonOf(error), timedOut: error instanceof TooSlow };
    }
  }
}

/** Lines of `<id>\tdown` (spec wire/files.md section 9). */
function isDownInFile(text: string | undefined, node: NodeId): boolean {
  return (text ?? "").split("\n").some((line) => line.trim() === `${node}\tdown`);
}

function speaker(log: Log, pid: number, processName: string, applicationName: string): Log {
  return log.as({ processName, applicationName, pid });
}
