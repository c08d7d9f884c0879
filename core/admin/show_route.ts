/** PGPOOL EXPLAIN ROUTE: where a statement would go and why, a row for each node that would get it. */

import { type ProxyReason, REASON_TEXTS, type RouteReason } from "../routing/reasons.ts";
import { type Column, type Table, type TextType, tableOf } from "./table.ts";

/** What is said of a route besides its nodes. */
export type RouteExplanation = {
  /** What kind of statement it is, in SQL's words. */
  readonly class: string;
  /** What its kind alone allows. */
  readonly mayGo: "primary" | "either" | "both" | "pgpool";
  readonly why: RouteReason | ProxyReason;
  /** The parameter, with its value, or the fact that decided; "" when the reason says it all. */
  readonly rule: string;
  /** Tables and functions that were looked up, and what was found, in order. */
  readonly lookedUp: readonly string[];
};

/** One who would get the statement; undefined where pgpool itself answers. */
export type RouteTarget = {
  readonly node: number;
  readonly role: string;
  /** Sent in its place. */
  readonly instead: string | undefined;
  /** Sent before it. */
  readonly first: string | undefined;
};

type Row = { readonly target: RouteTarget | undefined; readonly why: RouteExplanation };

const columns: readonly Column<Row>[] = [
  ["node_id", ({ target }) => target?.node ?? ""],
  ["role", ({ target }) => target?.role ?? "pgpool"],
  ["class", ({ why }) => why.class],
  ["may_go_to", ({ why }) => why.mayGo],
  ["reason", ({ why }) => why.why],
  ["rule", ({ why }) => why.rule],
  ["looked_up", ({ why }) => why.lookedUp.join("\n")],
  ["explanation", explanationOf],
];

export const ROUTE_COLUMNS: readonly string[] = columns.map(([name]) => name);

/** `text`: unlike Pgpool's own tables this one is also for drivers that ask for types. */
export const ROUTE_TYPE: TextType = { typeId: 25, format: 0 };

/** A row for each target, or one when there is none. */
export function routeTable(why: RouteExplanation, targets: readonly RouteTarget[]): Table {
  const all: readonly (RouteTarget | undefined)[] = targets.length === 0 ? [undefined] : targets;
  return tableOf(
    columns,
    all.map((target) => ({ target, why })),
  );
}

function explanationOf({ target, why }: Row): string {
  let text = REASON_TEXTS[why.why];
  if (target?.first !== undefined) text += ` Sent before it: ${target.first}`;
  if (target?.instead !== undefined) text += ` This node is sent instead: ${target.instead}`;
  return text;
}
