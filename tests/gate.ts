/**
 * The gate every change passes: `bun tests/gate.ts ok|cluster|interop|all [filter…]`, the filters
 * being parts of test file names. Prints a line as each step ends and, last of all, the sums.
 *
 *   ok       format, lint, types, unit tests, fuzz smoke: under a minute
 *   cluster  build, then the tests with real PostgreSQL servers
 *   interop  build, then the tests with real clients
 *   all      ok, build, Deno's check of the sources, runtime checks, cluster, interop
 *
 * A file of the last two steps that fails runs once more, alone, and counts as passed if it passes
 * then. The summary names it: it wants mending (ARCHITECTURE.md, decisions).
 *
 * With CI=true a skipped test is a failure: there everything must be installed.
 */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { delimiter, join } from "node:path";
import {
  afterSecondRun,
  failure,
  readReport,
  type StepResult,
  sums,
  type Tally,
  unsteady,
} from "./report.ts";

type Step = { readonly name: string; readonly run: () => Promise<StepResult> };

const root = join(import.meta.dirname, "..");
const bin = join(root, "node_modules/.bin");
const { CI, PATH = "", PGPOOL_TEST_CONTAINERS, PGPOOL_TEST_NETWORKS } = process.env;
/** CI's word that this machine cannot run containers: their tests are left out, and that is said. */
const withoutContainers = PGPOOL_TEST_CONTAINERS === "none";
/** The same of network namespaces, which need root. */
const withoutNetworks = PGPOOL_TEST_NETWORKS === "none";
const mustNotSkip = CI === "true";
/** The limit of a test that does not name its own, and how many files run side by side. */
type Pace = { readonly seconds: number; readonly files: number };
const computing: Pace = { seconds: 60, files: 2 };
/** Those that start servers wait for them most of the time. */
const serving: Pace = { seconds: 300, files: 3 };
const [target = "ok", ...filters] = process.argv.slice(2);

async function main(): Promise<number> {
  installMissing();
  const steps = stepsOf(target);
  if (steps !== undefined) return await runAll(steps);
  console.error("usage: gate.ts ok|cluster|interop|all [part of a test file's name]...");
  return 2;
}

/** A package that came to package.json since is fetched: others may have added it. */
function installMissing(): void {
  const { dependencies, devDependencies } = JSON.parse(
    readFileSync(join(root, "package.json"), "utf8"),
  ) as { readonly dependencies: object; readonly devDependencies: object };
  const isMissing = (name: string) => !existsSync(join(root, "node_modules", name));
  if (!Object.keys({ ...dependencies, ...devDependencies }).some(isMissing)) return;
  const argv = ["install", "--no-audit", "--no-fund", "--no-save"];
  execFileSync("npm", argv, { cwd: root, stdio: "inherit" });
}

function stepsOf(name: string): Step[] | undefined {
  const ok = [
    tool("format and lint", ["biome", "check", "."]),
    tool("types", ["tsc", "-p", "."]),
    tests("unit", (folder) => !["cluster", "interop", "runtime"].includes(folder), computing),
    tool("fuzz smoke", ["bun", "tests/fuzz/fuzz.ts", "smoke"]),
  ];
  const build = tool("build", ["bun", "build.ts"]);
  const runtime = tests("runtime", (folder) => folder === "runtime", serving);
  const cluster = steadied(tests("cluster", (folder) => folder === "cluster", serving));
  const interop = steadied(tests("interop", (folder) => folder === "interop", serving));
  switch (name) {
    case "ok":
      return ok;
    case "cluster":
      return [build, cluster];
    case "interop":
      return [build, interop];
    case "all":
      return [...ok, build, denoCheck(), runtime, cluster, interop];
    default:
      return undefined;
  }
}

async function runAll(todo: readonly Step[]): Promise<number> {
  const sum = { passed: 0, failed: 0, skipped: 0 };
  const lines: string[] = [];
  for (const step of todo) {
    console.log(`… ${step.name}`);
    const start = performance.now();
    const result = await step.run();
    const seconds = ((performance.now() - start) / 1000).toFixed(1);
    const mark = result.failed > 0 ? "✗" : "✓";
    const line = `${mark} ${step.name}: ${sums(result)} (${seconds} s)`;
    const notes = result.notes.map((note) => `    ${note}`);
    for (const text of [line, ...notes]) console.log(text);
    lines.push(line, ...notes);
    sum.passed += result.passed;
    sum.failed += result.failed;
    sum.skipped += result.skipped;
    // Tests of an old binary would tell nothing about this tree.
    if (step.name === "build" && result.failed > 0) break;
  }
  const refused = mustNotSkip && sum.skipped > 0;
  console.log(["", "Summary", ...lines].join("\n"));
  if (refused) console.log("CI=true allows no skipped tests");
  if (withoutContainers) {
    console.log("left out: tests/cluster/containers.test.ts, as no container can run here");
  }
  if (withoutNetworks) {
    console.log("left out: tests/*/netns_*.test.ts, as no network namespace can be made here");
  }
  console.log(sums(sum));
  return sum.failed > 0 || refused ? 1 : 0;
}

