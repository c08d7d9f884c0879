/** SHOW pool_version, pool_cache and pool_cache_stats: one row each. */

import { type Column, type Table, tableOf } from "./table.ts";
import type { AdminView, CacheView } from "./view.ts";

export const showPoolVersion = (view: AdminView): Table =>
  tableOf([["pool_version", ({ version }) => version]], [view]);

const EMPTY_CACHE: CacheView = {
  hits: 0,
  selects: 0,
  hashEntries: 0,
  usedHashEntries: 0,
  entries: 0,
  usedSize: 0,
  freeSize: 0,
  fragmentSize: 0,
  added: 0,
  evicted: 0,
  expired: 0,
  forgotten: { write: 0, definition: 0, command: 0, failover: 0 },
};

const cacheColumns: readonly Column<CacheView>[] = [
  ["num_cache_hits", (cache) => cache.hits],
  ["num_selects", (cache) => cache.selects],
  ["cache_hit_ratio", hitRatio],
  ["num_hash_entries", (cache) => cache.hashEntries],
  ["used_hash_entries", (cache) => cache.usedHashEntries],
  ["num_cache_entries", (cache) => cache.entries],
  ["used_cache_entries_size", (cache) => cache.usedSize],
  ["free_cache_entries_size", (cache) => cache.freeSize],
  ["fragment_cache_entries_size", (cache) => cache.fragmentSize],
];

export const showPoolCache = (view: AdminView): Table =>
  tableOf(cacheColumns, [view.cache() ?? EMPTY_CACHE]);

/** Ours: what became of results, counted since the start, and why they were forgotten. */
export function showPoolCacheStats(view: AdminView): Table {
  const cache = view.cache() ?? EMPTY_CACHE;
  const causes = Object.keys(cache.forgotten).map((cause): Column<CacheView> => {
    return [`forgotten_by_${cause}`, ({ forgotten }) => forgotten[cause] ?? 0];
  });
  return tableOf([...statsColumns, ...causes], [cache]);
}

const statsColumns: readonly Column<CacheView>[] = [
  ["hits", (cache) => cache.hits],
  ["misses", (cache) => cache.selects],
  ["entries", (cache) => cache.entries],
  ["bytes", (cache) => cache.usedSize],
  ["kept", (cache) => cache.added],
  ["evicted", (cache) => cache.evicted],
  ["expired", (cache) => cache.expired],
];

function hitRatio({ hits, selects }: CacheView): string {
  const asked = hits + selects;
  return (asked === 0 ? 0 : hits / asked).toFixed(2);
}
