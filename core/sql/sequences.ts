/**
 * Sequences that number the rows of a table, by a default or as an identity, brought to where those of
 * another server are: what a statement took from them stays taken there though it failed, and servers
 * that never ran it would give other numbers to the next rows. For PostgreSQL 10 and later.
 */
import { literal, quoteName } from "./quoting.ts";

export type SequenceLevel = {
  /** Quoted, with its schema. */
  readonly name: string;
  /** The number that it gave last, in decimal digits. */
  readonly last: string;
};

export type SequenceLevels = {
  readonly levels: readonly SequenceLevel[];
  /** Sequences whose level says too little, and why. */
  readonly unsure: readonly string[];
};

/**
 * One text value, for `readSequenceLevels`: all sequences that number rows of these tables, which are
 * quoted and with their schemas. A user without USAGE is not told the number of an identity, though he
 * may insert.
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
    "SELECT pg_catalog.json_agg(pg_catalog.json_build_array(n.nspname, c.relname, s.seqcache, p.may, " +
    "CASE WHEN p.may THEN pg_catalog.pg_sequence_last_value(c.oid::pg_catalog.regclass)::pg_catalog.text END) " +
    `ORDER BY c.oid) FROM (${used}) AS u ` +
    "JOIN pg_catalog.pg_sequence AS s ON s.seqrelid OPERATOR(pg_catalog.=) u.id " +
    "JOIN pg_catalog.pg_class AS c ON c.oid OPERATOR(pg_catalog.=) u.id " +
    "JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace " +
    "CROSS JOIN LATERAL (SELECT pg_catalog.has_sequence_privilege(c.oid, 'USAGE')) AS p (may)"
  );
}

/** Reads the value of `sequenceLevelsSql`. */
export function readSequenceLevels(value: string | null | undefined): SequenceLevels {
  const found: unknown = JSON.parse(value ?? "null");
  const levels: SequenceLevel[] = [];
  const unsure: string[] = [];
  for (const row of Array.isArray(found) ? found : []) {
    const [schema, sequence, cached, may, last] = row as readonly unknown[];
    const name = `${quoteName(String(schema))}.${quoteName(String(sequence))}`;
    if (may !== true) unsure.push(`permission denied for sequence ${name}`);
    else if (Number(cached) > 1) unsure.push(`sequence ${name} gives ${cached} numbers at a time`);
    else if (typeof last === "string") levels.push({ name, last });
  }
  return { levels, unsure };
}

/**
 * Takes numbers from these sequences until they are there: that needs no right but USAGE. Nobody else
 * may take any meanwhile.
 */
export function catchUpSql(levels: readonly SequenceLevel[]): string {
  const rows = levels.map(
    ({ name, last }) => `(pg_catalog.to_regclass(${literal(name)}), '${last}'::pg_catalog.int8)`,
  );
  // One that has given none yet may begin anywhere: its first number tells.
  const own =
    "(SELECT COALESCE(pg_catalog.pg_sequence_last_value(v.id), pg_catalog.nextval(v.id)) OFFSET 0)";
  const behind = "(v.last OPERATOR(pg_catalog.-) o.last) OPERATOR(pg_catalog./) s.seqincrement";
  return (
    `SELECT pg_catalog.count(pg_catalog.nextval(v.id)) FROM (VALUES ${rows.join(", ")}) AS v (id, last) ` +
    "JOIN pg_catalog.pg_sequence AS s ON s.seqrelid OPERATOR(pg_catalog.=) v.id::pg_catalog.oid " +
    `CROSS JOIN LATERAL ${own} AS o (last) ` +
    `CROSS JOIN LATERAL pg_catalog.generate_series('1'::pg_catalog.int8, ${behind})`
  );
}
