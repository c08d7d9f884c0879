/**
 * What a test borrows from the machine (directories, ports, processes, an unprivileged user) and
 * gives back whatever happens: a `Scope` undoes everything at its end, and if the test process is
 * stopped by a signal or leaves early, the open scopes are undone on the way out.
 */
import { type ChildProcess, spawn } from "node:child_process";
import {
  accessSync,
  chmodSync,
  chownSync,
  closeSync,
  constants,
  existsSync,
  fstatSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { createServer } from "node:net";
import { tmpdir, userInfo } from "node:os";
import { delimiter, join } from "node:path";
import { inspect } from "node:util";

const { PATH: searchPath = "" } = process.env;

/** The repository's root, wherever it was cloned. */
export const repositoryRoot = join(import.meta.dirname, "../..");

/** Who runs the servers. */
export type Owner = { readonly name: string; readonly uid: number; readonly gid: number };

/** The invoking user; as root, whom PostgreSQL refuses, `postgres` where it exists, else `nobody`. */
export function serverOwner(): Owner {
  const me = userInfo();
  if (me.uid !== 0) return { name: me.username, uid: me.uid, gid: me.gid };
  const entries = readFileSync("/etc/passwd", "utf8")
    .split("\n")
    .map((line) => line.split(":"));
  const entry =
    entries.find(([name]) => name === "postgres") ?? entries.find(([name]) => name === "nobody");
  if (entry === undefined)
    throw new Error("running as root, and no user postgres or nobody exists");
  return { name: entry[0] ?? "", uid: Number(entry[2]), gid: Number(entry[3]) };
}

/** The owner is somebody else only when we are root: only then may and must we switch. */
export function runsAs(owner: Owner): { uid: number; gid: number } | Record<string, never> {
  return owner.uid === userInfo().uid ? {} : { uid: owner.uid, gid: owner.gid };
}

/** The path of a program on PATH or in the system directories, undefined where it is missing. */
export function findProgram(name: string): string | undefined {
  const folders = [...searchPath.split(delimiter), "/usr/sbin", "/usr/local/sbin"];
  return folders.map((folder) => join(folder, name)).find(isExecutable);
}

export function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false; // missing or not ours to run: both mean that it cannot be used
  }
}

/**
 * A deadline is there for what hangs, and says nothing of how fast anything is: each is written for a
 * machine with nothing else to do, and a busy one gets three times as long.
 */
export const patient = (ms: number): number => 3 * ms;

/** The pace of clients that go on. Whoever waits for something asks `eventually`. */
export const pause = (ms: number) => new Promise<void>((resolve) => setTimeout(resolve, ms));

export type EventuallyOptions = {
  /** Default 10 000, as `patient` makes it. */
  readonly deadlineMs?: number;
  /** Said in the failure, e.g. "the standby to stream". */
  readonly what?: string;
};

/**
 * Asks until the answer is as wanted, and returns it. A probe that throws is asked again. Fails at
 * the deadline with the last value (or error) seen.
 */
export async function eventually<T>(
  probe: () => T | Promise<T>,
  holds: (value: T) => boolean = (value) => Boolean(value),
  options: EventuallyOptions = {},
): Promise<T> {
  const deadlineMs = patient(options.deadlineMs ?? 10_000);
  const end = performance.now() + deadlineMs;
  for (let pauseMs = 5; ; pauseMs = Math.min(pauseMs * 2, 200)) {
    let last: string;
    try {
      const value = await probe();
      if (holds(value)) return value;
      last = `last value: ${inspect(value, { depth: 6 })}`;
    } catch (error) {
      last = `last error: ${error instanceof Error ? error.message : String(error)}`;
    }
    if (performance.now() >= end) {
      const what = options.what ?? "the condition";
      throw new Error(`waited ${deadlineMs} ms in vain for ${what}; ${last}`);
    }
    await pause(pauseMs);
  }
}

const portsGiven = new Set<number>();

/**
 * A TCP port of 127.0.0.1 that nobody listens on, below the kernel's range for outgoing connections.
 * It is this process's for as long as it lives: a file says so to the test files beside it, since
 * its server may start a moment later, or end and start again.
 */
export async function freePort(): Promise<number> {
  for (let tries = 0; tries < 200; tries++) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    if (claim(port) && (await canListen(port))) return port;
  }
  throw new Error("no free port found between 20000 and 32000");
}

