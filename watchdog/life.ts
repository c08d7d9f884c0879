/**
 * The life check at work: every wd_interval it asks lifecheck.ts what is to be thought of the other
 * nodes, and tells the watchdog (spec watchdog/lifecheck.md section 3).
 */

import type { Log } from "../core/ports.ts";
import type { Heartbeat } from "./heartbeat.ts";
import {
  allHeard,
  checkHeartbeats,
  excuse,
  hear,
  type LifecheckNode,
  type LifeReport,
  noteQuery,
  type QueriedNode,
  unheard,
} from "./lifecheck.ts";

export type LifeOptions = {
  readonly method: "heartbeat" | "query" | "external";
  readonly intervalMs: number;
  readonly deadMs: number;
  readonly lifePoints: number;
  /** The others. */
  readonly nodes: readonly LifecheckNode[];
  /** Whether that pgpool answers wd_lifecheck_query. Never rejects. */
  readonly query: (node: LifecheckNode) => Promise<boolean>;
  readonly trustedServers: readonly string[];
  /** Whether that server can be reached. Never rejects. */
  readonly reach: (server: string) => Promise<boolean>;
  readonly inRecovery: () => boolean;
  /** Whether heartbeats carry a sum under wd_authkey. */
  readonly isSigned: () => boolean;
  /** Whether that node leads or follows, as far as is known: only then it sends heartbeats. */
  readonly isPlaced: (id: number) => boolean;
  readonly report: (report: LifeReport) => void;
  /** Every node has been heard, or has answered: from now on silence counts. */
  readonly started: () => void;
  /** Our own network is gone. */
  readonly cutOff: () => void;
  /** Milliseconds of a clock that no one sets. */
  readonly now: () => number;
  readonly log: Log;
};

/** How late a round may come before it says more of us than of others. */
const LATE_MS = 1000;

export class LifeCheck {
  readonly #options: LifeOptions;
  #heard: ReturnType<typeof unheard>;
  #queried: readonly QueriedNode[];
  readonly #answered = new Set<number>();
  #isStarted = false;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #isOver = false;
  #lastRound: number;

  constructor(options: LifeOptions) {
    this.#options = options;
    this.#heard = unheard(options.nodes);
    this.#queried = options.nodes.map(({ id }) => ({
      id,
      points: options.lifePoints,
      dead: false,
    }));
    this.#lastRound = options.now();
  }

  start(): void {
    if (this.#options.method !== "external") this.#later();
  }

  stop(): void {
    this.#isOver = true;
    clearTimeout(this.#timer);
  }

  /** A heartbeat whose sum was right. */
  hear(beat: Heartbeat, address: string): void {
    const { now, isSigned } = this.#options;
    this.#heard = hear(this.#heard, beat, address, now(), isSigned());
  }

  #later(): void {
    if (this.#isOver) return;
    this.#timer = setTimeout(() => void this.#round(), this.#options.intervalMs);
  }

  async #round(): Promise<void> {
    const { now, intervalMs, method, inRecovery, log } = this.#options;
    // After a standstill of our own what others have sent is still to be read.
    const isLate = now() - this.#lastRound > intervalMs * 2 + LATE_MS;
    try {
      if (!isLate && (await this.#isConnected()) && !inRecovery()) {
        if (method === "heartbeat") this.#byHeartbeats();
        else await this.#byQueries();
      }
    } catch (error) {
      const detail = error instanceof Error ? (error.stack ?? error.message) : String(error);
      log.write("ERROR", "internal error", { detail });
    }
    this.#lastRound = now();
    this.#later();
  }

  async #isConnected(): Promise<boolean> {
    const { trustedServers, reach, cutOff, log } = this.#options;
    if (!this.#isStarted || trustedServers.length === 0) return true;
    const reached = await Promise.all(trustedServers.map(reach));
    if (reached.includes(true) || this.#isOver) return true;
    log.write("WARNING", "failed to ping trusted servers", {
      detail: trustedServers.join(", "),
    });
    cutOff();
    return false;
  }

  #start(): void {
    this.#isStarted = true;
    this.#options.log.write("LOG", "watchdog: lifecheck started");
    this.#options.started();
  }

  #byHeartbeats(): void {
    const { now, deadMs, isPlaced, report } = this.#options;
    if (!this.#isStarted) {
      if (!allHeard(this.#heard)) return;
      this.#start();
    }
    this.#heard = excuse(this.#heard, isPlaced, now());
    const [heard, reports] = checkHeartbeats(this.#heard, deadMs, now());
    this.#heard = heard;
    for (const each of reports) report(each);
  }

  async #byQueries(): Promise<void> {
    const { nodes, query, lifePoints, report } = this.#options;
    const answers = await Promise.all(nodes.map(query));
    if (this.#isOver) return;
    if (!this.#isStarted) {
      for (const [at, node] of nodes.entries()) if (answers[at]) this.#answered.add(node.id);
      if (this.#answered.size < nodes.length) return;
      this.#start();
    }
    this.#queried = this.#queried.map((node, at) => {
      const [noted, change] = noteQuery(node, answers[at] === true, lifePoints);
      if (change !== undefined) report(change);
      return noted;
    });
  }
}
