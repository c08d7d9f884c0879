/** The query cache's shared memory: memcached, when the configuration says so. */
import { randomBytes } from "node:crypto";
import type { Config } from "../core/config/schema.ts";
import type { Log } from "../core/ports.ts";
import { Memcached } from "../proxy/cache/memcached.ts";
import { SharedResults } from "../proxy/cache/shared_results.ts";
import type { EngineOptions } from "../proxy/engine.ts";

/** Says so where a cache that is asked for has nothing to do. */
export function warnOfIdleCache(config: Config, log: Log): void {
  const { memory_cache_enabled, backend_clustering_mode: mode } = config;
  if (!memory_cache_enabled) return;
  if (mode !== "native_replication" && mode !== "snapshot_isolation") return;
  log.write("WARNING", `the query cache is not used with backend_clustering_mode "${mode}"`);
}

/** `renew`: what earlier and other pgpools have kept there is void (--clear-oidmaps). */
export function sharedResults(
  config: Config,
  renew: boolean,
  log: Log,
): Pick<EngineOptions, "sharedResults"> {
  if (!config.memory_cache_enabled || config.memqcache_method !== "memcached") return {};
  const { memqcache_memcached_host: host, memqcache_memcached_port: port } = config;
  const memory = new Memcached(host, port);
  return {
    sharedResults: (onChanged) => {
      const shared = new SharedResults({
        memory,
        // Pgpools that guard each other share this; who has none shares the empty one.
        secret: config.wd_authkey,
        randomBytes,
        expireSeconds: config.memqcache_expire,
        onChanged,
        onLost: (why) => {
          const detail = `memcached at ${host}:${port}: ${why}`;
          log.write("LOG", "query cache is not used until memcached answers again", { detail });
        },
        onFound: () => log.write("LOG", `query cache uses memcached at ${host}:${port}`),
        after: (ms, task) => {
          setTimeout(task, ms).unref();
        },
      });
      void shared.begin(renew);
      return shared;
    },
  };
}
