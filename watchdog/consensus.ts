/**
 * Votes on what is to become of a backend (spec watchdog/states.md section 7). The leader keeps one
 * object for each question and its answers; whoever asks again has voted already.
 */

import { type FailoverFunction, type FailoverResult, REQUEST_FLAGS } from "./bodies.ts";
import type { QuorumStatus } from "./states.ts";

export type Question = {
  readonly name: FailoverFunction;
  readonly nodes: readonly number[];
  readonly flags: number;
};

export type VoteObject = Question & {
  /** pgpool_node_ids, in the order of their votes; one stands several times only where that counts. */
  readonly voters: readonly number[];
  readonly since: number;
};

export type ConsensusRules = {
  readonly failoverWhenQuorumExists: boolean;
  readonly failoverRequireConsensus: boolean;
  /** allow_multiple_failover_requests_from_node. */
  readonly allowMultipleRequests: boolean;
  readonly votesNeeded: number;
  readonly quorum: QuorumStatus;
};

/** Three questions about each backend there can be; whoever asks stranger ones pushes out the oldest. */
const QUESTIONS_MAX = 3 * 128;

export type Verdict = {
  readonly result: Extract<
    FailoverResult,
    "PROCEED" | "NO_QUORUM" | "BUILDING_CONSENSUS" | "CONSENSUS_MAY_FAIL"
  >;
  /** Those of the first who voted, when it proceeds by consensus. */
  readonly flags: number;
  readonly votes: readonly VoteObject[];
};

/** The leader's decision on the request of one node, and the votes that are open after it. */
export function judge(
  rules: ConsensusRules,
  votes: readonly VoteObject[],
  question: Question,
  voter: number,
  now: number,
): Verdict {
  const { flags } = question;
  if (!rules.failoverWhenQuorumExists) return { result: "PROCEED", flags, votes };
  if ((flags & REQUEST_FLAGS.confirmed) !== 0) return { result: "PROCEED", flags, votes };
  if (rules.quorum < 0) return { result: "NO_QUORUM", flags, votes };
  if (!rules.failoverRequireConsensus) return { result: "PROCEED", flags, votes };

  const before = votes.find((vote) => isSameQuestion(vote, question));
  const others = votes.filter((vote) => vote !== before);
  const voters = before?.voters ?? [];
  const isRepeated = voters.includes(voter);
  const counted = isRepeated && !rules.allowMultipleRequests ? voters : [...voters, voter];
  const object: VoteObject = before
    ? { ...before, voters: counted }
    : { ...question, voters: counted, since: now };
  if (counted.length >= rules.votesNeeded) {
    return { result: "PROCEED", flags: object.flags, votes: others };
  }
  return {
    result:
      isRepeated && !rules.allowMultipleRequests ? "CONSENSUS_MAY_FAIL" : "BUILDING_CONSENSUS",
    flags,
    votes: [...others, object].slice(-QUESTIONS_MAX),
  };
}

function isSameQuestion(a: Question, b: Question): boolean {
  const sorted = ({ nodes }: Question) => [...new Set(nodes)].sort((x, y) => x - y).join();
  return a.name === b.name && sorted(a) === sorted(b);
}

/** Votes that nobody joined in time, apart from the others. */
export function expireVotes(
  votes: readonly VoteObject[],
  timeoutMs: number,
  now: number,
): { readonly open: readonly VoteObject[]; readonly expired: readonly VoteObject[] } {
  const isOpen = ({ since }: VoteObject) => now - since < timeoutMs;
  return { open: votes.filter(isOpen), expired: votes.filter((vote) => !isOpen(vote)) };
}

/** What the pgpool that asked does with the answer (spec watchdog/states.md 7.4). */
export type RequesterAction =
  | "do_it"
  /** The backend is left out here, until there is a quorum or it answers again. */
  | "quarantine"
  /** Others do it, or may still agree: what becomes of it comes with the leader's status. */
  | "wait"
  /** Ask again in a second, ten times at most; then let it be. */
  | "retry"
  | "cancelled"
  /** The operator is told that it cannot be done. */
  | "refused";

export function requesterAction(name: FailoverFunction, result: FailoverResult): RequesterAction {
  const isFailback = name === "FAILBACK_REQUEST";
  switch (result) {
    case "PROCEED":
      return "do_it";
    case "NO_QUORUM":
    case "CONSENSUS_MAY_FAIL":
      if (name === "DEGENERATE_BACKEND_REQUEST") return "quarantine";
      return isFailback ? "refused" : "cancelled";
    case "BUILDING_CONSENSUS":
      return isFailback ? "refused" : "wait";
    case "WILL_BE_DONE":
      return "wait";
    case "TRANSITION":
      return "retry";
    case "ERROR":
    case "SUCCESS":
    case "NOT_ALLOWED":
    case "INVALID_FUNCTION":
    case "LEADER_REJECTED":
    case "TIMEOUT":
      return isFailback ? "refused" : "cancelled";
  }
}