/** One file for each port, with the number of the process that has it. */
const claimsDir = join(tmpdir(), "pgpool-test-ports");

function claim(port: number): boolean {
  if (portsGiven.has(port)) return false;
  mkdirSync(claimsDir, { recursive: true });
  const path = join(claimsDir, String(port));
  for (let tries = 0; tries < 2; tries++) {
    try {
      writeFileSync(path, String(process.pid), { flag: "wx" });
      if (portsGiven.size === 0) process.once("exit", unclaim);
      portsGiven.add(port);
      return true;
    } catch {
      if (isAlive(Number(readText(path)))) return false;
      rmSync(path, { force: true });
    }
  }
  return false;
}

function unclaim(): void {
  for (const port of portsGiven) rmSync(join(claimsDir, String(port)), { force: true });
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // its process has just ended
  }
}

function canListen(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(false));
    server.listen(port, "127.0.0.1", () => server.close(() => resolve(true)));
  });
}

/** The first of `count` free ports in a row. */
export async function freePorts(count: number): Promise<number> {
  for (let tries = 0; tries < 50; tries++) {
    const first = await freePort();
    const rest = Array.from({ length: count - 1 }, (_, i) => first + 1 + i);
    if (!rest.every(claim)) continue;
    const taken = Array.from({ length: count }, (_, i) => occupy(first + i));
    const servers = await Promise.all(taken);
    for (const server of servers) server?.close();
    if (servers.every((server) => server !== undefined)) return first;
  }
  throw new Error(`no ${count} free ports in a row`);
}

/** Listens at a port, on all addresses; undefined when somebody else does. */
export function occupy(port: number): Promise<ReturnType<typeof createServer> | undefined> {
  return new Promise((resolve) => {
    const server = createServer();
    server.once("error", () => resolve(undefined));
    server.listen(port, () => resolve(server));
  });
}

export type ProcessOptions = {
  readonly name: string;
  readonly argv: readonly [string, ...string[]];
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>> | undefined;
  readonly owner?: Owner | undefined;
  /** stdout and stderr are appended to it. */
  readonly logPath: string;
};

/** A server started by a test, a process of this machine or one in a container. */
export interface Running {
  readonly name: string;
  readonly pid: number;
  /** How it ended, such as "exit 0"; undefined while it runs. */
  readonly end: string | undefined;
  /** Resolves with `end`. */
  readonly ended: Promise<string>;
  readonly running: boolean;
  log(): string;
  /** Nothing happens when it is gone already. */
  signal(signal: NodeJS.Signals): void;
  /** Signals, then waits for the end; past the deadline it is killed and this rejects. */
  stop(signal: NodeJS.Signals, deadlineMs?: number): Promise<string>;
  /** Probes until it answers; a server that ends first is an error with the tail of its log. */
  untilReady(probe: () => Promise<boolean>, deadlineMs?: number): Promise<void>;
}

/** What `untilReady` does, whatever runs. */
export async function untilAnswering(
  server: Running,
  probe: () => Promise<boolean>,
  deadlineMs: number,
): Promise<void> {
  const answer = async () => (server.running ? await probe() : true);
  try {
    await eventually(answer, Boolean, { deadlineMs, what: `${server.name} to answer` });
  } catch (error) {
    throw new Error(`${String(error)}\n${tail(server.log())}`);
  }
  if (!server.running) {
    throw new Error(`${server.name} ended (${server.end}):\n${tail(server.log())}`);
  }
}

/** What `stop` does once it has sent the signal: whoever does not heed it is killed, which is an error. */
export async function untilEnded(
  server: Running,
  signal: NodeJS.Signals,
  deadlineMs: number,
  kill: () => unknown,
): Promise<string> {
  try {
    await eventually(
      () => server.end,
      (end) => end !== undefined,
      { deadlineMs, what: `${server.name} to end after ${signal}` },
    );
  } catch (error) {
    await kill();
    throw new Error(`${String(error)}\n${tail(server.log())}`);
  }
  return server.ended;
}

/** A process of this machine. Its output goes to a file, so nothing blocks when nobody reads. */
export class ServerProcess implements Running {
  readonly name: string;
  readonly logPath: string;
  /** Resolves when the process is gone, with "exit N" or "signal NAME". */
  readonly ended: Promise<string>;
  readonly #child: ChildProcess;
  readonly #logStart: number;
  #end: string | undefined;

