/**
 * Statements of the extended protocol that no server knows, since pgpool answers them itself:
 * PGPOOL EXPLAIN ROUTE, and DEALLOCATE of one of these. Each of their messages is answered when
 * nothing else is owed, so they need no place in the order of answers (manual: "Extended Query").
 */
import { ROUTE_COLUMNS, ROUTE_TYPE } from "../../core/admin/show_route.ts";
import { type Table, type TextType, writeColumns, writeRows } from "../../core/admin/table.ts";
import { PgpoolError } from "../../core/errors.ts";
import {
  commandComplete,
  encodeBackend,
  errorResponse,
  writeBackend,
} from "../../core/wire/backend.ts";
import { ByteWriter } from "../../core/wire/bytes.ts";
import type { Frame } from "../../core/wire/frame.ts";
import { decodeFrontend, type FrontendMessage } from "../../core/wire/frontend.ts";
import { Names } from "./statements.ts";

export const parseComplete = encodeBackend({ kind: "ParseComplete" });
const bindComplete = encodeBackend({ kind: "BindComplete" });
const closeComplete = encodeBackend({ kind: "CloseComplete" });

type Statement =
  /** PGPOOL EXPLAIN ROUTE of this. */
  | { readonly kind: "explain"; readonly sql: string }
  | { readonly kind: "deallocate"; readonly name: string };

type Portal = {
  readonly statement: Statement;
  readonly type: TextType;
  /** Those that have not been fetched; none are known before the first Execute. */
  rows: Table["rows"] | undefined;
};

export type OwnAnswer =
  /** `bound`: the name of a portal that was made, in the place of one on a server. */
  | { readonly kind: "done"; readonly bytes: Uint8Array; readonly bound?: string }
  | { readonly kind: "error"; readonly response: Uint8Array }
  /** It is no message. */
  | { readonly kind: "broken"; readonly why: string }
  /** This is to be explained; then the message is to be given again. */
  | { readonly kind: "wait"; readonly sql: string };

export class OwnStatements {
  readonly #statements = new Names<Statement>();
  readonly #portals = new Names<Portal>();
  readonly #run: (sql: string) => Table | undefined;

  /** `run` gives the rows, undefined when something must be asked first. */
  constructor(run: (sql: string) => Table | undefined) {
    this.#run = run;
  }

  has(kind: "S" | "P", name: string): boolean {
    return (kind === "S" ? this.#statements : this.#portals).get(name) !== undefined;
  }

  /** A second statement of this name is an error; another Parse without a name replaces the first. */
  nameIsTaken(name: string): boolean {
    if (name !== "") return this.has("S", name);
    this.forget("S", name);
    return false;
  }

  forget(kind: "S" | "P", name: string): void {
    (kind === "S" ? this.#statements : this.#portals).delete(name);
  }

  clearPortals(): void {
    this.#portals.clear();
  }

  /** What DEALLOCATE names, all that have a name if none is given; their portals stay. */
  deallocate(name: string | undefined): void {
    if (name === undefined) this.#statements.clearNamed();
    else if (name !== "") this.#statements.delete(name);
  }

  prepare(name: string, sql: string): void {
    this.#statements.set(name, { kind: "explain", sql });
  }

  prepareDeallocate(name: string, deallocated: string): void {
    this.#statements.set(name, { kind: "deallocate", name: deallocated });
  }

  /** The answer to a Bind, Describe, Execute or Close that names one of these. */
  answer(frame: Frame): OwnAnswer {
    try {
      return this.#answer(decodeFrontend(frame));
    } catch (error) {
      if (!(error instanceof PgpoolError)) throw error;
      return { kind: "broken", why: error.message };
    }
  }

  #answer(message: FrontendMessage): OwnAnswer {
    switch (message.kind) {
      case "Bind":
        return this.#bind(message);
      case "Describe":
        return done(this.#descriptionOf(message.target, message.name));
      case "Execute":
        return this.#execute(message.portal, message.rowsMax);
      case "Close":
        this.forget(message.target, message.name);
        return done(closeComplete);
      default:
        throw new Error(`${message.kind} names no statement`);
    }
  }

  #bind(message: Extract<FrontendMessage, { kind: "Bind" }>): OwnAnswer {
    const { portal, parameters, resultFormats } = message;
    const statement = this.#statements.get(message.statement);
    if (statement === undefined) throw new Error(`no statement ${message.statement}`);
    if (parameters.length > 0) {
      return failed("08P01", tooManyParameters(parameters.length, message.statement));
    }
    if (portal !== "" && this.#portals.get(portal) !== undefined) {
      return failed("42P03", `cursor "${portal}" already exists`);
    }
    const format = resultFormats[0] === 1 ? 1 : 0;
    this.#portals.set(portal, { statement, type: { ...ROUTE_TYPE, format }, rows: undefined });
    return { kind: "done", bytes: bindComplete, bound: portal };
  }

  #descriptionOf(target: "S" | "P", name: string): Uint8Array {
    const writer = new ByteWriter();
    if (target === "S") writeBackend(writer, { kind: "ParameterDescription", parameterTypes: [] });
    const portal = target === "S" ? undefined : this.#portals.get(name);
    const statement = portal === undefined ? this.#statements.get(name) : portal.statement;
    if (statement?.kind === "deallocate") writeBackend(writer, { kind: "NoData" });
    else writeColumns(writer, ROUTE_COLUMNS, portal?.type ?? ROUTE_TYPE);
    return writer.take();
  }

  #execute(name: string, rowsMax: number): OwnAnswer {
    const portal = this.#portals.get(name);
    if (portal === undefined) throw new Error(`no portal ${name}`);
    const { statement } = portal;
    if (statement.kind === "deallocate") return this.#runDeallocate(statement.name);
    portal.rows ??= this.#run(statement.sql)?.rows;
    const { rows } = portal;
    if (rows === undefined) return { kind: "wait", sql: statement.sql };
    const count = rowsMax > 0 ? Math.min(rowsMax, rows.length) : rows.length;
    portal.rows = rows.slice(count);
    const writer = new ByteWriter();
    writeRows(writer, rows.slice(0, count));
    // As PostgreSQL, which looks no further than it was asked to.
    if (count === rowsMax) writeBackend(writer, { kind: "PortalSuspended" });
    else writeBackend(writer, { kind: "CommandComplete", tag: `SELECT ${count}` });
    return done(writer.take());
  }

  #runDeallocate(name: string): OwnAnswer {
    if (!this.has("S", name)) {
      return failed("26000", `prepared statement "${name}" does not exist`);
    }
    this.deallocate(name);
    return done(commandComplete("DEALLOCATE"));
  }
}

const done = (bytes: Uint8Array): OwnAnswer => ({ kind: "done", bytes });

const failed = (code: string, message: string): OwnAnswer => ({
  kind: "error",
  response: errorResponse({ severity: "ERROR", code, message }),
});

/** In PostgreSQL's words. */
export const alreadyPrepared = (name: string): Uint8Array =>
  errorResponse({
    severity: "ERROR",
    code: "42P05",
    message: `prepared statement "${name}" already exists`,
  });

const tooManyParameters = (count: number, statement: string): string =>
  `bind message supplies ${count} parameters, but prepared statement "${statement}" requires 0`;
