import { describe, expect, test } from "bun:test";
import { judgePrimary, type RoleAnswer } from "../../../core/cluster/primary.ts";
import { nodeId } from "../../../core/cluster/state.ts";

/** `p` a primary, `s` a standby, `s2` one that streams from node 2, `-` no answer; by node id. */
function answersOf(text: string): readonly RoleAnswer[] {
  return text.split(" ").flatMap((word, id): RoleAnswer[] => {
    if (word === "-") return [];
    const from = word.length > 1 ? { host: "h", port: 5000 + Number(word[1]) } : undefined;
    return [{ node: nodeId(id), inRecovery: word[0] === "s", streamsFrom: from }];
  });
}

type Options = { readonly always?: number; readonly detach?: boolean; readonly present?: number };

function judged(text: string, { always, detach = false, present }: Options) {
  const { primary, invalid } = judgePrimary(answersOf(text), {
    alwaysPrimary: always === undefined ? undefined : nodeId(always),
    detachFalsePrimary: detach,
    present: present === undefined ? undefined : nodeId(present),
    placeOf: (node) => ({ hostname: "h", port: 5000 + node }),
  });
  return [primary as number | undefined, [...invalid] as number[]] as const;
}

describe("the primary is", () => {
  const rows: readonly [string, string, Options, number | undefined, readonly number[]][] = [
    ["the node that is not in recovery", "s p", {}, 1, []],
    ["nobody among standbys", "s s", {}, undefined, []],
    ["nobody when nobody answers", "- -", {}, undefined, []],
    ["the highest of several beside standbys", "p p s", {}, 1, []],
    ["the lowest of several without standbys", "p p p", {}, 0, []],
    [
      "the lowest, the others false, with detach_false_primary",
      "p p p",
      { detach: true },
      0,
      [1, 2],
    ],
    ["the one that always is, whatever it says", "p s", { always: 1 }, 1, []],
    ["the one that always is, though it is silent", "- - -", { always: 2 }, 2, []],
    ["the one that all standbys stream from", "p p s0 s0", { detach: true }, 0, [1]],
    ["not judged where standbys stream from both", "p p s0 s1", { detach: true }, 1, []],
    ["not judged where a standby does not stream", "p p s0 s", { detach: true }, 1, []],
    ["the owner, though it has the lower id", "p p s0", { detach: true }, 0, [1]],
    ["the present one where several fit", "p p s", { present: 0 }, 0, []],
    ["the present one without standbys too", "p p", { present: 1, detach: true }, 1, [0]],
    ["another where the present one is a standby", "s p s", { present: 0 }, 1, []],
    ["not the present one when it is false", "p p s1", { present: 0, detach: true }, 1, [0]],
  ];
  test.each(rows)("%s", (_, text, options, primary, invalid) => {
    expect(judged(text, options)).toEqual([primary, [...invalid]]);
  });

  test("known behind a Unix socket by an empty host and by localhost", () => {
    for (const host of ["", "localhost", "/run/pg"]) {
      const standby = { node: nodeId(2), inRecovery: true, streamsFrom: { host, port: 5001 } };
      const { invalid } = judgePrimary([...answersOf("p p"), standby], {
        alwaysPrimary: undefined,
        detachFalsePrimary: true,
        present: undefined,
        placeOf: (node) => ({ hostname: "/run/pg", port: 5000 + node }),
      });
      expect(invalid).toEqual([nodeId(0)]);
    }
  });
});
