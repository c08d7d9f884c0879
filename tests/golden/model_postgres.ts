/**
 * A server that speaks the protocol as PostgreSQL does (manual: "Message Flow"; tcop/postgres.c),
 * over the SQL of model_sql.ts. It is the standard against which a session is measured: what one
 * server alone answers to a stream of bytes is what the client of a cluster must see.
 */

import { encodeBackend } from "../../core/wire/backend.ts";
import { type Frame, FrameDecoder } from "../../core/wire/frame.ts";
import { decodeFrontend, encodeFrontend, type FrontendMessage } from "../../core/wire/frontend.ts";
import { decodeText, encodeText } from "../../core/wire/text.ts";
import {
  duplicateCursor,
  duplicateStatement,
  ModelError,
  type ModelStore,
  newPortal,
  type Plan,
  type Portal,
  planOf,
  type Result,
  SqlSession,
  unknownStatement,
} from "./model_sql.ts";

type Of<Kind extends FrontendMessage["kind"]> = Extract<FrontendMessage, { kind: Kind }>;

/** A dialogue that is given one message each time it asks. */
type Dialogue = Generator<undefined, void, FrontendMessage>;

/** Errors that come in the place of what would have been said, by how much was said before. */
export type Losses = ReadonlyMap<number, Uint8Array>;

class Lost extends ModelError {
  readonly told: Uint8Array;

  constructor(told: Uint8Array) {
    super("57P01", "lost");
    this.told = told;
  }
}

export class ModelPostgres {
  readonly sql: SqlSession;
  readonly processId: number;
  readonly #decoder = new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
  readonly #waiting: Frame[] = [];
  readonly #serving: Dialogue;
  #said: Uint8Array[] = [];
  #ignoring = false;
  /** Of a COPY that has failed or ended: data that were on their way are ignored, once. */
  #copied = false;
  readonly #told = new Map<string, string>();
  readonly #losses: Map<number, Uint8Array>;
  #count = 0;
  terminated = false;

  constructor(options: {
    readonly store: ModelStore;
    readonly standby?: boolean;
    readonly processId?: number;
    readonly losses?: Losses;
  }) {
    this.#losses = new Map(options.losses);
    this.sql = new SqlSession({ store: options.store, readOnly: options.standby ?? false });
    this.processId = options.processId ?? 1;
    for (const [name, value] of this.sql.reported()) this.#told.set(name, value);
    this.#serving = this.#serve();
    this.#serving.next();
  }

  /** Messages received and not yet looked at. */
  get pending(): number {
    return this.#waiting.length;
  }

  feed(bytes: Uint8Array): void {
    if (this.terminated) throw new Error("bytes after Terminate");
    this.#waiting.push(...this.#decoder.push(bytes.slice()));
  }

  /** Works off up to `count` messages and gives what it has said, by message. */
  run(count = Number.POSITIVE_INFINITY): Uint8Array[] {
    for (let i = 0; i < count; i++) {
      const frame = this.#waiting.shift();
      if (frame === undefined) break;
      const message = decodeFrontend(frame);
      if (message.kind === "Terminate") {
        this.terminated = true;
        break;
      }
      this.#serving.next(message);
    }
    return this.#said.splice(0);
  }

