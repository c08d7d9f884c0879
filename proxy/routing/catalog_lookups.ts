/**
 * What routing asks of the catalogs. Answers come from the relation cache; what it does not know
 * is a question, asked on the session's own connection, since the object may be uncommitted.
 */

import type { FunctionName, RelationName } from "../../core/sql/facts.ts";
import type { TableColumns } from "../../core/sql/table_columns.ts";

export type RelationAnswer = {
  /** A relation of that name exists in pg_catalog; the schema as written does not count (5.1). */
  readonly systemCatalog: boolean;
  /**
   * A relation so named is unlogged, in that schema, or in any when none is written; or a partition
   * of it is, or something that it reads if it is a view.
   */
  readonly unlogged: boolean;
  /** A sequence is so named, or read by the view of that name. */
  readonly sequence: boolean;
  /** It is a view that calls a volatile function, or reads one that does. */
  readonly callsVolatile: boolean;
};

/** Undefined is "not known: ask". */
export interface CatalogLookups {
  relation(name: RelationName): RelationAnswer | undefined;
  /** A relation of that name is in a temporary schema. Known per session only. */
  temporary(name: string): boolean | undefined;
  /** The session has temporary objects of whatever kind. */
  anyTemporary(): boolean | undefined;
  /** What replication asks of a table; `noTable` when there is none of that name. */
  columns(name: RelationName): TableColumns | undefined;
  /** Any function of that name, in that schema or in any, is volatile. */
  volatile(name: FunctionName): boolean | undefined;
}

export type CatalogQuestion =
  | { readonly kind: "relation"; readonly relation: RelationName }
  | { readonly kind: "temporary"; readonly name: string }
  | { readonly kind: "any_temporary" }
  | { readonly kind: "volatile"; readonly function: FunctionName }
  | { readonly kind: "columns"; readonly relation: RelationName }
  /** The isolation level of the session's present transaction. */
  | { readonly kind: "isolation" };
