/**
 * The query cache of one engine: kept results, what they depend on, and the settings that say what
 * may be kept (spec routing/query-cache.md). Sessions look up and keep through their `SessionCache`.
 */

import type { CacheView } from "../../core/admin/view.ts";
import type { Config } from "../../core/config/schema.ts";
import type { Clock } from "../../core/ports.ts";
import { anchoredPattern } from "../../core/posix_regex.ts";
import type { Changes, RelationName } from "../../core/sql/facts.ts";
import { type DatabaseAnswer, DatabaseCatalog, type RelationNature } from "./cache_questions.ts";
import { KeptResult, ResultSpace, ResultStore } from "./result_store.ts";
import type { SharedResults } from "./shared_results.ts";
import { StandbyProgress } from "./standby_progress.ts";
import {
  type CachedDatabase,
  type Flux,
  type InvalidationCause,
  type ReadMark,
  TableVersions,
  type Versioned,
} from "./table_versions.ts";

/** Property names are parameter names. */
export type QueryCacheParams = Pick<
  Config,
  | "memqcache_total_size"
  | "memqcache_max_num_cache"
  | "memqcache_expire"
  | "memqcache_maxcache"
  | "memqcache_auto_cache_invalidation"
  | "cache_safe_memqcache_table_list"
  | "cache_unsafe_memqcache_table_list"
  | "relcache_size"
>;

/** A writer whose answer will never come: until its process is gone it may yet commit. */
type Orphan = { readonly flux: Flux; readonly pid: number; readonly counted: readonly Versioned[] };

/** Tables or functions of one database of which it is remembered what they are. */
const NATURES_MIN = 1000;
/** How often it is asked whether the processes of orphans are gone. */
const ORPHANS_ASKED_MS = 1000;

export class QueryCache {
  readonly store: ResultStore;
  readonly versions: TableVersions;
  readonly standbys: StandbyProgress;
  /** Where results are kept when it is not here. */
  readonly shared: SharedResults | undefined;
  readonly clock: Clock;
  /** What the clock said at most a second ago: to ask it costs as much as to find a result. */
  coarseNow: number;
  readonly #countMax: number;
  readonly #bytesMax: number;
  readonly #expireMs: number;
  readonly #naturesMax: number;
  readonly resultMax: number;
  #safe: readonly RegExp[] = [];
  #unsafe: readonly RegExp[] = [];
  /** Rows that change are heeded; definitions and rights always are. */
  heedsWrites = true;
  hits = 0;
  /** SELECTs that succeeded without it. */
  selects = 0;
  readonly #orphans = new Map<CachedDatabase, Orphan[]>();
  #orphansAskedAt = Number.NEGATIVE_INFINITY;

