/**
 * What one session changes, as the query cache hears of it: from the moment that something is sent
 * which may commit it until the outcome is known (proxy/cache/table_versions.ts). Where others share
 * the results, the session is counted in as a writer before that.
 */

import { mergedChanges, noChanges, unknownWrite } from "../../core/sql/cache_facts.ts";
import type { Changes, StatementFacts } from "../../core/sql/facts.ts";
import type { QueryCache } from "../cache/query_cache.ts";
import type { SharedResults } from "../cache/shared_results.ts";
import type { CachedDatabase, Flux, Versioned } from "../cache/table_versions.ts";
import type { Desk } from "./desk.ts";
import { IN_TRANSACTION } from "./replies.ts";

/** What the session has changed that was not committed when last heard of, as far as is known. */
type Work =
  | { readonly kind: "clean" }
  /** What may commit it is still to be sent. */
  | { readonly kind: "held"; readonly changes: Changes }
  /** A ROLLBACK was sent behind it, and nothing since. */
  | { readonly kind: "undoing"; readonly changes: Changes }
  /** Something was sent that may commit what is in flux. */
  | { readonly kind: "committing"; readonly changes: Changes; readonly flux: Flux };

/** What the session is counted in for, in shared memory. */
type Counted = { readonly versions: readonly Versioned[]; readonly changes: Changes };

const clean: Work = { kind: "clean" };
const notCounted: Counted = { versions: [], changes: noChanges };

export class SessionChanges {
  readonly #cache: QueryCache;
  readonly #database: CachedDatabase;
  readonly #desk: Desk;
  #work: Work = clean;
  /** Something was sent that may end the transaction. */
  #mayEnd = false;
  /** What FETCH of a cursor of this session may change. */
  #cursorChanges: Changes = noChanges;
  #counted: Counted = notCounted;
  #isCounting = false;
  #isOver = false;

  constructor(cache: QueryCache, database: CachedDatabase, desk: Desk) {
    this.#cache = cache;
    this.#database = database;
    this.#desk = desk;
  }

  /** Nothing is changed that others do not see yet. */
  get none(): boolean {
    return this.#work.kind === "clean";
  }

