/** What a run of tests amounts to, read from the JUnit report of `bun test`. */

export type Tally = { readonly passed: number; readonly failed: number; readonly skipped: number };

export type StepResult = Tally & {
  /** Sentences for the reader: which files stayed silent, which tests were skipped. */
  readonly notes: readonly string[];
  /** How many failed in each file that has any. */
  readonly failing: ReadonlyMap<string, number>;
};

export const failure = (note: string): StepResult => ({
  passed: 0,
  failed: 1,
  skipped: 0,
  notes: [note],
  failing: new Map(),
});

/** The files of more failures than this are not run again: that is no stroke of chance. */
const mostUnsteady = 3;

/** What these look for above all is lost or differing rows: one failure is a fault, whatever a second run says. */
const unforgiving = /consistency|recovery|soak|promote|fuzz|pipelines/;

/** The files of a run that deserve a second one, alone: few, and none of the unforgiving. */
export function unsteady(first: StepResult): readonly string[] {
  const files = [...first.failing.keys()];
  const chance = files.length <= mostUnsteady && !files.some((file) => unforgiving.test(file));
  return chance ? files : [];
}

/** What `first` amounts to after `file` ran again: its failures count as passed if `again` has none. */
export function afterSecondRun(first: StepResult, file: string, again: StepResult): StepResult {
  const mended = first.failing.get(file) ?? 0;
  if (mended === 0 || again.failed > 0 || again.skipped > 0 || again.passed === 0) return first;
  return {
    ...first,
    passed: first.passed + mended,
    failed: first.failed - mended,
    notes: [...first.notes, `unsteady: ${file} failed ${mended} and passed in a second run, alone`],
    failing: new Map([...first.failing].filter(([name]) => name !== file)),
  };
}

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
  const failing = new Map(silent.map((file) => [file, 1]));
  for (const [, file = "", failed] of xml.matchAll(
    /^ {2}<testsuite [^>]*? file="([^"]+)"[^>]*? failures="([1-9]\d*)"/gm,
  )) {
    failing.set(unescapeXml(file), Number(failed));
  }
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
    failing,
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
