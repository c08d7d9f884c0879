/**
 * Failover without scripts (`failover_method = promote`, ours): which standby becomes the primary,
 * and whether any may. What cannot be known is treated as if it were bad: a second primary is worse
 * than none. The README says what this can and cannot see.
 */

import type { NodeId } from "./state.ts";

/** What is found at the address of the lost primary. */
export type OldPrimary =
  /** Its machine says that nobody listens there. */
  | { readonly kind: "refused" }
  /** It answers, as one or the other. */
  | { readonly kind: "primary" }
  | { readonly kind: "standby" }
  /** A server is there and would not talk (`lives`); or nothing that tells is heard. */
  | { readonly kind: "unclear"; readonly why: string; readonly lives: boolean };

/** `fence_command`, which makes sure that the old primary is gone: there is none, it may be run, it has succeeded. */
export type Fence = "none" | "possible" | "done";

/** What a standby says of itself. */
export type StandbyReport = {
  readonly node: NodeId;
  readonly systemIdentifier: string;
  readonly timeline: number;
  /** The end of the WAL that it has, received or replayed, in bytes. */
  readonly lsn: bigint;
  /** Its walreceiver is connected to a server that is none of our live nodes: maybe still to the old primary. */
  readonly streaming: boolean;
  readonly mayPromote: boolean;
};

/** What the primary said while it lived. */
export type PrimaryMemory = {
  readonly node: NodeId;
  readonly systemIdentifier: string;
  readonly timeline: number;
  /** `synchronous_standby_names`. */
  readonly syncNames: string;
  /** By application_name: `sync_state` in pg_stat_replication. */
  readonly syncStates: ReadonlyMap<string, string>;
};

export type PromotionFacts = {
  readonly lost: NodeId;
  /** The application_name that its walreceiver has when it is a standby. */
  readonly lostName: string;
  /** It may have its role back. */
  readonly mayReturn: boolean;
  readonly oldPrimary: OldPrimary;
  /** Who was told to become the primary, but never said that it has; and what is found there now. */
  readonly told?: { readonly node: NodeId; readonly found: OldPrimary } | undefined;
  readonly fence: Fence;
  readonly memory: PrimaryMemory | undefined;
  readonly standbys: readonly StandbyReport[];
  /** Every configured node but the lost one, with the application_name of its walreceiver. */
  readonly others: readonly { readonly node: NodeId; readonly applicationName: string }[];
};

export type PromotionDecision =
  | { readonly kind: "promote"; readonly node: NodeId; readonly why: string }
  /** As `promote`, but not before the old primary has been made sure to be gone. */
  | { readonly kind: "fence"; readonly node: NodeId }
  /** The lost primary serves after all. */
  | { readonly kind: "return" }
  /** `soon`: what stands in the way is expected to pass within moments. */
  | { readonly kind: "wait"; readonly why: string; readonly soon: boolean };

export function decidePromotion(facts: PromotionFacts): PromotionDecision {
  const decision = decideUnfenced(facts);
  const mustFence = facts.fence === "possible" && facts.oldPrimary.kind !== "standby";
  // Last of all: a primary is not shot when nobody could take its place.
  return decision.kind === "promote" && mustFence
    ? { kind: "fence", node: decision.node }
    : decision;
}

function decideUnfenced(facts: PromotionFacts): PromotionDecision {
  const { lost, oldPrimary, fence, memory, standbys, told } = facts;
  if (oldPrimary.kind === "primary") {
    if (facts.mayReturn) return { kind: "return" };
    return wait(`node ${lost} was detached by order and still serves as the primary`);
  }
  if (oldPrimary.kind === "unclear" && (fence === "none" || oldPrimary.lives)) {
    return wait(`it is not certain that node ${lost} is gone: ${oldPrimary.why}`);
  }
  if (told !== undefined && told.found.kind !== "refused" && told.found.kind !== "standby") {
    return wait(
      `it is not certain what became of node ${told.node}, which was told to be promoted`,
    );
  }
  if (standbys.length === 0) return wait("no standby answers");
  const unlike = strangers(standbys, memory);
  if (unlike !== undefined) return wait(unlike);
  const still = standbys.find(({ streaming }) => streaming);
  // From a machine that hangs, or is gone, the connection stays until wal_receiver_timeout.
  if (still !== undefined && fence === "none") {
    return wait(`node ${still.node} still receives from the old primary`, "soon");
  }
  const gap = uncovered(facts);
  if (gap !== undefined) return wait(gap);
  const timeline = memory?.timeline ?? Math.max(...standbys.map((each) => each.timeline));
  const fit = standbys.filter((each) => each.timeline >= timeline);
  if (fit.length === 0) return wait(`no standby has followed to timeline ${timeline}`);
  // A promotion that was asked for may still come to pass: a second one would make two primaries.
  const asked = fit.find(({ node }) => node === told?.node);
  if (told?.found.kind === "standby" && asked === undefined) {
    return wait(`node ${told.node} was told to be promoted, and does not say how far it is`);
  }
  const best = asked ?? fit.reduce((one, other) => (isAhead(other, one) ? other : one));
  if (!best.mayPromote) {
    return wait(`node ${best.node} has received most, but the user may not run pg_promote() there`);
  }
  const why = `most WAL received: ${lsnText(best.lsn)} on timeline ${best.timeline}`;
  return { kind: "promote", node: best.node, why };
}

