/**
 * What a PostgreSQL server was asked to do, in its own words: its log is the witness that a proxy
 * cannot influence. A server writes the line of a statement before it answers it.
 */
import { closeSync, openSync, readSync } from "node:fs";
import type { Postgres } from "./postgres.ts";

/** What a server must be told for its log to be read here. */
export const statementLogSettings: Readonly<Record<string, string | number>> = {
  log_statement: "all",
  // With this Parse and Bind have lines as well.
  log_min_duration_statement: 0,
  log_line_prefix: "@%p %u@%d ",
};

export type LoggedStatement = {
  /**
   * `query` is a simple Query that could be parsed; `parse`, `bind` and `execute` are those messages;
   * `failed` is any of them, or a Query that could not be parsed, that ended with an error.
   */
  readonly kind: "query" | "parse" | "bind" | "execute" | "failed";
  readonly sql: string;
  readonly database: string;
  readonly pid: number;
};

/** Follows the log of one server from the moment it is made. */
export class StatementLog {
  readonly #path: string;
  #offset = 0;

  constructor(server: Postgres) {
    this.#path = server.logPath;
    this.skip();
  }

  /** Forgets what was logged so far. */
  skip(): void {
    this.#read();
  }

  /** The statements logged since the last look, in their order. */
  take(): LoggedStatement[] {
    // A line that goes on in the next is indented there by one tabulator.
    const lines = this.#read().split(/\n(?!\t)/);
    return lines.map(statementOf).filter((statement) => statement !== undefined);
  }

  #read(): string {
    const file = openSync(this.#path, "r");
    try {
      const chunks: Buffer[] = [];
      for (;;) {
        const chunk = Buffer.alloc(65_536);
        const size = readSync(file, chunk, 0, chunk.length, this.#offset);
        if (size === 0) return Buffer.concat(chunks).toString("utf8");
        chunks.push(chunk.subarray(0, size));
        this.#offset += size;
      }
    } finally {
      closeSync(file);
    }
  }
}

const entry = /^@(\d+) \S*?@(\S*) (LOG|STATEMENT): {2}(.*)$/s;
const message =
  /^(?:duration: [\d.]+ ms {2})?(?:(statement)|(parse|bind|execute)(?: fetch from)? \S+): (.*)$/s;

function statementOf(line: string): LoggedStatement | undefined {
  const [, pid, database = "", level, indented = ""] = entry.exec(line) ?? [];
  const text = indented.replaceAll("\n\t", "\n");
  const common = { database, pid: Number(pid) };
  // Said below an error, whatever message brought the statement.
  if (level === "STATEMENT") return { kind: "failed", sql: text, ...common };
  const [, query, step, sql = ""] = message.exec(text) ?? [];
  if (query !== undefined) return { kind: "query", sql, ...common };
  return step === undefined ? undefined : { kind: step as "parse", sql, ...common };
}
