/**
 * Which tables were written a moment ago, by any session, so that standbys may not show it yet: the
 * table behind disable_load_balance_on_write = dml_adaptive_global (spec load-balance.md section 8).
 *
 * Tables are known by database and bare name. Pgpool resolves names to oids by a query for each
 * statement; a name costs nothing, needs no search path, and errs towards the primary alone.
 */

import type { Clock } from "../../core/ports.ts";
import type { RecentlyWritten } from "../routing/recently_written.ts";

/** Property names are parameter names. */
export type TrackingParams = {
  readonly track_table_mutation_ttl_factor: number;
  /** Milliseconds; 0 is no limit. */
  readonly track_table_mutation_max_staleness: number;
  /** Milliseconds; 0 is none. */
  readonly track_table_mutation_cold_start_duration: number;
};

type Written = { readonly first: number; last: number };

/** How long a write is taken to be on its way, before any delay was measured and at least. */
const TTL_MIN_MS = 100;
const TTL_MAX_MS = 3_600_000;

export class RecentWrites {
  readonly #clock: Clock;
  readonly #sizeMax: number;
  #params: TrackingParams;
  #ttlMs = TTL_MIN_MS;
  #delayMs = 0;
  /** Cold until then: what was written before we could see it is not known. */
  #coldSince: number;
  /** In the order of last writes. */
  readonly #tables = new Map<string, Written>();
  /** The last write among entries that had to give way: unknown tables may be among them. */
  #forgottenAt = Number.NEGATIVE_INFINITY;

  constructor(options: {
    readonly clock: Clock;
    readonly sizeMax: number;
    readonly params: TrackingParams;
  }) {
    this.#clock = options.clock;
    this.#sizeMax = options.sizeMax;
    this.#params = options.params;
    this.#coldSince = options.clock();
  }

  /** The configuration was read again. */
  configure(params: TrackingParams): void {
    this.#params = params;
    this.#setTtl();
  }

  /** This pgpool has become the one that clients use: others may have written until now. */
  startCold(): void {
    this.#coldSince = this.#clock();
  }

  /** The largest delay of a live standby as a check by time measured it; 0 says nothing. */
  noteDelay(delayMs: number): void {
    if (delayMs <= 0 || delayMs === this.#delayMs) return;
    this.#delayMs = delayMs;
    this.#setTtl();
  }

  #setTtl(): void {
    const wanted = this.#delayMs * this.#params.track_table_mutation_ttl_factor;
    this.#ttlMs = Math.min(TTL_MAX_MS, Math.max(TTL_MIN_MS, wanted));
  }

  /** Milliseconds for which a write counts. */
  get ttlMs(): number {
    return this.#ttlMs;
  }

  get size(): number {
    return this.#tables.size;
  }

  get isCold(): boolean {
    const { track_table_mutation_cold_start_duration: duration } = this.#params;
    return this.#clock() - this.#coldSince < duration;
  }

  /** To be called when the write is committed. */
  record(database: string, tables: Iterable<string>): void {
    const now = this.#clock();
    for (const table of tables) this.#record(keyOf(database, table), now);
  }

  #record(key: string, now: number): void {
    const known = this.#tables.get(key);
    if (known !== undefined) {
      this.#tables.delete(key);
      // Pgpool goes on counting from the first write ever; here a pause begins a new series.
      const series = now - known.last < this.#ttlMs ? known.first : now;
      this.#tables.set(key, { first: series, last: now });
      return;
    }
    this.#makeRoom(now);
    this.#tables.set(key, { first: now, last: now });
  }

  #makeRoom(now: number): void {
    for (const [key, { last }] of this.#tables) {
      const expired = now - last >= this.#ttlMs;
      if (!expired && this.#tables.size < this.#sizeMax) return;
      if (!expired) this.#forgottenAt = Math.max(this.#forgottenAt, last);
      this.#tables.delete(key);
    }
  }

  /** May a standby still show this table as it was? */
  isStale(database: string, table: string): boolean {
    const now = this.#clock();
    const written = this.#tables.get(keyOf(database, table));
    if (written === undefined) return now - this.#forgottenAt < this.#ttlMs;
    if (now - written.last >= this.#ttlMs) return false;
    const { track_table_mutation_max_staleness: cap } = this.#params;
    return cap === 0 || now - written.first < cap;
  }

  /** The view of a session of this database. */
  of(database: string): RecentlyWritten {
    const writes = this;
    return {
      get isCold() {
        return writes.isCold;
      },
      isStale: (table) => writes.isStale(database, table),
    };
  }
}

/** A NUL cannot occur in a name. */
const keyOf = (database: string, table: string): string => `${database}\0${table}`;
