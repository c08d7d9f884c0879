/**
 * PostgreSQL's own regression tests and libpq_pipeline, straight and through pgpool, compared:
 * `bun tests/interop/regress.ts --help`. regress.test.ts runs the fast part in every gate.
 */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { Scope } from "../cluster/machine.ts";
import { findPostgres } from "../cluster/postgres.ts";
import {
  type Comparison,
  compareRuns,
  fastPart,
  type PipelineRun,
  type Place,
  readSchedule,
  runPipelines,
  runSuite,
  type SuiteRun,
  startPlace,
  type Way,
} from "./regress_run.ts";
import { type RegressSuite, regressSuite, Unavailable } from "./regress_source.ts";

const usage = `usage: bun tests/interop/regress.ts [--all] [--keep DIR] [raw] [streaming] [native]

Runs PostgreSQL's regression tests and libpq_pipeline (from Debian's source package, which is
fetched into the user's cache folder) straight on PostgreSQL and through dist/pgpool: in raw mode,
in streaming mode with reads on a standby, and in native replication with two servers; prints what
differs. Exit code 1: something does that regress_accepted.json does not know.

  --all       every test of parallel_schedule, not only the fast part
  --keep DIR  writes the differences and the logs there`;

type Done = { readonly run: SuiteRun; readonly pipelines: readonly PipelineRun[] };

async function main(): Promise<number> {
  const { values, positionals } = parseArgs({
    options: { all: { type: "boolean" }, help: { type: "boolean" }, keep: { type: "string" } },
    allowPositionals: true,
  });
  const ways = positionals.length > 0 ? positionals.filter(isProxied) : proxied;
  if (values.help || ways.length < positionals.length) {
    console.log(usage);
    return values.help ? 0 : 2;
  }
  if (values.keep !== undefined) mkdirSync(values.keep, { recursive: true });
  const suite = await regressSuite(await findPostgres("system"));
  const schedule = readSchedule(suite);
  const groups = values.all ? schedule : fastPart(schedule);
  console.log(`PostgreSQL's tests, of source package ${suite.version}`);
  const direct = await walk("direct", suite, groups, values.keep);
  let different = 0;
  for (const way of ways) {
    const done = await walk(way, suite, groups, values.keep);
    different += await compare(way, direct, done, values.keep);
  }
  return different > 0 ? 1 : 0;
}

const proxied: readonly Way[] = ["raw", "streaming", "native"];
const isProxied = (word: string): word is Way => proxied.some((way) => way === word);

async function walk(
  way: Way,
  suite: RegressSuite,
  groups: readonly (readonly string[])[],
  keep: string | undefined,
): Promise<Done> {
  await using scope = new Scope();
  const place = await startPlace(scope, way);
  const start = performance.now();
  const run = await runSuite(scope, suite, place, groups);
  const pipelines = await runPipelines(scope, suite, place);
  const seconds = ((performance.now() - start) / 1000).toFixed(0);
  const passed = [...run.outcomes.values()].filter(({ ok }) => ok).length;
  const all = `${passed} of ${run.outcomes.size} as PostgreSQL's authors expect`;
  const pipelined = pipelines.filter(({ code }) => code === 0).length;
  console.log(`${way}: ${all}, libpq_pipeline ${pipelined} of ${pipelines.length} (${seconds} s)`);
  if (keep !== undefined) keepLogs(keep, place, run);
  return { run, pipelines };
}

function keepLogs(folder: string, { way, primary, pgpool }: Place, run: SuiteRun): void {
  writeFileSync(join(folder, `${way}.pg_regress.log`), run.log);
  writeFileSync(join(folder, `${way}.postgres.log`), primary.log());
  if (pgpool !== undefined) writeFileSync(join(folder, `${way}.pgpool.log`), pgpool.log());
}

/** Prints what differs; returns how many tests do without being accepted. */
async function compare(
  way: Way,
  direct: Done,
  done: Done,
  keep: string | undefined,
): Promise<number> {
  await using scope = new Scope();
  const found = await compareRuns(scope, way, direct.run, done.run);
  const of = (kind: Comparison["kind"]) => found.filter((each) => each.kind === kind);
  console.log(
    `${way}: ${of("equal").length} equal, ${of("accepted").length} accepted, ${of("different").length} different`,
  );
  for (const { test, kind, lines, diff } of found) {
    if (kind === "equal") continue;
    console.log(
      `  ${test}: ${lines.length} lines differ${kind === "accepted" ? ", accepted" : ""}`,
    );
    if (keep !== undefined) writeFileSync(join(keep, `${way}.${test}.diff`), diff);
  }
  const pipelines = done.pipelines.filter(({ code, trace }, i) => {
    const straight = direct.pipelines[i];
    return code !== straight?.code || trace !== straight.trace;
  });
  for (const { test, said } of pipelines) console.log(`  libpq_pipeline ${test} differs\n${said}`);
  return of("different").length + pipelines.length;
}

try {
  process.exitCode = await main();
} catch (error) {
  if (!(error instanceof Unavailable)) throw error;
  console.error(`not available here: ${error.message}`);
  process.exitCode = 1;
}
