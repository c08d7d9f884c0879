/**
 * Where log lines go: standard error, log files of our own that rotate (`logging_collector`), and
 * syslog. Pgpool has a logger process for the files, because it has many processes; we have one.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { closeSync, fchmodSync, fstatSync, mkdirSync, openSync, writeSync } from "node:fs";
import { directoryOf, resolvePath } from "../core/config/path.ts";
import type { Config } from "../core/config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import { rotationDue, rotationTime, strftime } from "../core/log_file.ts";
import type { Clock, Log, LogSeverity } from "../core/ports.ts";
import { syslogLines, syslogPriority } from "../core/syslog.ts";

export type DestinationSettings = Pick<
  Config,
  | "log_destination"
  | "logging_collector"
  | "log_directory"
  | "log_filename"
  | "log_file_mode"
  | "log_truncate_on_rotation"
  | "log_rotation_age"
  | "log_rotation_size"
  | "syslog_facility"
  | "syslog_ident"
>;

export type DestinationOptions = {
  /** Asked for every message, so that a reload is felt at once. */
  readonly settings: () => DestinationSettings;
  /** Directory of pgpool.conf: what a relative log_directory is relative to. */
  readonly directory: string;
  readonly clock: Clock;
  /** Takes what goes to standard error. Default: descriptor 2. */
  readonly stderr?: (lines: string) => void;
};

export interface LogDestination {
  /** Whole lines of one message. Never throws: what cannot be written is lost. */
  write(lines: string, severity?: LogSeverity): void;
  /** Says on standard error where the log goes from now on, and sends it there. */
  announce(log: Log): void;
  /** Begins a new file now (`pcp_log_rotate`). False when there are no log files. */
  rotate(): boolean;
  /** Resolves when syslog has been given the rest. */
  close(): Promise<void>;
}

/** @throws ConfigError when the first log file cannot be opened */
export function openLogDestination(options: DestinationOptions): LogDestination {
  return new Destination(options);
}

class Destination implements LogDestination {
  readonly #options: DestinationOptions;
  readonly #stderr: (lines: string) => void;
  readonly #files: LogFiles | undefined;
  readonly #syslog: Syslog;
  /** Until the switch is announced, lines go where the operator looks at a start. */
  #redirected = false;

  constructor(options: DestinationOptions) {
    this.#options = options;
    this.#stderr = options.stderr ?? writeStderr;
    this.#files = options.settings().logging_collector ? new LogFiles(options) : undefined;
    this.#syslog = new Syslog(options.settings, this.#stderr);
  }

