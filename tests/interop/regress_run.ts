/**
 * Runs PostgreSQL's regression tests and its libpq_pipeline on one way to a new server, and compares
 * the results of two ways. The standby of a proxied run has always applied what was committed
 * (synchronous, remote_apply), so whatever differs is the proxy's doing and not replication lag.
 */
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { eventually, mustRun, runCommand, type Scope, tail } from "../cluster/machine.ts";
import { Pgpool } from "../cluster/pgpool.ts";
import { Postgres, superuser } from "../cluster/postgres.ts";
import type { RegressSuite } from "./regress_source.ts";

/**
 * `streaming`: a primary and a standby, and whatever may be read from a standby is read there.
 * `native`: two servers that pgpool keeps the same.
 */
export type Way = "direct" | "raw" | "streaming" | "native";

export type Place = {
  readonly way: Way;
  readonly primary: Postgres;
  /** Servers in which a database must be made by itself. */
  readonly separate: readonly Postgres[];
  /** Where clients connect to. */
  readonly port: number;
  readonly pgpool: Pgpool | undefined;
};

/** A new cluster of its own for each way: a suite leaves roles and settings behind. */
export async function startPlace(scope: Scope, way: Way): Promise<Place> {
  const settings = {
    max_prepared_transactions: 2,
    wal_level: way === "streaming" ? "replica" : "minimal",
    max_wal_senders: way === "streaming" ? 8 : 0,
    // A read on the standby is not cancelled: replay waits for it, and with it every commit.
    max_standby_streaming_delay: "60s",
    hot_standby_feedback: "on",
    // What plans depend on changes by the tests alone, and soon: see `untilVacuumed`.
    wal_receiver_status_interval: "1s",
    autovacuum: "off",
  };
  const primary = await Postgres.create(scope, { settings });
  const separate = [primary];
  if (way === "direct") return { way, primary, separate, port: primary.port, pgpool: undefined };
  if (way === "native") separate.push(await Postgres.create(scope, { settings }));
  const nodes = [...separate];
  if (way === "streaming") nodes.push(await primary.createSynchronousStandby());
  const pgpool = await Pgpool.create(scope, {
    backends: nodes.map(({ host, port }, i) => ({
      host,
      port,
      weight: i === nodes.length - 1 ? 1 : 0,
    })),
    config: {
      backend_clustering_mode: modes[way],
      num_init_children: 64,
    },
  });
  await pgpool.untilServing();
  if (way === "streaming") await untilBothServe(pgpool);
  return { way, primary, separate, port: pgpool.port, pgpool };
}

const modes = {
  raw: "raw",
  streaming: "streaming_replication",
  native: "native_replication",
} as const;

async function untilBothServe(pgpool: Pgpool): Promise<void> {
  await eventually(
    () => pgpool.show("pool_nodes"),
    (rows) =>
      rows.map(({ role, status }) => `${role} ${status}`).join() === "primary up,standby up",
    { deadlineMs: 30_000, what: "both nodes to be up" },
  );
}

/** What a test said: `ok` is pg_regress's judgement, `output` what psql printed. */
export type Outcome = { readonly ok: boolean; readonly output: string };

export type SuiteRun = {
  readonly outcomes: ReadonlyMap<string, Outcome>;
  /** What pg_regress printed. */
  readonly log: string;
};

/** The groups of parallel_schedule: the tests of one run side by side. */
export function readSchedule(suite: RegressSuite): string[][] {
  const text = readFileSync(join(suite.regress, "parallel_schedule"), "utf8");
  const groups = [...text.matchAll(/^test: (.+)$/gm)];
  return groups.map(([, names = ""]) => names.trim().split(/\s+/));
}

/**
 * What runs in every gate: the tables that others need, and the tests that lean most on what a
 * proxy could get wrong (transactions, cursors, prepared statements, settings, roles, COPY, NOTIFY).
 */
const fastTests: ReadonlySet<string> = new Set([
  ...["test_setup", "boolean", "strings", "timestamptz", "horology", "comments", "expressions"],
  ...["copy", "copyselect", "copydml", "insert", "insert_conflict", "create_function_c"],
  ...["create_table", "create_schema", "create_type", "create_operator", "create_view", "select"],
  ...["create_misc", "create_index", "create_aggregate", "create_function_sql", "sanity_check"],
  ...["select_into", "subselect", "union", "transactions", "portals", "namespace", "update"],
  ...["prepared_xacts", "lock", "groupingsets", "async", "psql", "portals_p2", "guc", "combocid"],
  ...["advisory_lock", "amutils", "plancache", "limit", "copy2", "temp", "prepare", "sequence"],
  ...["rowtypes", "returning", "largeobject", "with", "rangefuncs", "alter_generic", "txid", "xid"],
]);

