/**
 * Leaving the terminal. A runtime with threads cannot fork, so the server is this program run once
 * more in a session of its own; the first process waits until it has started and then exits, and
 * until then whatever the server complains of is still seen.
 */
import { spawn } from "node:child_process";
import { closeSync, openSync, writeSync } from "node:fs";
import { selfCommand } from "./self.ts";

/** In the environment of the detached process: where to say that the server has started. */
const startedFdVariable = "PGPOOL_STARTED_FD";
const startedFd = 3;

/**
 * Runs this program with `args` detached, in `/`. Resolves to 0 when it says that it has started, or
 * to its exit code when it ends before that.
 */
export async function startDaemon(
  args: readonly string[],
  err: (text: string) => void,
): Promise<number> {
  const self = selfCommand();
  const child = spawn(self.file, [...self.args, ...args], {
    argv0: "pgpool",
    cwd: "/",
    detached: true,
    env: { ...process.env, [startedFdVariable]: String(startedFd) },
    stdio: ["ignore", "ignore", "pipe", "pipe"],
  });
  child.stderr?.on("data", (chunk: Buffer) => err(chunk.toString()));
  const started = child.stdio[startedFd];
  return await new Promise<number>((resolve, reject) => {
    child.once("error", reject);
    child.once("close", (code) => resolve(code ?? 3));
    started?.once("data", () => {
      child.unref();
      resolve(0);
    });
  });
}

/** Whether this process is the detached one. */
export function isDaemon(env: NodeJS.ProcessEnv = process.env): boolean {
  return env[startedFdVariable] !== undefined;
}

/**
 * Tells the waiting process that the server serves, and lets go of its stderr: from here on only
 * the log's own destinations are written to, as after Pgpool-II's fork.
 */
export function reportStarted(): void {
  delete process.env[startedFdVariable]; // commands that the server runs have no part in this
  // Whatever the runtime still had queued for the pipe may fail now; nobody is left to read it.
  process.stderr.on("error", () => {});
  closeSync(2);
  openSync("/dev/null", "w"); // takes the lowest free number, which is 2
  writeSync(startedFd, "\n");
  closeSync(startedFd);
}
