/**
 * The log as text: levels, prefixes and the shape of a line (spec config/logging.md sections 1
 * and 2). Where lines go is the business of whoever passes `write`.
 */

import { renderPrefix } from "./log_prefix.ts";
import type {
  Clock,
  Log,
  LogFields,
  LogSettings,
  LogSeverity,
  LogSource,
  MessageLevel,
} from "./ports.ts";

export type { LogSettings, MessageLevel } from "./ports.ts";

/** Pgpool's numbers, which decide what a client is told and which SHOW pool_status prints. */
export const LEVEL_NUMBER: { readonly [L in MessageLevel]: number } = {
  debug5: 10,
  debug4: 11,
  debug3: 12,
  debug2: 13,
  debug1: 14,
  log: 15,
  info: 17,
  notice: 18,
  warning: 19,
  error: 20,
  fatal: 21,
  panic: 22,
};

const LEVEL_OF: { readonly [S in LogSeverity]: MessageLevel } = {
  DEBUG5: "debug5",
  DEBUG4: "debug4",
  DEBUG3: "debug3",
  DEBUG2: "debug2",
  DEBUG1: "debug1",
  LOG: "log",
  INFO: "info",
  NOTICE: "notice",
  WARNING: "warning",
  ERROR: "error",
  FRONTEND_ERROR: "error",
  FATAL: "fatal",
  PANIC: "panic",
};

/** Whether a message is written. In the log, LOG stands between ERROR and FATAL. */
export function isLogged(severity: LogSeverity, minMessages: MessageLevel): boolean {
  return logRank(LEVEL_OF[severity]) >= logRank(minMessages);
}

const logRank = (level: MessageLevel): number =>
  level === "log" ? LEVEL_NUMBER.error + 0.5 : LEVEL_NUMBER[level];

/**
 * Whether a client is told (`client_min_messages`). For clients LOG stands below INFO, and INFO
 * and errors meant for them alone always go.
 */
export function isToldToClient(severity: LogSeverity, minMessages: MessageLevel): boolean {
  if (severity === "INFO" || severity === "FRONTEND_ERROR") return true;
  return LEVEL_NUMBER[LEVEL_OF[severity]] >= LEVEL_NUMBER[minMessages];
}

export type LogOptions = {
  /** Asked for every message, so that a reload is felt at once. */
  readonly settings: () => LogSettings;
  /** Receives whole lines, each with its newline; those of one message in one call. */
  readonly write: (lines: string, severity: LogSeverity) => void;
  readonly clock: Clock;
};

export function createLog(options: LogOptions, source: LogSource): Log {
  return new TextLog(options, source);
}

class TextLog implements Log {
  readonly #options: LogOptions;
  readonly #source: LogSource;
  readonly #own: (() => LogSettings | undefined) | undefined;
  #linesWritten = 0;

  constructor(options: LogOptions, source: LogSource, own?: () => LogSettings | undefined) {
    this.#options = options;
    this.#source = source;
    this.#own = own;
  }

  get #settings(): LogSettings {
    return this.#own?.() ?? this.#options.settings();
  }

  enabled(severity: LogSeverity): boolean {
    return isLogged(severity, this.#settings.log_min_messages);
  }

  write(severity: LogSeverity, message: string, fields: LogFields = {}): void {
    const settings = this.#settings;
    if (!isLogged(severity, settings.log_min_messages)) return;
    const now = this.#options.clock();
    const lines =
      settings.log_format === "json"
        ? jsonLine(now, this.#source, severity, message, fields)
        : this.#textLines(settings, now, severity, message, fields);
    this.#options.write(lines, severity);
  }

  as(source: LogSource, own?: () => LogSettings | undefined): Log {
    return new TextLog(this.#options, source, own);
  }

  #textLines(
    settings: LogSettings,
    now: number,
    severity: LogSeverity,
    message: string,
    { detail, hint, context }: LogFields,
  ): string {
    const line = (word: string, text: string) => {
      this.#linesWritten += 1;
      const prefix = renderPrefix(settings.log_line_prefix, this.#source, now, this.#linesWritten);
      return `${prefix}${word}:  ${text.replaceAll("\n", "\n\t")}\n`;
    };
    let lines = line(severity.startsWith("DEBUG") ? "DEBUG" : severity, message);
    if (settings.log_error_verbosity === "terse") return lines;
    if (detail !== undefined) lines += line("DETAIL", detail);
    if (hint !== undefined) lines += line("HINT", hint);
    if (context !== undefined) lines += line("CONTEXT", context);
    return lines;
  }
}

/** Our own format: one object a message, absent fields left out, time in UTC. */
function jsonLine(
  now: number,
  source: LogSource,
  severity: LogSeverity,
  message: string,
  fields: LogFields,
): string {
  const { pid, processName, applicationName, user, database } = source;
  const { detail, hint, context } = fields;
  const entry = {
    time: new Date(now).toISOString(),
    severity,
    pid,
    process: processName || undefined,
    application: applicationName,
    user,
    database,
    message,
    detail,
    hint,
    context,
  };
  return `${JSON.stringify(entry)}\n`;
}