export function fastPart(groups: readonly (readonly string[])[]): string[][] {
  const fewer = groups.map((names) => names.filter((name) => fastTests.has(name)));
  return fewer.filter((names) => names.length > 0);
}

/**
 * Runs the groups in their order, in a database that is made for it without the proxy. Between the
 * first, which fills the tables that all others read, and the rest, those tables are vacuumed.
 */
export async function runSuite(
  scope: Scope,
  suite: RegressSuite,
  place: Place,
  [first = [], ...others]: readonly (readonly string[])[],
): Promise<SuiteRun> {
  for (const server of place.separate) await makeDatabase(server);
  // The server reads data from there and writes beside it: both must be its own.
  const folder = scope.makeDir(`regress-${place.way}`);
  await mustRun(["cp", "-r", suite.regress, join(folder, "input")]);
  await mustRun(["cp", "-r", suite.lib, join(folder, "lib")]);
  mkdirSync(join(folder, "output"));
  const { name } = scope.owner;
  if (process.getuid?.() === 0) await mustRun(["chown", "-R", `${name}:`, folder]);
  const begun = await runGroups(scope, suite, place, folder, [first]);
  for (const server of place.separate) await untilVacuumed(server);
  const ended = await runGroups(scope, suite, place, folder, others);
  return {
    outcomes: new Map([...begun.outcomes, ...ended.outcomes]),
    log: begun.log + ended.log,
  };
}

async function runGroups(
  scope: Scope,
  suite: RegressSuite,
  place: Place,
  folder: string,
  groups: readonly (readonly string[])[],
): Promise<SuiteRun> {
  const schedule = groups.map((names) => `test: ${names.join(" ")}\n`).join("");
  writeFileSync(join(folder, "schedule"), schedule);
  const result = await runCommand(
    [
      suite.pgRegress,
      ...["--use-existing", "--dbname=regression", `--user=${superuser}`],
      ...["--host=127.0.0.1", `--port=${place.port}`, `--bindir=${place.primary.install.bin}`],
      `--inputdir=${folder}/input`,
      ...[`--outputdir=${folder}/output`, `--dlpath=${folder}/lib`],
      ...[`--schedule=${folder}/schedule`],
    ],
    { cwd: folder, owner: scope.owner, deadlineMs: 300_000 },
  );
  const outcomes = new Map<string, Outcome>();
  const log = result.stdout + result.stderr;
  for (const [, test = "", verdict] of log.matchAll(/^(?:test)? +(\S+) +\.\.\. (ok|FAILED)/gm)) {
    const path = join(folder, "output/results", `${test}.out`);
    const output = existsSync(path) ? readFileSync(path, "latin1") : "";
    outcomes.set(test, { ok: verdict === "ok", output });
  }
  return { outcomes, log };
}

/**
 * A VACUUM leaves pages that are not all-visible, and so plans without Index Only Scan, as long as
 * some transaction may not see them; a standby's feedback says for a while that one of its may not.
 */
async function untilVacuumed(server: Postgres): Promise<void> {
  const unfinished = `SELECT relname FROM pg_class WHERE relkind = 'r' AND relallvisible < relpages
    AND relnamespace = 'public'::regnamespace`;
  await eventually(
    async () => {
      const names = (await server.sql(unfinished, "regression")).map(({ relname }) => relname);
      for (const name of names) await server.sql(`VACUUM ${name}`, "regression");
      return names;
    },
    (names) => names.length === 0,
    { deadlineMs: 30_000, what: "all pages of the common tables to be all-visible" },
  );
}

/** As pg_regress makes it. */
async function makeDatabase(primary: Postgres): Promise<void> {
  await primary.sql("CREATE DATABASE regression TEMPLATE template0", "postgres");
  const settings = {
    ...{ lc_messages: "C", lc_monetary: "C", lc_numeric: "C", lc_time: "C" },
    ...{ bytea_output: "hex", timezone_abbreviations: "Default" },
  };
  for (const [name, value] of Object.entries(settings)) {
    await primary.sql(`ALTER DATABASE regression SET ${name} TO '${value}'`, "postgres");
  }
}

export type Comparison = {
  readonly test: string;
  readonly kind: "equal" | "accepted" | "different";
  /** Lines that only one of the two outputs has, with `-` (direct) or `+` (through pgpool) before. */
  readonly lines: readonly string[];
  /** `diff -U3` of the outputs, for whoever looks into it. */
  readonly diff: string;
};

