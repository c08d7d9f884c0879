/** The names that Pgpool-II's programs have had; an installation links each to the one binary. */

/** `pcp_NAME`, or `pgpool pcp NAME`. */
export const pcpNames = [
  "attach_node",
  "detach_node",
  "health_check_stats",
  "invalidate_query_cache",
  "log_rotate",
  "node_count",
  "node_info",
  "pool_status",
  "proc_count",
  "proc_info",
  "promote_node",
  "recovery_node",
  "reload_config",
  "stop_pgpool",
  "watchdog_info",
] as const;

const otherNames = ["pg_md5", "pg_enc", "pgpool_setup", "watchdog_setup", "wd_cli"] as const;

export type ClassicName = (typeof otherNames)[number] | `pcp_${(typeof pcpNames)[number]}`;

/** Every name but `pgpool` itself. */
export const classicNames: readonly ClassicName[] = [
  ...otherNames,
  ...pcpNames.map((name) => `pcp_${name}` as const),
];
