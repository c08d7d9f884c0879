import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  decidePromotion,
  lsnText,
  type OldPrimary,
  type PromotionFacts,
  parseSyncNames,
  type StandbyReport,
} from "../../../core/cluster/promotion.ts";
import { nodeId } from "../../../core/cluster/state.ts";

const standby = (node: number, changes: Partial<StandbyReport> = {}): StandbyReport => ({
  node: nodeId(node),
  systemIdentifier: "7",
  timeline: 3,
  lsn: 1000n,
  streaming: false,
  mayPromote: true,
  ...changes,
});

const memoryWith = (syncNames: string, states: readonly [string, string][] = []) => ({
  node: nodeId(0),
  systemIdentifier: "7",
  timeline: 3,
  syncNames,
  syncStates: new Map(states),
});

const facts: PromotionFacts = {
  lost: nodeId(0),
  lostName: "s0",
  mayReturn: true,
  oldPrimary: { kind: "refused" },
  fence: "none",
  memory: memoryWith(""),
  standbys: [standby(1), standby(2)],
  others: [
    { node: nodeId(1), applicationName: "s1" },
    { node: nodeId(2), applicationName: "s2" },
  ],
};

/** `promote 1`, `return`, or why not. */
function decided(changes: Partial<PromotionFacts>): string {
  const decision = decidePromotion({ ...facts, ...changes });
  switch (decision.kind) {
    case "promote":
      return `promote ${decision.node}`;
    case "fence":
      return `fence, then ${decision.node}`;
    case "return":
      return "return";
    case "wait":
      return decision.soon ? `soon: ${decision.why}` : decision.why;
  }
}

const silent = { kind: "unclear", why: "time", lives: false } as const;
const one = [standby(1)];
const two = [standby(2)];

describe("whom to promote", () => {
  const rows: readonly [string, Partial<PromotionFacts>, string | RegExp][] = [
    ["the lowest id among equals", {}, "promote 1"],
    ["the one that has most", { standbys: [standby(1), standby(2, { lsn: 1001n })] }, "promote 2"],
    [
      "the newer timeline before the longer one",
      { memory: undefined, standbys: [standby(1, { lsn: 9000n, timeline: 2 }), standby(2)] },
      "promote 2",
    ],
    [
      "nobody who has stayed on an older timeline than the primary's",
      { standbys: [standby(1, { lsn: 9000n, timeline: 2 })] },
      /no standby has followed to timeline 3/,
    ],
    ["nobody when nobody answers", { standbys: [] }, /no standby answers/],
    [
      "no copy of another cluster",
      { standbys: [standby(1), standby(2, { systemIdentifier: "8" })] },
      "node 2 is a copy of another cluster",
    ],
    [
      "nobody while one may still receive",
      { standbys: [standby(1), standby(2, { streaming: true })] },
      "soon: node 2 still receives from the old primary",
    ],
    [
      "not the second best where the best cannot be",
      { standbys: [standby(1), standby(2, { lsn: 2000n, mayPromote: false })] },
      /node 2 has received most, but/,
    ],
  ];
  test.each(rows)("%s", (_, changes, expected) => {
    if (typeof expected === "string") expect(decided(changes)).toBe(expected);
    else expect(decided(changes)).toMatch(expected);
  });
});

describe("who was told to be promoted, and fell silent", () => {
  const told = (found: OldPrimary) => ({ told: { node: nodeId(2), found } });
  const rows: readonly [string, Partial<PromotionFacts>, string | RegExp][] = [
    ["is waited for", { ...told(silent), standbys: one }, /what became of node 2/],
    ["is waited for when it is a primary", told({ kind: "primary" }), /what became of node 2/],
    [
      "is nobody's rival when nobody listens there",
      { ...told({ kind: "refused" }), standbys: one },
      "promote 1",
    ],
    ["is told again, though another would do", told({ kind: "standby" }), "promote 2"],
    [
      "is waited for when it does not say how far it is",
      { ...told({ kind: "standby" }), standbys: one },
      /node 2 was told/,
    ],
  ];
  test.each(rows)("%s", (_, changes, expected) => {
    if (typeof expected === "string") expect(decided(changes)).toBe(expected);
    else expect(decided(changes)).toMatch(expected);
  });
});

describe("the old primary", () => {
  const rows: readonly [string, Partial<PromotionFacts>, string | RegExp][] = [
    ["gone: nobody listens", { oldPrimary: { kind: "refused" } }, "promote 1"],
    ["gone: it is a standby now", { oldPrimary: { kind: "standby" } }, "promote 1"],
    ["not certainly gone", { oldPrimary: silent }, /not certain.*time$/],
    ["made sure to be gone", { oldPrimary: silent, fence: "possible" }, "fence, then 1"],
    ["made sure of, though it refuses", { fence: "possible" }, "fence, then 1"],
    ["gone for sure", { oldPrimary: silent, fence: "done" }, "promote 1"],
    [
      "gone for sure, and its connections hang on",
      { oldPrimary: silent, fence: "done", standbys: [standby(1, { streaming: true })] },
      "promote 1",
    ],
    [
      "not shot when nobody can take its place",
      { oldPrimary: silent, fence: "possible", memory: memoryWith("ANY 1 (s1,s2)"), standbys: one },
      /may hold acknowledged commits/,
    ],
    [
      "not shot when it turned only us away",
      { oldPrimary: { ...silent, lives: true }, fence: "possible" },
      /not certain/,
    ],
    ["not shot when it serves", { oldPrimary: { kind: "primary" }, fence: "possible" }, "return"],
    [
      "not shot when it is a standby",
      { oldPrimary: { kind: "standby" }, fence: "possible" },
      "promote 1",
    ],
    ["there, and has its role back", { oldPrimary: { kind: "primary" } }, "return"],
    [
      "there, and was detached by order",
      { oldPrimary: { kind: "primary" }, mayReturn: false },
      /still serves/,
    ],
  ];
  test.each(rows)("is %s", (_, changes, expected) => {
    if (typeof expected === "string") expect(decided(changes)).toBe(expected);
    else expect(decided(changes)).toMatch(expected);
  });
});

