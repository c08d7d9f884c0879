/** How a program ends when something went wrong: what is said on stderr, and the exit code. */
import { type ErrorOptions, PgpoolError } from "../core/errors.ts";

/** A command cannot go on. The exit code is part of each program's contract (spec config/commands.md). */
export class CommandFailure extends PgpoolError {
  override readonly severity = "FATAL";
  readonly exitCode: number;

  constructor(message: string, options: ErrorOptions & { readonly exitCode: number }) {
    super(message, options);
    this.exitCode = options.exitCode;
  }
}

export type FailureView = {
  /** `log` is the shape of the server's own log lines; `plain` is `program: message`. */
  readonly style: "log" | "plain";
  readonly program: string;
  /** Whether to add the stack, for whoever debugs us. */
  readonly debug: boolean;
  readonly now: Date;
  readonly pid: number;
};

/** What is written on stderr of an error that nothing caught, and the exit code it ends with. */
export function describeFailure(
  error: unknown,
  view: FailureView,
): { readonly text: string; readonly exitCode: number } {
  const message = error instanceof Error ? error.message : String(error);
  const ours = error instanceof PgpoolError;
  const lines = [ours || isSystemError(error) ? message : `internal error: ${message}`];
  if (ours && error.detail !== undefined) lines.push(`DETAIL:  ${error.detail}`);
  if (ours && error.hint !== undefined) lines.push(`HINT:  ${error.hint}`);
  const [first = "", ...rest] = lines.map((line) => line.replaceAll("\n", " "));
  const said =
    view.style === "log"
      ? [`FATAL:  ${first}`, ...rest].map((line) => logLine(line, view))
      : [`${view.program}: ${first}`, ...rest];
  if (view.debug && error instanceof Error && error.stack !== undefined) said.push(error.stack);
  const fallback = view.style === "log" ? 3 : 1;
  return {
    text: `${said.join("\n")}\n`,
    exitCode: error instanceof CommandFailure ? error.exitCode : fallback,
  };
}

/** A file or a network that would not, whose message says which and why: no fault of the program. */
function isSystemError(error: unknown): boolean {
  return error instanceof Error && "code" in error && "syscall" in error;
}

/** A line as the server's default log_line_prefix would begin it, for what is said before it logs. */
export function logLine(line: string, view: Pick<FailureView, "now" | "pid">): string {
  return `${logTime(view.now)}: main pid ${view.pid}: ${line}`;
}

/** `%m` of log_line_prefix, in local time. */
function logTime(now: Date): string {
  const two = (n: number): string => String(n).padStart(2, "0");
  const date = `${now.getFullYear()}-${two(now.getMonth() + 1)}-${two(now.getDate())}`;
  const time = `${two(now.getHours())}:${two(now.getMinutes())}:${two(now.getSeconds())}`;
  return `${date} ${time}.${String(now.getMilliseconds()).padStart(3, "0")}`;
}
