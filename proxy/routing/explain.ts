/**
 * Why a decision came out as it did: which setting or fact decided, and what the catalogs said on
 * the way. Decides nothing: it is told the route, and reads what `decideRoute` had before it.
 */

import type { RouteExplanation } from "../../core/admin/show_route.ts";
import { rowOf } from "../../core/config/params.ts";
import { formatValue } from "../../core/config/value.ts";
import { anchoredPattern } from "../../core/posix_regex.ts";
import type { ProxyReason, RouteReason } from "../../core/routing/reasons.ts";
import {
  type FunctionName,
  READ_TRIMMED,
  type RelationName,
  type StatementFacts,
} from "../../core/sql/facts.ts";
import type { TableColumns } from "../../core/sql/table_columns.ts";
import { redirectOf } from "./balance.ts";
import type { CatalogLookups, RelationAnswer } from "./catalog_lookups.ts";
import type { RoutingView } from "./route.ts";
import type { NodesRoute, Route } from "./routes.ts";
import type { RoutingParams, RoutingRules } from "./rules.ts";
import { isTraced, isWriter, type RoutingSession } from "./session_routing.ts";

/** Passes questions on and keeps the answers. */
export class RecordedLookups implements CatalogLookups {
  readonly #catalog: CatalogLookups;
  readonly #found = new Map<string, string>();

  constructor(catalog: CatalogLookups) {
    this.#catalog = catalog;
  }

