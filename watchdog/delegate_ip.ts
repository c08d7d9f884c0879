/**
 * The delegate IP and the commands around it (spec watchdog/states.md section 11): escalation brings
 * it up on this host, de-escalation takes it down. Each runs behind the watchdog's back, one after the
 * other, and what was wanted last is what remains.
 */

import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { networkInterfaces } from "node:os";
import type { Config } from "../core/config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import type { Log } from "../core/ports.ts";

export type EscalationSettings = Pick<
  Config,
  | "delegate_ip"
  | "if_cmd_path"
  | "if_up_cmd"
  | "if_down_cmd"
  | "arping_path"
  | "arping_cmd"
  | "ping_path"
  | "wd_escalation_command"
  | "wd_de_escalation_command"
>;

/** Readers of 4.x have room for so many. */
const WORDS_MAX = 23;
/** So long an escalation waits for the end of a de-escalation, and the other way round. */
const TURN_LIMIT_MS = 5000;
const COMMAND_LIMIT_MS = 30_000;
const PING_ROUNDS = 3;

type Program = { readonly file: string; readonly args: readonly string[] };

/** One of the commands as it is run: split at blanks, without a shell. */
export function interfaceCommand(text: string, directory: string, address: string): Program {
  const [first = "", ...args] = text
    .replaceAll("$_IP_$", address)
    .split(" ")
    .filter((word) => word !== "")
    .slice(0, WORDS_MAX);
  return { file: first.startsWith("/") ? first : `${directory}/${first}`, args };
}

/** @throws ConfigError when there is to be an address and a program for it is missing */
export function checkInterfaceCommands(settings: EscalationSettings): void {
  const { delegate_ip: address, if_up_cmd, if_down_cmd, arping_cmd } = settings;
  if (address === "" || if_up_cmd.startsWith("/")) return;
  const commands = [
    ["if_up_cmd", if_up_cmd, settings.if_cmd_path],
    ["if_down_cmd", if_down_cmd, settings.if_cmd_path],
    ["arping_cmd", arping_cmd, settings.arping_path],
  ] as const;
  for (const [name, text, directory] of commands) {
    const { file } = interfaceCommand(text, directory, address);
    if (existsSync(file)) continue;
    throw new ConfigError(`invalid configuration for ${name} parameter`, {
      detail: `"${file}" does not exist`,
    });
  }
}

/** Whether an interface of this host has the address. */
export const hasAddress = (address: string): boolean =>
  Object.values(networkInterfaces()).some((list) =>
    (list ?? []).some((each) => each.address === address),
  );

export class DelegateIp {
  readonly #settings: () => EscalationSettings;
  readonly #log: Log;
  readonly #turnLimitMs: number;
  #wanted: "up" | "down" = "down";
  /** Commands have brought it up, and none has taken it down since. */
  #isUp = false;
  #job: Promise<void> = Promise.resolve();
  #working = 0;
  #guard: ChildProcess | undefined;

  constructor(settings: () => EscalationSettings, log: Log, turnLimitMs = TURN_LIMIT_MS) {
    this.#settings = settings;
    this.#log = log;
    this.#turnLimitMs = turnLimitMs;
  }

  /** It should be here, and nothing is under way: if it is not, somebody else took it. */
  get isSettledUp(): boolean {
    return this.#wanted === "up" && this.#working === 0;
  }

  /** One that an earlier life left behind, which could not be caught dying. */
  async releaseStale(): Promise<void> {
    const { delegate_ip: address } = this.#settings();
    if (address === "" || !hasAddress(address)) return;
    const message = `the delegate IP "${address}" is still here from before: releasing it`;
    this.#log.write("LOG", message);
    await this.#takeDown();
  }

