/**
 * The settings that routing reads, compiled once per configuration snapshot (and again for a
 * session that changes one with PGPOOL SET).
 */

import { replicates } from "../../core/cluster/state.ts";
import type { Config, Redirect } from "../../core/config/schema.ts";
import { anchoredPattern } from "../../core/posix_regex.ts";
import { READ_AS_WRITTEN, READ_TRIMMED, READ_WITH_COMMENTS } from "../../core/sql/facts.ts";
import { RouteTable } from "./routes.ts";

/** Property names are parameter names. */
export type RoutingParams = Pick<
  Config,
  | "load_balance_mode"
  | "statement_level_load_balance"
  | "allow_sql_comments"
  | "ignore_leading_white_space"
  | "read_only_function_list"
  | "write_function_list"
  | "primary_routing_query_pattern_list"
  | "disable_load_balance_on_write"
  | "dml_adaptive_object_relationship_list"
  | "check_temp_table"
  | "check_unlogged_table"
  | "relcache_query_target"
  | "delay_threshold"
  | "delay_threshold_by_time"
  | "prefer_lower_delay_standby"
  | "insert_lock"
  | "replicate_select"
  | "backend_clustering_mode"
  | "redirects"
>;

export type RoutingRules = {
  readonly loadBalance: boolean;
  readonly statementLevel: boolean;
  /** Which bit of `StatementFacts.readBits` says that a statement is a read. */
  readonly readBit: number;
  /** Never both set: read_only_function_list wins (5.5). */
  readonly readOnlyFunctions: readonly RegExp[] | undefined;
  readonly writeFunctions: readonly RegExp[] | undefined;
  readonly primaryPatterns: readonly RegExp[];
  readonly onWrite: RoutingParams["disable_load_balance_on_write"];
  readonly dmlAdaptive: boolean;
  /** dml_adaptive_global: what any session wrote lately is read on the primary. */
  readonly tracksWrites: boolean;
  /** dml_adaptive_object_relationship_list: from the lower-case name to what depends on it. */
  readonly dependentsOfTable: ReadonlyMap<string, string>;
  readonly dependentsOfFunction: ReadonlyMap<string, string>;
  readonly checkTemporary: "catalog" | "trace" | "none";
  readonly checkUnlogged: boolean;
  /** The node for reads is asked what the catalogs say, not the primary. */
  readonly asksReadingNode: boolean;
  /** Bytes; 0 is any delay. */
  readonly delayMaxBytes: number;
  /** Microseconds; 0 is any delay. */
  readonly delayMaxMicroseconds: number;
  readonly preferLowerDelay: boolean;
  /** It is pgpool that keeps the nodes the same. */
  readonly replicates: boolean;
  readonly replicateSelect: boolean;
  /** INSERTs into tables with a sequence take turns. */
  readonly insertLock: boolean;
  readonly redirects: {
    readonly user: readonly Redirect[];
    readonly database: readonly Redirect[];
    readonly appName: readonly Redirect[];
  };
  readonly routes: RouteTable;
  /** What all this was compiled from, for explanations. */
  readonly params: RoutingParams;
};

export function routingRules(params: RoutingParams): RoutingRules {
  const readOnlyFunctions = patterns(params.read_only_function_list);
  const writeFunctions = patterns(params.write_function_list);
  const dependents = dependentsOf(params.dml_adaptive_object_relationship_list);
  const onWrite = params.disable_load_balance_on_write;
  return {
    loadBalance: params.load_balance_mode,
    statementLevel: params.statement_level_load_balance,
    readBit: readBitOf(params),
    readOnlyFunctions: readOnlyFunctions.length > 0 ? readOnlyFunctions : undefined,
    writeFunctions:
      readOnlyFunctions.length === 0 && writeFunctions.length > 0 ? writeFunctions : undefined,
    primaryPatterns: patterns(params.primary_routing_query_pattern_list),
    onWrite,
    dmlAdaptive: onWrite === "dml_adaptive" || onWrite === "dml_adaptive_global",
    tracksWrites: onWrite === "dml_adaptive_global",
    dependentsOfTable: dependents.tables,
    dependentsOfFunction: dependents.functions,
    checkTemporary: params.check_temp_table,
    checkUnlogged: params.check_unlogged_table,
    asksReadingNode: params.relcache_query_target === "load_balance_node",
    delayMaxBytes: params.delay_threshold,
    delayMaxMicroseconds: params.delay_threshold_by_time * 1000,
    preferLowerDelay: params.prefer_lower_delay_standby,
    replicates: replicates({ mode: params.backend_clustering_mode }),
    replicateSelect: params.replicate_select,
    insertLock: params.insert_lock,
    redirects: params.redirects,
    routes: new RouteTable(),
    params,
  };
}

function readBitOf(params: RoutingParams): number {
  if (params.allow_sql_comments) return READ_WITH_COMMENTS;
  return params.ignore_leading_white_space ? READ_TRIMMED : READ_AS_WRITTEN;
}

/** Items that are no regular expression were refused when the file was read. */
function patterns(items: readonly string[]): readonly RegExp[] {
  return items.map(anchoredPattern).filter((pattern) => pattern !== undefined);
}

/** `left:right` pairs; `name()` is a function. Of a repeated left name only the first counts (7.4). */
function dependentsOf(list: string): {
  readonly tables: ReadonlyMap<string, string>;
  readonly functions: ReadonlyMap<string, string>;
} {
  const tables = new Map<string, string>();
  const functions = new Map<string, string>();
  for (const item of list.split(",")) {
    const colon = item.indexOf(":");
    if (colon < 0) continue;
    const left = item.slice(0, colon).trim().toLowerCase();
    const right = nameOnly(
      item
        .slice(colon + 1)
        .trim()
        .toLowerCase(),
    );
    const names = isFunction(left) ? functions : tables;
    if (!names.has(nameOnly(left))) names.set(nameOnly(left), right);
  }
  return { tables, functions };
}

const isFunction = (token: string): boolean => token.length > 3 && token.endsWith("()");
const nameOnly = (token: string): string => (isFunction(token) ? token.slice(0, -2) : token);
