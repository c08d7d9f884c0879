import { describe, expect, test } from "bun:test";
import { nodeId } from "../../../core/cluster/state.ts";
import { lsnOf, type NodeAnswer, primaryOf } from "../../../proxy/cluster/probes.ts";

const answer = (node: number, inRecovery: boolean): NodeAnswer => ({
  node: nodeId(node),
  inRecovery,
  lsn: undefined,
  standbys: new Map(),
});

describe("probes", () => {
  const positions: readonly [string | undefined, bigint | undefined][] = [
    ["0/0", 0n],
    ["0/16B3748", 0x16b3748n],
    ["1/0", 0x1_0000_0000n],
    ["A/b", 0xa_0000_000bn],
    ["FFFFFFFF/FFFFFFFF", 0xffff_ffff_ffff_ffffn],
    ["", undefined],
    [undefined, undefined],
    ["16B3748", undefined],
    ["0/16B3748 ", undefined],
    ["g/1", undefined],
    ["/1", undefined],
  ];
  test.each(positions)("the position %p is %p bytes", (text, bytes) => {
    expect(lsnOf(text)).toBe(bytes);
  });

  const rows: readonly [string, readonly NodeAnswer[], number | undefined, number | undefined][] = [
    ["the node that is not in recovery", [answer(0, true), answer(1, false)], undefined, 1],
    ["the highest of several", [answer(0, false), answer(1, false), answer(2, true)], undefined, 1],
    ["nobody among standbys", [answer(0, true)], undefined, undefined],
    ["nobody when nobody answers", [], undefined, undefined],
    ["the one that always is, whatever it says", [answer(0, false), answer(1, true)], 1, 1],
    ["the one that always is, though it is silent", [], 2, 2],
  ];
  test.each(rows)("the primary is %s", (_, answers, always, primary) => {
    const alwaysPrimary = always === undefined ? undefined : nodeId(always);
    expect<number | undefined>(primaryOf(answers, alwaysPrimary)).toBe(primary);
  });
});
