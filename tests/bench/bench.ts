/**
 * `npm run bench [-- --only WORDS] [--seconds N] [--rounds N] …`: the proxy beside its peers on
 * one machine. Every round runs all contenders one after the other, each round beginning with
 * another of them, and only values of the same round are divided: what slows the machine for a
 * minute slows all of them. Absolute rates are therefore not printed. What single functions cost
 * is told by functions.ts, with `--functions`.
 */
import { parseArgs } from "node:util";
import { mustRun, Postgres, Scope } from "../cluster/harness.ts";
import { allCases, type BenchContext, type Case, copyFile } from "./cases.ts";
import {
  benchRole,
  type Contender,
  type ContenderName,
  contenderNames,
  installed,
  startContender,
} from "./contenders.ts";
import { type CaseResult, renderReport, type Sample } from "./table.ts";

const usage = `usage: npm run bench -- [options]
  --only WORDS       only cases whose name holds one of these (comma-separated) words
  --except WORDS     not the cases whose name holds one of these
  --seconds N        length of one pgbench run (default 4)
  --rounds N         paired rounds (default 5)
  --copy-mb N        size of the COPY cases (default 1024)
  --idle N           clients of the idle case (default 500)
  --contenders LIST  who runs (default: all that are installed of ${contenderNames.join(", ")})
  --subject NAME     whom the ratios are about (default ours)
  --functions        what codec and routing cost, by mitata, in place of all this
  --list             print the names of the cases`;

const { values: args } = parseArgs({
  options: {
    only: { type: "string", default: "" },
    except: { type: "string", default: "" },
    seconds: { type: "string", default: "4" },
    rounds: { type: "string", default: "5" },
    "copy-mb": { type: "string", default: "1024" },
    idle: { type: "string", default: "500" },
    contenders: { type: "string", default: installed().join() },
    subject: { type: "string", default: "ours" },
    functions: { type: "boolean", default: false },
    list: { type: "boolean", default: false },
    help: { type: "boolean", default: false },
  },
});

const words = (text: string) => text.split(",").filter((word) => word.length > 0);

async function main(): Promise<number> {
  if (args.functions) {
    await import("./functions.ts");
    return 0;
  }
  const cases = allCases(Number(args.idle))
    .filter(({ name }) => words(args.only).length === 0 || holdsOne(name, words(args.only)))
    .filter(({ name }) => !holdsOne(name, words(args.except)));
  if (args.help || args.list) {
    console.log(args.help ? usage : cases.map(({ name }) => name).join("\n"));
    return 0;
  }
  const chosen = contenderNames.filter((name) => words(args.contenders).includes(name));
  if (!chosen.some((name) => name === args.subject)) {
    console.error(`${args.subject} is not there to be measured: npm run build makes dist/pgpool`);
    return 1;
  }
  await using scope = new Scope();
  const context = await prepare(scope, cases);
  const results: CaseResult[] = [];
  for (const group of bySetting(cases)) results.push(...(await runGroup(group, chosen, context)));
  console.log(renderReport(results, args.subject, chosen));
  return 0;
}

const holdsOne = (name: string, wanted: readonly string[]) =>
  wanted.some((word) => name.includes(word));

/** A server with pgbench's tables at scale 10 and, where a case needs it, the table to copy. */
async function prepare(scope: Scope, cases: readonly Case[]): Promise<BenchContext> {
  progress("preparing PostgreSQL");
  const backend = await Postgres.create(scope, {
    databases: ["bench"],
    settings: { max_connections: 1200, shared_buffers: "512MB", max_wal_size: "8GB" },
    hba: [
      `host all ${benchRole["scram-sha-256"]} 127.0.0.1/32 scram-sha-256`,
      "host all all 127.0.0.1/32 trust",
    ],
  });
  for (const role of [benchRole.trust, benchRole["scram-sha-256"]]) {
    await backend.sql(
      `CREATE ROLE ${role} SUPERUSER LOGIN PASSWORD '${benchRole.password}'`,
      "bench",
    );
  }
  await mustRun([backend.program("pgbench"), "-i", "-q", "-s", "10"], {
    env: { ...backend.env, PGDATABASE: "bench" },
  });
  const context: BenchContext = {
    backend,
    dir: scope.makeDir("work", 0o777),
    seconds: Number(args.seconds),
    copyMb: Number(args["copy-mb"]),
    idleClients: Number(args.idle),
  };
  if (cases.some(({ name }) => name.includes("copy"))) await prepareCopy(context);
  return context;
}

