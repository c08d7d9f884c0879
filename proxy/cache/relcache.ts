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
  generation = 0;

  constructor(sizeMax: number) {
    this.relations = new TwoGenerations({ countMax: sizeMax });
    this.functions = new TwoGenerations({ countMax: sizeMax });
  }

  invalidate(): void {
    this.generation++;
    this.relations.clear();
    this.functions.clear();
  }
}

/** The relation cache of one engine. */
export class RelationCache {
  readonly #databases = new Map<string, DatabaseFacts>();
  readonly sizeMax: number;
  readonly expireMs: number;
  readonly clock: Clock;

  /** `sizeMax`: relcache_size, of tables and of functions each. `expireMs`: 0 is never. */
  constructor(options: {
    readonly sizeMax: number;
    readonly expireMs: number;
    readonly clock: Clock;
  }) {
    this.sizeMax = options.sizeMax;
    this.expireMs = options.expireMs;
    this.clock = options.clock;
  }

  /** The view of a session that has logged in to this database. */
  session(database: string): SessionCatalog {
    return new SessionCatalog(this, this.#facts(database));
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
}

/** Where an answer goes. */
type Stores = {
  readonly decision: Answers;
  transaction: Answers | undefined;
  shared: DatabaseFacts | undefined;
};

/** One session's view. Lookups never wait: what is not known is a question for the session to ask. */
export class SessionCatalog implements CatalogLookups {
  readonly #cache: RelationCache;
  readonly #shared: DatabaseFacts;
  readonly #temporaries = new Map<string, boolean>();
  /** For the decision under way: it must see every answer, however small the cache. */
  #decision: Answers | undefined;
  #transaction: Answers | undefined;
  /** Definitions were changed in the present transaction: what others know is not ours. */
  #redefined = false;
  #temporariesChanged = false;
  #askedGeneration = 0;

  constructor(cache: RelationCache, shared: DatabaseFacts) {
    this.#cache = cache;
    this.#shared = shared;
  }

  relation(name: RelationName): RelationAnswer | undefined {
    const own =
      this.#decision?.relations.get(name.key) ?? this.#transaction?.relations.get(name.key);
    if (own !== undefined || this.#redefined) return own;
    return this.#fresh(this.#shared.relations.get(name.key));
  }

  volatile(name: FunctionName): boolean | undefined {
    const own =
      this.#decision?.functions.get(name.key) ?? this.#transaction?.functions.get(name.key);
    if (own !== undefined || this.#redefined) return own;
    return this.#fresh(this.#shared.functions.get(name.key));
  }

  /** False while nothing in this session can have created a temporary table: no need to ask. */
  temporariesPossible = true;

  temporary(name: string): boolean | undefined {
    if (!this.temporariesPossible) return false;
    return this.#decision?.temporaries.get(name) ?? this.#temporaries.get(name);
  }

  #fresh<T>(entry: Entry<T> | undefined): T | undefined {
    if (entry === undefined) return undefined;
    if (entry.expiresAt !== Number.POSITIVE_INFINITY && this.#cache.clock() >= entry.expiresAt) {
      return undefined;
    }
    return entry.value;
  }

  /** One SELECT of one row, a column for each question in order; to be called when it is sent. */
  ask(questions: readonly CatalogQuestion[]): string {
    this.#askedGeneration = this.#shared.generation;
    return catalogSql(questions);
  }

  /**
   * Stores the row that came back. `snapshotIsOld`: it was read in a transaction that may not see
   * what others have committed, so the answers are good for that transaction only.
   */
  answer(
    questions: readonly CatalogQuestion[],
    row: readonly (string | null)[],
    snapshotIsOld: boolean,
  ): void {
    this.#decision ??= new Answers();
    const stores: Stores = { decision: this.#decision, transaction: undefined, shared: undefined };
    if (snapshotIsOld || this.#redefined) {
      this.#transaction ??= new Answers();
      stores.transaction = this.#transaction;
    } else if (this.#askedGeneration === this.#shared.generation) {
      // Else it may be from before the change that others were told to forget.
      stores.shared = this.#shared;
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
        stores.shared?.relations.set(key, this.#entry(answer, code, false));
        return;
      }
      case "volatile": {
        const { key, schema } = question.function;
        const answer = code === VOLATILE;
        stores.decision.functions.set(key, answer);
        stores.transaction?.functions.set(key, answer);
        stores.shared?.functions.set(key, this.#entry(answer, code, schema === "pg_catalog"));
        return;
      }
      case "temporary":
        if (this.#temporaries.size >= this.#cache.sizeMax) this.#temporaries.clear();
        this.#temporaries.set(question.name, code === PRESENT);
        stores.decision.temporaries.set(question.name, code === PRESENT);
        return;
      case "isolation":
        return;
    }
  }

  #entry<T>(value: T, code: string, absenceLasts: boolean): Entry<T> {
    const { expireMs, clock } = this.#cache;
    if (code === ABSENT && !absenceLasts) {
      const after = expireMs === 0 ? ABSENT_EXPIRE_MS : Math.min(expireMs, ABSENT_EXPIRE_MS);
      return { value, expiresAt: clock() + after };
    }
    return { value, expiresAt: expireMs === 0 ? Number.POSITIVE_INFINITY : clock() + expireMs };
  }

  /** The decision for which answers were kept has been taken. */
  decided(): void {
    this.#decision = undefined;
  }

  /** A statement has succeeded; it may have changed definitions, or ended the transaction. */
  noteSuccess(facts: StatementFacts, inTransaction: boolean): void {
    if (!inTransaction) this.transactionEnded();
    if (facts.redefines === "nothing") return;
    this.#temporaries.clear();
    this.#temporariesChanged = inTransaction;
    if (facts.redefines === "temporary") return;
    // Others may ask between our statement and its commit, which in a pipeline is the Sync: so it
    // is told now, and once more at the end.
    this.#redefined = true;
    this.#transaction = undefined;
    if (!inTransaction) this.#shared.invalidate();
  }

  /** ReadyForQuery "idle": whatever transaction there was is over, one way or the other. */
  transactionEnded(): void {
    this.#transaction = undefined;
    if (this.#temporariesChanged) this.#temporaries.clear();
    this.#temporariesChanged = false;
    if (!this.#redefined) return;
    this.#redefined = false;
    this.#shared.invalidate();
  }
}

const SYSTEM = "s";
const UNLOGGED = "u";
const VOLATILE = "v";
const PRESENT = "e";
const ABSENT = "-";

function relationAnswer(code: string): RelationAnswer {
  return { systemCatalog: code === SYSTEM, unlogged: code === UNLOGGED };
}

/**
 * The text that answers these questions in one row. Everything is qualified, operators included,
 * so that no object of a user's can stand in the way; it reads the catalogs of PostgreSQL 9.6 and
 * all later ones, and raises no error whatever the names are.
 */
export function catalogSql(questions: readonly CatalogQuestion[]): string {
  return `SELECT ${questions.map(expressionOf).join(", ")}`;
}

const EQUALS = "OPERATOR(pg_catalog.=)";

function expressionOf(question: CatalogQuestion): string {
  switch (question.kind) {
    case "relation": {
      const { schema, name } = question.relation;
      const anywhere = relationExists(name);
      const here = schema === undefined ? "" : ` AND n.nspname ${EQUALS} ${literal(schema)}`;
      const inCatalog = `${anywhere} AND n.nspname ${EQUALS} 'pg_catalog'`;
      const unlogged = `${anywhere}${here} AND c.relpersistence ${EQUALS} 'u'`;
      return (
        `CASE WHEN ${inCatalog}) THEN '${SYSTEM}' WHEN ${unlogged}) THEN '${UNLOGGED}' ` +
        `WHEN ${anywhere}${here}) THEN '${PRESENT}' ELSE '${ABSENT}' END`
      );
    }
    case "temporary": {
      const found = `${relationExists(question.name)} AND n.nspname OPERATOR(pg_catalog.~) '^pg_temp_'`;
      return `CASE WHEN ${found}) THEN '${PRESENT}' ELSE '${ABSENT}' END`;
    }
    case "volatile": {
      const found = functionExists(question.function);
      return (
        `CASE WHEN ${found} AND p.provolatile ${EQUALS} 'v') THEN '${VOLATILE}' ` +
        `WHEN ${found}) THEN '${PRESENT}' ELSE '${ABSENT}' END`
      );
    }
    case "isolation":
      return "pg_catalog.current_setting('transaction_isolation')";
  }
}

/** Left open, so that conditions can follow. */
function relationExists(name: string): string {
  return (
    "EXISTS (SELECT 1 FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n " +
    `ON n.oid ${EQUALS} c.relnamespace WHERE c.relname ${EQUALS} ${literal(name)}`
  );
}

/** Left open, so that conditions can follow. */
function functionExists({ schema, name }: FunctionName): string {
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

/** Right whether standard_conforming_strings is on or off. */
function literal(text: string): string {
  const quoted = text.replaceAll("'", "''");
  return quoted.includes("\\") ? `E'${quoted.replaceAll("\\", "\\\\")}'` : `'${quoted}'`;
}
