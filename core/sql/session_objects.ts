/**
 * What in a read leads to things that are of one session on one server, besides the tables that it
 * names: types, functions and settings. Other nodes have no such things, or others.
 */
import type { FunctionName, RelationName, TreeFindings } from "./parse_tree.ts";
import type { Statement } from "./statement.ts";

/** Types of PostgreSQL's own that name no object; anything else may be a table's row type. */
const plainTypes: ReadonlySet<string> = new Set([
  ...["bool", "bytea", "char", "name", "text", "varchar", "bpchar", "bit", "varbit", "uuid"],
  ...["int2", "int4", "int8", "float4", "float8", "numeric", "money", "oid", "xid", "cid", "tid"],
  ...["date", "time", "timetz", "timestamp", "timestamptz", "interval", "inet", "cidr", "macaddr"],
  ...["json", "jsonb", "jsonpath", "xml", "tsvector", "tsquery", "pg_lsn", "xid8", "macaddr8"],
  ...["point", "line", "lseg", "box", "path", "polygon", "circle", "int4range", "int8range"],
  ...["numrange", "daterange", "tsrange", "tstzrange", "record", "unknown", "void"],
]);

/** Parts of a type's name as the parse tree has them: `int` is pg_catalog.int4 there. */
export function isPlainType(parts: readonly string[]): boolean {
  const name = parts.at(-1) ?? "";
  const schema = parts.at(-2);
  return (schema === undefined || schema === "pg_catalog") && plainTypes.has(name);
}

/** Functions in daily use that look at nothing but their arguments (and clock or settings). */
const plainFunctions: ReadonlySet<string> = new Set([
  ...["count", "sum", "avg", "min", "max", "array_agg", "string_agg", "bool_and", "bool_or"],
  ...["row_number", "rank", "dense_rank", "lag", "lead", "first_value", "last_value", "ntile"],
  ...["lower", "upper", "length", "char_length", "substring", "substr", "left", "right", "trim"],
  ...["btrim", "ltrim", "rtrim", "replace", "concat", "concat_ws", "position", "strpos", "md5"],
  ...["split_part", "lpad", "rpad", "repeat", "reverse", "format", "to_char", "to_date", "like"],
  ...["to_timestamp", "to_number", "now", "clock_timestamp", "date_trunc", "date_part", "extract"],
  ...["age", "make_date", "abs", "round", "ceil", "ceiling", "floor", "mod", "power", "sqrt"],
  ...["greatest", "least", "generate_series", "unnest", "array_length", "cardinality", "random"],
  ...["json_build_object", "jsonb_build_object", "json_agg", "jsonb_agg", "to_json", "to_jsonb"],
  ...["json_build_array", "jsonb_build_array", "row_to_json", "timezone", "version"],
  ...["current_setting", "inet_server_addr", "inet_server_port", "pg_is_in_recovery"],
]);

/** What in a statement could reach a session's own (temporary) objects without naming a table. */
export type Unnamed = "nothing" | "functions" | "types";

export function reachesUnnamed(
  functions: readonly FunctionName[],
  plainTypesOnly: boolean,
): Unnamed {
  if (!plainTypesOnly) return "types";
  return functions.some(({ name }) => !plainFunctions.has(name)) ? "functions" : "nothing";
}

/** These tell of the one session in which they are called. */
const sessionFunctions: ReadonlySet<string> = new Set([
  ...["pg_listening_channels", "current_schema", "current_schemas"],
]);
const sessionViews: ReadonlySet<string> = new Set(["pg_cursors"]);

/** What only the write node's session can tell: its cursors, channels, extensions' settings. */
export function asksSession(
  statement: Statement,
  { tables, functions, asksAnySetting }: TreeFindings,
): boolean {
  if (asksAnySetting) return true; // of transaction_read_only, say: a standby's is always on
  if (statement.kind === "show") return statement.name.includes(".");
  if (tables.some(({ name }) => sessionViews.has(name))) return true;
  return functions.some(({ schema, name }) => schema === "pg_temp" || sessionFunctions.has(name));
}

/** Characteristics of the transaction: those of the standby's are others (spec 3.6). */
export const showsTransaction = (statement: Statement): boolean =>
  statement.kind === "show" && statement.name.startsWith("transaction_");

/** Reads nothing but the session's prepared statements, wherever they are. */
export const showsPrepared = (tables: readonly RelationName[]): boolean =>
  tables.length > 0 && tables.every(({ name }) => name === "pg_prepared_statements");
