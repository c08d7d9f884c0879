/**
 * What must hold in the played world, looked at after every step. With a lease nothing of it is ever
 * broken. Without one, nodes speak the protocol of 4.3.5, which lets an old leader live on beside a new
 * one until it notices; how long that may last is a bound here.
 */

import { VIP_DOWN_MS, type World } from "./world.ts";

/** After this a node that was paused has looked at the clock, and its command has taken the address off. */
const AFTER_PAUSE_MS = VIP_DOWN_MS + 1500;

export class Invariants {
  readonly #world: World;
  /** How long two may lead, or hold the delegate IP, at a time; 0 with a lease. */
  readonly #overlapMaxMs: number;
  #leadersSince: number | undefined;
  #vipsSince: number | undefined;
  #judged = 0;
  longestOverlapMs = 0;

  constructor(world: World, overlapMaxMs: number) {
    this.#world = world;
    this.#overlapMaxMs = overlapMaxMs;
  }

  /** @throws Error that says what is broken */
  check(): void {
    const { hosts, time } = this.#world;
    // What a stopped process believes harms nobody until it goes on; its address cannot be taken away.
    const awake = hosts.filter(
      ({ node, paused, resumedAt }) =>
        node !== undefined && !paused && (resumedAt === 0 || time.now - resumedAt > AFTER_PAUSE_MS),
    );
    const leaders = awake.filter(
      ({ node, id }) => node?.state === "LEADER" && node.leader === id && node.quorum >= 0,
    );
    const holders = awake.filter(({ vip }) => vip);
    this.#leadersSince = this.#overlap("lead with a quorum", leaders, this.#leadersSince);
    this.#vipsSince = this.#overlap("hold the delegate IP", holders, this.#vipsSince);
    this.#judgeFailovers();
    this.#judgeRecoveries();
  }

  #overlap(
    what: string,
    who: readonly { readonly id: number }[],
    since: number | undefined,
  ): number | undefined {
    if (who.length < 2) return undefined;
    const from = since ?? this.#world.time.now;
    const lastedMs = this.#world.time.now - from;
    this.longestOverlapMs = Math.max(this.longestOverlapMs, lastedMs);
    if (this.#overlapMaxMs === 0 || lastedMs > this.#overlapMaxMs) {
      const names = who.map(({ id }) => `n${id}`).join(" and ");
      throw new Error(`${names} ${what} for ${Math.round(lastedMs)} ms`);
    }
    return from;
  }

  /** No backend is attached past which clients of a node that was told have written. */
  #judgeRecoveries(): void {
    const { recovered } = this.#world;
    this.#world.lookAtWriters();
    for (; this.#recoveries < recovered.length; this.#recoveries++) {
      const { by, writers = [] } = recovered[this.#recoveries] ?? {};
      if (writers.length === 0) continue;
      const names = writers.map((id) => `n${id}`).join(" and ");
      throw new Error(`${names} let clients write while n${by} recovered a backend`);
    }
  }
  #recoveries = 0;

  /** No failover that the rules of voting refuse, and each once. */
  #judgeFailovers(): void {
    const { executions, options } = this.#world;
    const majority = Math.floor(options.nodes / 2) + 1;
    for (; this.#judged < executions.length; this.#judged++) {
      const made = executions[this.#judged];
      if (made === undefined) break;
      const what = `n${made.host}'s failover of backend ${made.backend}`;
      if (made.quorum < 0) throw new Error(`${what} without a quorum`);
      if (made.voters.length < majority) {
        throw new Error(`${what} with the votes of ${made.voters.join()} alone`);
      }
      const again = executions
        .slice(0, this.#judged)
        .some(
          (each) =>
            each.host === made.host &&
            each.life === made.life &&
            each.leaderSince === made.leaderSince &&
            each.backend === made.backend &&
            each.incident === made.incident,
        );
      if (again) throw new Error(`${what} twice`);
    }
  }
}

/** Undefined once all agree; else what they do not agree on. */
export function disagreement(world: World): string | undefined {
  const leaders = world.hosts.filter(({ node }) => node?.state === "LEADER");
  const [leader] = leaders;
  if (leaders.length !== 1 || leader?.node === undefined) return `${leaders.length} leaders`;
  const others = world.hosts.filter((host) => host !== leader);
  for (const { id, node, statuses, quarantined } of others) {
    if (node?.state !== "STANDBY") return `n${id} is ${node?.state ?? "down"}`;
    if (node.leader !== leader.id) return `n${id} follows n${node.leader}`;
    if (!leader.node.standbys.includes(id)) return `n${id} is not counted`;
    const isAlike = statuses.every((status, at) => (status === 3) === (leader.statuses[at] === 3));
    if (!isAlike || quarantined.length > 0) return `n${id} sees other backends`;
  }
  if (leader.node.quorum !== 1) return `quorum ${leader.node.quorum}`;
  if (!leader.vip) return "the delegate IP is nowhere";
  if (others.some(({ vip }) => vip)) return "the delegate IP is in two places";
  return undefined;
}
