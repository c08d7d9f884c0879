/**
 * What the catalogs say of tables and functions, remembered (spec query-cache.md section 9).
 *
 * Nothing here depends on who asks: no question involves the search path or a privilege. A name
 * without a schema means "a relation, or function, of that name in any schema", which can only
 * move a statement to the primary. So an answer holds for every user, search_path and SET ROLE of
 * its database. Two things are a session's own: its temporary tables, and what it sees in a
 * transaction that has changed definitions or reads an old snapshot.
 */

import type { Clock } from "../../core/ports.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import type { FunctionName, RelationName } from "../../core/sql/parse_tree.ts";
import { literal } from "../../core/sql/quoting.ts";
import {
  columnsSql,
  noTable,
  readColumns,
  type TableColumns,
} from "../../core/sql/table_columns.ts";
import type {
  CatalogLookups,
  CatalogQuestion,
  RelationAnswer,
} from "../routing/catalog_lookups.ts";
import { TwoGenerations } from "./two_generations.ts";

/**
 * How long "there is none of that name" is believed. What is created without our seeing it is then
 * noticed soon; names of WITH queries, which no catalog has, are not asked for again and again.
 */
const ABSENT_EXPIRE_MS = 10_000;

type Entry<T> = { readonly value: T; readonly expiresAt: number };

/** Facts of one database; `generation` counts the times they were declared void. */
class DatabaseFacts {
  readonly relations: TwoGenerations<Entry<RelationAnswer>>;
  readonly functions: TwoGenerations<Entry<boolean>>;
  readonly columns: TwoGenerations<Entry<TableColumns>>;
  generation = 0;

  constructor(sizeMax: number) {
    this.relations = new TwoGenerations({ countMax: sizeMax });
    this.functions = new TwoGenerations({ countMax: sizeMax });
    this.columns = new TwoGenerations({ countMax: sizeMax });
  }

  invalidate(): void {
    this.generation++;
    this.#clear();
  }

  /** For facts of one session alone: what was void for others is so here. */
  follow(generation: number): void {
    if (this.generation === generation) return;
    this.generation = generation;
    this.#clear();
  }

  #clear(): void {
    this.relations.clear();
    this.functions.clear();
    this.columns.clear();
  }
}

/** The relation cache of one engine. */
export class RelationCache {
  readonly #databases = new Map<string, DatabaseFacts>();
  readonly sizeMax: number;
  readonly expireMs: number;
  readonly clock: Clock;
  readonly #shared: boolean;

  /**
   * `sizeMax`: relcache_size, of tables and of functions each. `expireMs`: 0 is never.
   * `shared`: enable_shared_relcache; off, each session learns for itself, as a child process of
   * Pgpool's would. What voids facts voids them everywhere all the same.
   */
  constructor(options: {
    readonly sizeMax: number;
    readonly expireMs: number;
    readonly clock: Clock;
    readonly shared?: boolean;
  }) {
    this.sizeMax = options.sizeMax;
    this.expireMs = options.expireMs;
    this.clock = options.clock;
    this.#shared = options.shared ?? true;
  }

