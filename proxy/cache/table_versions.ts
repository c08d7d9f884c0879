/**
 * Which kept results still hold. Everything that a result depends on (tables by bare name, their
 * database, all databases together) has a version: the number of the last change of it that was seen.
 * A read that is to be kept notes the present number when it is sent, and is kept only if nothing
 * that it depends on has changed since.
 *
 * From the moment that something is sent which may commit a change until its answer has come, the
 * server may show the change or not: the things that it may change are *in flux*. Meanwhile nothing
 * that depends on them is answered from memory or kept. So nobody is shown the old rows from memory
 * after having seen the new ones, and when the writer is told of the commit they are gone already.
 */

import type { Changes } from "../../core/sql/cache_facts.ts";
import type { DatabaseCatalog } from "./cache_questions.ts";
import { Dependency, type ResultSpace, type ResultStore } from "./result_store.ts";

/** Something that results depend on. */
export class Versioned extends Dependency {
  /** Its name among all things that results depend on. */
  readonly path: string;
  /** Its stamp in shared memory, as last seen (shared_results.ts). */
  seen: string | undefined;
  version = 0;
  /** How many writers are about to commit a change of it. */
  writers = 0;

  constructor(path: string) {
    super();
    this.path = path;
  }
}

/** Names of tables are clients' to choose: beyond this many a database starts afresh. */
const TABLES_MAX = 100_000;

export class CachedDatabase extends Versioned {
  readonly name: string;
  readonly tables = new Map<string, Versioned>();
  readonly spaces = new Map<string, ResultSpace>();
  /** What its catalogs have said; void with every change of definitions. */
  catalog: DatabaseCatalog | undefined;
  /** Counts changes of definitions: an answer from before one is not believed. */
  generation = 0;

  constructor(name: string) {
    super(`d\0${name}`);
    this.name = name;
  }

  table(name: string): Versioned {
    let table = this.tables.get(name);
    if (table === undefined) {
      table = new Versioned(`t\0${this.name}\0${name}`);
      this.tables.set(name, table);
    }
    return table;
  }
}

/** Why results were forgotten, as counted and shown. */
export type InvalidationCause = "write" | "definition" | "command" | "failover";

/** What a read of certain tables depends on: the same for all statements of one shape. */
export type Reads = {
  readonly database: CachedDatabase;
  readonly tables: readonly Versioned[];
  /** These, and what all results of the database depend on. */
  readonly dependencies: readonly Versioned[];
};

/** A read under way that may be kept. */
export type ReadMark = {
  readonly reads: Reads;
  readonly sentAt: number;
  /** The last change of one of them. */
  readonly changedAt: number;
};

/** Writers that are about to commit; to be ended when it is known how it went. */
export type Flux = { readonly targets: readonly Versioned[]; readonly changes: Changes };

export class TableVersions {
  readonly #store: ResultStore;
  readonly #databases = new Map<string, CachedDatabase>();
  readonly #everything = new Versioned("");
  #now = 1;
  /** How many results were forgotten, by cause. */
  readonly forgotten: { readonly [C in InvalidationCause]: number } & Record<
    InvalidationCause,
    number
  > = { write: 0, definition: 0, command: 0, failover: 0 };

  constructor(store: ResultStore) {
    this.#store = store;
  }

  /** One per database that a client has reached, so PostgreSQL bounds their number. */
  database(name: string): CachedDatabase {
    let database = this.#databases.get(name);
    if (database === undefined) {
      database = new CachedDatabase(name);
      this.#databases.set(name, database);
    }
    return database;
  }

  /** The number of the last change of anything. */
  get now(): number {
    return this.#now;
  }

  /** Holds for as long as the database's catalog is this one. */
  reads(database: CachedDatabase, names: Iterable<string>): Reads {
    const tables: Versioned[] = [];
    for (const name of names) tables.push(database.table(name));
    return { database, tables, dependencies: [...this.commonOf(database), ...tables] };
  }

