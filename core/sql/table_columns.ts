/**
 * What replication must know of a table before a row is put into it: which columns are filled by a
 * default that would come out differently on each node, and whether a sequence numbers its rows
 * (spec routing/native-replication.md 4.5 and 5.1). Asked of the main node's catalogs, remembered
 * by the relation cache.
 */

import type { RelationName } from "./parse_tree.ts";
import { literal, quoteName } from "./quoting.ts";

export type Column = {
  readonly name: string;
  /** As `format_type` writes it: right in a CAST. */
  readonly type: string;
  /** A date or time of day, also by way of a domain. */
  readonly moment: boolean;
  /** The default's text when each node would compute another value; undefined for all others. */
  readonly varying: string | undefined;
};

export type TableColumns = {
  /** In order, without dropped ones. */
  readonly columns: readonly Column[];
  /** A default takes the next value of a sequence, or a column is an identity. */
  readonly serial: boolean;
  /** `"schema"."table"`, for LOCK and to_regclass. */
  readonly qualified: string;
  /** pgpool_catalog.insert_lock exists in this database (core/sql/insert_lock.ts). */
  readonly hasLockTable: boolean;
};

/** In the place of a table that does not exist. */
export const noTable: TableColumns = {
  columns: [],
  serial: false,
  qualified: "",
  hasLockTable: false,
};

export type ColumnsAnswer = {
  /** `noTable` when there is no such table. */
  readonly table: TableColumns;
  /**
   * Only this session, with this search path, would be told the same: the name stands for several
   * tables, or for a temporary one.
   */
  readonly ownOnly: boolean;
};

/**
 * One expression of type text, for a SELECT that asks other things as well. Qualified throughout;
 * for catalogs of PostgreSQL 9.6 and later, of which the early ones lack some columns.
 */
export function columnsSql({ schema, name }: RelationName): string {
  const own = "n.oid OPERATOR(pg_catalog.=) pg_catalog.pg_my_temp_schema()";
  const place =
    schema === undefined
      ? `(n.nspname OPERATOR(pg_catalog.!~) '^pg_temp_' OR ${own})`
      : schema === "pg_temp"
        ? own
        : `n.nspname OPERATOR(pg_catalog.=) ${literal(schema)}`;
  const attribute = (field: string) =>
    `COALESCE(pg_catalog.to_json(a) OPERATOR(pg_catalog.->>) '${field}', '')`;
  const column =
    "pg_catalog.json_build_array(a.attname, pg_catalog.format_type(a.atttypid, a.atttypmod), " +
    "COALESCE(pg_catalog.pg_get_expr(d.adbin, d.adrelid), t.typdefault), " +
    `${attribute("attgenerated")}, ${attribute("attidentity")}, t.typcategory)`;
  const columns =
    `(SELECT pg_catalog.json_agg(${column} ORDER BY a.attnum) FROM pg_catalog.pg_attribute AS a ` +
    "JOIN pg_catalog.pg_type AS t ON t.oid OPERATOR(pg_catalog.=) a.atttypid " +
    "LEFT JOIN pg_catalog.pg_attrdef AS d ON d.adrelid OPERATOR(pg_catalog.=) a.attrelid " +
    "AND d.adnum OPERATOR(pg_catalog.=) a.attnum WHERE a.attrelid OPERATOR(pg_catalog.=) c.oid " +
    "AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped)";
  return (
    "(SELECT pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname, " +
    `${own}, pg_catalog.pg_table_is_visible(c.oid), ${columns}, ` +
    "pg_catalog.to_regclass('pgpool_catalog.insert_lock') IS NOT NULL))::pg_catalog.text " +
    "FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n " +
    "ON n.oid OPERATOR(pg_catalog.=) c.relnamespace " +
    `WHERE c.relname OPERATOR(pg_catalog.=) ${literal(name)} AND ${place} ` +
    "AND c.relkind OPERATOR(pg_catalog.=) ANY (ARRAY['r', 'p', 'v', 'f']::\"char\"[]))"
  );
}

/** Reads the value of `columnsSql`; null when no table has that name. */
export function readColumns({ schema }: RelationName, value: string | null): ColumnsAnswer {
  const found: unknown = value === null ? [] : JSON.parse(value);
  const tables = (Array.isArray(found) ? found : []).filter(Array.isArray);
  const ownOnly = tables.some(([, , temporary]) => temporary === true) || tables.length > 1;
  const meant =
    schema === undefined && tables.length > 1
      ? tables.find(([, , , visible]) => visible === true)
      : tables[0];
  return { table: meant === undefined ? noTable : tableOf(meant), ownOnly };
}

function tableOf(found: readonly unknown[]): TableColumns {
  const [schema, name, temporary, , columns, hasLockTable] = found;
  const rows = (Array.isArray(columns) ? columns : []).filter(Array.isArray);
  return {
    columns: rows.map(([column, type, expression, generated, , category]) => ({
      name: String(column),
      type: String(type),
      moment: category === "D",
      varying: generated === "" && varies(expression) ? String(expression) : undefined,
    })),
    // Nobody else writes to a temporary table, and its schema has another name on each node.
    serial:
      temporary !== true &&
      rows.some(([, , expression, , identity]) => identity !== "" || isSerial(expression)),
    qualified: `${quoteName(String(schema))}.${quoteName(String(name))}`,
    hasLockTable: hasLockTable === true,
  };
}

const isSerial = (expression: unknown): boolean =>
  typeof expression === "string" && /\bnextval\(/.test(expression);

/**
 * The time of day in any of its forms, read from the text as the server prints it. What takes a
 * number from a sequence besides cannot be computed on one node alone.
 */
const timeOfDay =
  /\b(?:now|transaction_timestamp|statement_timestamp|clock_timestamp|timeofday)\(|\b(?:CURRENT_DATE|CURRENT_TIME|CURRENT_TIMESTAMP|LOCALTIME|LOCALTIMESTAMP)\b|'(?:now|today|tomorrow|yesterday)'::/;

const varies = (expression: unknown): boolean =>
  typeof expression === "string" && timeOfDay.test(expression) && !isSerial(expression);

/**
 * What the main node is asked for the default of a varying column: a value of type text. JSON has a
 * moment in ISO form whatever the session's DateStyle is.
 */
export function defaultSql({ type, moment, varying }: Column): string {
  const expression = varying ?? "NULL";
  return moment
    ? `pg_catalog.to_json(CAST((${expression}) AS ${type})) OPERATOR(pg_catalog.#>>) '{}'`
    : `CAST((${expression}) AS pg_catalog.text)`;
}