  /** `clock`: milliseconds, and must not jump when somebody sets the machine's clock. */
  constructor(options: {
    readonly params: QueryCacheParams;
    readonly clock: Clock;
    /** Given the one that hears of what others change. */
    readonly shared?: (onChanged: (dependency: Versioned) => void) => SharedResults;
  }) {
    const { params, clock } = options;
    this.clock = clock;
    this.coarseNow = clock();
    this.#bytesMax = params.memqcache_total_size;
    this.#countMax = params.memqcache_max_num_cache;
    this.#expireMs = params.memqcache_expire * 1000;
    this.resultMax = params.memqcache_maxcache;
    this.#naturesMax = Math.max(NATURES_MIN, params.relcache_size);
    this.store = new ResultStore({ bytesMax: this.#bytesMax, countMax: this.#countMax });
    this.versions = new TableVersions(this.store);
    this.standbys = new StandbyProgress(clock);
    this.shared = options.shared?.((dependency) => this.versions.changedElsewhere(dependency));
    this.configure(params);
  }

  /** The configuration was read again. */
  configure(params: QueryCacheParams): void {
    this.heedsWrites = params.memqcache_auto_cache_invalidation;
    this.#safe = patterns(params.cache_safe_memqcache_table_list);
    this.#unsafe = patterns(params.cache_unsafe_memqcache_table_list);
    this.versions.forgetVerdicts();
  }

  /** To be called once a second. */
  tick(): void {
    this.coarseNow = this.clock();
  }

  // ---------------------------------------------------------------- what may be kept

  /** Whether the lists and the nature of this table let results of it be kept. */
  mayKeep(relation: RelationName, nature: RelationNature): boolean {
    if (nature.isSystem || nature.isForeign || nature.hasRowSecurity) return false;
    return !nature.needsVouching || matches(this.#safe, relation);
  }

  isUnsafe(relation: RelationName): boolean {
    return this.#unsafe.length > 0 && matches(this.#unsafe, relation);
  }

  /** Stores what the catalogs said of a database, unless definitions have changed since it was asked. */
  learn(database: CachedDatabase, answer: DatabaseAnswer, generation: number): void {
    if (database.generation !== generation || database.catalog !== undefined) return;
    database.catalog = new DatabaseCatalog(answer, this.#naturesMax);
  }

  // ---------------------------------------------------------------- results

  space(database: CachedDatabase, settings: string): ResultSpace {
    let space = database.spaces.get(settings);
    if (space === undefined) {
      // Settings are clients' to choose: those of which nothing is kept are not remembered.
      if (database.spaces.size >= SPACES_SWEPT) sweep(database.spaces);
      space = new ResultSpace(`${database.name}\0${settings}`);
      database.spaces.set(settings, space);
    }
    return space;
  }

  /** What is to be sent for this text, if it is kept and holds. */
  find(space: ResultSpace, key: string): Uint8Array | undefined {
    return this.store.find(space, key, this.clock)?.bytes;
  }

  /** Keeps an answer, if all that it depends on is as it was when the question was sent. */
  keep(space: ResultSpace, key: string, bytes: Uint8Array, mark: ReadMark): boolean {
    if (!this.versions.holds(mark)) return false;
    const expiresAt =
      this.#expireMs === 0 ? Number.POSITIVE_INFINITY : this.clock() + this.#expireMs;
    const { tables: dependencies } = mark.reads;
    return this.store.add(new KeptResult({ space, key, bytes, dependencies, expiresAt }));
  }

  /** What a result is called in shared memory. */
  sharedKey(space: ResultSpace, key: string): string {
    return `${space.path}\0${key}`;
  }

  /** PGPOOL SET CACHE DELETE: of this database, whatever the settings. */
  deleteText(name: string, sql: string): boolean {
    let found = false;
    for (const space of this.versions.database(name).spaces.values()) {
      const { results } = space;
      if (this.shared !== undefined && space.used) {
        void this.shared.delete(this.sharedKey(space, sql));
        found = true;
      }
      for (const [key, result] of results) {
        if (textOf(key) !== sql) continue;
        this.store.remove(result);
        this.versions.forgotten.command++;
        found = true;
      }
    }
    return found;
  }

  /** Forgets everything. */
  clear(cause: InvalidationCause): void {
    void this.shared?.clear();
    if (cause === "failover") {
      this.standbys.forget();
      for (const orphans of this.#orphans.values()) {
        for (const { flux, counted } of orphans.splice(0)) {
          this.versions.cancelFlux(flux);
          void this.shared?.countOut(counted);
        }
      }
    }
    this.versions.forget(this.versions.database(""), everything, cause);
  }

  // ---------------------------------------------------------------- orphans

  /** The connection of a writer was lost or given up before it was known whether it has committed. */
  abandon(database: CachedDatabase, flux: Flux, counted: readonly Versioned[], pid: number): void {
    const orphans = this.#orphans.get(database) ?? [];
    orphans.push({ flux, pid, counted });
    this.#orphans.set(database, orphans);
  }

  /** Processes to ask for now. */
  orphansOf(database: CachedDatabase): readonly number[] | undefined {
    const orphans = this.#orphans.get(database);
    if (orphans === undefined || orphans.length === 0) return undefined;
    const now = this.clock();
    if (now - this.#orphansAskedAt < ORPHANS_ASKED_MS) return undefined;
    this.#orphansAskedAt = now;
    return orphans.map(({ pid }) => pid);
  }

  /** These processes are gone: what they have committed can be seen by now. */
  orphansGone(database: CachedDatabase, pids: readonly number[]): void {
    const orphans = this.#orphans.get(database) ?? [];
    for (const orphan of orphans.filter(({ pid }) => pids.includes(pid))) {
      orphans.splice(orphans.indexOf(orphan), 1);
      this.versions.endFlux(database, orphan.flux);
      void this.shared?.countOut(orphan.counted);
    }
  }

  // ---------------------------------------------------------------- shown

  /** As SHOW pool_cache tells it, whose words are those of Pgpool's blocks of shared memory. */
  view(): CacheView {
    const { store, versions } = this;
    const isHere = this.shared === undefined;
    const used = store.resultBytes + ITEM_OVERHEAD * store.count;
    return {
      hits: this.hits,
      selects: this.selects,
      hashEntries: isHere ? 2 ** Math.ceil(Math.log2(Math.max(1, this.#countMax))) : 0,
      usedHashEntries: store.count,
      entries: store.count,
      usedSize: used,
      freeSize: isHere ? Math.max(0, this.#bytesMax - used) : 0,
      fragmentSize: 0,
      evicted: store.counters.evicted,
      expired: store.counters.expired,
      added: store.counters.added,
      forgotten: { ...versions.forgotten },
    };
  }
}

/** A key begins with the statement's text; bound values follow a NUL, which no text holds. */
function textOf(key: string): string {
  const end = key.indexOf("\0");
  return end < 0 ? key : key.slice(0, end);
}

/** Of an item in Pgpool's memory, besides the result. */
const ITEM_OVERHEAD = 48;
const SPACES_SWEPT = 1000;

const everything: Changes = { kind: "all" };

function sweep(spaces: Map<string, ResultSpace>): void {
  for (const [key, { results }] of spaces) if (results.size === 0) spaces.delete(key);
}

const patterns = (items: readonly string[]): readonly RegExp[] =>
  items.map(anchoredPattern).filter((pattern) => pattern !== undefined);

/** With its schema and without: how a table is written in the list is the operator's choice. */
function matches(list: readonly RegExp[], { schema, name }: RelationName): boolean {
  const whole = schema === undefined ? undefined : `${schema}.${name}`;
  return list.some((each) => each.test(name) || (whole !== undefined && each.test(whole)));
}
