import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { delayCommandLine, parseDelays } from "../../../core/cluster/delay_output.ts";
import { nodeId } from "../../../core/cluster/state.ts";

const one = { id: nodeId(1), hostname: "a.example", port: 5433 };
const two = { id: nodeId(2), hostname: "/var/run", port: 5434 };

describe("delayCommandLine", () => {
  test("names every node but the primary, in order", () => {
    expect(delayCommandLine("/bin/delays --ms", [one, two])).toBe(
      "/bin/delays --ms a.example:5433 /var/run:5434",
    );
  });

  test.each([
    ["", 5432, "cmd unknown_node_1"],
    ["a", 0, "cmd unknown_node_1"],
    ["a; rm x", 1, "cmd 'a; rm x:1'"],
    ["it's", 1, "cmd 'it'\\''s:1'"],
    ["$(x)", 1, "cmd '$(x):1'"],
  ])("host %p port %p is one word: %s", (hostname, port, line) => {
    expect(delayCommandLine("cmd", [{ id: nodeId(1), hostname, port }])).toBe(line);
  });
});

describe("parseDelays", () => {
  const rows: readonly [string, readonly (readonly [number, number])[], readonly string[]][] = [
    [
      "10 20",
      [
        [1, 10_000],
        [2, 20_000],
      ],
      [],
    ],
    [
      "10\n\t20\n",
      [
        [1, 10_000],
        [2, 20_000],
      ],
      [],
    ],
    [
      "0.5 1e3",
      [
        [1, 500],
        [2, 1_000_000],
      ],
      [],
    ],
    ["10", [[1, 10_000]], ["WARNING"]],
    ["", [], ["WARNING"]],
    [
      "1 2 3",
      [
        [1, 1000],
        [2, 2000],
      ],
      ["WARNING"],
    ],
    ["-1 5", [[2, 5000]], ["LOG"]],
    [
      "-2 5",
      [
        [1, 0],
        [2, 5000],
      ],
      ["WARNING"],
    ],
    [
      "x 0x10",
      [
        [1, 0],
        [2, 0],
      ],
      ["WARNING", "WARNING"],
    ],
    [
      "3600001 0",
      [
        [1, 3_600_001_000],
        [2, 0],
      ],
      ["WARNING"],
    ],
    [
      "3600000 0",
      [
        [1, 3_600_000_000],
        [2, 0],
      ],
      [],
    ],
    [
      "1e999 0",
      [
        [1, 0],
        [2, 0],
      ],
      ["WARNING"],
    ],
  ];
  test.each(rows)("%p is %p, with %p", (output, delays, severities) => {
    const parsed = parseDelays(output, [one, two]);
    expect([...parsed.delays]).toEqual(delays.map(([id, delay]) => [nodeId(id), delay]));
    expect(parsed.complaints.map(({ severity }) => `${severity}`)).toEqual([...severities]);
  });

  test("whatever is printed, each delay is a number that is not negative", () => {
    fc.assert(
      fc.property(fc.string(), (output) => {
        for (const delay of parseDelays(output, [one, two]).delays.values()) {
          expect(Number.isFinite(delay) && delay >= 0).toBe(true);
        }
      }),
    );
  });
});
