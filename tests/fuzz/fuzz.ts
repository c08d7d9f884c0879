/**
 * `bun tests/fuzz/fuzz.ts [name|smoke] [--seed N] [--runs N]` runs one fuzzer, or all of them; `smoke`
 * runs all briefly. Whatever is found is repeated by the seed and the number of runs that are printed.
 * To add fuzzers, export rows as `wire.ts` does and name them in the table.
 */

import { parseArgs } from "node:util";
import { configFuzzers } from "./config.ts";
import type { Fuzzer } from "./fuzzer.ts";
import { pcpFuzzers } from "./pcp.ts";
import { sqlFuzzers } from "./sql.ts";
import { watchdogFuzzers } from "./watchdog.ts";
import { canary, wireFuzzers } from "./wire.ts";

const fuzzers: readonly Fuzzer[] = [
  ...wireFuzzers,
  ...configFuzzers,
  ...sqlFuzzers,
  ...pcpFuzzers,
  ...watchdogFuzzers,
  canary,
];

/** `smoke` divides by this: the gate has a minute for everything. */
const SMOKE_DIVISOR = 40;

const USAGE = `usage: fuzz.ts [name|smoke] [--seed N] [--runs N]

${fuzzers.map((row) => `  ${row.name.padEnd(12)} ${row.claim}`).join("\n")}
`;

type Options = {
  readonly seed: number;
  readonly runs: number | undefined;
  readonly smoke: boolean;
};

/** Whether the row did as it should: the canary's part is to fail. */
async function passes(row: Fuzzer, options: Options): Promise<boolean> {
  // The canary has to live through enough runs to be caught, also in a smoke test.
  const few = options.smoke && row.mustFail === undefined;
  const runs = options.runs ?? Math.ceil(row.runs / (few ? SMOKE_DIVISOR : 1));
  const startedMs = performance.now();
  const failure = await row.run({ seed: options.seed, runs }).then(
    () => undefined,
    (error: unknown) => String(error instanceof Error ? error.message : error),
  );
  const tookMs = Math.round(performance.now() - startedMs);
  const good = (failure !== undefined) === (row.mustFail === true);
  const verdict = failure === undefined ? "holds" : "fails";
  const why = good ? (row.mustFail ? ", as it must" : "") : ", which it must not";
  console.log(`${row.name}: ${verdict}${why} (${runs} runs, ${tookMs} ms)`);
  if (!good) {
    if (failure !== undefined) console.log(failure);
    console.log(`repeat: bun tests/fuzz/fuzz.ts ${row.name} --seed ${options.seed} --runs ${runs}`);
  }
  return good;
}

function whole(text: string | undefined, option: string): number | undefined {
  if (text === undefined) return undefined;
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 0) throw new Error(`--${option} wants a number`);
  return value;
}

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    allowPositionals: true,
    options: { seed: { type: "string" }, runs: { type: "string" }, help: { type: "boolean" } },
  });
  const [name] = positionals;
  const smoke = name === "smoke";
  const chosen = fuzzers.filter((row) => smoke || name === undefined || row.name === name);
  if (values.help === true || positionals.length > 1 || chosen.length === 0) {
    console.log(USAGE);
    return values.help === true ? 0 : 2;
  }
  const seed = whole(values.seed, "seed") ?? Math.floor(Math.random() * 2 ** 31);
  console.log(`seed ${seed}`);
  let failures = 0;
  for (const row of chosen) {
    if (!(await passes(row, { seed, runs: whole(values.runs, "runs"), smoke }))) failures++;
  }
  return failures === 0 ? 0 : 1;
}

process.exitCode = await main();
