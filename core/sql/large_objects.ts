/**
 * lobj_lock_table: a large object that is made through the fast path (libpq's lo_creat) gets the
 * same number on every node (spec routing/native-replication.md section 6). The session looks up the
 * two functions' numbers once per database (`functionIdsSql`); a FunctionCall of lo_creat to several
 * nodes is then answered in three steps: `lockSql` on the main node, `nextNumberSql` there, and the
 * message of `createWithNumber` for all. When a step fails, or the number is no number, the client's
 * own message goes out as it was.
 */

import { encodeFrontend, type FrontendMessage } from "../wire/frontend.ts";

type FunctionCall = Extract<FrontendMessage, { readonly kind: "FunctionCall" }>;

/** One row: the numbers of lo_creat and lo_create. */
export const functionIdsSql =
  "SELECT 'pg_catalog.lo_creat(integer)'::pg_catalog.regprocedure::pg_catalog.oid, " +
  "'pg_catalog.lo_create(oid)'::pg_catalog.regprocedure::pg_catalog.oid";

/** `table`: the value of lobj_lock_table, a name as an operator writes it. */
export const lockSql = (table: string): string => `LOCK TABLE ${table} IN SHARE ROW EXCLUSIVE MODE`;

/** The metadata also knows objects without any data, which Pgpool-II would number again. */
export const nextNumberSql =
  "SELECT COALESCE(pg_catalog.max(oid)::pg_catalog.int8, 0) OPERATOR(pg_catalog.+) 1 " +
  "FROM pg_catalog.pg_largeobject_metadata";

const OID_MAX = 0xffff_ffff;

/** lo_create with this number instead of the client's lo_creat; undefined for what is no number. */
export function createWithNumber(
  call: FunctionCall,
  loCreate: number,
  answer: string | null,
): Uint8Array | undefined {
  const number = Number(answer);
  if (!Number.isInteger(number) || number <= 0 || number > OID_MAX) return undefined;
  const argument = new Uint8Array(4);
  new DataView(argument.buffer).setUint32(0, number);
  return encodeFrontend({
    kind: "FunctionCall",
    functionId: loCreate,
    argumentFormats: [1],
    arguments: [argument],
    resultFormat: call.resultFormat,
  });
}
