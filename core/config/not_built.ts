/**
 * What is accepted but does nothing yet. A parameter named here, or in a chapter named here, is
 * warned about once when it is set away from its initial value. Building a feature removes its line.
 */

import { chapters, type Feature, type ParamName } from "./params.ts";

export const NOT_BUILT_YET: {
  readonly features: readonly Feature[];
  readonly params: readonly ParamName[];
} = {
  features: [
    "pcp",
    "process_management",
    "track_table_mutation",
    "native_replication",
    "health_check",
    "recovery",
    "watchdog",
    "delegate_ip",
    "lifecheck",
    "query_cache",
  ],
  params: [
    "unix_socket_group",
    "log_hostname",
    "log_client_messages",
    "log_backend_messages",
    "log_pcp_processes",
    "relcache_query_target",
    "replication_delay_source_cmd",
    "replication_delay_source_timeout",
    // Nodes are detached when sessions meet their failure; what follows upon that is not there yet.
    "failover_command",
    "failback_command",
    "follow_primary_command",
    "failover_on_backend_shutdown",
    "detach_false_primary",
    "auto_failback",
    "auto_failback_interval",
  ],
};

/** Whether setting this parameter has no effect yet. */
export function isNotBuilt(name: ParamName): boolean {
  if (NOT_BUILT_YET.params.includes(name)) return true;
  const chapter = chapters.find(({ rows }) => Object.hasOwn(rows, name));
  return chapter !== undefined && NOT_BUILT_YET.features.includes(chapter.feature);
}
