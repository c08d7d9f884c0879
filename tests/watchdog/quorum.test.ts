import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { attachAfterQuorum, syncBackends } from "../../watchdog/backends.ts";
import { FAILOVER_RESULTS } from "../../watchdog/bodies.ts";
import {
  type ConsensusRules,
  expireVotes,
  judge,
  requesterAction,
  type VoteObject,
} from "../../watchdog/consensus.ts";
import { stepFollowLock } from "../../watchdog/interlock.ts";
import { quorumStatus, votesNeeded } from "../../watchdog/quorum.ts";

describe("quorum", () => {
  // The table of spec watchdog/states.md 6.1: half votes off / on.
  test.each([
    [2, 1, 0, 2, 1],
    [3, 1, 1, 2, 2],
    [4, 2, 1, 3, 2],
    [5, 2, 2, 3, 3],
    [6, 3, 2, 4, 3],
    [7, 3, 3, 4, 4],
  ])("of %d nodes", (nodes, standbysOff, standbysOn, votesOff, votesOn) => {
    const off = { remotes: nodes - 1, halfVotes: false };
    const on = { remotes: nodes - 1, halfVotes: true };
    expect([votesNeeded(off), votesNeeded(on)]).toEqual([votesOff, votesOn]);
    for (let standbys = 0; standbys < nodes; standbys++) {
      expect(quorumStatus(off, standbys) >= 0).toBe(standbys >= standbysOff);
      expect(quorumStatus(on, standbys) >= 0).toBe(standbys >= standbysOn);
      const isEdge = nodes % 2 === 0 && standbys === standbysOn;
      expect(quorumStatus(on, standbys) === 0).toBe(isEdge);
    }
  });

  test("is never in two parts of one cluster, unless half votes count", () => {
    for (let nodes = 2; nodes <= 128; nodes++) {
      const electorate = { remotes: nodes - 1, halfVotes: false };
      for (let left = 1; left < nodes; left++) {
        const parts = [left, nodes - left].map((part) => quorumStatus(electorate, part - 1));
        expect(parts.filter((status) => status >= 0).length).toBeLessThan(2);
      }
    }
  });
});

const rules: ConsensusRules = {
  failoverWhenQuorumExists: true,
  failoverRequireConsensus: true,
  allowMultipleRequests: false,
  votesNeeded: 2,
  quorum: 1,
};
const down = { name: "DEGENERATE_BACKEND_REQUEST", nodes: [1], flags: 1 } as const;

describe("judge()", () => {
  const results = (changed: Partial<ConsensusRules>, voters: readonly number[], flags = 1) => {
    let votes: readonly VoteObject[] = [];
    return voters.map((voter) => {
      const verdict = judge({ ...rules, ...changed }, votes, { ...down, flags }, voter, 0);
      votes = verdict.votes;
      return verdict.result;
    });
  };

  test.each<[string, Partial<ConsensusRules>, readonly number[], number, readonly string[]]>([
    ["two of three agree", {}, [0, 2], 1, ["BUILDING_CONSENSUS", "PROCEED"]],
    [
      "one that repeats itself does not",
      {},
      [0, 0],
      1,
      ["BUILDING_CONSENSUS", "CONSENSUS_MAY_FAIL"],
    ],
    [
      "unless that counts",
      { allowMultipleRequests: true },
      [0, 0],
      1,
      ["BUILDING_CONSENSUS", "PROCEED"],
    ],
    [
      "nobody can without a quorum",
      { quorum: -1 },
      [0, 1, 2],
      1,
      ["NO_QUORUM", "NO_QUORUM", "NO_QUORUM"],
    ],
    ["an operator can", { quorum: -1 }, [0], 4, ["PROCEED"]],
    [
      "anybody can where no quorum is asked for",
      { quorum: -1, failoverWhenQuorumExists: false },
      [0],
      1,
      ["PROCEED"],
    ],
    [
      "one can where no consensus is asked for",
      { failoverRequireConsensus: false },
      [0],
      1,
      ["PROCEED"],
    ],
    [
      "but not without a quorum",
      { failoverRequireConsensus: false, quorum: -1 },
      [0],
      1,
      ["NO_QUORUM"],
    ],
    ["on the edge of it they can", { quorum: 0 }, [0, 1], 1, ["BUILDING_CONSENSUS", "PROCEED"]],
    [
      "what was agreed on is voted on anew",
      {},
      [0, 1, 2],
      1,
      ["BUILDING_CONSENSUS", "PROCEED", "BUILDING_CONSENSUS"],
    ],
  ])("%s", (_, changed, voters, flags, expected) => {
    expect(results(changed, voters, flags)).toEqual([...expected] as never);
  });

  test("the flags are those of the first who voted", () => {
    const first = judge(rules, [], { ...down, flags: 1 }, 0, 0);
    expect(judge(rules, first.votes, { ...down, flags: 0 }, 2, 0).flags).toBe(1);
  });

  test("another backend, or another wish, is another question", () => {
    const { votes } = judge(rules, [], down, 0, 0);
    expect(judge(rules, votes, { ...down, nodes: [0] }, 2, 0).result).toBe("BUILDING_CONSENSUS");
    const up = { ...down, name: "FAILBACK_REQUEST" } as const;
    expect(judge(rules, votes, up, 2, 0).result).toBe("BUILDING_CONSENSUS");
  });

  test("nothing proceeds with fewer voters than are needed", () => {
    fc.assert(
      fc.property(
        fc.array(fc.nat(6), { maxLength: 20 }),
        fc.integer({ min: 1, max: 5 }),
        (voters, needed) => {
          const first = results({ votesNeeded: needed }, voters).indexOf("PROCEED");
          const asked = new Set(first < 0 ? voters : voters.slice(0, first + 1));
          expect(first < 0 ? asked.size < needed : asked.size === needed).toBe(true);
        },
      ),
    );
  });

  test("a node that asks about ever other sets of backends fills no memory", () => {
    let votes: readonly VoteObject[] = [];
    for (let set = 1; set < 2000; set++) {
      const nodes = [...set.toString(2)].flatMap((bit, at) => (bit === "1" ? [at] : []));
      votes = judge(rules, votes, { ...down, nodes }, 0, 0).votes;
    }
    expect(votes.length).toBe(384);
  });

  test("votes that nobody joins in time are dropped", () => {
    const { votes } = judge(rules, [], down, 0, 1000);
    expect(expireVotes(votes, 15_000, 15_999).open).toHaveLength(1);
    expect(expireVotes(votes, 15_000, 16_000).expired).toHaveLength(1);
  });
});

