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

export interface Log {
  /** Whether a message of this severity would be written: ask before building costly texts. */
  enabled(severity: LogSeverity): boolean;
  write(severity: LogSeverity, message: string, fields?: LogFields): void;
  /** A log that speaks for another source; destinations and levels are shared. */
  as(source: LogSource): Log;
}
