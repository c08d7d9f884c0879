/** From paired rounds to ratios, and from ratios to the Markdown table. Pure. */

export type Spread = { readonly median: number; readonly min: number; readonly max: number };

/** Undefined for no values. The median of an even count is the mean of the middle two. */
export function spread(values: readonly number[]): Spread | undefined {
  const sorted = values.filter(Number.isFinite).sort((a, b) => a - b);
  const [min, max] = [sorted[0], sorted.at(-1)];
  if (min === undefined || max === undefined) return undefined;
  const upper = sorted[Math.floor(sorted.length / 2)] ?? min;
  const lower = sorted[Math.ceil(sorted.length / 2) - 1] ?? min;
  return { median: (upper + lower) / 2, min, max };
}

/** The value below which `share` (0 to 1) of the values lie, by nearest rank. */
export function percentile(values: readonly number[], share: number): number | undefined {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)];
}

/** What one contender did in one round. Whatever a case cannot measure is absent. */
export type Sample = {
  /** Transactions, connections or megabytes a second. */
  readonly rate?: number | undefined;
  readonly p50Ms?: number | undefined;
  readonly p99Ms?: number | undefined;
  /** Microseconds of the proxy's processor time per transaction, connection or megabyte. */
  readonly cpuUs?: number | undefined;
  /** Resident megabytes of the whole process tree at the moment that the case is about. */
  readonly memoryMb?: number | undefined;
};

export type Metric = keyof Sample;
export type CaseResult = {
  readonly name: string;
  /** By contender, one sample a round: the same index is the same round. */
  readonly rounds: ReadonlyMap<string, readonly Sample[]>;
  /** By contender: why it has no samples. */
  readonly failures: ReadonlyMap<string, string>;
};

/** Round by round, the subject's value as a multiple of the other's. */
export function ratios(
  result: CaseResult,
  metric: Metric,
  subject: string,
  other: string,
): Spread | undefined {
  const ours = result.rounds.get(subject) ?? [];
  const theirs = result.rounds.get(other) ?? [];
  const pairs = ours.map((sample, i) => (sample[metric] ?? NaN) / (theirs[i]?.[metric] ?? NaN));
  return spread(pairs);
}

export function absolute(
  result: CaseResult,
  metric: Metric,
  contender: string,
): Spread | undefined {
  const samples = result.rounds.get(contender) ?? [];
  return spread(samples.map((sample) => sample[metric] ?? NaN));
}

/** `0.97 (0.91–1.02)`, or a dash. */
export function cell(value: Spread | undefined, digits = 2): string {
  if (value === undefined) return "–";
  const text = (n: number) => n.toFixed(digits);
  return `${text(value.median)} (${text(value.min)}–${text(value.max)})`;
}

const titles: Readonly<Record<Metric, string>> = {
  rate: "throughput",
  p50Ms: "p50",
  p99Ms: "p99",
  cpuUs: "CPU",
  memoryMb: "memory",
};

/** The whole report: ratios of `subject` to each other contender, then processor time and memory. */
export function renderReport(
  results: readonly CaseResult[],
  subject: string,
  contenders: readonly string[],
): string {
  const peers = contenders.filter((name) => name !== subject);
  const sections = peers.map((peer) => {
    const metrics: Metric[] = ["rate", "p50Ms", "p99Ms", "cpuUs", "memoryMb"];
    const rows = results.map((result) => [
      result.name,
      ...metrics.map((metric) => cell(ratios(result, metric, subject, peer))),
    ]);
    const header = ["case", ...metrics.map((metric) => titles[metric])];
    return `### ${subject} as a multiple of ${peer}: median (min–max) of paired rounds\n\n${markdown(header, rows)}`;
  });
  return [
    ...sections,
    "### Proxy CPU, µs per transaction (connection, MB): median (min–max)",
    perContender(results, contenders, "cpuUs"),
    "### Resident memory, MB: median (min–max)",
    perContender(results, contenders, "memoryMb"),
    ...failures(results),
  ].join("\n\n");
}

function perContender(
  results: readonly CaseResult[],
  contenders: readonly string[],
  metric: Metric,
): string {
  const rows = results
    .map((result) => [
      result.name,
      ...contenders.map((name) => cell(absolute(result, metric, name), 1)),
    ])
    .filter(([, ...cells]) => cells.some((text) => text !== "–"));
  return rows.length === 0 ? "Not measured." : markdown(["case", ...contenders], rows);
}

function failures(results: readonly CaseResult[]): string[] {
  const lines = results.flatMap((result) =>
    [...result.failures].map(([name, why]) => `* ${result.name}, ${name}: ${why}`),
  );
  return lines.length === 0 ? [] : ["### Not run", lines.join("\n")];
}

export function markdown(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(" | ")} |`;
  return [line(header), line(header.map(() => "---")), ...rows.map(line)].join("\n");
}