  /** The view of a session that has logged in to this database. */
  session(database: string): SessionCatalog {
    const facts = this.#facts(database);
    return new SessionCatalog(this, facts, this.#shared ? facts : new DatabaseFacts(this.sizeMax));
  }

  /** Forgets a database, as when another engine has seen its definitions change. */
  invalidate(database: string): void {
    this.#databases.get(database)?.invalidate();
  }

  invalidateAll(): void {
    for (const facts of this.#databases.values()) facts.invalidate();
  }

  /** One entry per database that a client has reached, so PostgreSQL bounds their number. */
  #facts(database: string): DatabaseFacts {
    let facts = this.#databases.get(database);
    if (facts === undefined) {
      facts = new DatabaseFacts(this.sizeMax);
      this.#databases.set(database, facts);
    }
    return facts;
  }
}

/** Answers that must not outlive something: a decision, or a transaction. */
class Answers {
  readonly relations = new Map<string, RelationAnswer>();
  readonly functions = new Map<string, boolean>();
  readonly temporaries = new Map<string, boolean>();
  readonly columns = new Map<string, TableColumns>();
}

/** Where an answer goes, and how long it is good there; 0 is as long as relcache_expire says. */
type Stores = {
  readonly decision: Answers;
  transaction: Answers | undefined;
  lasting: DatabaseFacts | undefined;
  readonly lifeMs: number;
};

/** What an answer was read from. */
export type AnswerSource = {
  /** A snapshot that may not see what others have committed: good for this transaction only. */
  readonly oldSnapshot: boolean;
  /** A standby, which may not have all the definitions yet: good for a short time only. */
  readonly standby: boolean;
};

/** One session's view. Lookups never wait: what is not known is a question for the session to ask. */
export class SessionCatalog implements CatalogLookups {
  readonly #cache: RelationCache;
  /** Of the database: says when facts are void. */
  readonly #shared: DatabaseFacts;
  /** What lasts beyond the transaction: the same, or this session's own. */
  readonly #lasting: DatabaseFacts;
  readonly #temporaries = new Map<string, boolean>();
  /** For the decision under way: it must see every answer, however small the cache. */
  #decision: Answers | undefined;
  #transaction: Answers | undefined;
  /** Definitions were changed in the present transaction: what others know is not ours. */
  #redefined = false;
  #temporariesChanged = false;
  #askedGeneration = 0;

  constructor(cache: RelationCache, shared: DatabaseFacts, lasting: DatabaseFacts) {
    this.#cache = cache;
    this.#shared = shared;
    this.#lasting = lasting;
  }

