import { describe, expect, test } from "bun:test";
import { afterSecondRun, readReport, type StepResult, sums, unsteady } from "./report.ts";

const suite = (file: string, cases: string) =>
  `<testsuite name="${file}" file="${file}" tests="1">${cases}</testsuite>`;
const report = (totals: string, ...suites: string[]) =>
  `<?xml version="1.0"?>\n<testsuites name="bun test" ${totals}>\n${suites.join("\n")}\n</testsuites>`;

const passing = '<testcase name="a" time="0" file="a.test.ts" />';
const skipping =
  '<testcase name="b &lt;1&gt; &quot;x&quot;" time="0">\n      <skipped />\n</testcase>';

describe("readReport()", () => {
  test("sums passed, failed and skipped, and names what was skipped", () => {
    const xml = report(
      'tests="5" assertions="9" failures="1" skipped="1"',
      suite("a.test.ts", passing + skipping),
    );
    expect(readReport(xml, { files: ["a.test.ts"], ok: false })).toEqual({
      passed: 3,
      failed: 1,
      skipped: 1,
      notes: ['skipped: b <1> "x"'],
      failing: new Map(),
    });
  });

  test("tells how many failed in each file, once for all its nested suites", () => {
    const failing = (file: string, failures: number) => {
      const inner = `    <testsuite name="inner" file="${file}" failures="${failures}" />`;
      return `  <testsuite name="x" file="${file}" tests="4" failures="${failures}">\n${inner}\n  </testsuite>`;
    };
    const xml = report('tests="8" failures="3" skipped="0"', failing("a", 0), failing("b", 3));
    const result = readReport(xml, { files: ["a", "b", "c"], ok: false });
    expect(result.failing).toEqual(new Map(Object.entries({ b: 3, c: 1 })));
    expect(result.failed).toBe(4);
  });

  test("a file that did not load is a failure although the report does not know it", () => {
    const xml = report('tests="1" failures="0" skipped="0"', suite("a.test.ts", passing));
    const result = readReport(xml, { files: ["a.test.ts", "b.test.ts"], ok: false });
    expect(result).toMatchObject({ passed: 1, failed: 1, notes: ["no tests ran in b.test.ts"] });
  });

  test("an unhappy end without a failed test is a failure", () => {
    const xml = report('tests="1" failures="0" skipped="0"', suite("a.test.ts", passing));
    expect(readReport(xml, { files: ["a.test.ts"], ok: false }).failed).toBe(1);
  });

  test("a report that is empty counts each file as failed", () => {
    expect(readReport("", { files: ["a.test.ts", "b.test.ts"], ok: true }).failed).toBe(2);
  });
});

describe("a second run", () => {
  const result = (passed: number, failing: Record<string, number>): StepResult => ({
    passed,
    failed: Object.values(failing).reduce((sum, count) => sum + count, 0),
    skipped: 0,
    notes: [],
    failing: new Map(Object.entries(failing)),
  });

  test("is given to few files, and to none where rows were lost", () => {
    expect(unsteady(result(9, {}))).toEqual([]);
    expect(unsteady(result(9, { a: 5, b: 1, c: 1 }))).toEqual(["a", "b", "c"]);
    expect(unsteady(result(9, { a: 1, b: 1, c: 1, d: 1 }))).toEqual([]);
    expect(unsteady(result(9, { a: 1, "tests/cluster/consistency.test.ts": 1 }))).toEqual([]);
  });

  test("that passes counts, and is told", () => {
    expect(afterSecondRun(result(9, { a: 2, b: 1 }), "a", result(5, {}))).toEqual({
      ...result(11, { b: 1 }),
      notes: ["unsteady: a failed 2 and passed in a second run, alone"],
    });
  });

  test("that fails again, skips or runs nothing changes nothing", () => {
    const first = result(9, { a: 2 });
    expect(afterSecondRun(first, "a", result(4, { a: 1 }))).toBe(first);
    expect(afterSecondRun(first, "a", { ...result(4, {}), skipped: 1 })).toBe(first);
    expect(afterSecondRun(first, "a", result(0, {}))).toBe(first);
  });
});

test("sums() is the last line of the gate", () => {
  expect(sums({ passed: 1, failed: 2, skipped: 3 })).toBe("1 passed, 2 failed, 3 skipped");
});
