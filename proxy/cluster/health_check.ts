/**
 * The health checks of all nodes, each by itself: a machine of core/cluster/health.ts, a timer, and
 * at most one connection. A node that hangs delays nobody but its own next check.
 */
import type { HealthCheckView } from "../../core/admin/view.ts";
import {
  type HealthEffect,
  type HealthEvent,
  type HealthFacts,
  type HealthState,
  healthAtStart,
  hurried,
  stepHealth,
  wakeAt,
} from "../../core/cluster/health.ts";
import type { NodeId } from "../../core/cluster/state.ts";
import type { Log } from "../../core/ports.ts";

/** How one try ended. */
export type TryResult =
  | { readonly kind: "answered"; readonly complaint?: string }
  | { readonly kind: "failed"; readonly why: string; readonly timedOut: boolean };

export type HealthPorts = {
  /** Everything but the time; undefined for a node that there is not. */
  readonly factsOf: (node: NodeId) => Omit<HealthFacts, "now"> | undefined;
  readonly clock: () => number;
  /** Calls back once after that time, unless the function given back is called before. */
  readonly after: (ms: number, wake: () => void) => () => void;
  readonly log: Log;
  /** One connection, given up after `timeoutMs` (0 is no limit) or when `signal` is aborted. */
  readonly attempt: (node: NodeId, timeoutMs: number, signal: AbortSignal) => Promise<TryResult>;
  readonly detach: (node: NodeId, why: string, switchover: boolean) => void;
  readonly attach: (node: NodeId, restore: boolean) => void;
};

export class HealthChecks {
  readonly #ports: HealthPorts;
  readonly #stop = new AbortController();
  readonly #checks = new Map<NodeId, NodeCheck>();

  constructor(ports: HealthPorts) {
    this.#ports = ports;
  }

  /** Begins to check these nodes, and checks at once those that it checks already: after a reload, after a failback. */
  check(nodes: readonly NodeId[]): void {
    if (this.#stop.signal.aborted) return;
    for (const node of nodes) {
      let check = this.#checks.get(node);
      if (check === undefined) {
        check = new NodeCheck(node, this.#ports, this.#stop.signal);
        this.#checks.set(node, check);
      }
      check.hurry();
    }
  }

  /** Undefined for a node that is not checked. */
  statsOf(node: NodeId): HealthCheckView | undefined {
    return this.#checks.get(node)?.state.stats;
  }

  /** Whether its server answered last; undefined while nothing asks it. */
  answers(node: NodeId): boolean | undefined {
    return this.#checks.get(node)?.state.answers;
  }

  stop(): void {
    this.#stop.abort(new Error("stopping"));
    for (const check of this.#checks.values()) check.end();
  }
}

class NodeCheck {
  readonly #node: NodeId;
  readonly #ports: HealthPorts;
  readonly #signal: AbortSignal;
  #cancel: (() => void) | undefined;
  #complaint: string | undefined;
  state: HealthState = healthAtStart;

  constructor(node: NodeId, ports: HealthPorts, signal: AbortSignal) {
    this.#node = node;
    this.#ports = ports;
    this.#signal = signal;
  }

  hurry(): void {
    this.state = hurried(this.state);
    this.#step({ kind: "tick" });
  }

  end(): void {
    this.#cancel?.();
  }

  #step(event: HealthEvent): void {
    if (this.#signal.aborted) return;
    const facts = this.#ports.factsOf(this.#node);
    if (facts === undefined) return;
    const now = this.#ports.clock();
    const [state, effects] = stepHealth(this.state, event, { ...facts, now });
    this.state = state;
    for (const effect of effects) this.#do(effect);
    this.#cancel?.();
    const at = wakeAt(this.state);
    if (at === undefined) return;
    const delayMs = Math.min(Math.max(0, at - now), LONGEST_TIMER_MS);
    this.#cancel = this.#ports.after(delayMs, () => this.#step({ kind: "tick" }));
  }

  #do(effect: HealthEffect): void {
    const { log, detach, attach } = this.#ports;
    switch (effect.kind) {
      case "log":
        log.write(effect.severity, effect.message, { detail: effect.detail });
        break;
      case "try":
        void this.#try(effect.timeoutMs);
        break;
      case "detach":
        detach(this.#node, effect.why, effect.switchover);
        break;
      case "attach":
        attach(this.#node, effect.restore);
        break;
    }
  }

  async #try(timeoutMs: number): Promise<void> {
    const result = await this.#ports.attempt(this.#node, timeoutMs, this.#signal);
    if (result.kind === "answered") this.#noteComplaint(result.complaint);
    this.#step(result);
  }

  /** A server that lives and turns us away is told of once, until that changes. */
  #noteComplaint(complaint: string | undefined): void {
    if (complaint !== undefined && complaint !== this.#complaint) {
      const message = `health check of node ${this.#node} could not log in, but the server answers`;
      this.#ports.log.write("WARNING", message, { detail: complaint });
    }
    this.#complaint = complaint;
  }
}

/** Timers count in 31 bits; a longer pause comes back in between, which does no harm. */
const LONGEST_TIMER_MS = 2_000_000_000;
