import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import {
  formatStatusFile,
  parseStatusFile,
  type RecordedStatus,
} from "../../../core/cluster/status_file.ts";

const bytes = (text: string) => new TextEncoder().encode(text);

/** The file of very old versions: 128 native integers. */
function binary(codes: readonly number[]): Uint8Array {
  const content = new Uint8Array(512);
  const view = new DataView(content.buffer);
  for (const [id, code] of codes.entries()) view.setInt32(id * 4, code, true);
  return content;
}

describe("pgpool_status", () => {
  test("what was written is what is read, unless no node is up in it", () => {
    const status = fc.constantFrom<RecordedStatus>("up", "down", "unused");
    fc.assert(
      fc.property(fc.array(status, { minLength: 1, maxLength: 20 }), (statuses) => {
        const file = parseStatusFile(bytes(formatStatusFile(statuses)), statuses.length);
        const expected = statuses.includes("up") ? statuses : undefined;
        expect(file).toEqual({ statuses: expected, invalidLines: 0 });
      }),
    );
  });

  test("is one word and a newline for each node", () => {
    expect(formatStatusFile(["up", "down", "unused"])).toBe("up\ndown\nunused\n");
  });

  const rows: readonly [string, string, number, readonly RecordedStatus[] | undefined, number][] = [
    [
      "words count by their beginning and in any case",
      "UPwards\nDown it is\n",
      2,
      ["up", "down"],
      0,
    ],
    [
      "a line that says nothing is unused, and counted",
      "up\nsideways\nup\n",
      3,
      ["up", "unused", "up"],
      1,
    ],
    ["a node without a line is unused", "up\n", 3, ["up", "unused", "unused"], 0],
    ["lines beyond the last node are read over", "up\ndown\nup\n", 1, ["up"], 0],
    ["no node up is no news", "down\nunused\n", 2, undefined, 0],
    ["a node up beyond the last one does not count", "down\nup\n", 1, undefined, 0],
    ["the last line needs no newline", "down\nup", 2, ["down", "up"], 0],
    ["an empty file is no news", "", 2, undefined, 0],
    ["empty lines are none", "\nup\n\ndown\n", 2, ["up", "down"], 0],
  ];
  test.each(rows)("%s", (_, text, count, statuses, invalidLines) => {
    expect(parseStatusFile(bytes(text), count)).toEqual({ statuses, invalidLines });
  });

  test("the binary form is understood: 0 unused, 1 and 2 up, 3 down", () => {
    const file = parseStatusFile(binary([1, 2, 3, 0]), 5);
    expect(file.statuses).toEqual(["up", "up", "down", "unused", "unused"]);
    expect(file.invalidLines).toBe(0);
  });

  test("the binary form is found at any place in memory", () => {
    const shifted = new Uint8Array(513);
    shifted.set(binary([3, 1]), 1);
    expect(parseStatusFile(shifted.subarray(1), 2).statuses).toEqual(["down", "up"]);
  });

  test("any bytes at all are read without an error, into one status for each node", () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 600 }), fc.nat(130), (content, count) => {
        const { statuses } = parseStatusFile(content, count);
        if (statuses !== undefined) expect(statuses).toHaveLength(count);
      }),
    );
  });
});
