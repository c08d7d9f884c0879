import { describe, expect, test } from "bun:test";
import { type CaseResult, cell, percentile, ratios, renderReport, spread } from "./table.ts";

describe("spread()", () => {
  test.each([
    [[3, 1, 2], { median: 2, min: 1, max: 3 }],
    [[4, 1, 2, 3], { median: 2.5, min: 1, max: 4 }],
    [[7], { median: 7, min: 7, max: 7 }],
    [[Number.NaN, 2], { median: 2, min: 2, max: 2 }],
    [[], undefined],
  ])("of %j is %j", (values, expected) => {
    expect(spread(values)).toEqual(expected as ReturnType<typeof spread>);
  });
});

test.each([
  [0.5, 50],
  [0.99, 99],
  [1, 100],
  [0, 1],
])("percentile() %d of 1 to 100 is %d", (share, expected) => {
  const values = Array.from({ length: 100 }, (_, i) => 100 - i);
  expect(percentile(values, share)).toBe(expected);
});

const result: CaseResult = {
  name: "simple c=1",
  rounds: new Map([
    [
      "ours",
      [
        { rate: 90, cpuUs: 10 },
        { rate: 220, cpuUs: 30 },
      ],
    ],
    [
      "PgBouncer",
      [
        { rate: 100, cpuUs: 20 },
        { rate: 200, cpuUs: 20 },
      ],
    ],
  ]),
  failures: new Map([["Pgpool-II", "exit 1"]]),
};

test("ratios() pairs by round, so that a slow minute does not count against one side", () => {
  expect(ratios(result, "rate", "ours", "PgBouncer")).toEqual({ median: 1, min: 0.9, max: 1.1 });
  expect(ratios(result, "rate", "ours", "Pgpool-II")).toBeUndefined();
});

test("cell() shows a dash for what was not measured", () => {
  expect(cell(undefined)).toBe("–");
  expect(cell({ median: 1, min: 0.5, max: 1.25 })).toBe("1.00 (0.50–1.25)");
});

test("renderReport() has a table for each peer and names what could not run", () => {
  const report = renderReport([result], "ours", ["ours", "PgBouncer", "Pgpool-II"]);
  expect(report).toContain("| simple c=1 | 1.00 (0.90–1.10) | – | – | 1.00 (0.50–1.50) | – |");
  expect(report).toContain("| simple c=1 | 20.0 (10.0–30.0) | 20.0 (20.0–20.0) | – |");
  expect(report).toContain("* simple c=1, Pgpool-II: exit 1");
});
