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
    "failover",
    "recovery",
    "watchdog",
    "delegate_ip",
    "lifecheck",
    "query_cache",
  ],
  params: [
    "serialize_accept",
    "ssl_dh_params_file",
    "ssl_passphrase_command",
    "dml_adaptive_object_relationship_list",
    "replication_delay_source_cmd",
    "replication_delay_source_timeout",
    "enable_shared_relcache",
    "log_pcp_processes",
  ],
};

/** Whether setting this parameter has no effect yet. */
export function isNotBuilt(name: ParamName): boolean {
  if (NOT_BUILT_YET.params.includes(name)) return true;
  const chapter = chapters.find(({ rows }) => Object.hasOwn(rows, name));
  return chapter !== undefined && NOT_BUILT_YET.features.includes(chapter.feature);
}
