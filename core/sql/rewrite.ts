/**
 * Rewriting for native replication: what each node would compute for itself, the time above all, is
 * computed by the main node and put into the statement that all of them get (spec
 * routing/native-replication.md section 4). Pure: text and tree in, edits out.
 *
 * How a session uses it, for a statement that goes to several nodes:
 *
 *     if (needsRewriting(facts, context)) {
 *       const rewriting = parser.rewriting(sql, facts, context); // undefined: nothing to change
 *       // ask the main node, in the statement's transaction: one row, a column for each value
 *       // (or, where it is `steady`, run the text as it is there, in one go with the question)
 *       const row = rewriting.asked.length > 0 ? await ask(askedSql(rewriting.asked)) : [];
 *       send(withLiterals(sql, rewriting, row));
 *     }
 *
 * `context.columnsOf` answers from the relation cache; routing has asked it for every table in
 * `facts.fills` before (a CatalogQuestion of kind "columns"). A PREPARE is given parameters instead,
 * and `rewriting.prepares` says which values each EXECUTE must add: the session keeps them by name
 * and `context.addedTo` tells them. EXECUTE is rewritten wherever it goes.
 *
 * In the extended protocol Parse is rewritten by `withParameters`, which makes the values parameters
 * behind the client's own: `parseWithParameters` and `bindWithValues` (core/wire/added_parameters.ts)
 * make the messages, the main node is asked before each Bind, and `describedWithout` hides the added
 * parameters from the client. Where the grammar knows no parameters (`rewriting.literalsOnly`) the
 * main node is asked before the Parse and its text is made by `withLiterals`.
 */

import type { StatementFacts } from "./facts.ts";
import type { RelationName } from "./parse_tree.ts";
import { literal } from "./quoting.ts";
import type { TableColumns } from "./table_columns.ts";

export type RewriteContext = {
  /** Undefined, or without columns, when nothing is known of it. */
  columnsOf(table: RelationName): TableColumns | undefined;
  /** What PREPARE or Parse added to the statement of this name: expressions for the main node. */
  addedTo(statement: string): readonly string[];
};

/** Text as it is, the value of `asked` at that index, or a parameter of a PREPARE. */
export type Piece = string | { readonly value: number } | { readonly parameter: number };

/** Indexes into the text; equal where something is inserted. */
export type Edit = {
  readonly from: number;
  readonly to: number;
  readonly pieces: readonly Piece[];
};

/** `first`: the number of the first parameter behind the client's. */
export type PrepareMore = {
  readonly name: string;
  readonly asked: readonly string[];
  readonly first: number;
};

export type Rewriting = {
  /** Expressions of type text. */
  readonly asked: readonly string[];
  /** In the order of the text, none within another. */
  readonly edits: readonly Edit[];
  /** PREPAREs of the text whose statement takes more parameters now; asked before each EXECUTE. */
  readonly prepares: readonly PrepareMore[];
  readonly literalsOnly: boolean;
  /**
   * All of it is the moment at which the transaction began, in one statement: the main node may run
   * the text as it was, when it has told what the others are to be given.
   */
  readonly steady: boolean;
  /** It is right for all texts that differ in constants alone. */
  readonly general: boolean;
  /** The highest parameter in the text as it was. */
  readonly parametersMax: number;
};

/** Whether to look for something to rewrite at all; cheap, and nearly always false. */
export function needsRewriting(facts: StatementFacts, context: RewriteContext): boolean {
  if (facts.tellsTime) return true;
  if (facts.executed.some((name) => context.addedTo(name).length > 0)) return true;
  return facts.fills.some((table) =>
    context.columnsOf(table)?.columns.some(({ varying }) => varying !== undefined),
  );
}

/** The question to the main node. */
export const askedSql = (asked: readonly string[]): string => `SELECT ${asked.join(", ")}`;

/** What stands in the text for the value of this index. */
export type Filling = (index: number) => string;

/** `row` is the answer to `askedSql`. */
export const literals =
  (row: readonly (string | null)[]): Filling =>
  (index) => {
    const value = row[index] ?? null;
    return value === null ? "NULL" : literal(value);
  };

const parametersFrom =
  (first: number): Filling =>
  (index) =>
    `$${first + index}`;

/** The text with the values in it. */
export const withLiterals = (
  sql: string,
  { edits }: Rewriting,
  row: readonly (string | null)[],
): string => edited(sql, edits, literals(row));

export type Parameterised = {
  readonly sql: string;
  readonly filling: Filling;
  /** The number of the first added parameter. */
  readonly first: number;
};

/** The text with parameters for the values. `declared`: how many types the Parse message gives. */
export function withParameters(sql: string, rewriting: Rewriting, declared: number): Parameterised {
  const first = Math.max(declared, rewriting.parametersMax) + 1;
  const filling = parametersFrom(first);
  return { sql: edited(sql, rewriting.edits, filling), filling, first };
}

function edited(sql: string, edits: readonly Edit[], filling: Filling): string {
  const parts: string[] = [];
  let at = 0;
  for (const { from, to, pieces } of edits) {
    parts.push(sql.slice(at, from), filled(pieces, filling));
    at = to;
  }
  parts.push(sql.slice(at));
  return parts.join("");
}

function filled(pieces: readonly Piece[], filling: Filling): string {
  const texts = pieces.map((piece) => {
    if (typeof piece === "string") return piece;
    return "value" in piece ? filling(piece.value) : `$${piece.parameter}`;
  });
  return texts.join("");
}

/**
 * Where the client's text has what an error says of the text that the nodes got: the field P, which
 * counts characters from 1. Of what was put there by us it is the place.
 */
export function placeBefore(
  sql: string,
  { edits }: Rewriting,
  filling: Filling,
  place: number,
): number {
  let left = place - 1;
  let at = 0;
  for (const { from, to, pieces } of edits) {
    const kept = characters(sql.slice(at, from));
    if (left < kept) break;
    const put = characters(filled(pieces, filling));
    if (left < kept + put) return characters(sql.slice(0, from)) + 1;
    left -= kept + put;
    at = to;
  }
  return characters(sql.slice(0, at)) + left + 1;
}

const characters = (text: string): number => [...text].length;