  /** A line for each thing that was asked about and answered, in the order of the alphabet. */
  get found(): readonly string[] {
    return [...this.#found].map(([thing, what]) => `${thing}: ${what}`).sort();
  }

  relation(name: RelationName): RelationAnswer | undefined {
    const answer = this.#catalog.relation(name);
    if (answer !== undefined) {
      this.#found.set(`table ${nameOf(name)}`, saidOf(answer));
    }
    return answer;
  }

  columns(name: RelationName): TableColumns | undefined {
    return this.#catalog.columns(name);
  }

  temporary(name: string): boolean | undefined {
    const answer = this.#catalog.temporary(name);
    if (answer !== undefined) {
      this.#found.set(`temporary table ${name}`, answer ? "exists" : "none in this session");
    }
    return answer;
  }

  anyTemporary(): boolean | undefined {
    const answer = this.#catalog.anyTemporary();
    if (answer !== undefined) {
      this.#found.set("temporary objects", answer ? "exist" : "none in this session");
    }
    return answer;
  }

  volatile(name: FunctionName): boolean | undefined {
    const answer = this.#catalog.volatile(name);
    if (answer !== undefined) {
      this.#found.set(`function ${nameOf(name)}`, answer ? "volatile" : "not volatile");
    }
    return answer;
  }
}

function saidOf({ systemCatalog, sequence, unlogged, callsVolatile }: RelationAnswer): string {
  if (systemCatalog) return "system catalog";
  if (sequence) return "sequence";
  if (callsVolatile)
    return unlogged
      ? "unlogged, calls a volatile function"
      : "a view that calls a volatile function";
  return unlogged ? "unlogged" : "neither catalog nor unlogged";
}

const nameOf = ({ schema, name }: RelationName): string =>
  schema === undefined ? name : `${schema}.${name}`;

/** `session` as the decision left it: it names the node that was looked at. */
export function explainRoute(
  facts: StatementFacts,
  sql: string,
  route: Exclude<Route, { kind: "ask" }>,
  session: RoutingSession,
  view: RoutingView,
  lookups: RecordedLookups,
): RouteExplanation {
  const { why } = route;
  const scene = { facts, sql, session, view };
  return {
    class: classOf(facts),
    mayGo: route.kind === "proxy" && why !== "failed_transaction" ? "pgpool" : facts.destination,
    why,
    rule: route.kind === "nodes" ? ruleOf(route, scene) : proxyRule(route.why),
    lookedUp: [...lookups.found, ...listed(why, scene)],
  };
}

type Scene = {
  readonly facts: StatementFacts;
  readonly sql: string;
  readonly session: RoutingSession;
  readonly view: RoutingView;
};

const proxyRule = (why: ProxyReason): string =>
  why === "failed_transaction" ? "transaction status = failed" : "";

function ruleOf(route: NodesRoute, scene: Scene): string {
  const { facts, sql, session, view } = scene;
  const { rules, cluster } = view;
  const { params } = rules;
  switch (route.why) {
    case "raw_mode":
      return `backend_clustering_mode = ${cluster.mode}`;
    case "replicated":
      return `backend_clustering_mode = ${cluster.mode}, ${setting(params, "replicate_select")}`;
    case "load_balanced":
      return balancedBy(scene);
    case "load_balance_off":
      return setting(params, "load_balance_mode");
    case "not_a_read":
      return notReadBy(facts, params);
    case "wrote_earlier":
    case "wrote_in_transaction":
      return setting(params, "disable_load_balance_on_write");
    case "written_lately":
      return latelyWritten(scene);
    case "cold_start":
      return "track_table_mutation_cold_start_duration";
    case "dml_adaptive":
      return writtenBy(facts, session, params);
    case "failed_transaction":
      return "transaction status = failed";
    case "serializable":
      return "transaction_isolation = serializable";
    case "temporary_table":
      return setting(params, "check_temp_table");
    case "unlogged_table":
      return setting(params, "check_unlogged_table");
    case "query_pattern":
      return patternOf(sql, params);
    case "writing_function":
      return writerOf(facts, view);
    case "delayed":
      return delayOf(session, view);
    case "prepared_statement":
    case "prepared_again":
    case "unknown_statement":
      return preparedBy(facts, session);
    case "system_catalog":
    case "sequence":
    case "asks_session":
    case "set_on_primary":
    case "old_protocol":
    case "multi_statement":
    case "multi_statement_transaction":
    case "segment":
    case "backend_pid":
    case "transaction_id":
      return "";
    case "read":
    case "write":
    case "row_lock":
    case "select_into":
    case "writing_with":
    case "explain":
    case "copy_in":
    case "cursor":
    case "notification":
    case "table_lock":
    case "two_phase":
    case "utility":
    case "unparsable":
    case "serializable_setting":
    case "read_write_setting":
    case "session_setting":
    case "transaction_control":
    case "pgpool_command":
      return "kind of statement";
  }
}

function setting(params: RoutingParams, name: keyof RoutingParams & string): string {
  const row = rowOf(name);
  const value = params[name];
  const plain = typeof value === "object" && !Array.isArray(value) ? undefined : value;
  return row === undefined || plain === undefined
    ? name
    : `${name} = ${formatValue(row, plain as Parameters<typeof formatValue>[1])}`;
}

function balancedBy({ session, view }: Scene): string {
  const { cluster, rules } = view;
  const drawn = rules.statementLevel ? "drawn for each statement" : "drawn for the session";
  const redirect = redirectOf(session, cluster, rules);
  if (redirect === undefined) return `backend_weight, ${drawn}`;
  const list = (["appName", "database", "user"] as const).find((name) =>
    rules.redirects[name].some(({ pattern }) => pattern === redirect.pattern),
  );
  const name = list === "appName" ? "app_name" : list;
  return `${name}_redirect_preference_list: ${redirect.node}(${redirect.ratio}), ${drawn}`;
}

function notReadBy(facts: StatementFacts, params: RoutingParams): string {
  if (facts.readBits === 0) return "kind of statement";
  const comments = setting(params, "allow_sql_comments");
  const trimmed = (facts.readBits & READ_TRIMMED) !== 0;
  return trimmed ? `${comments}, ${setting(params, "ignore_leading_white_space")}` : comments;
}

function writtenBy(facts: StatementFacts, session: RoutingSession, params: RoutingParams): string {
  const rule = setting(params, "disable_load_balance_on_write");
  const written = facts.readTables.find(({ name }) => session.dmlTables.has(name.toLowerCase()));
  if (written !== undefined) return `${rule}; written: ${nameOf(written)}`;
  return `${rule}, ${setting(params, "dml_adaptive_object_relationship_list")}`;
}

function patternOf(sql: string, params: RoutingParams): string {
  const text = sql.replaceAll('"', "");
  const item = firstMatching(params.primary_routing_query_pattern_list, text);
  return `primary_routing_query_pattern_list: ${item ?? ""}`;
}

const firstMatching = (items: readonly string[], text: string): string | undefined =>
  items.find((item) => anchoredPattern(item)?.test(text) === true);

function writerOf({ calledFunctions, readTables }: StatementFacts, view: RoutingView): string {
  const { rules, catalog } = view;
  const writer = calledFunctions.find((called) => isWriter(called, rules, catalog) !== false);
  if (writer === undefined) {
    const calling = readTables.find((table) => catalog.relation(table)?.callsVolatile === true);
    return calling === undefined ? "" : `a view calls a volatile function: ${nameOf(calling)}`;
  }
  const name = nameOf(writer);
  const { params } = rules;
  if (rules.readOnlyFunctions !== undefined) return `read_only_function_list does not name ${name}`;
  if (rules.writeFunctions === undefined) return `pg_proc.provolatile of ${name} = v`;
  return `write_function_list: ${firstMatching(params.write_function_list, name) ?? ""}`;
}

function latelyWritten({ facts, view }: Scene): string {
  const table = facts.readTables.find(({ name }) => view.writes.isStale(name));
  const what = setting(view.rules.params, "disable_load_balance_on_write");
  return table === undefined ? what : `${what}; written: ${table.name}`;
}

function delayOf(session: RoutingSession, { cluster, rules }: RoutingView): string {
  const id = session.loadBalanceNode;
  const node = id === undefined ? undefined : cluster.nodes[id];
  if (node === undefined) return "";
  const { params } = rules;
  return node.delayByTime
    ? `${setting(params, "delay_threshold_by_time")}; node ${id}: ${node.delay / 1_000_000} s`
    : `${setting(params, "delay_threshold")}; node ${id}: ${node.delay} bytes`;
}

function preparedBy({ statement }: StatementFacts, session: RoutingSession): string {
  const names =
    statement.kind === "execute" || statement.kind === "deallocate" || statement.kind === "prepare";
  if (!names || statement.name === undefined) return "";
  const { name } = statement;
  const nodes = (session.prepared.get(name) ?? session.parsed(name))?.nodes;
  return `statement "${name}": ${nodes === undefined ? "unknown" : `prepared on node ${nodes.join(", ")}`}`;
}

/** What the settings' own lists said, where the catalogs were not asked. */
function listed(
  why: RouteReason | ProxyReason,
  { facts, session, view }: Scene,
): readonly string[] {
  if (!readsOn.has(why)) return [];
  const { rules } = view;
  const functions = byList(rules)
    ? facts.calledFunctions.map((called) => {
        const writes = isWriter(called, rules, view.catalog) !== false;
        return `function ${nameOf(called)}: ${writes ? "may write" : "only reads"}, by its list`;
      })
    : [];
  if (rules.checkTemporary !== "trace") return functions;
  const traced = facts.maybeTemporary.map(({ name }) => {
    return `temporary table ${name}: ${isTraced(session, name) ? "created by this session" : "none seen"}`;
  });
  return [...traced, ...functions];
}

const byList = (rules: RoutingRules): boolean =>
  rules.readOnlyFunctions !== undefined || rules.writeFunctions !== undefined;

/** Reasons that are met with behind these lists, or in them. */
const readsOn: ReadonlySet<RouteReason | ProxyReason> = new Set([
  "load_balanced",
  "delayed",
  "writing_function",
  "temporary_table",
  "dml_adaptive",
] as const);

/** In SQL's words as far as they are known, and whether others follow it. */
function classOf(facts: StatementFacts): string {
  const first = verbOf(facts.statement);
  return facts.multiStatement ? `${first}, and more` : first;
}

function verbOf(statement: StatementFacts["statement"]): string {
  switch (statement.kind) {
    case "select":
    case "show":
    case "prepare":
    case "execute":
    case "deallocate":
    case "pgpool":
      return statement.kind.toUpperCase();
    case "empty":
    case "unparsable":
      return statement.kind;
    case "write":
      return statement.verb.toUpperCase();
    case "copy":
      return statement.fromClient ? "COPY FROM" : "COPY TO";
    case "transaction":
      return words(
        statement.control.kind === "two_phase" ? statement.control.step : statement.control.kind,
      );
    case "set":
      return statement.form.startsWith("reset") ? "RESET" : "SET";
    case "discard":
      return `DISCARD ${statement.target.toUpperCase()}`;
    case "explain":
      return statement.analyze ? "EXPLAIN ANALYZE" : "EXPLAIN";
    case "create_temp_table":
      return "CREATE TEMPORARY TABLE";
    case "drop_table":
      return "DROP TABLE";
    case "listen":
      return statement.listens ? "LISTEN" : "UNLISTEN";
    case "other":
      return words(statement.tag.replace(/Stmt$/, "").replace(/(?<=[a-z])(?=[A-Z])/g, "_"));
  }
}

const words = (name: string): string => name.replaceAll("_", " ").toUpperCase();
