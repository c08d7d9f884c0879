/**
 * Sequences that number the rows of a table, by a default or as an identity, brought to where those of
 * another server are: what a statement took from them stays taken there though it failed, and servers
 * that never ran it would give other numbers to the next rows. For PostgreSQL 10 and later.
 */
import { literal, quoteName } from "./quoting.ts";

export type SequenceLevel = {
  /** Quoted as needed, with its schema. */
  readonly name: string;
  /** The number that it gave last, in decimal digits. */
  readonly last: string;
};

/**
 * One text value: the levels of all sequences that number rows of these tables, quoted and with their
 * schemas, and that have given a number. Fails where the user may not see one of them.
 */
export function sequenceLevelsSql(tables: readonly string[]): string {
  const regclass = (name: string) => `pg_catalog.to_regclass(${literal(name)})`;
  const oids = `ARRAY[${tables.map(regclass).join(", ")}]::pg_catalog.oid[]`;
  const classOf = (name: string) => `'pg_catalog.${name}'::pg_catalog.regclass`;
  // Of a default, which depends on its sequence; an identity's sequence depends on the table.
  const used =
    "SELECT d.refobjid AS id FROM pg_catalog.pg_attrdef AS a JOIN pg_catalog.pg_depend AS d " +
    `ON d.classid OPERATOR(pg_catalog.=) ${classOf("pg_attrdef")} AND d.objid OPERATOR(pg_catalog.=) a.oid ` +
    `AND d.refclassid OPERATOR(pg_catalog.=) ${classOf("pg_class")} ` +
    `WHERE a.adrelid OPERATOR(pg_catalog.=) ANY (${oids}) ` +
    "UNION SELECT d.objid FROM pg_catalog.pg_depend AS d " +
    `WHERE d.classid OPERATOR(pg_catalog.=) ${classOf("pg_class")} ` +
    `AND d.refclassid OPERATOR(pg_catalog.=) ${classOf("pg_class")} AND d.deptype OPERATOR(pg_catalog.=) 'i' ` +
    `AND d.refobjid OPERATOR(pg_catalog.=) ANY (${oids})`;
  return (
    "SELECT pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname, " +
    "pg_catalog.pg_sequence_last_value(c.oid::pg_catalog.regclass)::pg_catalog.text) ORDER BY c.oid) " +
    `FROM (${used}) AS u JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) u.id ` +
    "JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace " +
    "WHERE c.relkind OPERATOR(pg_catalog.=) 'S'"
  );
}

/** Reads the value of `sequenceLevelsSql`. */
export function readSequenceLevels(value: string | null | undefined): readonly SequenceLevel[] {
  const found: unknown = JSON.parse(value ?? "null");
  if (!Array.isArray(found)) return [];
  return found.filter(Array.isArray).flatMap(([schema, name, last]) => {
    if (typeof last !== "string") return [];
    return [{ name: `${quoteName(String(schema))}.${quoteName(String(name))}`, last }];
  });
}

/**
 * Takes numbers from these sequences until they are there, and gives how many that were: what the user
 * may do who may insert. Nobody else takes any meanwhile.
 */
export function catchUpSql(levels: readonly SequenceLevel[]): string {
  const rows = levels.map(
    ({ name, last }) => `(pg_catalog.to_regclass(${literal(name)}), ${last}::pg_catalog.int8)`,
  );
  const own = "pg_catalog.pg_sequence_last_value(s.seqrelid::pg_catalog.regclass)";
  const behind =
    `(v.last OPERATOR(pg_catalog.-) COALESCE(${own}, s.seqstart OPERATOR(pg_catalog.-) s.seqincrement)) ` +
    "OPERATOR(pg_catalog./) s.seqincrement";
  return (
    `SELECT pg_catalog.count(pg_catalog.nextval(v.id)) FROM (VALUES ${rows.join(", ")}) AS v (id, last) ` +
    "JOIN pg_catalog.pg_sequence AS s ON s.seqrelid OPERATOR(pg_catalog.=) v.id::pg_catalog.oid " +
    `CROSS JOIN LATERAL pg_catalog.generate_series(1::pg_catalog.int8, ${behind})`
  );
}