  /** A read is about to be sent; undefined while something that it depends on is in flux. */
  begin(reads: Reads): ReadMark | undefined {
    const { database, dependencies } = reads;
    if (database.tables.size > TABLES_MAX) {
      this.#startAfresh(database);
      return undefined;
    }
    let changedAt = 0;
    for (const { writers, version } of dependencies) {
      if (writers > 0) return undefined;
      if (version > changedAt) changedAt = version;
    }
    return { reads, sentAt: this.#now, changedAt };
  }

  /** Nothing that the read depends on has changed since. */
  holds({ reads, sentAt }: ReadMark): boolean {
    if (sentAt === this.#now) return true;
    return reads.dependencies.every(({ version, writers }) => writers === 0 && version <= sentAt);
  }

  /** What may be kept is to be judged anew. */
  forgetVerdicts(): void {
    for (const { catalog } of this.#databases.values()) catalog?.forgetVerdicts();
  }

  /** A message is about to be sent that may commit these changes. */
  beginFlux(database: CachedDatabase, changes: Changes): Flux {
    const targets = this.targetsOf(database, changes);
    for (const target of targets) {
      target.writers++;
      this.#change(target, "write");
    }
    return { targets, changes };
  }

  /** They are committed, or may be. */
  endFlux(database: CachedDatabase, flux: Flux): void {
    for (const target of flux.targets) target.writers--;
    const { changes } = flux;
    const redefines =
      changes.kind === "all" || (changes.kind === "database" && changes.definitions);
    this.forget(database, changes, redefines ? "definition" : "write");
  }

  /** It is known that nothing was committed. */
  cancelFlux(flux: Flux): void {
    for (const target of flux.targets) target.writers--;
  }

  /** Another pgpool has changed this. */
  changedElsewhere(dependency: Versioned): void {
    const isEverything = dependency === this.#everything;
    if (isEverything) for (const each of this.#databases.values()) redefine(each);
    else if (dependency instanceof CachedDatabase) redefine(dependency);
    this.#change(dependency, "write");
  }

  /** What all results of a database depend on. */
  commonOf(database: CachedDatabase): readonly Versioned[] {
    return [this.#everything, database];
  }

  forget(database: CachedDatabase, changes: Changes, cause: InvalidationCause): void {
    if (changes.kind === "all") {
      for (const each of this.#databases.values()) redefine(each);
    } else if (changes.kind === "database" && changes.definitions) redefine(database);
    for (const target of this.targetsOf(database, changes)) this.#change(target, cause);
  }

  #change(target: Versioned, cause: InvalidationCause): void {
    target.version = ++this.#now;
    this.forgotten[cause] += this.#removeAllOf(target);
  }

  /** Results stand in the lists of their tables alone: those of a whole database are rarely asked for. */
  #removeAllOf(target: Versioned): number {
    if (target instanceof CachedDatabase) return this.#store.removeSpaces(target.spaces.values());
    if (target !== this.#everything) return this.#store.removeAllOf(target);
    let count = 0;
    for (const { spaces } of this.#databases.values()) {
      count += this.#store.removeSpaces(spaces.values());
    }
    return count;
  }

  /** All that these changes touch. */
  targetsOf(database: CachedDatabase, changes: Changes): readonly Versioned[] {
    switch (changes.kind) {
      case "nothing":
        return [];
      case "all":
        return [this.#everything];
      case "database":
        return [database];
      case "tables": {
        // What else is written with them is the catalog's to say; nobody has asked it yet.
        if (database.catalog === undefined) return [database];
        const names = database.catalog.writtenWith(changes.names);
        return names === "unknown" ? [database] : names.map((name) => database.table(name));
      }
    }
  }

  #startAfresh(database: CachedDatabase): void {
    this.#change(database, "command");
    redefine(database);
    for (const [name, table] of database.tables)
      if (table.writers === 0) database.tables.delete(name);
  }
}

function redefine(database: CachedDatabase): void {
  database.generation++;
  database.catalog = undefined;
}
