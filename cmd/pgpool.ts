/**
 * The `pgpool` program with its classic options: start, `stop`, `reload` (spec config/commands.md
 * section 1). `pgpool serve` is the same start, always in the foreground.
 */
import { resolve } from "node:path";
import { setTimeout as delay } from "node:timers/promises";
import type { ConfigMessage } from "../core/config/conf_file.ts";
import { versionLine } from "../core/version.ts";
import { isDaemon, reportStarted, startDaemon } from "./daemon.ts";
import { CommandFailure, logLine } from "./failure.ts";
import { pidFileOf } from "./load_config.ts";
import { type Command, defineCommand, type Invocation, refuse, type Values } from "./options.ts";
import { isAlive, readPidFile, refuseSecondStart, removePidFile } from "./pid_file.ts";
import { defaultConfigDir, defaultKeyFile } from "./places.ts";

const configDir = defaultConfigDir();

const serverFlags = {
  "hba-file": {
    short: "a",
    arg: "FILE",
    brief: `pool_hba.conf (default: ${configDir}/pool_hba.conf)`,
    group: "Files",
  },
  "config-file": {
    short: "f",
    arg: "FILE",
    brief: `pgpool.conf (default: ${configDir}/pgpool.conf)`,
    group: "Files",
  },
  "pcp-file": {
    short: "F",
    arg: "FILE",
    brief: `pcp.conf (default: ${configDir}/pcp.conf)`,
    group: "Files",
  },
  "key-file": {
    short: "k",
    arg: "FILE",
    brief: "key of AES entries in pool_passwd (default: $PGPOOLKEYFILE, else ~/.pgpoolkey)",
    group: "Files",
  },
  "clear-oidmaps": {
    short: "C",
    brief: "clear the query cache's oid maps in memcached (those in memory are always new)",
    group: "Start",
  },
  "discard-status": {
    short: "D",
    brief: "start with every node up instead of reading pgpool_status",
    group: "Start",
  },
  debug: { short: "d", brief: "log at debug1 at least; show stack traces", group: "Start" },
  "debug-assertions": { short: "x", brief: "accepted for compatibility", group: "Start" },
  "dont-detach": { short: "n", brief: "stay in the foreground", group: "Start" },
} as const;

const commonFlags = {
  help: { short: "h", brief: "print this help", group: "Common" },
  version: { short: "v", brief: "print the version", group: "Common" },
} as const;

const pgpoolFlags = {
  ...serverFlags,
  mode: {
    short: "m",
    arg: "MODE",
    brief: "smart (wait for clients to leave), fast or immediate (do not wait)",
    group: "Stop",
  },
  ...commonFlags,
} as const;

type ServerValues = Values<typeof serverFlags>;

const placesNote = `Files are looked for in PREFIX/etc when this program is PREFIX/bin/pgpool and that directory
exists, else in /etc/pgpool2 when that exists, else in /usr/local/etc. Relative names inside
pgpool.conf are relative to its directory.
`;

/** `pgpool` as scripts and packages call it. */
export const pgpoolCommand: Command<typeof pgpoolFlags> = defineCommand({
  name: "pgpool",
  brief: "connection pooling, load balancing and failover for PostgreSQL",
  usage: [
    "[-f FILE] [-F FILE] [-a FILE] [-k FILE] [-n] [-D] [-C] [-d] [-x]",
    "[-f FILE] [-F FILE] [-a FILE] [-m MODE] stop",
    "[-f FILE] [-F FILE] [-a FILE] reload",
    "serve|md5|enc|setup|install|install-functions|pcp|watchdog|version [OPTION]...",
    "help [COMMAND]",
  ],
  flags: pgpoolFlags,
  version: versionLine,
  notes: `Commands:
  serve      run the server in the foreground (the options of start, short and long)
  md5, enc   pg_md5 and pg_enc: passwords for pcp.conf and pool_passwd
  setup      pgpool_setup: a test cluster in the current directory
  install    lay out a directory with this program under all its names
  install-functions
             make online recovery's functions in a database, without a C library
  pcp NAME   pcp_NAME, such as node_info
  watchdog   info and inform (both are wd_cli), and setup (watchdog_setup)
  version    this program's version and the Pgpool-II that it follows

${placesNote}`,
  help: { to: "stderr", exitCode: 0 },
  misuse: { show: "usage", to: "stderr", exitCode: 1 },
  wording: "bsd",
  async run(values, operands, call) {
    const signal = stopSignal(values.mode ?? "smart");
    if (signal === undefined) return refuse(pgpoolCommand, call, undefined);
    const configFile = configFileOf(values);
    const [verb, ...more] = operands;
    const { pidFile, messages } = pidFileOf(configFile); // its errors come before those of the words
    if (more.length > 0) return refuse(pgpoolCommand, call, undefined);
    switch (verb) {
      case undefined:
        return values["dont-detach"] || isDaemon()
          ? await start(values, pidFile, call)
          : await detach(values, pidFile, call);
      case "stop":
        tellWarnings(messages, call);
        return await stop(pidFile, signal, call);
      case "reload":
        tellWarnings(messages, call);
        return reload(pidFile);
      default:
        return refuse(pgpoolCommand, call, undefined);
    }
  },
});