  write(lines: string, severity: LogSeverity = "LOG"): void {
    const destinations = this.#options.settings().log_destination;
    if (destinations.includes("syslog")) this.#syslog.write(lines, severity);
    if (!destinations.includes("stderr")) return;
    if (this.#files === undefined || !this.#redirected) this.#stderr(lines);
    else this.#files.write(lines);
  }

  announce(log: Log): void {
    if (this.#files === undefined) return;
    log.write("LOG", "redirecting log output to logging collector process", {
      hint: `Future log output will appear in directory "${this.#options.settings().log_directory}".`,
    });
    this.#files.log = log;
    this.#redirected = true;
  }

  rotate(): boolean {
    this.#files?.rotate();
    return this.#files !== undefined;
  }

  async close(): Promise<void> {
    this.#files?.close();
    await this.#syslog.close();
  }
}

/** Synchronous, so that the last words before an exit are not lost. */
function writeStderr(lines: string): void {
  writeAll(2, lines);
}

/** Returns whether everything was written. */
function writeAll(fd: number, lines: string): boolean {
  let rest: Uint8Array = Buffer.from(lines);
  try {
    while (rest.length > 0) rest = rest.subarray(writeSync(fd, rest));
    return true;
  } catch (error) {
    // A pipe in non-blocking mode that is full: the runtime's own queue takes the rest.
    if (fd === 2 && codeOf(error) === "EAGAIN") process.stderr.write(rest);
    // Otherwise nobody reads any more, or the disk is full: a log must not stop the service.
    return false;
  }
}

const codeOf = (error: unknown): string =>
  error instanceof Error && "code" in error ? String(error.code) : "";

type LogFile = {
  readonly fd: number;
  readonly path: string;
  readonly rotateAt: number | undefined;
  sizeBytes: number;
};

/** The current log file, and its successors. */
class LogFiles {
  readonly #options: DestinationOptions;
  #file: LogFile;
  /** The settings the file was opened under: another object after a reload. */
  #settings: DestinationSettings;
  /** After a failure, until the next reload. */
  #stuck = false;
  /** Speaks of troubles with rotation. */
  log: Log | undefined;

  constructor(options: DestinationOptions) {
    this.#options = options;
    this.#settings = options.settings();
    const path = this.#pathNow();
    try {
      this.#file = this.#open(path, "a");
    } catch (error) {
      throw new ConfigError(`could not open log file "${path}": ${reasonOf(error)}`);
    }
  }

  write(lines: string): void {
    this.#followReload();
    const due = rotationDue(this.#file, this.#settings, this.#options.clock());
    if (due !== undefined && !this.#stuck) this.#replace(due);
    this.#file.sizeBytes += Buffer.byteLength(lines);
    writeAll(this.#file.fd, lines);
  }

  rotate(): void {
    this.#followReload();
    this.#replace("request");
  }

  close(): void {
    closeSync(this.#file.fd);
  }

  /** A new name or directory takes effect at once; new limits with the next file. */
  #followReload(): void {
    const before = this.#settings;
    const now = this.#options.settings();
    if (before === now) return;
    this.#settings = now;
    this.#stuck = false;
    const moved =
      before.log_directory !== now.log_directory || before.log_filename !== now.log_filename;
    if (moved) this.#replace("request");
    else if (before.log_rotation_age !== now.log_rotation_age) {
      this.#file = { ...this.#file, rotateAt: rotationTime(this.#options.clock(), now) };
    }
  }

  /** An old file of that name is overwritten only when its time has come round again. */
  #replace(why: "age" | "size" | "request"): void {
    const path = this.#pathNow();
    const truncates =
      why === "age" && this.#settings.log_truncate_on_rotation && path !== this.#file.path;
    let next: LogFile;
    try {
      next = this.#open(path, truncates ? "w" : "a");
    } catch (error) {
      this.#stuck = true;
      this.log?.write("LOG", `could not open log file "${path}": ${reasonOf(error)}`);
      this.log?.write("LOG", "disabling automatic rotation (use SIGHUP to re-enable)");
      return;
    }
    closeSync(this.#file.fd);
    // A full file whose name did not change goes on: counted anew, or each line would rotate it.
    this.#file = path === this.#file.path ? { ...next, sizeBytes: 0 } : next;
  }

  #pathNow(): string {
    const { log_directory, log_filename } = this.#settings;
    const directory = resolvePath(this.#options.directory, log_directory);
    return resolvePath(directory, strftime(log_filename, this.#options.clock()));
  }

  #open(path: string, flags: "a" | "w"): LogFile {
    mkdirSync(directoryOf(path), { recursive: true, mode: 0o700 });
    // Its owner can always write to it, or we could not.
    const mode = (this.#settings.log_file_mode & 0o777) | 0o200;
    const fd = openSync(path, flags, mode);
    const sizeBytes = fstatSync(fd).size;
    if (sizeBytes === 0) fchmodSync(fd, mode); // the umask has no say in a mode given by name
    const now = this.#options.clock();
    return { fd, path, rotateAt: rotationTime(now, this.#settings), sizeBytes };
  }
}

const reasonOf = (error: unknown): string =>
  error instanceof Error ? error.message : String(error);

const LOGGER_EXIT_MS = 2000;

/**
 * Syslog by way of `logger`, since no runtime here can write to a datagram socket of the file
 * system. One process takes all messages and reads the priority off each line.
 */
class Syslog {
  readonly #settings: () => DestinationSettings;
  readonly #stderr: (lines: string) => void;
  #logger: ChildProcess | undefined;
  /** The program is not there: said once, and not tried for every message. */
  #missing = false;
  #sequence = 0;

  constructor(settings: () => DestinationSettings, stderr: (lines: string) => void) {
    this.#settings = settings;
    this.#stderr = stderr;
  }

  write(lines: string, severity: LogSeverity): void {
    const { syslog_facility, syslog_ident } = this.#settings();
    if (this.#missing) return;
    this.#logger ??= this.#start(syslog_ident);
    this.#sequence += 1;
    const priority = syslogPriority(syslog_facility, severity);
    const prefixed = syslogLines(this.#sequence, lines.trimEnd()).map(
      (line) => `<${priority}>${line}\n`,
    );
    this.#logger.stdin?.write(prefixed.join(""));
  }

  #start(ident: string): ChildProcess {
    const child = spawn("logger", ["--prio-prefix", `--id=${process.pid}`, "--tag", ident], {
      stdio: ["pipe", "ignore", "ignore"],
    });
    const forget = () => {
      if (this.#logger === child) this.#logger = undefined; // the next message starts another
    };
    child.on("error", (error) => {
      forget();
      this.#missing = true;
      this.#stderr(`WARNING:  could not start "logger" for syslog: ${error.message}\n`);
    });
    child.on("exit", forget);
    child.stdin?.on("error", forget);
    child.unref();
    return child;
  }

  /** Ends the logger's input and waits for it, though not for ever. */
  async close(): Promise<void> {
    const child = this.#logger;
    if (child === undefined || child.exitCode !== null) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, LOGGER_EXIT_MS);
      child.once("exit", () => {
        clearTimeout(timer);
        resolve();
      });
      child.stdin?.end();
    });
  }
}
