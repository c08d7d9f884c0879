/**
 * Functions of PostgreSQL's that are volatile, since what they tell may change at any time, and that
 * change nothing themselves. Where pgpool replicates they are read on one node. Transaction ids are the
 * main node's; of object ids, which each server gives by itself, whoever asks by name needs none.
 */
import type { FunctionName } from "../../core/sql/facts.ts";

/** What each server counts by itself. */
const transactionFunctions: ReadonlySet<string> = new Set([
  ...["txid_current", "txid_current_if_assigned", "txid_current_snapshot", "txid_status"],
  ...["pg_current_xact_id", "pg_current_xact_id_if_assigned", "pg_current_snapshot"],
  ...["pg_xact_status", "pg_xact_commit_timestamp", "pg_xact_commit_timestamp_origin"],
]);

const objectFunctions: ReadonlySet<string> = new Set([
  ...["pg_partition_ancestors", "pg_partition_tree", "pg_sequence_last_value"],
  ...["pg_database_size", "pg_indexes_size", "pg_relation_size", "pg_table_size"],
  ...["pg_tablespace_size", "pg_total_relation_size", "pg_stat_have_stats"],
]);

const isOfPostgres = ({ schema }: FunctionName): boolean =>
  schema === undefined || schema === "pg_catalog";

export const tellsTransaction = (called: FunctionName): boolean =>
  transactionFunctions.has(called.name) && isOfPostgres(called);

export const onlyLooks = (called: FunctionName): boolean =>
  (transactionFunctions.has(called.name) || objectFunctions.has(called.name)) &&
  isOfPostgres(called);
