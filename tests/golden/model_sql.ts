/**
 * The SQL of the model server: a dozen statements that between them touch everything a proxy can
 * get wrong. Rows that must be seen by their own transaction, settings that must be everywhere,
 * sequences that must move once, portals that end with their transaction.
 */

export class ModelError extends Error {
  readonly code: string;

  constructor(code: string, message: string) {
    super(message);
    this.code = code;
  }
}

/** What all servers of one cluster hold, replicated without delay. */
export class ModelStore {
  rows = 0;
  sequence = 0;
  /** How often each INSERT was executed, whatever became of it. */
  readonly executed = new Map<string, number>();
}

export type Plan = {
  readonly kind:
    | "empty"
    | "value"
    | "divide"
    | "count"
    | "series"
    | "nextval"
    | "insert"
    | "deadlock"
    | "begin"
    | "commit"
    | "rollback"
    | "savepoint"
    | "rollback_to"
    | "release"
    | "set"
    | "show"
    | "prepare_transaction"
    | "prepare"
    | "execute"
    | "deallocate"
    | "discard_all"
    | "copy_in"
    | "copy_out"
    | "declare"
    | "fetch"
    | "close"
    | "notify"
    | "listen"
    | "catalog";
  readonly sql: string;
  /** What the pattern found between its parentheses. */
  readonly words: readonly string[];
  readonly returnsRows: boolean;
  /** May be run in a failed transaction. */
  readonly ends: boolean;
  readonly parameterCount: number;
};

type Row = readonly [kind: Plan["kind"], pattern: RegExp, traits?: "rows" | "ends"];