  private constructor(options: ProcessOptions, child: ChildProcess, logStart: number) {
    this.name = options.name;
    this.logPath = options.logPath;
    this.#child = child;
    this.#logStart = logStart;
    this.ended = new Promise((resolve) => {
      const finish = (end: string) => {
        this.#end = end;
        resolve(end);
      };
      child.once("error", (error) => finish(`could not start: ${error.message}`));
      child.once("exit", (code, signal) => finish(signal ? `signal ${signal}` : `exit ${code}`));
    });
  }

  static start(options: ProcessOptions): ServerProcess {
    const log = openSync(options.logPath, "a");
    const logStart = fstatSync(log).size;
    const [program, ...args] = options.argv;
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: { PATH: searchPath, HOME: options.cwd, LANG: "C", ...options.env },
      stdio: ["ignore", log, log],
      // Its own process group: Ctrl-C at the terminal reaches us alone, and we stop it in order.
      detached: true,
      ...(options.owner === undefined ? {} : runsAs(options.owner)),
    });
    closeSync(log);
    return new ServerProcess(options, child, logStart);
  }

  get pid(): number {
    const pid = this.#child.pid;
    if (pid === undefined) throw new Error(`${this.name} could not be started`);
    return pid;
  }

  get end(): string | undefined {
    return this.#end;
  }

  get running(): boolean {
    return this.#end === undefined;
  }

  log(): string {
    return existsSync(this.logPath) ? readFileSync(this.logPath, "utf8") : "";
  }

  /** Without what an earlier process has written to the same file. */
  ownLog(): string {
    if (!existsSync(this.logPath)) return "";
    return readFileSync(this.logPath).toString("utf8", this.#logStart);
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) this.#child.kill(signal);
  }

  async stop(signal: NodeJS.Signals, deadlineMs = 20_000): Promise<string> {
    this.signal(signal);
    return await untilEnded(this, signal, deadlineMs, () => this.signal("SIGKILL"));
  }

  untilReady(probe: () => Promise<boolean>, deadlineMs = 30_000): Promise<void> {
    return untilAnswering(this, probe, deadlineMs);
  }
}

/** The process and all below it, by Linux's /proc; elsewhere the process alone. */
export function processTree(pid: number): number[] {
  const parents = new Map<number, number>();
  for (const name of existsSync("/proc") ? readdirSync("/proc") : []) {
    const parent = /^\d+$/.test(name) ? parentOf(Number(name)) : undefined;
    if (parent !== undefined) parents.set(Number(name), parent);
  }
  const tree = [pid];
  for (const member of tree) {
    for (const [child, parent] of parents) if (parent === member) tree.push(child);
  }
  return tree;
}

/** Fields of proc(5)'s stat from the third on: state, parent, … */
function statOf(pid: number): string[] | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
    // The name in parentheses may hold anything, so fields are counted from its end.
    return stat.slice(stat.lastIndexOf(")") + 2).split(" ");
  } catch {
    return undefined; // it ended while we looked
  }
}

function parentOf(pid: number): number | undefined {
  const stat = statOf(pid);
  return stat === undefined ? undefined : Number(stat[1]);
}

/** Alive, and not just waiting for us to take note of its end. */
const isRunning = (pid: number): boolean => isAlive(pid) && statOf(pid)?.[0] !== "Z";

export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

export const tail = (text: string, lines = 40): string => text.split("\n").slice(-lines).join("\n");

export type CommandResult = {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
};

export type CommandOptions = {
  readonly cwd?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly stdin?: string;
  readonly owner?: Owner;
  /** Default 60 000, as `patient` makes it; the command is then killed, which shows as `signal`. */
  readonly deadlineMs?: number;
  /** Called once with the running command, e.g. to send it a signal when a fact is seen. */
  readonly onStart?: (child: ChildProcess) => void;
};

/** Runs a command to its end. A failing command is a result and not an exception. */
export function runCommand(
  argv: readonly [string, ...string[]],
  options: CommandOptions = {},
): Promise<CommandResult> {
  const [program, ...args] = argv;
  return new Promise((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd ?? tmpdir(),
      env: { PATH: searchPath, LANG: "C", HOME: tmpdir(), ...options.env },
      stdio: ["pipe", "pipe", "pipe"],
      ...(options.owner === undefined ? {} : runsAs(options.owner)),
    });
    const killer = setTimeout(() => child.kill("SIGKILL"), patient(options.deadlineMs ?? 60_000));
    const stdout: Buffer[] = [];
    const stderr: Buffer[] = [];
    child.stdout.on("data", (chunk: Buffer) => stdout.push(chunk));
    child.stderr.on("data", (chunk: Buffer) => stderr.push(chunk));
    child.once("error", (error) => {
      clearTimeout(killer);
      reject(error);
    });
    child.once("close", (code, signal) => {
      clearTimeout(killer);
      const text = (chunks: Buffer[]) => Buffer.concat(chunks).toString("utf8");
      resolve({ code, signal, stdout: text(stdout), stderr: text(stderr) });
    });
    child.stdin.on("error", () => undefined); // it may end without reading its input
    child.stdin.end(options.stdin ?? "");
    options.onStart?.(child);
  });
}

