/**
 * Carries out transitions, one after the other: the queue of requests, and the deeds that
 * core/cluster/failover.ts asks for. What a transition needs of the world comes by ports, so that a
 * simulation runs this very code.
 */
import type { Motion, OrderResult, Verdict } from "../../core/cluster/control.ts";
import {
  carryOut,
  type FailoverEffect,
  type FailoverFacts,
  type FailoverRequest,
  type FailoverRules,
  type FollowRun,
  isSameRequest,
  type LostPrimary,
  nodesOf,
  REFUSALS,
  refusalOf,
} from "../../core/cluster/failover.ts";
import {
  type ClusterState,
  hasPrimary,
  isLive,
  mainNode,
  type NodeId,
} from "../../core/cluster/state.ts";
import type { Log } from "../../core/ports.ts";
import type { Controller } from "./controller.ts";

export type FailoverPorts = {
  readonly controller: Controller;
  readonly rules: () => FailoverRules & { readonly search_primary_node_timeout: number };
  readonly log: Log;
  readonly pid: number;
  /** Asks the live nodes once who is the primary. */
  readonly findPrimary: () => Promise<NodeId | undefined>;
  /** One attempt to replace a lost primary; undefined while that is not safe or did not work. */
  readonly elect: (lost: LostPrimary) => Promise<NodeId | undefined>;
  /** Runs a command of the configuration; never rejects. */
  readonly run: (text: string) => Promise<void>;
  /** Resolves after that time or when `signal` is aborted. */
  readonly pause: (ms: number, signal: AbortSignal) => Promise<void>;
  readonly clock: () => number;
  /** What the other pgpools say. Alone, one proceeds. */
  readonly judge: (request: FailoverRequest, motion: Motion) => Promise<Verdict>;
  /** Standbys begin to be led to a new primary, or have been. Never rejects. */
  readonly follow: (begins: boolean) => Promise<void>;
};

export type RequestOptions = Partial<Motion> & {
  /** The other pgpools have agreed, or it is none of their business. */
  readonly decided?: boolean;
};

/** Requests that may wait; one more is refused, as upstream. */
const QUEUE_MAX = 10;
const SEARCH_PAUSE_MS = 1000;
/** So long a transition waits for its primary: reads can be served without one. */
const SEARCH_PATIENCE_MS = 5000;

type Item = {
  readonly request: FailoverRequest;
  readonly done: Promise<OrderResult>;
  readonly settle: (result: OrderResult) => void;
};

export class Failover {
  readonly #ports: FailoverPorts;
  readonly #queue: Item[] = [];
  #working: Promise<void> | undefined;
  #interrupt = new AbortController();
  readonly #stop = new AbortController();
  /** A primary that was lost and has no successor yet. */
  #lost: LostPrimary | undefined;
  /** A search that other requests cut short, or that took too long for what it was a part of. */
  #unfinished = false;
  /** Milliseconds; undefined while no search is under way. */
  #searchingSince: number | undefined;
  #holders = 0;
  #following: Promise<void> | undefined;

  constructor(ports: FailoverPorts) {
    this.#ports = ports;
  }

  /** follow_primary_command is at work: the primary is not in question meanwhile. */
  get following(): boolean {
    return this.#following !== undefined;
  }

  get busy(): boolean {
    return this.#working !== undefined || this.#queue.length > 0;
  }

