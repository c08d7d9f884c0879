/**
 * `pgpool watchdog setup`, also called watchdog_setup: a test installation of several pgpools that guard
 * each other before the same PostgreSQL clusters, in the current, empty directory (spec
 * config/commands.md section 7). The work is pgpool_setup's, once for each pgpool.
 */
import { spawn } from "node:child_process";
import {
  appendFileSync,
  chmodSync,
  existsSync,
  lchownSync,
  lstatSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { CommandFailure } from "./failure.ts";
import { type Command, defineCommand, type Invocation, refuse, type Values } from "./options.ts";
import { serverOwner } from "./owner.ts";
import { selfCommand } from "./self.ts";
import { isPlainPath } from "./setup_files.ts";
import {
  type Guard,
  portsOf,
  shutdownAllOf,
  startAllOf,
  watchdogSettings,
  withoutClusters,
} from "./watchdog_setup_files.ts";

const flags = {
  pgpools: { word: "-wn", arg: "N", brief: "number of pgpools (3)" },
  "base-port": {
    word: "-wp",
    arg: "PORT",
    brief: "first port of the pgpools, each of which takes four (50000)",
  },
  mode: { short: "m", arg: "MODE", brief: "of the clusters, as pgpool_setup has it: s, r, n or i" },
  nodes: { short: "n", arg: "N", brief: "number of PostgreSQL clusters (2)" },
  port: { short: "p", arg: "PORT", brief: "for pgpool_setup, which is told its port: no effect" },
  "pg-port": {
    word: "-pg",
    arg: "PORT",
    brief: "first port of PostgreSQL (1000 after the pgpools' first)",
  },
  "no-stop": { brief: "leave everything running" },
  vip: { word: "-vip", arg: "IP", brief: "delegate_ip; 127.0.0.1 when no address follows" },
  debug: { short: "d", brief: "start the pgpools in debug mode" },
  "as-user": { arg: "NAME", brief: "for root: who runs the servers" },
  help: { brief: "print this help" },
} as const;

export const watchdogSetupCommand: Command<typeof flags> = defineCommand({
  name: "watchdog_setup",
  brief: "make a test installation of several pgpools in the current, empty directory",
  usage: ["[-wn N] [-wp PORT] [-m s|r|n|i] [-n N] [-pg PORT] [--no-stop] [-vip [IP]] [-d]"],
  flags,
  notes: `Environment: W_NUM_PGPOOL and W_BASE_PORT (-wn and -wp), PGPOOL_SETUP (another pgpool_setup), and what
pgpool_setup reads. It leaves pgpool0, pgpool1, …, each with what pgpool_setup leaves, and startall and
shutdownall for all of them. The clusters are those of pgpool0; the others have links to them.
`,
  help: { to: "stdout", exitCode: 1 },
  misuse: { show: "usage", to: "stdout", exitCode: 1 },
  async run(values, operands, call) {
    if (operands.length > 0) return refuse(watchdogSetupCommand, call, undefined);
    const choice = readChoice(values, process.env);
    if (choice === "too few") {
      call.out("number of Pgpool-II nodes must be greater than 1\n");
      return 1;
    }
    return await setUp(choice, process.cwd(), call);
  },
});

/** `-vip` may stand alone, which no other option of any program may. */
export function withDelegateIp(args: readonly string[]): readonly string[] {
  return args.flatMap((arg, at) => {
    const next = args[at + 1];
    const alone = arg === "-vip" && (next === undefined || next.startsWith("-"));
    return alone ? [arg, "127.0.0.1"] : [arg];
  });
}

export type WatchdogChoice = {
  readonly count: number;
  readonly basePort: number;
  readonly postgresPort: number;
  readonly clusterCount: number;
  readonly mode: string;
  readonly delegateIp: string | undefined;
  readonly noStop: boolean;
  readonly debug: boolean;
  readonly asUser: string | undefined;
};

/** @throws CommandFailure for numbers out of range */
export function readChoice(
  values: Values<typeof flags>,
  env: NodeJS.ProcessEnv,
): WatchdogChoice | "too few" {
  const { W_NUM_PGPOOL, W_BASE_PORT, NUMCLUSTERS, PGPOOLDEBUG } = env;
  const count = numberOf(values.pgpools ?? (W_NUM_PGPOOL || "3"));
  if (count < 2) return "too few";
  const basePort = numberOf(values["base-port"] ?? (W_BASE_PORT || "50000"));
  return {
    count,
    basePort,
    postgresPort: numberOf(values["pg-port"] ?? String(basePort + 1000)),
    clusterCount: numberOf(values.nodes ?? (NUMCLUSTERS || "2")),
    mode: modeOf(values.mode ?? "s"),
    delegateIp: values.vip,
    noStop: values["no-stop"] === true,
    debug: values.debug === true || PGPOOLDEBUG === "true",
    asUser: values["as-user"],
  };
}

function numberOf(text: string): number {
  const number = Number(text);
  if (Number.isInteger(number) && number >= 0 && number < 65536) return number;
  throw new CommandFailure(`"${text}" is no number that can be used here`, { exitCode: 1 });
}

function modeOf(letter: string): string {
  if (["r", "s", "n", "i"].includes(letter)) return letter;
  throw new CommandFailure(`unknown mode "${letter}"`, {
    hint: "Use -m s, -m r, -m n or -m i.",
    exitCode: 1,
  });
}

async function setUp(choice: WatchdogChoice, dir: string, call: Invocation): Promise<number> {
  if (readdirSync(dir).length > 0) {
    call.err(
      `${call.program}: Current directory is not empty. Please remove files and directories then try again.\n`,
    );
    return 1;
  }
  if (!isPlainPath(dir)) {
    throw new CommandFailure(
      `the directory's name "${dir}" has characters that scripts trip over`,
      {
        hint: "Use letters, digits and _./+,@%=:~- only.",
        exitCode: 1,
      },
    );
  }
  call.out("Starting set up \n");
  const guards = Array.from({ length: choice.count }, (_, id): Guard => {
    return { id, ...portsOf(choice.basePort, id) };
  });
  // Who runs the servers must be able to enter.
  const owner = serverOwner(choice.asUser);
  const give = (path: string) => {
    if (owner.switching) lchownSync(path, owner.uid, owner.gid);
  };
  give(dir);
  let done = false;
  try {
    for (const guard of guards) {
      call.out(`============= setting up pgpool ${guard.id} =============\n`);
      await setUpOne(choice, dir, guard, call);
      writeWatchdog(choice, dir, guards, guard, give);
    }
    const scripts = { startall: startAllOf(dir, guards), shutdownall: shutdownAllOf(dir, guards) };
    for (const [name, text] of Object.entries(scripts)) {
      writeFileSync(join(dir, name), text);
      chmodSync(join(dir, name), 0o755);
      give(join(dir, name));
    }
    if (choice.noStop) await run(["sh", join(dir, "startall")], dir, {}, call);
    done = true;
  } finally {
    if (!done) await undo(dir, call);
  }
  call.out(nextSteps(choice, dir, guards));
  return 0;
}

/** pgpool_setup in a directory of its own; the clusters are made by the first. */
async function setUpOne(
  choice: WatchdogChoice,
  dir: string,
  { id, port }: Guard,
  call: Invocation,
): Promise<void> {
  const home = join(dir, `pgpool${id}`);
  mkdirSync(home);
  const { PGPOOL_SETUP: named } = process.env;
  const self = selfCommand();
  const program = named ? [named] : [self.file, ...self.args, "setup"];
  const asUser = choice.asUser === undefined ? [] : ["--as-user", choice.asUser];
  const args = [
    ...["-m", choice.mode, "-p", String(port), "-pg", String(choice.postgresPort)],
    ...(id === 0 ? [] : ["-e"]),
    ...(named ? [] : asUser),
  ];
  const env = {
    NUMCLUSTERS: String(choice.clusterCount),
    ...(choice.debug ? { PGPOOLDEBUG: "true" } : {}),
  };
  await run([...program, ...args], home, env, call);
}

function writeWatchdog(
  choice: WatchdogChoice,
  dir: string,
  guards: readonly Guard[],
  guard: Guard,
  give: (path: string) => void,
): void {
  const home = join(dir, `pgpool${guard.id}`);
  const config = join(home, "etc/pgpool.conf");
  appendFileSync(config, watchdogSettings(guards, guard, choice.delegateIp));
  const nodeId = join(home, "etc/pgpool_node_id");
  writeFileSync(nodeId, `${guard.id}\n`);
  give(nodeId);
  if (guard.id === 0) return;
  for (const name of ["startall", "shutdownall"]) {
    const path = join(home, name);
    writeFileSync(path, withoutClusters(readFileSync(path, "utf8"), dir));
  }
  for (let node = 0; node < choice.clusterCount; node++) {
    const link = join(home, `data${node}`);
    rmSync(link, { recursive: true, force: true });
    symlinkSync(`../pgpool0/data${node}`, link);
    give(link);
  }
}

/** What it prints is shown as it comes. @throws CommandFailure when it fails */
function run(
  argv: readonly string[],
  cwd: string,
  env: Readonly<Record<string, string>>,
  call: Invocation,
): Promise<void> {
  const [program = "", ...args] = argv;
  const child = spawn(program, args, {
    cwd,
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  child.stdout.on("data", (chunk: Buffer) => call.out(chunk.toString()));
  child.stderr.on("data", (chunk: Buffer) => call.err(chunk.toString()));
  return new Promise((resolve, reject) => {
    child.once("error", reject);
    // `exit`, not `close`: servers that are left running may hold the pipes.
    child.once("exit", (code) => {
      if (code === 0) setImmediate(resolve);
      else reject(new CommandFailure(`${program} failed`, { exitCode: 1 }));
    });
  });
}

/** Leaves the directory empty again: stops what was started, removes what was made. */
async function undo(dir: string, call: Invocation): Promise<void> {
  const quiet = { ...call, out: () => {}, err: () => {} };
  const script = join(dir, "shutdownall");
  if (existsSync(script)) await run(["sh", script], dir, {}, quiet).catch(() => {});
  for (const name of readdirSync(dir)) {
    const path = join(dir, name);
    rmSync(path, { recursive: lstatSync(path).isDirectory(), force: true });
  }
}

const nextSteps = ({ noStop }: WatchdogChoice, dir: string, guards: readonly Guard[]): string =>
  `${noStop ? "" : `start:    ${dir}/startall\n`}stop:     ${dir}/shutdownall
connect:  psql -h localhost -p ${guards.map(({ port }) => port).join("|")} test
watchdog: pgpool watchdog info -f ${dir}/pgpool0/etc/pgpool.conf
`;