/** A test that may differ on a way, the lines in which it may, and why. */
export type Accepted = {
  readonly way: Way;
  readonly test: string;
  readonly reason: string;
  readonly lines: readonly string[];
  /**
   * The session ends somewhere, by chance, and what the test has left to ask is not answered. In `lines`
   * N is any number, Q any query and K any kind of message.
   */
  readonly ends?: true;
};

export function readAccepted(): readonly Accepted[] {
  const path = join(import.meta.dirname, "regress_accepted.json");
  return JSON.parse(readFileSync(path, "utf8")) as readonly Accepted[];
}

/**
 * Test by test. Equal is the same output, or another that PostgreSQL itself expects (some tests
 * have several expected files).
 */
export async function compareRuns(
  scope: Scope,
  way: Way,
  direct: SuiteRun,
  proxied: SuiteRun,
): Promise<Comparison[]> {
  const accepted = readAccepted().filter((each) => each.way === way);
  const found: Comparison[] = [];
  for (const [test, straight] of direct.outcomes) {
    const other = proxied.outcomes.get(test) ?? { ok: false, output: "(did not run)\n" };
    if (straight.output === other.output || (straight.ok && other.ok)) {
      found.push({ test, kind: "equal", lines: [], diff: "" });
      continue;
    }
    const diff = await differenceOf(scope, test, straight.output, other.output);
    const [, , ...body] = diff.split("\n"); // behind the two labels
    const lines = body.filter((line) => /^[-+]/.test(line));
    const known = accepted.find((each) => each.test === test);
    const mayDiffer = (line: string) => {
      if (known?.ends !== true) return known?.lines.includes(line) === true;
      const general = line
        .replaceAll(/\d+/g, "N")
        .replace(/was: ".*" kind/, 'was: "Q" kind')
        .replaceAll(/\['[A-Z]'\]/g, "['K']")
        .replaceAll(/N\[[A-Z]\]/g, "N[K]");
      return line.startsWith("-") || known.lines.includes(general);
    };
    const isKnown = lines.length > 0 && lines.every(mayDiffer);
    const kind = isKnown ? "accepted" : "different";
    found.push({ test, kind, lines, diff });
  }
  return found;
}

async function differenceOf(scope: Scope, test: string, one: string, other: string) {
  const file = (name: string, text: string) => {
    const path = join(scope.dir, `${test}.${name}`);
    writeFileSync(path, text, "latin1");
    return path;
  };
  const names = ["--label", `${test} direct`, "--label", `${test} through pgpool`] as const;
  const files = [file("direct", one), file("proxied", other)] as const;
  return (await runCommand(["diff", "-U3", ...names, ...files])).stdout;
}

export type PipelineRun = {
  readonly test: string;
  readonly code: number | null;
  /** The messages as libpq traced them, and as the suite expects them, where it does. */
  readonly trace: string;
  readonly expectedTrace: string;
  /** Its words when it failed; else they are many, and tell of timing. */
  readonly said: string;
};

/** All that the program knows, as its own test script calls it. */
export async function runPipelines(
  scope: Scope,
  suite: RegressSuite,
  place: Place,
): Promise<PipelineRun[]> {
  const program = join(suite.pipeline, "libpq_pipeline");
  const names = (await mustRun([program, "tests"])).trim().split(/\s+/);
  const traces = join(suite.pipeline, "traces");
  const traced = readdirSync(traces);
  const target = `host=127.0.0.1 port=${place.port} user=${superuser} dbname=test sslmode=disable`;
  const runs: PipelineRun[] = [];
  for (const test of names) {
    const file = `${test}.trace`;
    const expects = traced.includes(file);
    const path = join(scope.dir, `${place.way}-${file}`);
    const options = expects ? ["-t", path] : [];
    // A line for each of a million results is quick to write to a file, and slow to hand over one by one.
    const said = join(scope.dir, `${place.way}-${test}.said`);
    const argv = [program, "-r", "700", ...options, test, target];
    const { code } = await runCommand(["sh", "-c", 'exec "$@" > "$0" 2>&1', said, ...argv], {
      deadlineMs: 240_000, // uniqviol sends until it would have to wait, which may be long
    });
    runs.push({
      test,
      code,
      trace: existsSync(path) ? readFileSync(path, "utf8") : "",
      expectedTrace: expects ? readFileSync(join(traces, file), "utf8") : "",
      said: code === 0 ? "" : tail(readFileSync(said, "utf8")),
    });
    rmSync(said);
  }
  return runs;
}
