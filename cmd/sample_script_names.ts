/** The scripts of samples/ that an installation gets, and the build embeds. */

export const sampleScriptNames = [
  "failover.sh",
  "follow_primary.sh",
  "recovery_1st_stage",
  "replication_mode_recovery_1st_stage",
  "replication_mode_recovery_2nd_stage",
  "pgpool_remote_start",
  "escalation.sh",
] as const;

export type SampleScripts = Readonly<Record<(typeof sampleScriptNames)[number], string>>;
