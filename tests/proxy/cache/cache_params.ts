import type { QueryCacheParams } from "../../../proxy/cache/query_cache.ts";

/** The initial values. */
export const cacheParams: QueryCacheParams = {
  memqcache_total_size: 67_108_864,
  memqcache_max_num_cache: 1_000_000,
  memqcache_expire: 0,
  memqcache_maxcache: 409_600,
  memqcache_auto_cache_invalidation: true,
  cache_safe_memqcache_table_list: [],
  cache_unsafe_memqcache_table_list: [],
  relcache_size: 256,
};
