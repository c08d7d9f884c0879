/**
 * Runs replication_delay_source_cmd, which knows better than SQL how far the standbys are behind
 * (spec routing/delay-and-primary.md section 4). What goes wrong is logged; the delays stay as they
 * were.
 */

import { spawn } from "node:child_process";
import {
  type DelayTarget,
  delayCommandLine,
  parseDelays,
} from "../../core/cluster/delay_output.ts";
import type { NodeId } from "../../core/cluster/state.ts";
import type { Config } from "../../core/config/schema.ts";
import type { Log } from "../../core/ports.ts";

/** What is read of the output: enough for every node, and no more. */
const OUTPUT_MAX = 4095;

/**
 * Microseconds by node; undefined when no command is configured, or there is nobody to ask about.
 * Ends with `signal` at the latest, or at its time limit, and the command with it.
 */
export async function delaysByCommand(
  config: Config,
  primary: NodeId | undefined,
  log: Log,
  signal: AbortSignal,
): Promise<ReadonlyMap<NodeId, number> | undefined> {
  const { replication_delay_source_cmd: command, backends } = config;
  if (command === "" || primary === undefined || backends.length < 2) return undefined;
  const targets: readonly DelayTarget[] = backends.filter(({ id }) => id !== primary);
  const line = delayCommandLine(command, targets);
  const ended = await runForOutput(line, config.replication_delay_source_timeout * 1000, signal);
  if (ended.kind === "failed") {
    if (!signal.aborted) log.write("ERROR", `replication delay command ${ended.how}: ${command}`);
    return new Map();
  }
  const { delays, complaints } = parseDelays(ended.output, targets);
  for (const { severity, message } of complaints) log.write(severity, message);
  return delays;
}

type Ended =
  | { readonly kind: "done"; readonly output: string }
  | { readonly kind: "failed"; readonly how: string };

function runForOutput(line: string, timeoutMs: number, signal: AbortSignal): Promise<Ended> {
  return new Promise((resolve) => {
    // A group of its own, so that all that it has started ends with it.
    const child = spawn("/bin/sh", ["-c", line], {
      stdio: ["ignore", "pipe", "ignore"],
      detached: true,
    });
    let output = "";
    let ended = false;
    const end = (how: Ended) => {
      if (ended) return;
      ended = true;
      clearTimeout(timer);
      signal.removeEventListener("abort", giveUp);
      child.stdout.destroy();
      resolve(how);
    };
    const kill = (how: string) => {
      end({ kind: "failed", how });
      killGroup(child.pid);
    };
    const giveUp = () => kill("was given up");
    const timer = setTimeout(() => kill(`timed out after ${timeoutMs / 1000} seconds`), timeoutMs);
    signal.addEventListener("abort", giveUp, { once: true });
    child.stdout.on("data", (chunk: Buffer) => {
      output = (output + chunk.toString("latin1")).slice(0, OUTPUT_MAX);
    });
    child.once("error", (error) => end({ kind: "failed", how: `failed (${error.message})` }));
    child.once("close", (code, by) => {
      if (by !== null) end({ kind: "failed", how: `terminated by signal ${by}` });
      else if (code !== 0) end({ kind: "failed", how: `failed with exit code ${code}` });
      else end({ kind: "done", output });
    });
    if (signal.aborted) giveUp();
  });
}

function killGroup(pid: number | undefined): void {
  if (pid === undefined) return;
  try {
    process.kill(-pid, "SIGKILL");
  } catch {
    // It ended by itself meanwhile.
  }
}
