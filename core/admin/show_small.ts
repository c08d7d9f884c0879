/** SHOW pool_version and pool_cache: one row each. */

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

function hitRatio({ hits, selects }: CacheView): string {
  const asked = hits + selects;
  return (asked === 0 ? 0 : hits / asked).toFixed(2);
}
