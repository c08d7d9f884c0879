/**
 * What pure code asks of the world. Implementations live in the few files that act; tests pass
 * values they control.
 */

/** Milliseconds since the epoch. A function, so that a test or a simulation can own time. */
export type Clock = () => number;

/** A number in [0, 1). Chance is an argument, so every outcome is a test. */
export type Random = () => number;

/** PostgreSQL's severities, in the order of spec config/logging.md section 2. */
export type LogSeverity =
  | "DEBUG5"
  | "DEBUG4"
  | "DEBUG3"
  | "DEBUG2"
  | "DEBUG1"
  | "LOG"
  | "INFO"
  | "NOTICE"
  | "WARNING"
  | "ERROR"
  | "FRONTEND_ERROR"
  | "FATAL"
  | "PANIC";

export type LogFields = {
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
  readonly context?: string | undefined;
};

/** What `log_line_prefix` and the JSON format say of the speaker. Fields may change as it lives. */
export type LogSource = {
  /** `%P`, such as `MAIN` or `CHILD`. */
  readonly processName: string;
  /** `%a`: the client's application_name in a session, else a fixed name such as `main`. */
  applicationName: string;
  /** `%p`: the process, or for a session the number of its client slot. */
  readonly pid: number;
  /** `%u` and `%d`: undefined outside a session. */
  user?: string | undefined;
  database?: string | undefined;
};

export type StopMode = "smart" | "fast" | "immediate";

/** What an operator may ask of the process as a whole. Implemented in cmd/; none of it throws. */
export interface ProcessControl {
  /** Asks and returns. Asked again in a harder mode, the stop becomes harder. */
  stop(mode: StopMode): void;
  /** Reads the files again; what is wrong in them is logged. */
  reload(): void;
  /** Begins a new log file. False when logging_collector is off. */
  rotateLog(): boolean;
}

export type MessageLevel =
  | "debug5"
  | "debug4"
  | "debug3"
  | "debug2"
  | "debug1"
  | "info"
  | "notice"
  | "warning"
  | "error"
  | "log"
  | "fatal"
  | "panic";

/** The parameters a log obeys; a Config is one. */
export type LogSettings = {
  readonly log_line_prefix: string;
  readonly log_min_messages: MessageLevel;
  readonly log_error_verbosity: "terse" | "default" | "verbose";
  readonly log_format: "text" | "json";
};

export interface Log {
  /** Whether a message of this severity would be written: ask before building costly texts. */
  enabled(severity: LogSeverity): boolean;
  write(severity: LogSeverity, message: string, fields?: LogFields): void;
  /**
   * A log that speaks for another source, to the same destinations. `own` gives the settings of that
   * source while it has some of its own (PGPOOL SET).
   */
  as(source: LogSource, own?: () => LogSettings | undefined): Log;
}
