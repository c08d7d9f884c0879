/**
 * What a database holds, so that servers can be told to hold the same. The rows of insert_lock are
 * each node's own.
 */
import type { RawClient } from "./harness.ts";

const tablesSql = `SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables
  WHERE schemaname NOT IN ('pg_catalog', 'information_schema', 'pgpool_catalog') ORDER BY 1`;
const sequencesSql = `SELECT format('%I.%I', schemaname, sequencename) AS name, last_value
  FROM pg_sequences ORDER BY 1`;

/** One line for each table, with its count and its sum, and for each sequence, in the order of their names. */
export async function contentsOf(client: RawClient): Promise<readonly string[]> {
  const lines: string[] = [];
  for (const { name } of await client.rows(tablesSql)) {
    const sumSql = "md5(coalesce(string_agg(t::text, E'\\n' ORDER BY t::text), ''))";
    const [{ n, sum: found } = {}] = await client.rows(
      `SELECT count(*) AS n, ${sumSql} AS sum FROM ${name} t`,
    );
    lines.push(`${name}: ${n} rows, ${found}`);
  }
  for (const { name, last_value: value } of await client.rows(sequencesSql)) {
    lines.push(`${name}: ${value}`);
  }
  return lines;
}