  /** Resolves when it is carried out or refused; never rejects. */
  async request(request: FailoverRequest, options: RequestOptions = {}): Promise<OrderResult> {
    const refusal = this.refusalOf(request);
    if (refusal !== undefined) return refused(refusal);
    const agreed = options.decided === true ? request : await this.#agreed(request, options);
    if ("done" in agreed) return agreed.done;
    const asked = agreed;
    // The vote took time; and the same may have been asked by many sessions at once.
    const again = this.refusalOf(asked);
    if (again !== undefined) return refused(again);
    const same = this.#queue.find((item) => isSameRequest(item.request, asked));
    if (same !== undefined) return await same.done;
    if (this.#queue.length >= QUEUE_MAX) return refused("too many failover requests are waiting");
    return await this.#push(asked);
  }

  /** Searches the primary at the start. Resolves after the first round; further ones go on behind. */
  async search(): Promise<void> {
    if (!hasPrimary(this.#ports.controller.state)) return;
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#searched = resolve;
    void this.#work(() => this.#findAlone()).then(resolve);
    await promise;
    this.#searched = () => {};
  }
  #searched: () => void = () => {};

  async #findAlone(): Promise<void> {
    await this.#perform({ kind: "find", lost: this.#lost?.node });
  }

  /** See ClusterControl.hold. */
  async hold(): Promise<{ attach(node: NodeId): Promise<OrderResult>; release(): void }> {
    this.#holders++;
    this.#interrupt.abort();
    while (this.#working !== undefined) await this.#working;
    let held = true;
    return {
      attach: async (node) => {
        const request = { kind: "attach", node } as const;
        const refusal = this.refusalOf(request);
        if (refusal !== undefined) return refused(refusal);
        const agreed = await this.#agreed(request, { confirmed: true });
        return "done" in agreed ? agreed.done : await this.#perform(agreed);
      },
      release: () => {
        if (!held) return;
        held = false;
        this.#holders--;
        this.#kick();
      },
    };
  }

  stop(): void {
    this.#stop.abort(new Error("stopping"));
    this.#interrupt.abort();
  }

  /** Why the request would be turned away now, which is logged; undefined lets it in. */
  refusalOf(request: FailoverRequest): string | undefined {
    const { controller, rules, log, pid } = this.#ports;
    const refusal = refusalOf(request, controller.state, rules(), pid);
    if (refusal !== undefined) log.write("LOG", refusal);
    return refusal;
  }

  async #agreed(
    request: FailoverRequest,
    { confirmed = false, switchover = false, again = false }: RequestOptions,
  ): Promise<FailoverRequest | { readonly done: OrderResult }> {
    switch (request.kind) {
      case "detach":
      case "attach":
      case "promote":
      case "switchover":
        break;
      case "quarantine":
      case "restore":
      case "adopt":
      case "find":
        return request;
    }
    const verdict = await this.#ports.judge(request, { confirmed, switchover, again });
    switch (verdict) {
      case "proceed":
        return request;
      case "quarantine":
        // It is in quarantine already when it was voted on again.
        if (request.kind === "detach" && !again) return { ...request, kind: "quarantine" };
        return { done: refused(NOT_AGREED) };
      case "done_elsewhere":
        return { done: { kind: "done" } };
      case "open":
        return { done: refused("the other pgpool nodes have not voted yet") };
      case "cancelled":
        return { done: refused(NOT_AGREED) };
    }
  }

  #push(request: FailoverRequest): Promise<OrderResult> {
    if (request.kind !== "adopt") {
      this.#ports.log.write("LOG", receivedText(request, this.#ports.pid));
    }
    const { promise: done, resolve: settle } = Promise.withResolvers<OrderResult>();
    const item = { request, done, settle };
    this.#queue.push(item);
    this.#interrupt.abort(); // a search for a primary can go on after what was asked now
    this.#kick();
    return done;
  }

  // ---------------------------------------------------------------- one after the other

  #kick(): void {
    if (this.#working !== undefined || this.#stop.signal.aborted) return;
    const item = this.#nextItem();
    if (item !== undefined) {
      void this.#work(async () => item.settle(await this.#perform(item.request)));
    } else if (this.#unfinished && this.#holders === 0) {
      this.#unfinished = false;
      void this.#work(() => this.#findAlone());
    }
  }

  /** What the leader says is taken over also while others hold everything else back. */
  #nextItem(): Item | undefined {
    if (this.#holders === 0) return this.#queue.shift();
    const at = this.#queue.findIndex(({ request }) => request.kind === "adopt");
    return at < 0 ? undefined : this.#queue.splice(at, 1)[0];
  }

  async #work(job: () => Promise<void>): Promise<void> {
    while (this.#working !== undefined) await this.#working;
    const working = job().catch((error: unknown) => {
      const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
      this.#ports.log.write("ERROR", "internal error", { detail });
    });
    this.#working = working;
    await working;
    this.#working = undefined;
    this.#kick();
  }

  async #perform(request: FailoverRequest): Promise<OrderResult> {
    const { controller, rules } = this.#ports;
    if (request.kind === "adopt") {
      // Whoever leads looks for the successor.
      this.#lost = undefined;
      this.#unfinished = false;
      this.#searchingSince = undefined;
    }
    try {
      const steps = carryOut(request, controller.state, rules());
      let step = steps.next();
      while (step.done !== true) step = steps.next(await this.#do(step.value));
      if (request.kind === "adopt") controller.forgetLostPrimary();
      return step.value === "done" ? { kind: "done" } : refused(REFUSALS[step.value]);
    } catch (error) {
      const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
      this.#ports.log.write("ERROR", "internal error", { detail });
      return refused("internal error");
    } finally {
      if (controller.state.ongoing !== undefined) controller.change({ ongoing: { is: undefined } });
    }
  }

  async #do(effect: FailoverEffect): Promise<FailoverFacts> {
    const { controller, log } = this.#ports;
    let primary: NodeId | undefined;
    switch (effect.kind) {
      case "log":
        log.write(effect.severity, effect.message, { detail: effect.detail });
        break;
      case "change":
        controller.change(effect);
        break;
      case "record":
        controller.record();
        break;
      case "run":
        await this.#ports.run(effect.text);
        break;
      case "find_primary":
        if (effect.lost !== undefined) {
          this.#lost = effect.lost;
          this.#searchingSince = undefined;
        }
        primary = await this.#untilFound();
        break;
      case "follow":
        this.#follow(effect.runs);
        break;
    }
    return { state: controller.state, primary };
  }