/** `pgpool serve`. */
export const serveCommand: Command<typeof serverFlags & typeof commonFlags> = defineCommand({
  name: "serve",
  brief: "run the server in the foreground",
  usage: ["[OPTION]..."],
  flags: { ...serverFlags, ...commonFlags },
  version: versionLine,
  notes: placesNote,
  help: { to: "stdout", exitCode: 0 },
  misuse: { show: "hint", to: "stderr", exitCode: 1 },
  async run(values, operands, call) {
    const [extra] = operands;
    if (extra !== undefined) return refuse(serveCommand, call, `unexpected word "${extra}"`);
    return await start(values, pidFileOf(configFileOf(values)).pidFile, call);
  },
});

/** A server logs these itself; the other verbs have no log. */
function tellWarnings(messages: readonly ConfigMessage[], call: Invocation): void {
  const view = { now: new Date(), pid: process.pid };
  for (const { severity, message, detail } of messages) {
    if (severity !== "WARNING") continue;
    call.err(`${logLine(`WARNING:  ${message}`, view)}\n`);
    if (detail !== undefined) call.err(`${logLine(`DETAIL:  ${detail}`, view)}\n`);
  }
}

function configFileOf(values: ServerValues): string {
  return resolve(values["config-file"] ?? `${configDir}/pgpool.conf`);
}

async function start(values: ServerValues, pidFile: string, call: Invocation): Promise<number> {
  const refusal = refuseSecondStart(pidFile, call.err);
  if (refusal !== undefined) {
    call.err(refusal.text);
    return refusal.exitCode;
  }
  const { serve } = await import("./serve.ts");
  return await serve({
    configFile: configFileOf(values),
    hbaFile: resolve(values["hba-file"] ?? `${configDir}/pool_hba.conf`),
    pcpFile: resolve(values["pcp-file"] ?? `${configDir}/pcp.conf`),
    keyFile: resolve(values["key-file"] ?? defaultKeyFile()),
    discardStatus: values["discard-status"] === true,
    clearOidmaps: values["clear-oidmaps"] === true,
    debug: values.debug === true,
    foreground: !isDaemon(),
    ...(isDaemon() ? { onStarted: reportStarted } : {}),
  });
}

/** The same start in a process of its own. A refusal is told here, once; so are start-up errors. */
async function detach(values: ServerValues, pidFile: string, call: Invocation): Promise<number> {
  const found = readPidFile(pidFile);
  if (found.kind === "running") {
    const refusal = refuseSecondStart(pidFile, call.err);
    call.err(refusal?.text ?? "");
    return refusal?.exitCode ?? 1;
  }
  return await startDaemon(daemonArgs(values), call.err);
}

/** The options as given, with paths that hold in another directory. */
export function daemonArgs(values: ServerValues): readonly string[] {
  return Object.entries(values)
    .filter(([name]) => Object.hasOwn(serverFlags, name)) // `-m` means nothing to a start
    .map(([name, value]) =>
      typeof value === "string" ? `--${name}=${resolve(value)}` : `--${name}`,
    );
}

type StopSignal = "SIGTERM" | "SIGINT" | "SIGQUIT";

/** Any word that starts with the letter of a mode is that mode, as ever. */
export function stopSignal(mode: string): StopSignal | undefined {
  if (mode.startsWith("s")) return "SIGTERM";
  if (mode.startsWith("f")) return "SIGINT";
  return mode.startsWith("i") ? "SIGQUIT" : undefined;
}

const stopPollMs = 50;
const dotEveryMs = 1000;
const repeatEveryMs = 5000;

/** Waits without a limit, as Pgpool-II: a smart stop lasts as long as its clients. */
async function stop(pidFile: string, signal: StopSignal, call: Invocation): Promise<number> {
  const stopText = (of: number) => `could not stop process with pid: ${of}`;
  const pid = serverPid(pidFile, stopText, 3);
  send(pid, signal, stopText(pid), 3);
  const text = `LOG:  stop request sent to pgpool (pid: ${pid}). waiting for termination...`;
  call.err(`${logLine(text, { now: new Date(), pid: process.pid })}\n.`);
  for (let waitedMs = stopPollMs; isAlive(pid); waitedMs += stopPollMs) {
    await delay(stopPollMs);
    if (waitedMs % dotEveryMs === 0) call.err(".");
    if (waitedMs % repeatEveryMs === 0) repeat(pid, signal);
  }
  call.err("done.\n");
  removePidFile(pidFile, pid);
  return 0;
}

function repeat(pid: number, signal: StopSignal): void {
  try {
    process.kill(pid, signal);
  } catch {
    // It has gone in the meantime, which is what the caller waits for.
  }
}

function reload(pidFile: string): number {
  const reloadText = (of: number) => `could not reload configuration file pid: ${of}`;
  const pid = serverPid(pidFile, reloadText, 1);
  send(pid, "SIGHUP", reloadText(pid), 1);
  return 0;
}

/** The server's pid. A program that has got the number of a server that is gone is left in peace. */
function serverPid(pidFile: string, failure: (pid: number) => string, exitCode: number): number {
  const found = readPidFile(pidFile);
  const pid = found.kind === "missing" ? undefined : found.pid;
  if (pid === undefined) throw new CommandFailure("could not read pid file", { exitCode });
  if (found.kind === "stale" && isAlive(pid)) {
    throw new CommandFailure(failure(pid), {
      detail: "another program has this pid now",
      exitCode,
    });
  }
  return pid;
}

function send(pid: number, signal: NodeJS.Signals, failure: string, exitCode: number): void {
  try {
    process.kill(pid, signal);
  } catch (error) {
    const denied = error instanceof Error && "code" in error && error.code === "EPERM";
    const detail = denied ? "Operation not permitted" : "No such process";
    throw new CommandFailure(failure, { detail, exitCode, cause: error });
  }
}
