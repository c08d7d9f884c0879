/** What a run of tests amounts to, read from the JUnit report of `bun test`. */

export type Tally = { readonly passed: number; readonly failed: number; readonly skipped: number };

export type StepResult = Tally & {
  /** Sentences for the reader: which files stayed silent, which tests were skipped. */
  readonly notes: readonly string[];
};

export const failure = (note: string): StepResult => ({
  passed: 0,
  failed: 1,
  skipped: 0,
  notes: [note],
});

export function sums(tally: Tally): string {
  return `${tally.passed} passed, ${tally.failed} failed, ${tally.skipped} skipped`;
}

/**
 * Sums of the report. `files` were asked to run and `ok` is whether the run ended with 0. A file
 * that could not even be loaded is missing from the report, which counts as one failure; so does
 * an unhappy end that no test accounts for.
 */
export function readReport(
  xml: string,
  run: { readonly files: readonly string[]; readonly ok: boolean },
): StepResult {
  const totals = /<testsuites [^>]*>/.exec(xml)?.[0] ?? "";
  const count = (name: string) => Number(new RegExp(` ${name}="(\\d+)"`).exec(totals)?.[1] ?? 0);
  const reported = new Set(
    [...xml.matchAll(/<testsuite [^>]*? file="([^"]+)"/g)].map(([, file = ""]) =>
      unescapeXml(file),
    ),
  );
  const silent = run.files.filter((file) => !reported.has(file));
  const skips = [...xml.matchAll(/<testcase name="([^"]*)"[^>]*>\s*<skipped/g)];
  const failures = count("failures") + silent.length;
  return {
    passed: count("tests") - count("failures") - count("skipped"),
    failed: failures === 0 && !run.ok ? 1 : failures,
    skipped: count("skipped"),
    notes: [
      ...silent.map((file) => `no tests ran in ${file}`),
      ...skips.map(([, title = ""]) => `skipped: ${unescapeXml(title)}`),
    ],
  };
}

function unescapeXml(text: string): string {
  const names: Readonly<Record<string, string>> = {
    lt: "<",
    gt: ">",
    quot: '"',
    apos: "'",
    amp: "&",
  };
  return text.replace(/&(\w+);/g, (whole, name: string) => names[name] ?? whole);
}