  escalate(): void {
    this.#wanted = "up";
    this.#enqueue("de-escalation", "escalation", async () => {
      this.#log.write("LOG", "watchdog: escalation started");
      await this.#runShell("wd_escalation_command");
      await this.#bringUp();
    });
  }

  deEscalate(): void {
    this.#wanted = "down";
    this.#enqueue("escalation", "de-escalation", async () => {
      this.#log.write("LOG", "watchdog: de-escalation started");
      await this.#runShell("wd_de_escalation_command");
      await this.#takeDown();
    });
  }

  /** The address is gone, and was not given up. */
  restore(): void {
    this.#enqueue("escalation", "escalation", () => this.#bringUp());
  }

  /** Resolves when whatever was wanted last is done. */
  async settled(): Promise<void> {
    await this.#job;
  }

  /** On the way out, when nothing can be awaited any more. */
  releaseNow(): void {
    if (!this.#isUp) return;
    this.#isUp = false;
    const { file, args } = this.#downCommand();
    spawnSync(file, args, { stdio: "ignore", timeout: TURN_LIMIT_MS });
    this.#dismissGuard();
  }

  #enqueue(other: string, own: string, work: () => Promise<void>): void {
    const before = this.#job;
    const isFree = this.#working === 0;
    this.#working++;
    const job = async () => {
      if (!isFree) {
        const message = `waiting for ${other} process to exit before starting ${own}`;
        this.#log.write("LOG", message);
        if (!(await within(before, this.#turnLimitMs))) {
          this.#log.write("WARNING", `starting the ${own} anyway`, {
            detail: `${other} process does not exited in time`,
          });
        }
      }
      await work();
    };
    const done = job()
      .catch((error: unknown) => {
        const detail = error instanceof Error ? error.message : String(error);
        this.#log.write("WARNING", `the ${own} failed`, { detail });
      })
      .then(() => {
        this.#working--;
      });
    this.#job = Promise.all([before, done]).then(() => {});
  }

  async #runShell(name: "wd_escalation_command" | "wd_de_escalation_command"): Promise<void> {
    const text = this.#settings()[name];
    if (text === "") return;
    const code = await run({ file: "/bin/sh", args: ["-c", text] });
    if (code === 0) this.#log.write("LOG", `watchdog: ${name} succeeded`);
    else this.#log.write("WARNING", `watchdog: ${name} failed with exit status: ${code}`);
  }

  async #bringUp(): Promise<void> {
    const settings = this.#settings();
    const { delegate_ip: address } = settings;
    if (address === "" || this.#wanted !== "up") return;
    this.#postGuard();
    const up = interfaceCommand(settings.if_up_cmd, settings.if_cmd_path, address);
    // Set before it is true: whoever must leave in between has something to take down.
    this.#isUp = true;
    if ((await run(up)) !== 0 && !hasAddress(address)) {
      this.#log.write("WARNING", "failed to acquire the delegate IP address", {
        detail: "'if_up_cmd' failed",
      });
      return;
    }
    const arping = interfaceCommand(settings.arping_cmd, settings.arping_path, address);
    if ((await run(arping)) !== 0) {
      this.#log.write("WARNING", "failed to acquire the delegate IP address", {
        detail: "'arping_cmd' failed",
      });
    } else if (await this.#answers(address, settings.ping_path)) {
      this.#log.write("LOG", `successfully acquired the delegate IP:"${address}"`, {
        detail: "'if_up_cmd' returned with success",
      });
    } else {
      this.#log.write("WARNING", "failed to acquire the delegate IP address", {
        detail: "the address does not answer",
      });
    }
    // Somebody changed his mind, and did not wait for us.
    if (this.#wanted !== "up") await this.#takeDown();
  }

  async #answers(address: string, directory: string): Promise<boolean> {
    for (let round = 0; round < PING_ROUNDS && this.#wanted === "up"; round++) {
      const ping = { file: `${directory}/ping`, args: ["-q", "-c3", address] };
      if ((await run(ping)) === 0) return true;
    }
    return false;
  }

  async #takeDown(): Promise<void> {
    const { delegate_ip: address } = this.#settings();
    if (address === "" || !(this.#isUp || hasAddress(address))) return;
    const code = await run(this.#downCommand());
    if (code === 0 || !hasAddress(address)) {
      this.#log.write("LOG", `successfully released the delegate IP:"${address}"`, {
        detail: "'if_down_cmd' returned with success",
      });
    } else {
      this.#log.write("WARNING", `failed to release the delegate IP:"${address}"`, {
        detail: "'if_down_cmd' failed",
      });
    }
    this.#isUp = false;
    this.#dismissGuard();
  }

  #downCommand(): Program {
    const { if_down_cmd, if_cmd_path, delegate_ip } = this.#settings();
    return interfaceCommand(if_down_cmd, if_cmd_path, delegate_ip);
  }

  /**
   * A shell that waits at a pipe of ours. A word from us dismisses it; when the pipe ends without
   * one, this process has died in a way that it could not catch, and the address is taken down.
   */
  #postGuard(): void {
    if (this.#guard !== undefined) return;
    const { file, args } = this.#downCommand();
    const script = 'read word || exec "$@"';
    const guard = spawn("/bin/sh", ["-c", script, "sh", file, ...args], {
      stdio: ["pipe", "ignore", "ignore"],
      detached: true, // a signal to our group is not one to it
    });
    guard.on("error", () => {}); // without it we are as Pgpool is
    guard.stdin.on("error", () => {}); // it may have been killed
    guard.once("exit", () => {
      if (this.#guard === guard) this.#guard = undefined;
    });
    guard.unref();
    this.#guard = guard;
  }

  #dismissGuard(): void {
    this.#guard?.stdin?.end("released\n");
    this.#guard = undefined;
  }
}

/** Resolves to the exit status, or to -1 when it could not be run or took too long. */
function run({ file, args }: Program): Promise<number> {
  return new Promise((resolve) => {
    const child = spawn(file, args, { stdio: "ignore" });
    const late = setTimeout(() => child.kill("SIGKILL"), COMMAND_LIMIT_MS);
    child.once("error", () => {
      clearTimeout(late);
      resolve(-1);
    });
    child.once("exit", (code) => {
      clearTimeout(late);
      resolve(code ?? -1);
    });
  });
}

async function within(work: Promise<void>, limitMs: number): Promise<boolean> {
  const { promise: waited, resolve } = Promise.withResolvers<boolean>();
  const timer = setTimeout(() => resolve(false), limitMs);
  const isDone = await Promise.race([work.then(() => true), waited]);
  clearTimeout(timer);
  return isDone;
}