  relation(name: RelationName): RelationAnswer | undefined {
    const own =
      this.#decision?.relations.get(name.key) ?? this.#transaction?.relations.get(name.key);
    if (own !== undefined || this.#redefined) return own;
    this.#lasting.follow(this.#shared.generation);
    return this.#fresh(this.#lasting.relations.get(name.key));
  }

  volatile(name: FunctionName): boolean | undefined {
    const own =
      this.#decision?.functions.get(name.key) ?? this.#transaction?.functions.get(name.key);
    if (own !== undefined || this.#redefined) return own;
    this.#lasting.follow(this.#shared.generation);
    return this.#fresh(this.#lasting.functions.get(name.key));
  }

  /** False while nothing in this session can have created a temporary table: no need to ask. */
  temporariesPossible = true;

  temporary(name: string): boolean | undefined {
    if (!this.temporariesPossible) return false;
    return this.#decision?.temporaries.get(name) ?? this.#temporaries.get(name);
  }

  columns(name: RelationName): TableColumns | undefined {
    const own = this.#decision?.columns.get(name.key) ?? this.#transaction?.columns.get(name.key);
    if (own !== undefined || this.#redefined) return own;
    const temporary = this.temporary(name.name);
    // The table that the name has stood for may be hidden by one of this session's own now.
    if (temporary !== false) return temporary ? this.#ownColumns.get(name.key) : undefined;
    this.#lasting.follow(this.#shared.generation);
    return this.#fresh(this.#lasting.columns.get(name.key));
  }

  anyTemporary(): boolean | undefined {
    return this.temporariesPossible ? this.#anyTemporary : false;
  }
  #anyTemporary: boolean | undefined;

  /** Of temporary tables. */
  readonly #ownColumns = new Map<string, TableColumns>();

  #forgetTemporaries(): void {
    this.#temporaries.clear();
    this.#ownColumns.clear();
    this.#anyTemporary = undefined;
  }

  #fresh<T>(entry: Entry<T> | undefined): T | undefined {
    if (entry === undefined) return undefined;
    if (entry.expiresAt !== Number.POSITIVE_INFINITY && this.#cache.clock() >= entry.expiresAt) {
      return undefined;
    }
    return entry.value;
  }

  /** May a standby be asked? Not while this transaction's own definitions count. */
  get standbyKnows(): boolean {
    return !this.#redefined;
  }

  /** One SELECT of one row, a column for each question in order; to be called when it is sent. */
  ask(questions: readonly CatalogQuestion[], mayLook = false): string {
    this.#askedGeneration = this.#shared.generation;
    return catalogSql(questions, mayLook);
  }

  /** Stores the row that came back. */
  answer(
    questions: readonly CatalogQuestion[],
    row: readonly (string | null)[],
    source: AnswerSource,
  ): void {
    this.#decision ??= new Answers();
    const stores: Stores = {
      decision: this.#decision,
      transaction: undefined,
      lasting: undefined,
      lifeMs: source.standby ? ABSENT_EXPIRE_MS : 0,
    };
    if (source.oldSnapshot || this.#redefined) {
      this.#transaction ??= new Answers();
      stores.transaction = this.#transaction;
    } else if (this.#askedGeneration === this.#shared.generation) {
      // Else it may be from before the change that others were told to forget.
      this.#lasting.follow(this.#shared.generation);
      stores.lasting = this.#lasting;
    }
    for (const [index, question] of questions.entries()) {
      this.#store(question, row[index] ?? ABSENT, stores);
    }
  }

  #store(question: CatalogQuestion, code: string, stores: Stores): void {
    switch (question.kind) {
      case "relation": {
        const { key } = question.relation;
        const answer = relationAnswer(code);
        stores.decision.relations.set(key, answer);
        stores.transaction?.relations.set(key, answer);
        const lifeMs = code === ABSENT ? ABSENT_EXPIRE_MS : stores.lifeMs;
        stores.lasting?.relations.set(key, this.#entry(answer, lifeMs));
        return;
      }
      case "volatile": {
        const { key, schema } = question.function;
        const answer = code === VOLATILE;
        stores.decision.functions.set(key, answer);
        stores.transaction?.functions.set(key, answer);
        const doubtful = code === ABSENT && schema !== "pg_catalog";
        const lifeMs = doubtful ? ABSENT_EXPIRE_MS : stores.lifeMs;
        stores.lasting?.functions.set(key, this.#entry(answer, lifeMs));
        return;
      }
      case "columns":
        this.#storeColumns(question.relation, code, stores);
        return;
      case "temporary":
        if (this.#temporaries.size >= this.#cache.sizeMax) this.#temporaries.clear();
        this.#temporaries.set(question.name, code === PRESENT);
        stores.decision.temporaries.set(question.name, code === PRESENT);
        return;
      case "any_temporary":
        this.#anyTemporary = code === PRESENT;
        return;
      case "isolation":
        return;
    }
  }

  #storeColumns(name: RelationName, code: string, stores: Stores): void {
    const { table, ownOnly } = readColumns(name, code === ABSENT ? null : code);
    stores.decision.columns.set(name.key, table);
    stores.transaction?.columns.set(name.key, table);
    if (this.#temporaries.get(name.name) === true) {
      if (this.#ownColumns.size >= this.#cache.sizeMax) this.#ownColumns.clear();
      this.#ownColumns.set(name.key, table);
    }
    if (ownOnly) return;
    const lifeMs = table === noTable ? ABSENT_EXPIRE_MS : stores.lifeMs;
    stores.lasting?.columns.set(name.key, this.#entry(table, lifeMs));
  }

  /** `lifeMs`: 0 is as long as relcache_expire says. */
  #entry<T>(value: T, lifeMs: number): Entry<T> {
    const { expireMs, clock } = this.#cache;
    const life = lifeMs === 0 || expireMs === 0 ? lifeMs + expireMs : Math.min(lifeMs, expireMs);
    return { value, expiresAt: life === 0 ? Number.POSITIVE_INFINITY : clock() + life };
  }

  /** The decision for which answers were kept has been taken. */
  decided(): void {
    this.#decision = undefined;
  }

  /** A statement has succeeded; it may have changed definitions, or ended the transaction. */
  noteSuccess(facts: StatementFacts, inTransaction: boolean): void {
    if (!inTransaction) this.transactionEnded();
    if (facts.redefines === "nothing") return;
    this.#forgetTemporaries();
    this.#temporariesChanged = inTransaction;
    if (facts.redefines === "temporary") return;
    if (facts.redefines === "databases") this.#cache.invalidateAll();
    // Others may ask between our statement and its commit, which in a pipeline is the Sync: so it
    // is told now, and once more at the end.
    this.#redefined = true;
    this.#transaction = undefined;
    if (!inTransaction) this.#shared.invalidate();
  }

  /** ReadyForQuery "idle": whatever transaction there was is over, one way or the other. */
  transactionEnded(): void {
    this.#transaction = undefined;
    if (this.#temporariesChanged) this.#forgetTemporaries();
    this.#temporariesChanged = false;
    if (!this.#redefined) return;
    this.#redefined = false;
    this.#shared.invalidate();
  }
}

const SYSTEM = "s";
const UNLOGGED = "u";
const VOLATILE = "v";
const SEQUENCE = "q";
const PRESENT = "e";
const ABSENT = "-";

/** Of a relation several things may be true: the code is a letter for each. */
function relationAnswer(code: string): RelationAnswer {
  return {
    systemCatalog: code.includes(SYSTEM),
    unlogged: code.includes(UNLOGGED),
    sequence: code.includes(SEQUENCE),
    callsVolatile: code.includes(VOLATILE),
  };
}

/**
 * The text that answers these questions in one row. Everything is qualified, operators included,
 * so that no object of a user's can stand in the way; it reads the catalogs of PostgreSQL 9.6 and
 * all later ones, and raises no error whatever the names are.
 *
 * The SELECT takes the transaction's snapshot, and SET TRANSACTION may come only before that: so, in
 * PostgreSQL, does the statement that the question is asked for. `mayLook`: it takes one.
 */
export function catalogSql(questions: readonly CatalogQuestion[], mayLook = false): string {
  const [first] = questions;
  if (first?.kind === "isolation" && questions.length === 1 && !mayLook) {
    return "SHOW transaction_isolation";
  }
  return `SELECT ${questions.map(expressionOf).join(", ")}`;
}

export const EQUALS = "OPERATOR(pg_catalog.=)";

function expressionOf(question: CatalogQuestion): string {
  switch (question.kind) {
    case "relation":
      return relationSql(question.relation);
    case "temporary": {
      // Also the parent of such a table, as its rows are read with it.
      const found = `EXISTS (WITH RECURSIVE ${belowSql(question.name, undefined)} SELECT 1 FROM below`;
      const temporary = `below.relpersistence ${EQUALS} 't'`;
      return `CASE WHEN ${found} WHERE ${temporary}) THEN '${PRESENT}' ELSE '${ABSENT}' END`;
    }
    case "any_temporary":
      // Whatever is in a schema depends on it.
      return (
        "CASE WHEN EXISTS (SELECT 1 FROM pg_catalog.pg_depend AS d " +
        `WHERE d.refclassid ${EQUALS} ${catalogOid("pg_namespace")} ` +
        `AND d.refobjid ${EQUALS} pg_catalog.pg_my_temp_schema()) ` +
        `THEN '${PRESENT}' ELSE '${ABSENT}' END`
      );
    case "volatile": {
      const found = functionExists(question.function);
      return (
        `CASE WHEN ${found} AND p.provolatile ${EQUALS} 'v') THEN '${VOLATILE}' ` +
        `WHEN ${found}) THEN '${PRESENT}' ELSE '${ABSENT}' END`
      );
    }
    case "columns":
      return columnsSql(question.relation);
    case "isolation":
      return "pg_catalog.current_setting('transaction_isolation')";
  }
}

/**
 * Also what a view reads and calls counts, at any depth, and a partition or child of a table that is
 * unlogged: who reads the view or the parent reads that. A materialized view holds its own rows.
 */
function relationSql({ schema, name }: RelationName): string {
  const inCatalog = `${relationExists(name)} AND n.nspname ${EQUALS} 'pg_catalog'`;
  return (
    `CASE WHEN ${inCatalog}) THEN '${SYSTEM}' ELSE (WITH RECURSIVE ${belowSql(name, schema)} ` +
    `SELECT pg_catalog.concat(COALESCE((SELECT '${PRESENT}' FROM below LIMIT 1), '${ABSENT}'), ` +
    `(SELECT '${UNLOGGED}' FROM below WHERE below.relpersistence ${EQUALS} 'u' LIMIT 1), ` +
    `(SELECT '${SEQUENCE}' FROM below WHERE below.relkind ${EQUALS} 'S' LIMIT 1), ` +
    `(SELECT '${VOLATILE}' ${volatileBelow} LIMIT 1))) END`
  );
}

/** The relations of that name, and whatever is read when they are. */
export function belowSql(name: string, schema: string | undefined): string {
  const here = schema === undefined ? "" : ` AND n.nspname ${EQUALS} ${literal(schema)}`;
  return (
    "below (oid, relkind, relpersistence) AS (SELECT c.oid, c.relkind, c.relpersistence " +
    `${relationFrom(name)}${here} UNION SELECT c.oid, c.relkind, c.relpersistence ` +
    "FROM below AS b CROSS JOIN LATERAL (SELECT d.refobjid FROM pg_catalog.pg_rewrite AS r " +
    `JOIN pg_catalog.pg_depend AS d ON d.objid ${EQUALS} r.oid WHERE r.ev_class ${EQUALS} b.oid ` +
    `AND b.relkind ${EQUALS} 'v' AND d.classid ${EQUALS} ${catalogOid("pg_rewrite")} ` +
    `AND d.refclassid ${EQUALS} ${catalogOid("pg_class")} UNION ALL ` +
    `SELECT i.inhrelid FROM pg_catalog.pg_inherits AS i WHERE i.inhparent ${EQUALS} b.oid) ` +
    `AS next (oid) JOIN pg_catalog.pg_class AS c ON c.oid ${EQUALS} next.oid)`
  );
}

/**
 * Functions are read off the stored trees of the views, where each call has its number: of those
 * that come with PostgreSQL pg_depend knows nothing.
 */
const volatileBelow =
  `FROM below JOIN pg_catalog.pg_rewrite AS r ON r.ev_class ${EQUALS} below.oid ` +
  `AND below.relkind ${EQUALS} 'v' CROSS JOIN LATERAL pg_catalog.regexp_matches(` +
  "r.ev_action::pg_catalog.text, ':(?:funcid|aggfnoid|winfnoid) ([0-9]+)', 'g') AS call (number) " +
  `JOIN pg_catalog.pg_proc AS p ON p.oid ${EQUALS} call.number[1]::pg_catalog.oid ` +
  `WHERE p.provolatile ${EQUALS} 'v'`;

export const catalogOid = (name: string): string =>
  `'pg_catalog.${name}'::pg_catalog.regclass::pg_catalog.oid`;

/** Left open, so that conditions can follow. */
export const relationExists = (name: string): string => `EXISTS (SELECT 1 ${relationFrom(name)}`;

const relationFrom = (name: string): string =>
  "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n " +
  `ON n.oid ${EQUALS} c.relnamespace WHERE c.relname ${EQUALS} ${literal(name)}`;

/** Left open, so that conditions can follow. */
export function functionExists({ schema, name }: FunctionName): string {
  const here =
    schema === undefined
      ? ""
      : ` AND p.pronamespace ${EQUALS} (SELECT n.oid FROM pg_catalog.pg_namespace AS n ` +
        `WHERE n.nspname ${EQUALS} ${literal(schema)})`;
  return (
    "EXISTS (SELECT 1 FROM pg_catalog.pg_proc AS p " +
    `WHERE p.proname ${EQUALS} ${literal(name)}${here}`
  );
}
