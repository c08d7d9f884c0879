/** What a process tree costs, from Linux's /proc, and what pgbench and psql report. */

import { spawn } from "node:child_process";
import { closeSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { mustRun, processTree } from "../cluster/machine.ts";
import { percentile } from "./table.ts";

const ticksPerSecond = 100; // USER_HZ, the same on every Linux that we run on

/**
 * Processor seconds used so far by the tree below `pid`, children that ended included (as long as
 * their parent lives). Resolution 10 ms.
 */
export function cpuSeconds(pid: number): number {
  let ticks = 0;
  for (const member of processTree(pid)) {
    const stat = read(`/proc/${member}/stat`);
    const fields = stat.slice(stat.lastIndexOf(")") + 2).split(" ");
    // utime, stime, cutime, cstime: fields 14 to 17 of proc(5), the first here being field 3.
    for (const field of fields.slice(11, 15)) ticks += Number(field);
  }
  return ticks / ticksPerSecond;
}

/**
 * Megabytes that the tree holds: each page counted once however many processes share it (PSS),
 * which is what a machine has to provide.
 */
export function memoryMb(pid: number): number {
  let kilobytes = 0;
  for (const member of processTree(pid)) {
    const rollup = read(`/proc/${member}/smaps_rollup`);
    kilobytes += Number(/^Pss:\s+(\d+)/m.exec(rollup)?.[1] ?? 0);
  }
  return kilobytes / 1024;
}

/** Runs `work` and tells the most memory that the tree was seen to hold meanwhile. */
export async function peakMemoryMb(
  pid: number | undefined,
  work: () => Promise<void>,
): Promise<number | undefined> {
  if (pid === undefined) return work().then(() => undefined);
  let peak = memoryMb(pid);
  const timer = setInterval(() => {
    peak = Math.max(peak, memoryMb(pid));
  }, 250);
  try {
    await work();
  } finally {
    clearInterval(timer);
  }
  return Math.max(peak, memoryMb(pid));
}

function read(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // the process ended while we looked
  }
}

export type PgbenchOptions = {
  readonly env: Readonly<Record<string, string>>;
  readonly mode: "simple" | "extended" | "prepared";
  readonly clients: number;
  readonly seconds: number;
  /** A new connection for each transaction. */
  readonly reconnect?: boolean;
  /** pgbench's own read by primary key, unless another is given. */
  readonly script?: string;
  /** Where it may leave its log files; they are removed again. */
  readonly dir: string;
};

export type PgbenchResult = {
  readonly transactions: number;
  readonly perSecond: number;
  readonly p50Ms: number | undefined;
  readonly p99Ms: number | undefined;
};

/** One run of pgbench. Throws when a client was aborted: such a rate would mean nothing. */
export async function pgbench(program: string, options: PgbenchOptions): Promise<PgbenchResult> {
  const prefix = join(options.dir, "pgbench_log");
  const script = join(options.dir, "script.sql");
  if (options.script !== undefined) writeFileSync(script, options.script);
  const output = await mustRun(
    [
      program,
      ...(options.script === undefined ? ["-S"] : ["-f", script]),
      ...["-n", "-M", options.mode, "-c", String(options.clients)],
      ...["-j", String(Math.min(2, options.clients)), "-T", String(options.seconds)],
      ...["--log", `--log-prefix=${prefix}`, "--sampling-rate=0.2"],
      ...(options.reconnect ? ["-C"] : []),
    ],
    { env: options.env, cwd: options.dir, deadlineMs: options.seconds * 1000 + 60_000 },
  );
  const number = (pattern: RegExp) => Number(pattern.exec(output)?.[1]);
  const latenciesMs = takeLatencies(options.dir);
  const transactions = number(/transactions actually processed: (\d+)/);
  const perSecond = number(/tps = ([\d.]+)/);
  if (!(transactions > 0 && perSecond > 0)) throw new Error(`pgbench did nothing:\n${output}`);
  return {
    transactions,
    perSecond,
    p50Ms: percentile(latenciesMs, 0.5),
    p99Ms: percentile(latenciesMs, 0.99),
  };
}

/** The third field of each line of pgbench's log is the latency in microseconds. */
function takeLatencies(dir: string): number[] {
  const logs = readdirSync(dir).filter((name) => name.startsWith("pgbench_log"));
  return logs.flatMap((name) => {
    const path = join(dir, name);
    const lines = readFileSync(path, "utf8").trim().split("\n");
    rmSync(path);
    return lines.filter(Boolean).map((line) => Number(line.split(" ")[2]) / 1000);
  });
}

/** Runs psql with its input and output bound to files, so that no byte passes through us. */
export function psqlSeconds(
  program: string,
  sql: string,
  options: {
    readonly env: Readonly<Record<string, string>>;
    readonly input?: string;
    readonly output?: string;
  },
): Promise<number> {
  const { PATH = "" } = process.env;
  const input = openSync(options.input ?? "/dev/null", "r");
  const output = openSync(options.output ?? "/dev/null", "w");
  const start = performance.now();
  return new Promise((resolve, reject) => {
    const child = spawn(program, ["-X", "-q", "-v", "ON_ERROR_STOP=1", "-c", sql], {
      env: { PATH, LANG: "C", ...options.env },
      stdio: [input, output, "inherit"],
    });
    closeSync(input);
    closeSync(output);
    child.once("error", reject);
    child.once("exit", (code) => {
      if (code === 0) resolve((performance.now() - start) / 1000);
      else reject(new Error(`psql exited with ${code} for: ${sql}`));
    });
  });
}