const wait = (why: string, soon?: "soon"): PromotionDecision => ({
  kind: "wait",
  why,
  soon: soon === "soon",
});

/** The lower id wins among equals, which `reduce` sees first. */
const isAhead = (one: StandbyReport, other: StandbyReport): boolean =>
  one.timeline > other.timeline || (one.timeline === other.timeline && one.lsn > other.lsn);

/** Servers of different clusters never succeed one another. */
function strangers(
  standbys: readonly StandbyReport[],
  memory: PrimaryMemory | undefined,
): string | undefined {
  const expected = memory?.systemIdentifier ?? standbys[0]?.systemIdentifier;
  const stranger = standbys.find(({ systemIdentifier }) => systemIdentifier !== expected);
  return stranger && `node ${stranger.node} is a copy of another cluster`;
}

/**
 * Why a commit that was acknowledged might be on none of the standbys that answer. With
 * synchronous_standby_names a commit is on as many of the named ones as it says: it is on one that
 * answers when fewer than that are missing, or when one that answers was `sync`, which has them all.
 */
function uncovered({ memory, standbys, others, lostName }: PromotionFacts): string | undefined {
  const answering = new Set(standbys.map(({ node }) => node));
  const silent = others.filter(({ node }) => !answering.has(node));
  if (memory === undefined) {
    if (silent.length === 0) return undefined;
    return `node ${silent[0]?.node} does not answer, and the primary was never asked whether it was synchronous`;
  }
  const rule = parseSyncNames(memory.syncNames);
  if (rule === undefined) return undefined; // asynchronous: nothing was promised
  if (rule === "unreadable") {
    return `synchronous_standby_names is not understood: ${memory.syncNames}`;
  }
  const nameOf = (node: NodeId) => others.find((each) => each.node === node)?.applicationName ?? "";
  const nameless = [...answering].find((node) => nameOf(node) === "");
  if (nameless !== undefined) {
    return `the primary was synchronous, and backend_application_name${nameless} is not set`;
  }
  const names = [...answering].map((node) => nameOf(node).toLowerCase());
  const states = new Map(
    [...memory.syncStates].map(([name, state]) => [name.toLowerCase(), state]),
  );
  if (names.some((name) => states.get(name) === "sync")) return undefined;
  const known = rule.names.includes("*") ? [...states.keys()] : rule.names;
  // Servers that may change places have one and the same rule, which names the primary itself too.
  const itself = states.has(lostName.toLowerCase()) ? undefined : lostName.toLowerCase();
  const missing = known.filter((name) => name !== itself && !names.includes(name));
  if (missing.length < rule.count) return undefined;
  return `standby "${missing[0]}" does not answer, and may hold acknowledged commits that the others lack`;
}

export type SyncRule = { readonly count: number; readonly names: readonly string[] };

/** `synchronous_standby_names`; undefined when nothing is synchronous. Names in lower case. */
export function parseSyncNames(text: string): SyncRule | "unreadable" | undefined {
  if (text.trim() === "") return undefined;
  const counted = /^\s*(?:(?:FIRST|ANY)\s+(\d+)|(\d+))\s*\(([\s\S]*)\)\s*$/i.exec(text);
  const count = counted === null ? 1 : Number(counted[1] ?? counted[2]);
  const list = counted === null ? text : (counted[3] ?? "");
  const name = /\s*(?:"((?:[^"]|"")*)"|([^\s",()]+))\s*(?:,|$)/y;
  const names: string[] = [];
  while (name.lastIndex < list.length) {
    const match = name.exec(list);
    if (match === null) return "unreadable";
    names.push((match[1]?.replaceAll('""', '"') ?? match[2] ?? "").toLowerCase());
  }
  return names.length === 0 || count === 0 ? "unreadable" : { count, names };
}

/** As PostgreSQL writes it. */
export const lsnText = (lsn: bigint): string =>
  `${(lsn >> 32n).toString(16)}/${(lsn & 0xffff_ffffn).toString(16)}`.toUpperCase();