  // ---------------------------------------------------------------- the primary

  /**
   * Again and again, up to search_primary_node_timeout, or until something else is asked. A
   * transition ends without a primary when the search takes long: it goes on by itself then.
   */
  async #untilFound(): Promise<NodeId | undefined> {
    const { controller, log, clock, pause } = this.#ports;
    if (this.#following !== undefined && controller.state.primary !== undefined) {
      return controller.state.primary;
    }
    log.write("LOG", "find_primary_node_repeatedly: waiting for finding a primary node");
    this.#interrupt = new AbortController();
    const signal = AbortSignal.any([this.#interrupt.signal, this.#stop.signal]);
    const begunAt = clock();
    this.#searchingSince ??= begunAt;
    this.#unfinished = false;
    for (;;) {
      const found = await this.#findOnce();
      this.#searched();
      if (found !== undefined) this.#lost = undefined;
      if (found !== undefined || this.#isHopeless(this.#searchingSince)) {
        this.#searchingSince = undefined;
        if (found === undefined) controller.forgetLostPrimary();
        return found;
      }
      // Where there never was a primary nothing says that one is about to appear.
      const patienceMs = this.#lost === undefined ? 0 : SEARCH_PATIENCE_MS;
      const long = clock() - begunAt >= patienceMs && controller.state.ongoing !== undefined;
      const cutShort = () => long || signal.aborted || this.#queue.length > 0;
      if (!cutShort()) await pause(SEARCH_PAUSE_MS, signal);
      if (cutShort()) {
        this.#unfinished = true;
        return undefined;
      }
    }
  }

  #isHopeless(since: number): boolean {
    const { controller, log, clock, rules } = this.#ports;
    const { search_primary_node_timeout: seconds, failover_method } = rules();
    // Where we watch over a lost primary it may come back alone.
    const mayReturn = failover_method === "promote" && this.#lost?.mayReturn === true;
    if (mainNode(controller.state) === undefined && !mayReturn) {
      const message =
        "find_primary_node_repeatedly: all of the backends are down. Giving up finding primary node";
      log.write("LOG", message);
      return true;
    }
    if (seconds === 0 || clock() - since < seconds * 1000) return false;
    log.write("LOG", "failed to find primary node", {
      detail: `find_primary_node_repeatedly: expired after ${seconds} seconds`,
    });
    return true;
  }

  /** Whoever is the primary by itself; else, where we replace it ourselves, the one we made. */
  async #findOnce(): Promise<NodeId | undefined> {
    const { controller, rules, findPrimary, elect } = this.#ports;
    const found = await findPrimary();
    if (found !== undefined && isUsable(controller.state, found)) return found;
    const { failover_method, failover_command } = rules();
    const isOurs = failover_method === "promote" && failover_command === "";
    if (!isOurs || this.#lost === undefined || controller.state.primary !== undefined) {
      return undefined;
    }
    return await elect(this.#lost);
  }

  // ---------------------------------------------------------------- standbys follow

  #follow(runs: readonly FollowRun[]): void {
    const before = this.#following ?? Promise.resolve();
    const following = before.then(async () => {
      await this.#ports.follow(true);
      for (const { node, text } of runs) {
        this.#ports.log.write("LOG", `=== Starting follow primary command for node ${node} ===`);
        await this.#ports.run(text);
        this.#ports.log.write("LOG", `=== Follow primary command for node ${node} ended ===`);
      }
      await this.#ports.follow(false);
      if (this.#following === following) this.#following = undefined;
    });
    this.#following = following;
  }
}

function isUsable(state: ClusterState, id: NodeId): boolean {
  const node = state.nodes[id];
  return node !== undefined && isLive(node);
}

function receivedText(request: FailoverRequest, pid: number): string {
  const nodes = nodesOf(request).join(", ");
  return `received ${WORDS[request.kind]} request for node_id: ${nodes} from pid [${pid}]`;
}

const WORDS: { readonly [K in FailoverRequest["kind"]]: string } = {
  detach: "degenerate backend",
  quarantine: "degenerate backend",
  attach: "failback",
  restore: "failback",
  promote: "promote backend",
  switchover: "promote backend",
  adopt: "sync backend",
  find: "find primary",
};

const NOT_AGREED = "the other pgpool nodes did not agree";

const refused = (why: string): OrderResult => ({ kind: "refused", why });
