/**
 * Who counts, how many are enough, and which of two leaders stays (spec watchdog/states.md section 6).
 * Sums only; election.ts and its neighbours ask them.
 */

import type { QuorumStatus, StateName } from "./states.ts";

/** How many members a cluster has besides this node, and what half of the votes is worth. */
export type Electorate = {
  /** Remote nodes whose membership is not revoked. */
  readonly remotes: number;
  /** enable_consensus_with_half_votes. */
  readonly halfVotes: boolean;
};

/** Standbys beside the leader at which exactly half, or the smallest majority, is there. */
const standbysWanted = ({ remotes }: Electorate): number => Math.trunc(remotes / 2);

/** `standbys` are those of the leader that asks. */
export function quorumStatus(electorate: Electorate, standbys: number): QuorumStatus {
  const wanted = standbysWanted(electorate);
  if (standbys !== wanted) return standbys > wanted ? 1 : -1;
  // With an even number of remotes the leader makes half of them a majority.
  if (electorate.remotes % 2 === 0) return 1;
  return electorate.halfVotes ? 0 : -1;
}

/** Nodes that must ask for the same before it is done; the leader is one of them. */
export function votesNeeded(electorate: Electorate): number {
  const isEvenCluster = electorate.remotes % 2 === 1;
  return standbysWanted(electorate) + 1 + (isEvenCluster && !electorate.halfVotes ? 1 : 0);
}

/** What is compared when two nodes both lead. */
export type LeaderClaim = {
  readonly state: StateName;
  readonly escalated: boolean;
  readonly quorumStatus: QuorumStatus;
  readonly standbys: number;
  /** When it became leader, by the comparer's clock; undefined when it does not say. */
  readonly since: number | undefined;
};

/**
 * The first difference decides; equal claims leave the local node in its place. In 4.3.5 nothing is
 * decided while the other's age as leader is unknown, so that one who has everybody behind him and one
 * who stood up alone both go, and either may win. Here the age counts only where nothing else does.
 */
export function compareLeaders(local: LeaderClaim, other: LeaderClaim): "local" | "other" | "open" {
  if (other.state !== "LEADER") return "open";
  const differences = [
    Number(local.escalated) - Number(other.escalated),
    local.quorumStatus - other.quorumStatus,
    local.standbys - other.standbys,
  ];
  let decisive = differences.find((difference) => difference !== 0);
  if (decisive === undefined) {
    if (other.since === undefined || local.since === undefined) return "open";
    decisive = other.since - local.since;
  }
  return decisive < 0 ? "other" : "local";
}
