/**
 * `npm run demo`: builds the binary, makes a primary and two standbys with a pgpool in front, shows
 * what it does, and stays until Ctrl-C. `--check` ends after the tour with 0, or with 1 and what was
 * not as it should be; `--mode n` shows raw mode. Whatever happens, nothing is left behind.
 */
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, rmSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { type Command, defineCommand, refuse, runCommand } from "./options.ts";
import { serverOwner } from "./owner.ts";
import { isAlive, parsePid } from "./pid_file.ts";
import { queryOnce, SqlClient, type SqlResult } from "./sql_client.ts";
import { tableText } from "./table.ts";

const nodeCount = 3;
const root = fileURLToPath(new URL("..", import.meta.url).href);
const binary = join(root, "dist", "pgpool");

const flags = {
  check: { brief: "end after the tour: 0 when all was as it should be, else 1" },
  mode: { short: "m", arg: "MODE", brief: "s (streaming replication, the default) or n (raw)" },
  help: { short: "h", brief: "print this help" },
} as const;

const demoCommand: Command<typeof flags> = defineCommand({
  name: "demo",
  brief: "a cluster with pgpool in front of it, to try out",
  usage: ["[--check] [--mode s|n]"],
  flags,
  help: { to: "stdout", exitCode: 0 },
  misuse: { show: "hint", to: "stderr", exitCode: 1 },
  async run(values, operands, call) {
    const [extra] = operands;
    if (extra !== undefined) return refuse(demoCommand, call, `unexpected word "${extra}"`);
    return await demo(values.mode ?? "s", values.check === true);
  },
});

type Stage = {
  readonly dir: string;
  readonly port: number;
  readonly user: string;
  readonly streaming: boolean;
};

async function demo(mode: string, check: boolean): Promise<number> {
  const stopping = new AbortController();
  const signals = ["SIGINT", "SIGTERM", "SIGHUP"] as const;
  for (const signal of signals) process.on(signal, () => stopping.abort());

  heading("Building the binary");
  if ((await run([process.execPath, join(root, "build.ts")])) !== 0) return 1;

  const dir = mkdtempSync(join(tmpdir(), "pgpool-demo-"));
  const stage = {
    dir,
    port: await freePorts(nodeCount + 2),
    user: serverOwner(undefined).name,
    streaming: mode === "s",
  };
  try {
    heading(`Making ${nodeCount} PostgreSQL clusters and a pgpool, in ${dir}`);
    const args = ["setup", "-m", mode, "-n", String(nodeCount), "-p", String(stage.port)];
    if ((await run([binary, ...args, "--no-stop"], { cwd: dir })) !== 0 || stopping.signal.aborted)
      return 1;
    const complaints = await tour(stage);
    if (stopping.signal.aborted) return 1;
    for (const complaint of complaints) console.error(`not as it should be: ${complaint}`);
    if (check) {
      console.log(complaints.length === 0 ? "\nAll is as it should be." : "\nThe check failed.");
      return complaints.length === 0 ? 0 : 1;
    }
    await stay(stage, stopping.signal);
    return 0;
  } finally {
    await takeDown(stage);
  }
}

/** Shows what a client sees. Resolves to what was not as it should be. */
async function tour(stage: Stage): Promise<readonly string[]> {
  return [
    ...(await tourWho(stage)),
    ...(await tourReads(stage)),
    ...(await tourWrite(stage)),
    ...(await tourNodes(stage)),
  ];
}

const portOfNode = (stage: Stage, node: number): number => stage.port + 2 + node;

function nodeName(stage: Stage, port: string | null): string {
  const node = Number(port) - portOfNode(stage, 0);
  if (!stage.streaming) return `node ${node}`;
  return `node ${node} (${node === 0 ? "primary" : "standby"})`;
}

const ask = (stage: Stage, sql: string): Promise<SqlResult> =>
  queryOnce(
    { host: "127.0.0.1", port: stage.port },
    { user: stage.user, database: "test", applicationName: "demo" },
    sql,
  );

async function tourWho(stage: Stage): Promise<readonly string[]> {
  heading("Who am I connected to?");
  const sql =
    "SELECT current_user, current_database(), inet_server_port(), current_setting('server_version')";
  const { rows } = await ask(stage, sql);
  const [user, database, port = null, version] = rows[0] ?? [];
  show(sql);
  console.log(`  user ${user}, database ${database}, PostgreSQL ${version}`);
  console.log(`  asked on port ${stage.port}, answered by port ${port}: ${nodeName(stage, port)}`);
  return user === stage.user ? [] : [`connected as ${user} instead of ${stage.user}`];
}

const readCount = 10;
const readsMax = 100;

/** A session keeps its node, so each read is a session of its own. */
async function tourReads(stage: Stage): Promise<readonly string[]> {
  heading(`${readCount} reads, each in a new session`);
  const sql = "SELECT inet_server_port()";
  show(sql);
  const counts = new Map<string, number>();
  // Nodes are drawn by lot: should all of the first ten hit one, a few more tell chance from a fault.
  for (let read = 0; read < readCount || (counts.size < 2 && read < readsMax); read++) {
    const { rows } = await ask(stage, sql);
    const name = nodeName(stage, rows[0]?.[0] ?? null);
    counts.set(name, (counts.get(name) ?? 0) + 1);
    if (!stage.streaming && read + 1 === readCount) break;
  }
  for (const [name, count] of [...counts].sort()) {
    console.log(`  ${name.padEnd(18)} ${"#".repeat(count)} ${count}`);
  }
  if (stage.streaming) return counts.size > 1 ? [] : ["all reads went to one node"];
  return counts.size === 1 ? [] : ["in raw mode every statement belongs to one node"];
}

