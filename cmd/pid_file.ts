/**
 * The pid file: decimal pid and one NUL byte, mode 0600 (spec config/commands.md section 1). It is
 * how `stop` and `reload` find the server, and how a second start is refused.
 */
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { CommandFailure } from "./failure.ts";

export type PidFile =
  | { readonly kind: "missing" }
  /** The server that wrote it lives. */
  | { readonly kind: "running"; readonly pid: number }
  /** Left by a server that is gone, or not a pid at all. */
  | { readonly kind: "stale"; readonly pid: number | undefined };

/** Reads the file and asks the system about the pid. An empty or unreadable file is a failure, exit 3. */
export function readPidFile(path: string): PidFile {
  const text = readIfThere(path);
  if (text === undefined) return { kind: "missing" };
  if (text === "") {
    throw new CommandFailure(`EOF detected while reading pid file "${path}"`, { exitCode: 3 });
  }
  const pid = parsePid(text);
  const runs = pid !== undefined && isAlive(pid) && mayBePgpool(pid);
  return runs ? { kind: "running", pid } : { kind: "stale", pid };
}

/** The pid in a pid file's text: the NUL and whatever follows it do not count. */
export function parsePid(text: string): number | undefined {
  const digits = /^\s*(\d+)\s*(\0|$)/.exec(text)?.[1];
  const pid = Number(digits);
  return digits !== undefined && Number.isSafeInteger(pid) && pid > 0 ? pid : undefined;
}

/**
 * Whether a process of this number runs and is ours to signal. Another user's process is not the
 * server that wrote the file, but a later owner of its number; and a zombie serves nobody.
 */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
  } catch {
    return false; // no such process, or not ours
  }
  return !isZombie(pid);
}

/**
 * Whether the process may be a pgpool. After a reboot its number may be another program's, which must
 * neither keep pgpool from starting nor be stopped in its stead. Where the system does not tell, it
 * may be one.
 */
function mayBePgpool(pid: number): boolean {
  if (pid === process.pid) return true;
  const words = readIfThere(`/proc/${pid}/cmdline`);
  return words === undefined || words === "" || words.includes("pgpool");
}

function isZombie(pid: number): boolean {
  const stat = readIfThere(`/proc/${pid}/stat`);
  if (stat === undefined) return false; // no /proc here, or the process has just gone
  return stat.slice(stat.lastIndexOf(")") + 2).startsWith("Z"); // the name before may hold anything
}

export type StartRefusal = { readonly text: string; readonly exitCode: number };

/**
 * Whether a server may start beside this pid file: undefined when it may, else what to say. Calls
 * `notice` with a line for stderr when a stale file is in the way.
 */
export function refuseSecondStart(
  path: string,
  notice: (line: string) => void,
): StartRefusal | undefined {
  const found = readPidFile(path);
  switch (found.kind) {
    case "missing":
      return undefined;
    case "running":
      if (found.pid === process.pid) return undefined;
      return {
        text: `ERROR: pid file found. is another pgpool(${found.pid}) is running?\n`,
        exitCode: 1,
      };
    case "stale":
      notice("NOTICE: pid file found but it seems bogus. Trying to start pgpool anyway...\n");
      return undefined;
  }
}

/** Writes our own pid. A file that another user owns or a missing directory is a failure, exit 3. */
export function writePidFile(path: string): void {
  try {
    rmSync(path, { force: true }); // a stale one may have another mode
    writeFileSync(path, `${process.pid}\0`, { mode: 0o600, flag: "wx" });
  } catch (error) {
    throw new CommandFailure(`could not open pid file "${path}"`, {
      detail: error instanceof Error ? error.message : String(error),
      exitCode: 3,
      cause: error,
    });
  }
}

/** Removes the file, unless a server that started since has made it its own. */
export function removePidFile(path: string, pid: number = process.pid): void {
  const text = readIfThere(path);
  if (text === undefined || (parsePid(text) ?? pid) !== pid) return;
  rmSync(path, { force: true });
}

function readIfThere(path: string): string | undefined {
  try {
    return readFileSync(path, "latin1");
  } catch (error) {
    if (error instanceof Error && "code" in error && error.code === "ENOENT") return undefined;
    if (path.startsWith("/proc/")) return undefined;
    throw new CommandFailure(`could not open pid file "${path}"`, {
      detail: error instanceof Error ? error.message : String(error),
      exitCode: 3,
      cause: error,
    });
  }
}
