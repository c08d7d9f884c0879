import { describe, expect, test } from "bun:test";
import { readReport, sums } from "./report.ts";

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
    });
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

test("sums() is the last line of the gate", () => {
  expect(sums({ passed: 1, failed: 2, skipped: 3 })).toBe("1 passed, 2 failed, 3 skipped");
});