const grammar: readonly Row[] = [
  ["empty", /^$/],
  ["value", /^SELECT (\d+|\$1)$/, "rows"],
  ["divide", /^SELECT 1\/(0|\$1)$/, "rows"],
  ["count", /^SELECT n FROM t$/, "rows"],
  ["series", /^SELECT generate_series\(1, (\d+)\)$/, "rows"],
  ["nextval", /^SELECT nextval\('s'\)$/, "rows"],
  ["insert", /^INSERT INTO t VALUES \((\d+|\$1)\)$/],
  ["deadlock", /^UPDATE busy SET n = 1$/],
  ["begin", /^BEGIN( ISOLATION LEVEL SERIALIZABLE)?$/],
  ["commit", /^COMMIT( AND CHAIN)?$/, "ends"],
  ["rollback", /^ROLLBACK( AND CHAIN)?$/, "ends"],
  ["rollback_to", /^ROLLBACK TO (\w+)$/, "ends"],
  ["savepoint", /^SAVEPOINT (\w+)$/],
  ["release", /^RELEASE (\w+)$/],
  ["set", /^SET (\w+) = '(\w*)'$/],
  ["show", /^SHOW (\w+)$/, "rows"],
  ["prepare_transaction", /^PREPARE TRANSACTION '(\w+)'$/, "ends"],
  ["prepare", /^PREPARE (\w+) AS (.*)$/],
  ["execute", /^EXECUTE (\w+)$/, "rows"],
  ["deallocate", /^DEALLOCATE (\w+)$/],
  ["discard_all", /^DISCARD ALL$/],
  ["copy_in", /^COPY t FROM STDIN$/],
  ["copy_out", /^COPY t TO STDOUT$/],
  ["declare", /^DECLARE (\w+) CURSOR FOR SELECT generate_series\(1, (\d+)\)$/],
  ["fetch", /^FETCH (\d+) FROM (\w+)$/, "rows"],
  ["close", /^CLOSE (\w+)$/],
  ["listen", /^LISTEN (\w+)$/],
  ["notify", /^NOTIFY (\w+)$/],
  ["catalog", /^(SELECT (?:CASE WHEN|\(SELECT pg_catalog\.|pg_catalog\.\w+\().*)$/s, "rows"],
];

/** Parse analysis: what PostgreSQL would refuse at Parse is refused here. */
export function planOf(sql: string): Plan {
  if (sql.includes("FROM missing")) {
    throw new ModelError("42P01", 'relation "missing" does not exist');
  }
  for (const [kind, pattern, trait] of grammar) {
    const found = pattern.exec(sql);
    if (found === null) continue;
    return {
      kind,
      sql,
      words: found.slice(1).map((word) => word ?? ""),
      returnsRows: trait === "rows",
      ends: trait === "ends",
      parameterCount: sql.includes("$1") ? 1 : 0,
    };
  }
  throw new ModelError("42601", `syntax error at or near "${sql.split(" ")[0]}"`);
}

export type Portal = {
  readonly name: string;
  readonly plan: Plan;
  readonly parameters: readonly string[];
  /** How many savepoints there were when it was made. */
  readonly depth: number;
  rows: readonly (readonly string[])[] | undefined;
  ran: boolean;
  failed: boolean;
};

export type Result = {
  readonly rows: readonly (readonly string[])[];
  /** Empty: the tag counts the rows that were sent. */
  readonly tag: string;
};

type Savepoint = {
  readonly name: string;
  readonly rows: number;
  readonly settings: ReadonlyMap<string, string>;
};

const defaults: ReadonlyMap<string, string> = new Map([
  ["application_name", ""],
  ["statement_timeout", "0"],
  ["transaction_isolation", "read committed"],
]);

const executable: ReadonlySet<Plan["kind"]> = new Set([
  "value",
  "count",
  "series",
  "insert",
  "prepare",
]);

const reported: ReadonlySet<string> = new Set(["application_name"]);

export class SqlSession {
  readonly #store: ModelStore;
  readOnly: boolean;
  readonly statements = new Map<string, Plan>();
  readonly portals = new Map<string, Portal>();
  /** Warnings to be sent before the answer. */
  readonly warnings: ModelError[] = [];
  readonly notifications: string[] = [];
  /** What no server of a cluster should be asked. */
  readonly misuse: string[] = [];
  settings = new Map(defaults);
  #block: "none" | "open" | "failed" = "none";
  #started = false;
  #rows = 0;
  #settingsBefore: ReadonlyMap<string, string> = defaults;
  #savepoints: Savepoint[] = [];
  readonly #listening = new Set<string>();
  #notifying: string[] = [];

  constructor(options: { readonly store: ModelStore; readonly readOnly: boolean }) {
    this.#store = options.store;
    this.readOnly = options.readOnly;
  }

  get status(): "I" | "T" | "E" {
    return this.#block === "none" ? "I" : this.#block === "open" ? "T" : "E";
  }

  get depth(): number {
    return this.#savepoints.length;
  }

  /** Settings that a client hears of when they change. */
  *reported(): Generator<readonly [name: string, value: string]> {
    for (const name of reported) yield [name, this.settings.get(name) ?? ""];
  }

  /** A message or a statement begins to work in a transaction. */
  start(): void {
    if (this.#started) return;
    this.#started = true;
    this.#settingsBefore = new Map(this.settings);
  }

  refuseWhenFailed(plan: Plan): void {
    if (this.#block !== "failed" || plan.ends) return;
    throw new ModelError(
      "25P02",
      "current transaction is aborted, commands ignored until end of transaction block",
    );
  }

  /** Sync, or the end of a simple query: an implicit transaction is over. */
  endImplicit(): void {
    if (this.#block === "none" && this.#started) this.#end(true);
  }

  abort(): void {
    if (this.#block === "none") {
      if (this.#started) this.#end(false);
      return;
    }
    this.#block = "failed";
    for (const portal of this.portals.values()) {
      if (portal.depth >= this.depth) portal.failed = true;
    }
  }

  #end(commit: boolean): void {
    if (commit) this.#store.rows += this.#rows;
    else this.settings = new Map(this.#settingsBefore);
    if (commit) this.notifications.push(...this.#notifying);
    this.#notifying = [];
    this.#rows = 0;
    this.#savepoints = [];
    this.#block = "none";
    this.#started = false;
    this.settings.set("transaction_isolation", "read committed");
    this.portals.clear();
  }

  run(plan: Plan, parameters: readonly string[]): Result {
    const word = plan.words[0] ?? "";
    const value = word === "$1" ? (parameters[0] ?? "") : word;
    switch (plan.kind) {
      case "empty":
        return { rows: [], tag: "" };
      case "value":
        return one(value);
      case "divide":
        if (value === "0") throw new ModelError("22012", "division by zero");
        return one("1");
      case "count":
        return one(String(this.#store.rows + this.#rows));
      case "series":
        return series(Number(word));
      case "nextval":
        this.#write("nextval()");
        return one(String(++this.#store.sequence));
      case "insert":
        this.#write("INSERT");
        if (value === "bad") throw new ModelError("23514", "new row violates a check constraint");
        this.#store.executed.set(plan.sql, (this.#store.executed.get(plan.sql) ?? 0) + 1);
        this.#rows++;
        return done("INSERT 0 1");
      case "deadlock":
        this.#write("UPDATE");
        throw new ModelError("40P01", "deadlock detected");
      case "copy_in":
        this.#write("COPY FROM");
        return done("COPY 0");
      case "copy_out":
        return { rows: series(this.#store.rows + this.#rows).rows, tag: "" };
      case "begin":
      case "commit":
      case "rollback":
      case "prepare_transaction":
      case "savepoint":
      case "rollback_to":
      case "release":
        return this.#control(plan, word);
      case "set":
        this.settings.set(word, plan.words[1] ?? "");
        return done("SET");
      case "show":
        return { ...one(this.settings.get(word) ?? ""), tag: "SHOW" };
      case "prepare":
      case "execute":
      case "deallocate":
      case "discard_all":
        return this.#prepared(plan, word);
      case "declare":
      case "fetch":
      case "close":
        return this.#cursor(plan, word);
      case "listen":
        this.#write("LISTEN");
        this.#listening.add(word);
        return done("LISTEN");
      case "notify":
        this.#write("NOTIFY");
        if (this.#listening.has(word)) this.#notifying.push(word);
        return done("NOTIFY");
      case "catalog":
        return { rows: [catalogRow(plan.sql, this.settings)], tag: "" };
    }
  }

  copied(rows: number): void {
    this.#rows += rows;
  }

  #write(what: string): void {
    if (!this.readOnly) return;
    this.misuse.push(`${what} on a standby`);
    throw new ModelError("25006", `cannot execute ${what} in a read-only transaction`);
  }

  #control(plan: Plan, word: string): Result {
    switch (plan.kind) {
      case "begin":
        if (word !== "" && this.readOnly) {
          this.misuse.push("SERIALIZABLE on a standby");
          throw new ModelError("0A000", "cannot use serializable mode in a hot standby");
        }
        if (this.#block === "open") {
          this.#warn("25001", "there is already a transaction in progress");
        }
        if (word !== "") this.settings.set("transaction_isolation", "serializable");
        this.#block = "open";
        return done("BEGIN");
      case "commit":
      case "rollback":
        return this.#finish(plan.kind === "commit", word !== "");
      case "prepare_transaction":
        return this.#prepareTransaction();
      case "savepoint":
        this.#requireBlock("SAVEPOINT");
        this.#savepoints.push({ name: word, rows: this.#rows, settings: new Map(this.settings) });
        return done("SAVEPOINT");
      case "release":
        this.#requireBlock("RELEASE SAVEPOINT");
        this.#savepoints.length = this.#savepointAt(word);
        return done("RELEASE");
      default:
        return this.#rollBackTo(word);
    }
  }

  #finish(commit: boolean, chain: boolean): Result {
    const name = commit ? "COMMIT" : "ROLLBACK";
    if (this.#block === "none") {
      if (chain) this.#requireBlock(`${name} AND CHAIN`);
      this.#warn("25P01", "there is no transaction in progress");
      this.#end(commit);
      return done(name);
    }
    const commits = commit && this.#block === "open";
    const isolation = this.settings.get("transaction_isolation") ?? "";
    this.#end(commits);
    if (chain) {
      this.start();
      this.#block = "open";
      this.settings.set("transaction_isolation", isolation);
    }
    return done(commits ? "COMMIT" : "ROLLBACK");
  }

  /** Nothing in these conversations commits it later: what was written in it is never seen. */
  #prepareTransaction(): Result {
    if (this.#block !== "open") return this.#finish(false, false);
    this.#rows = 0;
    this.#end(true);
    return done("PREPARE TRANSACTION");
  }

  #rollBackTo(name: string): Result {
    this.#requireBlock("ROLLBACK TO SAVEPOINT");
    const index = this.#savepointAt(name);
    const savepoint = this.#savepoints[index] as Savepoint;
    this.#savepoints.length = index + 1;
    this.#rows = savepoint.rows;
    this.settings = new Map(savepoint.settings);
    this.#block = "open";
    for (const portal of this.portals.values()) {
      if (portal.depth > index) this.portals.delete(portal.name);
    }
    return done("ROLLBACK");
  }

  #savepointAt(name: string): number {
    const index = this.#savepoints.findLastIndex((each) => each.name === name);
    if (index < 0) throw new ModelError("3B001", `savepoint "${name}" does not exist`);
    return index;
  }

  #requireBlock(what: string): void {
    if (this.#block !== "none") return;
    throw new ModelError("25P01", `${what} can only be used in transaction blocks`);
  }

  #warn(code: string, message: string): void {
    this.warnings.push(new ModelError(code, message));
  }

  #prepared(plan: Plan, name: string): Result {
    switch (plan.kind) {
      case "prepare":
        if (this.statements.has(name)) throw duplicateStatement(name);
        this.statements.set(name, planOf(plan.words[1] ?? ""));
        return done("PREPARE");
      case "execute": {
        const known = this.statements.get(name);
        if (known === undefined) throw unknownStatement(name);
        if (!executable.has(known.kind)) {
          throw new ModelError("0A000", "EXECUTE does not support utility statements");
        }
        return this.run(known, []);
      }
      case "deallocate":
        if (name === "ALL") this.#dropNamed();
        else if (!this.statements.delete(name)) throw unknownStatement(name);
        return done(name === "ALL" ? "DEALLOCATE ALL" : "DEALLOCATE");
      default:
        if (this.#block !== "none") {
          const message = "DISCARD ALL cannot run inside a transaction block";
          throw new ModelError("25001", message);
        }
        this.#dropNamed();
        this.portals.clear();
        this.settings = new Map(defaults);
        this.#listening.clear();
        return done("DISCARD ALL");
    }
  }

  /** The unnamed statement is not SQL's to drop. */
  #dropNamed(): void {
    for (const name of this.statements.keys()) if (name !== "") this.statements.delete(name);
  }

  #cursor(plan: Plan, word: string): Result {
    switch (plan.kind) {
      case "declare": {
        this.#requireBlock("DECLARE CURSOR");
        if (this.portals.has(word)) throw duplicateCursor(word);
        const inner = planOf(`SELECT generate_series(1, ${plan.words[1]})`);
        this.portals.set(word, newPortal(word, inner, [], this.depth));
        return done("DECLARE CURSOR");
      }
      case "fetch": {
        const portal = this.portals.get(plan.words[1] ?? "");
        if (portal === undefined) {
          throw new ModelError("34000", `cursor "${plan.words[1]}" does not exist`);
        }
        portal.rows ??= this.run(portal.plan, []).rows;
        const rows = portal.rows.slice(0, Number(word));
        portal.rows = portal.rows.slice(rows.length);
        return { rows, tag: `FETCH ${rows.length}` };
      }
      default:
        if (!this.portals.delete(word)) {
          throw new ModelError("34000", `cursor "${word}" does not exist`);
        }
        return done("CLOSE CURSOR");
    }
  }
}

export function newPortal(
  name: string,
  plan: Plan,
  parameters: readonly string[],
  depth: number,
): Portal {
  return { name, plan, parameters, depth, rows: undefined, ran: false, failed: false };
}

export const unknownStatement = (name: string): ModelError =>
  new ModelError(
    "26000",
    name === ""
      ? "unnamed prepared statement does not exist"
      : `prepared statement "${name}" does not exist`,
  );
export const duplicateStatement = (name: string): ModelError =>
  new ModelError("42P05", `prepared statement "${name}" already exists`);
export const duplicateCursor = (name: string): ModelError =>
  new ModelError("42P03", `cursor "${name}" already exists`);

const done = (tag: string): Result => ({ rows: [], tag });
const one = (value: string): Result => ({ rows: [[value]], tag: "" });
const series = (count: number): Result => ({
  rows: Array.from({ length: count }, (_, index) => [String(index + 1)]),
  tag: "",
});

const column =
  /\(SELECT pg_catalog\.json_agg\(.*?"char"\[\]\)\)|CASE WHEN .*? END|pg_catalog\.current_setting\(|\(SELECT pg_catalog\.concat\(pg_catalog\.pg_client_encoding|pg_catalog\.json_build_object\('odd'|pg_catalog\.pg_last_wal_replay_lsn/gs;

/** Answers to the proxy's own questions, one column each. */
function catalogRow(sql: string, settings: ReadonlyMap<string, string>): readonly string[] {
  const columns = sql.match(column) ?? [];
  return columns.map((column) => {
    if (column.includes("json_agg")) return "[]"; // the columns of a table: it has none
    if (column.includes("current_setting")) return settings.get("transaction_isolation") ?? "";
    if (column.includes("pg_client_encoding")) return "UTF8 settings";
    if (column.includes("'odd'"))
      return '{"odd" : false, "wild" : null, "kin" : null, "follows" : null}';
    if (column.includes("wal")) return "0/10"; // nothing is behind
    if (column.includes("relrowsecurity")) return ' ["t"]';
    if (column.includes("prolang")) return "r";
    if (/relpersistence \S+ 't'|pg_my_temp_schema/.test(column)) return "-";
    if (column.includes("provolatile")) return column.includes("'nextval'") ? "v" : "e";
    return "e";
  });
}
