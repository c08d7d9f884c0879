/**
 * Shell commands of the configuration (failover_command and its kin): run as `/bin/sh -c`, with
 * what they print in the log, up to a limit. Nobody's event loop waits for them.
 */
import { spawn } from "node:child_process";
import type { Readable } from "node:stream";
import type { Log } from "../../core/ports.ts";

/** Bytes of one command's output that are logged; what is beyond is read and dropped. */
const OUTPUT_MAX = 64 * 1024;
/** Characters of one line of it. */
const LINE_MAX = 1024;
/** When a command is first said to take long, in milliseconds. */
const LONG_MS = 30_000;

/**
 * Runs `text` and resolves at its end: true when its exit status was 0, any other is logged. Never
 * rejects. When `signal` comes first the command is left running on its own.
 */
export function runCommand(text: string, log: Log, signal: AbortSignal): Promise<boolean> {
  log.write("LOG", `execute command: ${text}`);
  return new Promise((resolve) => {
    if (signal.aborted) return resolve(false);
    const child = spawn("/bin/sh", ["-c", text], { stdio: ["ignore", "pipe", "pipe"] });
    const slow = setTimeout(() => {
      log.write("WARNING", `a command still runs after ${LONG_MS / 1000} seconds`, {
        detail: text,
      });
    }, LONG_MS);
    const output = new Output(log);
    output.take(child.stdout);
    output.take(child.stderr);
    const over = (successful: boolean) => {
      clearTimeout(slow);
      signal.removeEventListener("abort", left);
      resolve(successful);
    };
    const left = () => {
      child.unref();
      over(false);
    };
    signal.addEventListener("abort", left, { once: true });
    // Not "close": a server that the script started may hold the pipes open for as long as it lives.
    child.once("exit", (code, by) => {
      if (code !== 0) {
        const end = by === null ? `exited with ${code}` : `was ended by ${by}`;
        log.write("WARNING", `a command ${end}`, { detail: text });
      }
      over(code === 0);
    });
    child.once("error", (error) => {
      log.write("WARNING", "could not execute a command", { detail: `${text}: ${error.message}` });
      over(false);
    });
  });
}

/** Both streams of one command, line by line. */
class Output {
  readonly #log: Log;
  #left = OUTPUT_MAX;

  constructor(log: Log) {
    this.#log = log;
  }

  take(stream: Readable): void {
    let rest = "";
    const say = (line: string) => {
      if (line !== "" && this.#left > 0) this.#say(line);
    };
    stream.on("data", (chunk: Buffer) => {
      if (this.#left <= 0) return;
      const lines = (rest + chunk.toString()).split("\n");
      rest = (lines.pop() ?? "").slice(0, LINE_MAX);
      for (const line of lines) say(line);
    });
    stream.on("end", () => say(rest));
    stream.on("error", () => {}); // its end is told by the command's own
    if ("unref" in stream && typeof stream.unref === "function") stream.unref();
  }

  #say(line: string): void {
    this.#left -= line.length + 1;
    this.#log.write("LOG", `command output: ${line.slice(0, LINE_MAX)}`);
    if (this.#left <= 0) {
      this.#log.write("WARNING", `more than ${OUTPUT_MAX} bytes of output are not logged`);
    }
  }
}