  get #pending(): Changes {
    return this.#work.kind === "clean" ? noChanges : this.#work.changes;
  }

  /** In a transaction, of which nothing under way is the end. */
  get #commitsLater(): boolean {
    return this.#desk.writeLink.status === IN_TRANSACTION && !this.#mayEnd;
  }

  /**
   * Whether a statement may be sent now: where others share the results, a writer is counted in first,
   * and the message is read again when it is. Undefined stands for something unknown.
   */
  mayGo(facts: StatementFacts | undefined): boolean {
    const { shared } = this.#cache;
    if (shared === undefined) return true;
    if (this.#isCounting) return false;
    const own: Changes = facts === undefined ? { kind: "all" } : this.#changesOf(facts);
    const changes = mergedChanges(this.#pending, own);
    if (changes.kind === "nothing" || covers(this.#counted.changes, changes)) return true;
    const end = facts === undefined ? "may" : endOf(facts);
    if (end === "rollback" || (end === "none" && this.#commitsLater)) return true;
    if (!shared.isReady) return true;
    this.#countIn(shared, changes);
    return false;
  }

  #countIn(shared: SharedResults, changes: Changes): void {
    const { versions } = this.#cache;
    const database = this.#database;
    this.#isCounting = true;
    const targets = () => versions.targetsOf(database, changes);
    void shared.countIn(versions.commonOf(database), targets).then((more) => {
      this.#isCounting = false;
      this.#counted = {
        versions: [...this.#counted.versions, ...more],
        changes: mergedChanges(this.#counted.changes, changes),
      };
      if (this.#isOver) this.#countOut();
      else this.#desk.resume();
    });
  }

  #countOut(): void {
    const { versions } = this.#counted;
    if (versions.length > 0) void this.#cache.shared?.countOut(versions);
    this.#counted = notCounted;
  }

  /** A statement is about to be sent to a server. */
  sent(facts: StatementFacts): void {
    const { declared } = facts.cache;
    if (declared.kind !== "nothing") {
      this.#cursorChanges = mergedChanges(this.#cursorChanges, declared);
    }
    const changes = mergedChanges(this.#pending, this.#changesOf(facts));
    const end = endOf(facts);
    if (end !== "none") this.#mayEnd = true;
    if (changes.kind !== "nothing") this.#work = this.#workAfter(changes, end === "rollback");
  }

  /** A function is about to be called by its number. */
  sentUnknown(): void {
    this.#work = this.#workAfter({ kind: "all" }, false);
  }

  #workAfter(changes: Changes, rollsBack: boolean): Work {
    const work = this.#work;
    if (!rollsBack && !this.#commitsLater) return this.#committing(changes);
    if (work.kind === "committing") return { ...work, changes };
    return { kind: rollsBack ? "undoing" : "held", changes };
  }

  #committing(changes: Changes): Work {
    const before = this.#work.kind === "committing" ? this.#work.flux : undefined;
    if (before !== undefined && covers(before.changes, changes)) {
      return { kind: "committing", changes, flux: before };
    }
    const flux = this.#cache.versions.beginFlux(this.#database, changes);
    if (before !== undefined) this.#cache.versions.endFlux(this.#database, before);
    return { kind: "committing", changes, flux };
  }

  #changesOf(facts: StatementFacts): Changes {
    const { cache, statement } = facts;
    let { changes } = cache;
    if (this.natureOf(facts) === "writes") changes = mergedChanges(changes, unknownWrite);
    if (cache.fetches) changes = mergedChanges(changes, this.#cursorChanges);
    if (statement.kind === "execute" && !facts.multiStatement) {
      const { session } = this.#desk.router;
      const known = session.prepared.get(statement.name) ?? session.parsed(statement.name);
      changes = mergedChanges(changes, known?.changes ?? unknownWrite);
    }
    if (this.#cache.heedsWrites || concernsDefinitions(changes)) return changes;
    return noChanges;
  }

  /** Of the functions that a statement calls: what the worst may do. */
  natureOf({ cache }: StatementFacts): "writes" | "runs" | "reads" {
    const known = this.#database.catalog?.functions;
    let worst: "runs" | "reads" = "reads";
    for (const { key } of cache.functions) {
      const nature = known?.get(key) ?? "writes";
      if (nature === "writes") return "writes";
      if (nature === "runs") worst = "runs";
    }
    return worst;
  }

  /** Nothing is owed any more: what was to be committed is, `isOver`: if a transaction has ended. */
  drained(isOver: boolean): void {
    const work = this.#work;
    if (work.kind === "committing") {
      this.#cache.versions.endFlux(this.#database, work.flux);
      this.#countOut();
    } else if (work.kind === "held" && isOver) {
      this.#cache.versions.forget(this.#database, work.changes, "write");
    }
    this.#work = isOver || work.kind === "clean" ? clean : { kind: "held", changes: work.changes };
    this.#mayEnd = false;
  }

  /** Nobody will know how it went until this process of the server is gone. */
  abandoned(pid: number): void {
    const work = this.#work;
    if (work.kind !== "committing") return;
    this.#work = { kind: "held", changes: work.changes };
    this.#cache.abandon(this.#database, work.flux, this.#counted.versions, pid);
    this.#counted = notCounted;
  }

  /** The session is over. */
  ended(): void {
    this.#isOver = true;
    this.#countOut();
  }
}

const concernsDefinitions = (changes: Changes): boolean =>
  changes.kind === "all" || (changes.kind === "database" && changes.definitions);

function covers(wide: Changes, narrow: Changes): boolean {
  if (wide === narrow) return true;
  if (wide.kind !== "tables" || narrow.kind !== "tables")
    return wide.kind === narrow.kind && wide.kind === "all";
  return narrow.names.every((name) => wide.names.includes(name));
}

/** Whether a statement ends a transaction, and how. */
export function endOf({ statement, multiStatement }: StatementFacts): "none" | "may" | "rollback" {
  if (multiStatement || statement.kind === "unparsable") return "may";
  if (statement.kind !== "transaction") return "none";
  switch (statement.control.kind) {
    case "commit":
    case "two_phase":
      return "may";
    case "rollback":
      return "rollback";
    case "rollback_to":
    case "begin":
    case "savepoint":
    case "release":
      return "none";
  }
}