describe("what was acknowledged", () => {
  const lacks = /may hold acknowledged commits/;
  const rows: readonly [string, Partial<PromotionFacts>, string | RegExp][] = [
    ["was promised by nobody", { memory: memoryWith(""), standbys: one }, "promote 1"],
    ["is on both", { memory: memoryWith("ANY 2 (s1, s2)"), standbys: two }, "promote 2"],
    [
      "may be on the one that is silent",
      { memory: memoryWith("ANY 1 (s1, s2)"), standbys: one },
      lacks,
    ],
    [
      "is on the sync one",
      { memory: memoryWith("s1, s2", [["s1", "sync"]]), standbys: one },
      "promote 1",
    ],
    [
      "is not on the potential one",
      { memory: memoryWith("s1, s2", [["s2", "potential"]]), standbys: two },
      lacks,
    ],
    ["is on one of all that answer", { memory: memoryWith("ANY 1 (s1, s2)") }, "promote 1"],
    ["is not on the lost one alone", { memory: memoryWith("ANY 1 (S0, s1, s2)") }, "promote 1"],
    [
      "may be on another one of the lost one's name",
      { memory: memoryWith("ANY 1 (s0, s1, s2)", [["s0", "quorum"]]) },
      lacks,
    ],
    [
      "may be on the silent one, named beside the lost one",
      { memory: memoryWith("ANY 1 (s0, s1, s2)"), standbys: two },
      lacks,
    ],
    ["may be on a stranger", { memory: memoryWith("ANY 1 (s1, backup)") }, lacks],
    [
      "may be on any that was seen",
      {
        memory: memoryWith("*", [
          ["s1", "quorum"],
          ["s9", "quorum"],
        ]),
      },
      lacks,
    ],
    [
      "is on all that were seen",
      {
        memory: memoryWith("*", [
          ["s1", "quorum"],
          ["s2", "quorum"],
        ]),
      },
      "promote 1",
    ],
    [
      "goes by names in any case",
      { memory: memoryWith("FIRST 1 (S1)", [["s1", "sync"]]), standbys: one },
      "promote 1",
    ],
    [
      "cannot be told of a rule that is not understood",
      { memory: memoryWith("ANY x (s1)") },
      /not understood/,
    ],
    [
      "cannot be told of a standby without a name",
      {
        memory: memoryWith("ANY 1 (s1)"),
        others: [
          { node: nodeId(1), applicationName: "s1" },
          { node: nodeId(2), applicationName: "" },
        ],
      },
      "the primary was synchronous, and backend_application_name2 is not set",
    ],
    ["was never asked, and all answer", { memory: undefined }, "promote 1"],
    [
      "was never asked, and one is silent",
      { memory: undefined, standbys: one },
      /node 2 does not answer/,
    ],
  ];
  test.each(rows)("%s", (_, changes, expected) => {
    if (typeof expected === "string") expect(decided(changes)).toBe(expected);
    else expect(decided(changes)).toMatch(expected);
  });

  test("is never lost by a promotion, whoever is silent and wherever commits went", () => {
    const nodes = [1, 2, 3, 4];
    const situation = fc.record({
      count: fc.integer({ min: 1, max: 4 }),
      answering: fc.subarray(nodes),
      /** Each commit is acknowledged by these, in WAL order. */
      commits: fc.array(fc.shuffledSubarray(nodes, { minLength: 1 }), { maxLength: 12 }),
    });
    fc.assert(
      fc.property(situation, ({ count, answering, commits }) => {
        const has = new Map(nodes.map((node) => [node, 0]));
        let acknowledged = 0;
        for (const [i, by] of commits.entries()) {
          for (const node of by) has.set(node, i + 1);
          if (by.length >= count) acknowledged = i + 1;
        }
        const decision = decidePromotion({
          ...facts,
          memory: memoryWith(`ANY ${count} (s1, s2, s3, s4)`),
          standbys: answering.map((node) => standby(node, { lsn: BigInt(has.get(node) ?? 0) })),
          others: nodes.map((node) => ({ node: nodeId(node), applicationName: `s${node}` })),
        });
        if (decision.kind !== "promote") return;
        expect(has.get(decision.node)).toBeGreaterThanOrEqual(acknowledged);
      }),
      { numRuns: 1000 },
    );
  });
});

describe("synchronous_standby_names", () => {
  const rows: readonly [string, ReturnType<typeof parseSyncNames>][] = [
    ["", undefined],
    ["  ", undefined],
    ["a", { count: 1, names: ["a"] }],
    ["A, b", { count: 1, names: ["a", "b"] }],
    ["*", { count: 1, names: ["*"] }],
    ["2 (a, b, c)", { count: 2, names: ["a", "b", "c"] }],
    ["FIRST 2 (a,b)", { count: 2, names: ["a", "b"] }],
    ["any 1 ( a , b )", { count: 1, names: ["a", "b"] }],
    ['ANY 1 ("x, ""y""", b)', { count: 1, names: ['x, "y"', "b"] }],
    ["ANY 1 (a b)", "unreadable"],
    ["ANY 0 (a)", "unreadable"],
    ["ANY 1 ()", "unreadable"],
  ];
  test.each(rows)("%p", (text, rule) => expect(parseSyncNames(text)).toEqual(rule));

  test("positions are written as PostgreSQL writes them", () => {
    expect(lsnText(0x1_0410_d420n)).toBe("1/410D420");
  });
});
