export type ErrorSeverity = "ERROR" | "FATAL";

export type ErrorOptions = {
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
  readonly cause?: unknown;
};

/**
 * Root of every error we raise on purpose: it knows how to appear on the wire and in the log.
 * The class says who must act; `sqlstate` and `severity` are what a client sees.
 */
export class PgpoolError extends Error {
  readonly sqlstate: string = "XX000";
  readonly severity: ErrorSeverity = "ERROR";
  readonly detail: string | undefined;
  readonly hint: string | undefined;

  constructor(message: string, options: ErrorOptions = {}) {
    super(message, { cause: options.cause });
    this.name = new.target.name;
    this.detail = options.detail;
    this.hint = options.hint;
  }
}

/** The peer broke the protocol. The session ends, because its next byte cannot be trusted. */
export class ProtocolViolation extends PgpoolError {
  override readonly sqlstate = "08P01";
  override readonly severity = "FATAL";
}

/** The client is not who it says, or may not come in. Texts are Pgpool's (spec wire/client-auth.md). */
export class AuthenticationFailed extends PgpoolError {
  override readonly sqlstate: string;
  override readonly severity: ErrorSeverity;

  constructor(
    message: string,
    options: ErrorOptions & { sqlstate?: string; severity?: ErrorSeverity } = {},
  ) {
    super(message, options);
    this.sqlstate = options.sqlstate ?? "XX000";
    this.severity = options.severity ?? "FATAL";
  }
}

/** Every client slot that this client may use is taken. */
export class TooManyClients extends PgpoolError {
  override readonly sqlstate = "53300";
  override readonly severity = "FATAL";
}

/** A PostgreSQL server that this session needs cannot be reached or went away. */
export class BackendUnavailable extends PgpoolError {
  override readonly sqlstate: string;
  override readonly severity: ErrorSeverity;

  constructor(
    message: string,
    options: ErrorOptions & { sqlstate?: string; severity?: ErrorSeverity } = {},
  ) {
    super(message, options);
    this.sqlstate = options.sqlstate ?? "08006";
    this.severity = options.severity ?? "FATAL";
  }
}

/** pgpool itself is going down. */
export class ShuttingDown extends PgpoolError {
  override readonly sqlstate = "57P01";
  override readonly severity = "FATAL";
}

/**
 * A configuration file, a value in one, or a command's use of one is wrong. Stops start-up; on
 * reload the old values stay.
 */
export class ConfigError extends PgpoolError {
  override readonly sqlstate = "F0000";
  override readonly severity = "FATAL";
}