  #say(...[message]: Parameters<typeof encodeBackend>): void {
    if (!asides.has(message.kind)) {
      const lost = this.#losses.get(this.#count);
      this.#losses.delete(this.#count);
      if (lost !== undefined && message.kind !== "ErrorResponse") throw new Lost(lost);
      this.#count++;
      if (lost !== undefined) {
        this.#said.push(lost);
        return;
      }
    }
    this.#said.push(encodeBackend(message));
  }

  *#serve(): Dialogue {
    for (;;) {
      const message = yield;
      if (this.#ignoring && message.kind !== "Sync") continue;
      switch (message.kind) {
        case "Query":
          yield* this.#query(message);
          break;
        case "FunctionCall":
          this.#functionCall();
          break;
        case "Sync":
          this.#ignoring = false;
          this.sql.endImplicit();
          this.#ready();
          break;
        case "Flush":
          break;
        case "CopyData":
        case "CopyDone":
        case "CopyFail":
          if (!this.#copied) this.sql.misuse.push(`${message.kind} without COPY`);
          break;
        default:
          yield* this.#extended(message);
      }
    }
  }

  *#query({ sql }: Of<"Query">): Dialogue {
    this.sql.statements.delete("");
    this.sql.portals.delete("");
    this.#copied = false;
    try {
      // The whole text goes through the grammar before any of it runs.
      const texts = sql.split(";").map((text) => text.trim());
      const plans = texts.filter((text) => text !== "").map((text) => () => planOf(text));
      if (plans.length === 0) this.#say({ kind: "EmptyQueryResponse" });
      for (const plan of plans) yield* this.#simple(plan);
      this.sql.endImplicit();
    } catch (error) {
      this.#fail(error);
    }
    this.#ready();
  }

  *#simple(analyze: () => Plan): Dialogue {
    const { sql } = this;
    sql.start();
    const plan = analyze();
    sql.refuseWhenFailed(plan);
    const result = sql.run(plan, []);
    this.#warnings();
    if (plan.returnsRows) this.#describeRows();
    yield* this.#deliver(plan, result, result.rows);
  }

  *#deliver(plan: Plan, result: Result, rows: Result["rows"]): Dialogue {
    if (plan.kind === "copy_in") {
      yield* this.#copyIn();
      return;
    }
    if (plan.kind === "copy_out") {
      this.#say({ kind: "CopyOutResponse", format: 0, columnFormats: [0] });
      for (const row of rows) {
        this.#say({ kind: "CopyData", data: encodeText(`${row.join("\t")}\n`) });
      }
      this.#say({ kind: "CopyDone" });
      this.#say({ kind: "CommandComplete", tag: `COPY ${rows.length}` });
      return;
    }
    for (const row of rows) this.#say({ kind: "DataRow", values: row.map(encodeText) });
    this.#say({ kind: "CommandComplete", tag: result.tag || `SELECT ${rows.length}` });
  }

  /** Reads until the client is done; Flush and Sync mean nothing here. */
  *#copyIn(): Dialogue {
    this.#say({ kind: "CopyInResponse", format: 0, columnFormats: [0] });
    this.#copied = true;
    let rows = 0;
    for (;;) {
      const message = yield;
      switch (message.kind) {
        case "CopyData":
          if (decodeText(message.data).includes("bad")) {
            throw new ModelError("22P02", "invalid input syntax for type integer");
          }
          rows++;
          break;
        case "CopyDone":
          this.sql.copied(rows);
          this.#say({ kind: "CommandComplete", tag: `COPY ${rows}` });
          return;
        case "CopyFail":
          throw new ModelError("57014", `COPY from stdin failed: ${message.reason}`);
        case "Flush":
        case "Sync":
          break;
        default:
          throw new ModelError(
            "08P01",
            `unexpected message type ${hexType(message)} during COPY from stdin`,
          );
      }
    }
  }

  *#extended(message: FrontendMessage): Dialogue {
    this.sql.start();
    try {
      switch (message.kind) {
        case "Parse":
          this.#parse(message);
          break;
        case "Bind":
          this.#bind(message);
          break;
        case "Describe":
          this.#describe(message);
          break;
        case "Execute":
          yield* this.#execute(message);
          break;
        case "Close":
          (message.target === "S" ? this.sql.statements : this.sql.portals).delete(message.name);
          this.#say({ kind: "CloseComplete" });
          break;
        default:
          throw new Error(`${message.kind} has no business here`);
      }
    } catch (error) {
      this.#fail(error);
      this.#ignoring = true;
    }
  }

  #parse({ statement: name, sql }: Of<"Parse">): void {
    if (name === "") this.sql.statements.delete("");
    const plan = planOf(sql);
    this.sql.refuseWhenFailed(plan);
    if (this.sql.statements.has(name)) throw duplicateStatement(name);
    this.#say({ kind: "ParseComplete" }); // or is lost, and has made nothing
    this.sql.statements.set(name, plan);
  }

  #bind({ portal: name, statement, parameters }: Of<"Bind">): void {
    const { sql } = this;
    const plan = sql.statements.get(statement);
    if (plan === undefined) throw unknownStatement(statement);
    // PostgreSQL looks at this last. Which of two errors a client hears of first may differ when its
    // statement has to be prepared on another node in a failed transaction.
    sql.refuseWhenFailed(plan);
    if (parameters.length !== plan.parameterCount) {
      throw new ModelError(
        "08P01",
        `bind message supplies ${parameters.length} parameters, but prepared statement "${statement}" requires ${plan.parameterCount}`,
      );
    }
    if (name === "") sql.portals.delete("");
    else if (sql.portals.has(name)) throw duplicateCursor(name);
    const values = parameters.map((value) => (value === null ? "" : decodeText(value)));
    this.#say({ kind: "BindComplete" });
    sql.portals.set(name, newPortal(name, plan, values, sql.depth));
  }

  #describe({ target, name }: Of<"Describe">): void {
    const { sql } = this;
    let plan: Plan | undefined;
    if (target === "S") {
      plan = sql.statements.get(name);
      if (plan === undefined) throw unknownStatement(name);
      if (plan.returnsRows) sql.refuseWhenFailed(plan);
      const parameterTypes = Array.from({ length: plan.parameterCount }, () => 25);
      this.#say({ kind: "ParameterDescription", parameterTypes });
    } else {
      plan = this.#portal(name).plan;
      if (plan.returnsRows) sql.refuseWhenFailed(plan);
    }
    if (plan.returnsRows) this.#describeRows();
    else this.#say({ kind: "NoData" });
  }

  *#execute({ portal: name, rowsMax }: Of<"Execute">): Dialogue {
    const { sql } = this;
    const portal = this.#portal(name);
    const { plan } = portal;
    if (plan.kind === "empty") {
      this.#say({ kind: "EmptyQueryResponse" });
      return;
    }
    sql.refuseWhenFailed(plan);
    if (portal.failed || (portal.ran && !plan.returnsRows)) {
      throw new ModelError("55000", `portal "${name}" cannot be run`);
    }
    const result: Result =
      portal.rows === undefined ? sql.run(plan, portal.parameters) : { rows: portal.rows, tag: "" };
    this.#warnings();
    portal.ran = true;
    if (!plan.returnsRows || rowsMax === 0) {
      portal.rows = [];
      yield* this.#deliver(plan, result, result.rows);
      return;
    }
    const rows = result.rows.slice(0, rowsMax);
    portal.rows = result.rows.slice(rows.length);
    if (rows.length < rowsMax) yield* this.#deliver(plan, result, rows);
    else {
      for (const row of rows) this.#say({ kind: "DataRow", values: row.map(encodeText) });
      this.#say({ kind: "PortalSuspended" });
    }
  }

  #portal(name: string): Portal {
    const portal = this.sql.portals.get(name);
    if (portal === undefined) throw new ModelError("34000", `portal "${name}" does not exist`);
    return portal;
  }

  /** The one function there is adds a row. */
  #functionCall(): void {
    const { sql } = this;
    try {
      sql.start();
      const insert = planOf("INSERT INTO t VALUES (1)");
      sql.refuseWhenFailed(insert);
      sql.run(insert, []);
      sql.endImplicit();
      this.#say({ kind: "FunctionCallResponse", value: encodeText("1") });
    } catch (error) {
      this.#fail(error);
    }
    this.#ready();
  }

  #describeRows(): void {
    const field = { name: "v", tableId: 0, columnNumber: 0, typeId: 25, typeSize: -1 };
    this.#say({ kind: "RowDescription", fields: [{ ...field, typeModifier: -1, format: 0 }] });
  }

  #warnings(): void {
    for (const { code, message } of this.sql.warnings.splice(0)) {
      this.#say({ kind: "NoticeResponse", fields: fieldsOf("WARNING", code, message) });
    }
  }

  #fail(error: unknown): void {
    if (!(error instanceof ModelError)) throw error;
    this.#warnings();
    this.sql.abort();
    const { code, message } = error;
    if (error instanceof Lost) {
      this.#count++;
      this.#said.push(error.told);
    } else this.#say({ kind: "ErrorResponse", fields: fieldsOf("ERROR", code, message) });
  }

  #ready(): void {
    for (const [name, value] of this.sql.reported()) {
      if (this.#told.get(name) === value) continue;
      this.#told.set(name, value);
      this.#say({ kind: "ParameterStatus", name, value });
    }
    if (this.sql.status === "I") {
      for (const channel of this.sql.notifications.splice(0)) {
        this.#say({ kind: "NotificationResponse", processId: 1, channel, payload: "" });
      }
    }
    try {
      this.#say({ kind: "ReadyForQuery", status: this.sql.status });
    } catch (error) {
      this.#fail(error);
      this.#say({ kind: "ReadyForQuery", status: this.sql.status });
    }
  }
}

/** What answers nothing: a client can count on none of it while servers are lost. */
export const asides: ReadonlySet<string> = new Set([
  "NoticeResponse",
  "NotificationResponse",
  "ParameterStatus",
]);

/** As PostgreSQL names a message: by its type. */
const hexType = (message: FrontendMessage) => `0x${encodeFrontend(message)[0]?.toString(16)}`;

function fieldsOf(severity: string, code: string, message: string) {
  return [
    { code: "S", value: severity },
    { code: "V", value: severity },
    { code: "C", value: code },
    { code: "M", value: message },
  ];
}
