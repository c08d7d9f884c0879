/**
 * Who runs the servers of a test cluster, and how programs are run as them. PostgreSQL refuses root,
 * so root hands everything over to an unprivileged user.
 */
import { execFileSync, spawn } from "node:child_process";
import { readFileSync } from "node:fs";
import { userInfo } from "node:os";
import { CommandFailure } from "./failure.ts";

/** `switching` when it is not ourselves: only root may and must become somebody else. */
export type Owner = {
  readonly name: string;
  readonly uid: number;
  readonly gid: number;
  readonly switching: boolean;
};

/**
 * The invoking user; for root the one of `asUser`, else `postgres` where it exists, else `nobody`.
 *
 * @throws CommandFailure when there is no such user, or when we may not become that user
 */
export function serverOwner(asUser: string | undefined): Owner {
  const { uid, gid } = userInfo();
  if (uid !== 0) {
    const name = ownName();
    if (asUser === undefined || asUser === name) return { name, uid, gid, switching: false };
    throw new CommandFailure(`only root can run the servers as user "${asUser}"`, { exitCode: 1 });
  }
  const passwd = readFileSync("/etc/passwd", "utf8");
  const wanted = asUser === undefined ? ["postgres", "nobody"] : [asUser];
  const entry = wanted.map((user) => findUser(passwd, user)).find((found) => found !== undefined);
  if (entry === undefined || entry.uid === 0) {
    const who = wanted.map((user) => `"${user}"`).join(" or ");
    throw new CommandFailure(
      `PostgreSQL refuses to run as root, and no user ${who} can take over`,
      {
        hint: "Name an unprivileged user: --as-user NAME",
        exitCode: 1,
      },
    );
  }
  return { ...entry, switching: true };
}

/** The system's word: `userInfo` of some runtimes believes $USER, which `su` and services leave wrong. */
const ownName = (): string => execFileSync("id", ["-un"], { encoding: "utf8" }).trim();

/** A user's entry in the text of /etc/passwd. */
export function findUser(
  passwd: string,
  name: string,
): { readonly name: string; readonly uid: number; readonly gid: number } | undefined {
  const line = passwd.split("\n").find((entry) => entry.startsWith(`${name}:`));
  const [, , uid, gid] = line?.split(":") ?? [];
  return uid === undefined || gid === undefined
    ? undefined
    : { name, uid: Number(uid), gid: Number(gid) };
}

export type Ran = { readonly exitCode: number; readonly output: string };

export type RunOptions = {
  readonly cwd: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly signal?: AbortSignal | undefined;
};

/**
 * Runs a program as the owner, in its own process group so that Ctrl-C at the terminal reaches us
 * alone, and waits for its end. Output is both streams together. When `signal` is aborted the group
 * is asked to end, and this rejects once the program has.
 */
export function runAs(
  owner: Owner,
  argv: readonly [string, ...string[]],
  options: RunOptions,
): Promise<Ran> {
  const [program, ...args] = argv;
  const child = spawn(program, args, {
    cwd: options.cwd,
    env: { ...cleanEnv(), ...options.env },
    detached: true,
    stdio: ["ignore", "pipe", "pipe"],
    ...(owner.switching ? { uid: owner.uid, gid: owner.gid } : {}),
  });
  let output = "";
  const take = (chunk: Buffer) => {
    output += chunk.toString();
  };
  child.stdout.on("data", take);
  child.stderr.on("data", take);
  const { signal } = options;
  const stop = () => killGroup(child.pid, "SIGTERM");
  signal?.addEventListener("abort", stop);
  return new Promise<Ran>((resolve, reject) => {
    child.once("error", reject);
    // `exit`, not `close`: a server that the program left running holds the pipes open
    child.once("exit", (code) => {
      if (signal?.aborted) reject(signal.reason);
      else setImmediate(() => resolve({ exitCode: code ?? 1, output }));
    });
  }).finally(() => signal?.removeEventListener("abort", stop));
}

function killGroup(pid: number | undefined, signal: NodeJS.Signals): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, signal);
  } catch {
    // it has just gone
  }
}

/** What servers inherit: nothing of ours that would change where PostgreSQL's programs connect. */
function cleanEnv(): Record<string, string> {
  const kept = Object.entries(process.env).filter(
    ([name, value]) => value !== undefined && !/^(PG|LC_|LANG)/.test(name),
  );
  return { ...(Object.fromEntries(kept) as Record<string, string>), LC_ALL: "C" };
}