/** Rows of a kilobyte, 1024 to the megabyte. */
async function prepareCopy(context: BenchContext): Promise<void> {
  const { backend, copyMb } = context;
  await backend.sql("CREATE UNLOGGED TABLE big (id int, payload text)", "bench");
  await backend.sql("CREATE UNLOGGED TABLE big_in (id int, payload text)", "bench");
  await backend.sql("ALTER TABLE big ALTER payload SET STORAGE plain", "bench");
  const series = `generate_series(100000001, 100000000 + ${copyMb} * 1024)`;
  await backend.sql(`INSERT INTO big SELECT i, repeat('x', 1013) FROM ${series} i`, "bench");
  await backend.sql(`COPY big TO '${copyFile(context)}'`, "bench");
}

/** Cases of one setting share their proxies, which live as long as the group. */
function bySetting(cases: readonly Case[]): Case[][] {
  const groups = new Map<string, Case[]>();
  for (const one of cases) {
    const key = one.fresh ? one.name : JSON.stringify(one.setting);
    groups.set(key, [...(groups.get(key) ?? []), one]);
  }
  return [...groups.values()];
}

async function runGroup(
  group: readonly Case[],
  chosen: readonly ContenderName[],
  context: BenchContext,
): Promise<CaseResult[]> {
  const [first] = group;
  if (first === undefined) return [];
  const names = chosen.filter((name) => first.direct || name !== "direct");
  await using scope = new Scope();
  const contenders: Contender[] = [];
  const absent = new Map<string, string>();
  for (const name of names) {
    progress(`starting ${name}: ${first.fresh ? first.name : JSON.stringify(first.setting)}`);
    try {
      const contender = await startContender(scope, context.backend, name, first.setting);
      if (!first.fresh) await warmUp(contender, first, context);
      contenders.push(contender);
    } catch (error) {
      absent.set(name, firstLine(error));
    }
  }
  const results: CaseResult[] = [];
  for (const one of group) results.push(await runCase(one, contenders, absent, context));
  return results;
}

/** Compilers and caches get their second before anything counts; and it shows who does not work. */
async function warmUp(contender: Contender, one: Case, context: BenchContext): Promise<void> {
  const seconds = Math.min(context.seconds, 2);
  const [query] = allCases(context.idleClients).filter(({ name, setting }) => {
    return name.endsWith("c=8") && JSON.stringify(setting) === JSON.stringify(one.setting);
  });
  await query?.run(contender, { ...context, seconds });
}

async function runCase(
  one: Case,
  contenders: readonly Contender[],
  absent: ReadonlyMap<string, string>,
  context: BenchContext,
): Promise<CaseResult> {
  const rounds = new Map<string, Sample[]>();
  const failures = new Map(absent);
  const count = one.fresh ? 1 : Number(args.rounds);
  for (let round = 0; round < count; round++) {
    progress(`${one.name}: round ${round + 1} of ${count}`);
    for (const contender of rotated(contenders, round)) {
      if (failures.has(contender.name)) continue;
      try {
        const sample = await one.run(contender, context);
        rounds.set(contender.name, [...(rounds.get(contender.name) ?? []), sample]);
      } catch (error) {
        // A contender with fewer rounds than the others could not be paired: it leaves this case.
        failures.set(contender.name, firstLine(error));
        rounds.delete(contender.name);
      }
    }
  }
  return { name: one.name, rounds, failures };
}

function rotated<T>(items: readonly T[], by: number): T[] {
  const start = items.length === 0 ? 0 : by % items.length;
  return [...items.slice(start), ...items.slice(0, start)];
}

function firstLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error);
  return text.split("\n").slice(0, 3).join(" ").slice(0, 300);
}

/** On stderr, so that the table alone is the output. */
function progress(text: string): void {
  console.error(`${new Date().toISOString().slice(11, 19)} ${text}`);
}

process.exit(await main());
