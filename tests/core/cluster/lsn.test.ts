import { describe, expect, test } from "bun:test";
import { lsnOf } from "../../../core/cluster/lsn.ts";

describe("positions in the WAL", () => {
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
});