describe("requesterAction()", () => {
  // Spec watchdog/states.md 7.4.
  test.each([
    ["PROCEED", "do_it", "do_it", "do_it"],
    ["NO_QUORUM", "quarantine", "refused", "cancelled"],
    ["CONSENSUS_MAY_FAIL", "quarantine", "refused", "cancelled"],
    ["BUILDING_CONSENSUS", "wait", "refused", "wait"],
    ["WILL_BE_DONE", "wait", "wait", "wait"],
    ["TRANSITION", "retry", "retry", "retry"],
    ["LEADER_REJECTED", "cancelled", "refused", "cancelled"],
  ] as const)("%s", (result, onDown, onUp, onPromote) => {
    expect(FAILOVER_RESULTS).toContain(result);
    expect(requesterAction("DEGENERATE_BACKEND_REQUEST", result)).toBe(onDown);
    expect(requesterAction("FAILBACK_REQUEST", result)).toBe(onUp);
    expect(requesterAction("PROMOTE_BACKEND_REQUEST", result)).toBe(onPromote);
  });
});

describe("syncBackends()", () => {
  const own = { statuses: [2, 2], quarantined: [], primary: 0 };
  const told = (statuses: readonly number[], primary = 0) => ({ statuses, primary, nodeName: "n" });

  test.each([
    ["nothing is new", own, told([2, 1]), true, ["waiting", "waiting"], 0, "none"],
    ["one went down", own, told([2, 3]), true, ["waiting", "down"], 0, "of_backends_gone_down"],
    ["outside streaming all connect anew", own, told([2, 3]), false, ["waiting", "down"], 0, "all"],
    [
      "one came up",
      { ...own, statuses: [2, 3] },
      told([2, 2]),
      true,
      ["waiting", "waiting"],
      0,
      "none",
    ],
    ["another is primary", own, told([3, 2], 1), true, ["down", "waiting"], 1, "all"],
    [
      "a leader without a primary takes ours not away",
      own,
      told([2, 2], -1),
      true,
      ["waiting", "waiting"],
      0,
      "none",
    ],
    [
      "a primary in quarantine is what the leader says",
      { statuses: [3, 2], quarantined: [0], primary: -1 },
      told([1, 2], 0),
      true,
      ["waiting", "waiting"],
      0,
      "all",
    ],
    ["an unused backend stays so", own, told([2, 0]), true, ["waiting", "unused"], 0, "none"],
    [
      "a backend that the leader has not is left",
      own,
      told([2]),
      true,
      ["waiting", "waiting"],
      0,
      "none",
    ],
  ] as const)("%s", (_, mine, leader, isStreaming, statuses, primary, sessions) => {
    expect(syncBackends(mine, leader, isStreaming)).toEqual({
      statuses: [...statuses],
      primary,
      sessions,
    });
  });

  test("with the quorum the leader's quarantines end", () => {
    expect(attachAfterQuorum(1, [1])).toEqual({ nodes: [1], flags: 10 });
    expect(attachAfterQuorum(-1, [1]).nodes).toEqual([]);
  });
});

describe("stepFollowLock()", () => {
  const wishes = fc.array(
    fc.record({ by: fc.constantFrom("local" as const, "leader" as const), acquire: fc.boolean() }),
  );

  test("is never held by both, and what was wished for is had in the end", () => {
    fc.assert(
      fc.property(wishes, (all) => {
        let lock = { holder: "nobody" as "nobody" | "local" | "leader", pending: false };
        let leaderWants = false;
        for (const wish of all) {
          const before = lock.holder;
          const [next, granted] = stepFollowLock(lock, wish);
          lock = next;
          if (wish.by === "leader") leaderWants = wish.acquire;
          if (wish.by === "local" && wish.acquire) expect(granted).toBe(before !== "leader");
          expect(lock.holder === "leader" || lock.pending).toBe(leaderWants);
        }
      }),
    );
  });
});