/** Runs a command that must succeed, and returns what it printed. */
export async function mustRun(
  argv: readonly [string, ...string[]],
  options: CommandOptions = {},
): Promise<string> {
  const result = await runCommand(argv, options);
  if (result.code === 0) return result.stdout;
  const how = result.signal ? `was killed by ${result.signal}` : `exited with ${result.code}`;
  throw new Error(`${argv.join(" ")} ${how}:\n${result.stdout}${result.stderr}`);
}

const openScopes = new Set<Scope>();
let watchesExit = false;

/** Owns a temporary directory and whatever was started in it. */
export class Scope {
  /** Readable by all (servers run as another user when we are root); its files need not be. */
  readonly dir: string;
  readonly owner: Owner;
  readonly #processes: Running[] = [];
  readonly #undo: (() => Promise<void> | void)[] = [];

  constructor() {
    this.owner = serverOwner();
    this.dir = mkdtempSync(join(tmpdir(), "pgpool-test-"));
    chmodSync(this.dir, 0o755);
    openScopes.add(this);
    watchExit();
  }

  /** A new directory inside `dir`, belonging to the owner of the servers. */
  makeDir(name: string, mode = 0o755): string {
    const path = join(this.dir, name);
    mkdirSync(path, { recursive: true, mode });
    chmodSync(path, mode);
    this.giveToOwner(path);
    return path;
  }

  giveToOwner(path: string): void {
    if (userInfo().uid === 0) chownSync(path, this.owner.uid, this.owner.gid);
  }

  start(options: Omit<ProcessOptions, "cwd"> & { readonly cwd?: string }): ServerProcess {
    return this.own(ServerProcess.start({ cwd: this.dir, ...options }));
  }

  /** Stops the server at the end, in turn with those that `start` has started. */
  own<R extends Running>(server: R): R {
    this.#processes.push(server);
    return server;
  }

  /** Runs at the end, the latest first. */
  defer(undo: () => Promise<void> | void): void {
    this.#undo.push(undo);
  }

  async close(): Promise<void> {
    if (!openScopes.delete(this)) return;
    const failures: unknown[] = [];
    for (const undo of this.#undo.reverse()) {
      try {
        await undo();
      } catch (error) {
        failures.push(error);
      }
    }
    // Latest first: a proxy goes before its servers, so that it does not log their loss.
    for (const started of this.#processes.reverse()) {
      if (!started.running) continue;
      started.signal("SIGCONT");
      await started.stop("SIGQUIT").catch((error: unknown) => failures.push(error));
    }
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 20 });
    if (failures.length > 0) throw new AggregateError(failures, "the test did not end cleanly");
  }

  /** The way out that cannot await: for the process's own end. */
  abandon(): void {
    openScopes.delete(this);
    const pids = this.#processes.filter(({ running }) => running).map(({ pid }) => pid);
    const trees = pids.flatMap(processTree);
    for (const started of this.#processes.reverse()) {
      started.signal("SIGCONT");
      started.signal("SIGQUIT");
    }
    // Whoever still writes would put its files back behind us.
    const end = performance.now() + 5_000;
    while (trees.some(isRunning) && performance.now() < end) {
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 10);
    }
    for (const pid of trees.filter(isRunning)) process.kill(pid, "SIGKILL");
    rmSync(this.dir, { recursive: true, force: true, maxRetries: 20 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }
}

function watchExit(): void {
  if (watchesExit) return;
  watchesExit = true;
  const abandonAll = () => {
    for (const scope of openScopes) scope.abandon();
  };
  process.once("exit", abandonAll);
  for (const signal of ["SIGINT", "SIGTERM", "SIGHUP"] as const) {
    process.once(signal, () => {
      abandonAll();
      process.exit(1);
    });
  }
}