async function tourWrite(stage: Stage): Promise<readonly string[]> {
  heading("A write");
  const sql = "INSERT INTO visits VALUES (42) RETURNING inet_server_port()";
  show("CREATE TABLE visits (number int)", sql);
  await ask(stage, "CREATE TABLE visits (number int)");
  const { rows } = await ask(stage, sql);
  const port = rows[0]?.[0] ?? null;
  console.log(`  went to port ${port}: ${nodeName(stage, port)}`);
  const wrong = Number(port) === portOfNode(stage, 0) ? [] : [`the write went to port ${port}`];
  if (!stage.streaming) return wrong;
  const missing = await nodesWithout(stage, 42);
  if (missing.length === 0) console.log(`  and all ${nodeCount} nodes have it`);
  return [...wrong, ...missing.map((node) => `node ${node} does not have what was written`)];
}

/** The nodes that do not get to see the row within ten seconds. */
async function nodesWithout(stage: Stage, number: number): Promise<readonly number[]> {
  const missing: number[] = [];
  for (let node = 0; node < nodeCount; node++) {
    const target = { host: "127.0.0.1", port: portOfNode(stage, node) };
    const sql = await SqlClient.connect(target, { user: stage.user, database: "test" });
    const seen = `SELECT count(*) FROM pg_class WHERE relname = 'visits'`;
    const found = `SELECT count(*) FROM visits WHERE number = ${number}`;
    try {
      const end = performance.now() + 10_000;
      const has = async () => (await sql.value(seen)) === "1" && (await sql.value(found)) === "1";
      while (!(await has()) && performance.now() < end) await delay(20);
      if (!(await has())) missing.push(node);
    } finally {
      sql.close();
    }
  }
  return missing;
}

async function tourNodes(stage: Stage): Promise<readonly string[]> {
  heading("What pgpool knows of its nodes");
  const result = await ask(stage, "SHOW pool_nodes");
  const wanted = ["node_id", "hostname", "port", "status", "lb_weight", "role", "select_cnt"];
  const at = wanted.map((name) => result.columns.indexOf(name));
  const column = (row: readonly (string | null)[], name: string) =>
    row[result.columns.indexOf(name)] ?? "";
  show("SHOW pool_nodes");
  const rows = result.rows.map((row) => at.map((index) => row[index] ?? ""));
  console.log(tableText({ columns: wanted, rows }).replaceAll(/^/gm, "  "));
  const down = result.rows.filter((row) => column(row, "status") === "down");
  const primaries = result.rows.filter((row) => column(row, "role") === "primary");
  return [
    ...(result.rows.length === nodeCount ? [] : [`pgpool knows ${result.rows.length} nodes`]),
    ...down.map((row) => `node ${column(row, "node_id")} is down`),
    ...(stage.streaming && primaries.length !== 1 ? [`${primaries.length} primaries`] : []),
  ];
}

async function stay(stage: Stage, signal: AbortSignal): Promise<void> {
  heading("Now you");
  console.log(`  psql -h localhost -p ${stage.port} -U ${stage.user} test`);
  console.log(`  postgresql://${stage.user}@localhost:${stage.port}/test`);
  console.log(`  log: ${stage.dir}/log/pgpool.log`);
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
  const script = join(dir, "shutdownall");
  if (existsSync(script)) await run(["sh", script], { cwd: dir, apart: true, limitMs: 30_000 });
  killLeftovers(dir);
  rmSync(dir, { recursive: true, force: true, maxRetries: 20 });
  console.log("  nothing is left behind");
}

/** Servers that did not stop when told, by the pid files that they would have removed. */
function killLeftovers(dir: string): void {
  const clusters = Array.from({ length: nodeCount }, (_, node) => `data${node}/postmaster.pid`);
  for (const name of ["run/pgpool.pid", ...clusters]) {
    const path = join(dir, name);
    const pid = existsSync(path) ? parsePid(readFileSync(path, "latin1").split("\n")[0] ?? "") : 0;
    if (pid !== undefined && pid > 0 && isAlive(pid)) process.kill(pid, "SIGKILL");
  }
}

function heading(text: string): void {
  const bold = process.stdout.isTTY && !("NO_COLOR" in process.env);
  console.log(bold ? `\n\x1b[1m${text}\x1b[0m` : `\n${text}`);
}

function show(...statements: readonly string[]): void {
  for (const sql of statements) console.log(`  ${sql};`);
}

type RunOptions = {
  readonly cwd?: string;
  /** Out of reach of the terminal's Ctrl-C. */
  readonly apart?: boolean;
  /** After this it is killed. */
  readonly limitMs?: number;
};

/** Runs a program with our terminal, and waits for its end; resolves to the exit code. */
function run(argv: readonly string[], options: RunOptions = {}): Promise<number> {
  const [program = "", ...args] = argv;
  const child = spawn(program, args, {
    cwd: options.cwd ?? root,
    stdio: ["ignore", "inherit", "inherit"],
    detached: options.apart === true,
    ...(options.limitMs === undefined ? {} : { timeout: options.limitMs, killSignal: "SIGKILL" }),
  });
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    child.once("exit", (code) => resolve(code ?? 1));
  });
}

/** The first of `count` ports in a row that nobody listens on, below those for outgoing connections. */
async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < 100; tries++) {
    const first = 20_000 + Math.floor(Math.random() * 11_000);
    const wanted = Array.from({ length: count }, (_, i) => first + i);
    const free = await Promise.all(wanted.map(isFree));
    if (free.every(Boolean)) return first;
  }
  throw new Error(`no ${count} free ports in a row between 20000 and 31000`);
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