/** A command that passes or fails as one; its output is shown when it fails. */
function tool(name: string, argv: readonly [string, ...string[]], minutes = 5): Step {
  return {
    name,
    run: async () => {
      const { ok, output } = await execute(argv, { show: false, minutes });
      if (!ok) console.log(output);
      if (!ok) return failure(`what ${argv[0]} found stands above`);
      return { passed: 1, failed: 0, skipped: 0, notes: [], failing: new Map() };
    },
  };
}

/** All test files whose folder under tests/ is wanted, so that no new folder is forgotten. */
function tests(name: string, wanted: (folder: string) => boolean, pace: Pace): Step {
  return {
    name,
    run: async () => {
      const files = testFiles("tests")
        .filter((file) => wanted(file.split("/")[1] ?? ""))
        .filter((file) => !withoutContainers || !file.endsWith("/containers.test.ts"))
        .filter((file) => !withoutNetworks || !file.includes("/netns_"))
        .filter((file) => filters.length === 0 || filters.some((part) => file.includes(part)));
      if (files.length === 0) return failure("no test files");
      // What measures time or fills the machine must run alone, and says so in its file name.
      const alone = files.filter((file) => file.endsWith(".serial.test.ts"));
      const together = files.filter((file) => !alone.includes(file));
      const runs = [together, ...alone.map((file) => [file])].filter((run) => run.length > 0);
      const results: StepResult[] = [];
      for (const run of runs) results.push(await bunTest(run, pace));
      const total = (key: keyof Tally) => results.reduce((sum, result) => sum + result[key], 0);
      return {
        passed: total("passed"),
        failed: total("failed"),
        skipped: total("skipped"),
        notes: results.flatMap((result) => result.notes),
        failing: new Map(results.flatMap((result) => [...result.failing])),
      };
    },
  };
}

/** The step, whose unsteady files run a second time. */
function steadied(step: Step): Step {
  return {
    name: step.name,
    run: async () => {
      let result = await step.run();
      for (const file of unsteady(result)) {
        console.log(`… ${file} once more, alone`);
        result = afterSecondRun(result, file, await bunTest([file], serving));
      }
      return result;
    },
  };
}

function testFiles(folder: string): string[] {
  const entries = readdirSync(join(root, folder), { withFileTypes: true });
  return entries
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`;
      if (entry.isDirectory()) return testFiles(path);
      return entry.name.endsWith(".test.ts") ? [path] : [];
    })
    .sort();
}

async function bunTest(files: readonly string[], pace: Pace): Promise<StepResult> {
  const folder = mkdtempSync(join(tmpdir(), "pgpool-gate-"));
  const report = join(folder, "junit.xml");
  try {
    const { ok } = await execute(
      [
        "bun",
        "test",
        ...[`--parallel=${pace.files}`, `--timeout=${pace.seconds * 1000}`, "--only-failures"],
        ...["--reporter=junit", `--reporter-outfile=${report}`],
        ...files.map((file) => `./${file}`),
      ],
      { show: true, minutes: 90 }, // for one that hangs; a busy machine may need several times the usual
    );
    if (!existsSync(report)) return failure("bun test ended without a report");
    return readReport(readFileSync(report, "utf8"), { files, ok });
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Deno must accept each source file but those that speak to Bun by name. */
function denoCheck(): Step {
  return {
    name: "deno check",
    run: async () => {
      const files = ["core", "proxy", "pcp", "watchdog", "cmd"].flatMap(sourceFiles);
      const portable = files.filter((file) => {
        const text = readFileSync(join(root, file), "utf8");
        return !/\bBun\.|from "bun(:|")|import\("bun|type: "file"/.test(text);
      });
      return tool("deno check", ["deno", "check", "--quiet", ...portable]).run();
    },
  };
}

function sourceFiles(folder: string): string[] {
  if (!existsSync(join(root, folder))) return [];
  const entries = readdirSync(join(root, folder), { withFileTypes: true });
  return entries.flatMap((entry) => {
    const path = `${folder}/${entry.name}`;
    if (entry.isDirectory()) return sourceFiles(path);
    return entry.name.endsWith(".ts") ? [path] : [];
  });
}

function execute(
  [program, ...args]: readonly [string, ...string[]],
  options: { readonly show: boolean; readonly minutes: number },
): Promise<{ ok: boolean; output: string }> {
  return new Promise((resolve) => {
    const output = options.show ? "inherit" : "pipe";
    const child = spawn(join(bin, program), args, {
      cwd: root,
      env: { ...process.env, PATH: `${bin}${delimiter}${PATH}` },
      stdio: ["ignore", output, output],
    });
    const chunks: Buffer[] = [];
    child.stdout?.on("data", (chunk: Buffer) => chunks.push(chunk));
    child.stderr?.on("data", (chunk: Buffer) => chunks.push(chunk));
    const tooLong = () => {
      chunks.push(Buffer.from(`\n${program} was stopped after ${options.minutes} minutes\n`));
      child.kill("SIGTERM");
    };
    const timer = setTimeout(tooLong, options.minutes * 60_000);
    const end = (ok: boolean) => {
      clearTimeout(timer);
      resolve({ ok, output: Buffer.concat(chunks).toString("utf8") });
    };
    child.once("error", (error) => {
      chunks.push(Buffer.from(`${program}: ${error.message}\n`));
      end(false);
    });
    child.once("close", (code) => end(code === 0));
  });
}

process.exit(await main());
