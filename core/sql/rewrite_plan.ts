/**
 * Finds what must be rewritten in a parsed text: expressions that tell the time, columns that are
 * filled by a varying default, and EXECUTEs of statements that were given parameters. The tree says
 * what is there, the tokens where it ends. What `rewrite.ts` does with it is told there.
 */

import {
  anyField,
  childList,
  childNode,
  flagField,
  isNode,
  numberField,
  relationOf,
  type TaggedNode,
  type TreeNode,
  tagged,
  textField,
  unwrap,
  walkTree,
} from "./parse_tree.ts";
import { quoteName } from "./quoting.ts";
import type { Edit, Piece, PrepareMore, RewriteContext, Rewriting } from "./rewrite.ts";
import { analyzedBy } from "./statement.ts";
import { type Column, defaultSql, type TableColumns } from "./table_columns.ts";
import { timeConstant, timeSpotOf } from "./time_of_day.ts";
import type { TokenText } from "./tokens.ts";

/** Statements in which the time and defaults are looked for (section 4.4), and those in PREPARE. */
const rewrittenTags: ReadonlySet<string> = new Set([
  "InsertStmt",
  "UpdateStmt",
  "DeleteStmt",
  "MergeStmt",
  "SelectStmt",
  "CopyStmt",
  "CallStmt",
  "ExecuteStmt",
  "PrepareStmt",
]);

/** The statement in which to look: that of an EXPLAIN ANALYZE, or of a CREATE TABLE AS, too. */
export function rewrittenPart(statement: TaggedNode): TaggedNode | undefined {
  const { tag, node } = statement;
  if (tag === "ExplainStmt") {
    const inner = analyzedBy(node) ?? executeIn(node);
    return inner === undefined ? undefined : rewrittenPart(inner);
  }
  if (tag === "CreateTableAsStmt") {
    if (textField(node, "objtype") !== "OBJECT_TABLE") return undefined;
    const inner = tagged(anyField(node, "query"));
    return inner === undefined ? undefined : rewrittenPart(inner);
  }
  return rewrittenTags.has(tag) ? statement : undefined;
}

/** A plain EXPLAIN EXECUTE must give all parameters as well. */
function executeIn(explain: TreeNode): TaggedNode | undefined {
  const inner = tagged(anyField(explain, "query"));
  if (inner?.tag === "ExecuteStmt") return inner;
  return inner?.tag === "CreateTableAsStmt" ? executeIn(inner.node) : undefined;
}

/** Undefined when there is nothing to change. `statements`: those of the whole text, in order. */
export function planRewriting(
  text: TokenText,
  statements: readonly (TaggedNode & { readonly offset: number })[],
  context: RewriteContext,
): Rewriting | undefined {
  const plan = new Plan(text, context);
  for (const statement of statements) plan.statement(statement, statement.offset);
  return plan.result(statements);
}

/** Collects values: those of the text, or those of one PREPARE in it. */
type Values = {
  readonly asked: string[];
  /** The number of the first parameter of a PREPARE; undefined where values stand as they are. */
  readonly firstParameter: number | undefined;
};

class Plan {
  readonly #text: TokenText;
  readonly #context: RewriteContext;
  /** By where they begin: a tree may show the same place twice. */
  readonly #edits = new Map<number, Edit>();
  readonly #insertions = new Map<number, Edit>();
  readonly #prepares: PrepareMore[] = [];
  readonly #outer: Values = { asked: [], firstParameter: undefined };
  #values: Values = this.#outer;
  #literalsOnly = false;
  #steady = true;
  #general = true;

  constructor(text: TokenText, context: RewriteContext) {
    this.#text = text;
    this.#context = context;
  }

  result(statements: readonly TaggedNode[]): Rewriting | undefined {
    if (this.#edits.size + this.#insertions.size === 0) return undefined;
    // What is inserted where something is replaced comes before it.
    const edits = [...this.#insertions.values(), ...this.#edits.values()];
    edits.sort((a, b) => a.from - b.from || a.to - b.to);
    return {
      asked: this.#outer.asked,
      edits,
      prepares: this.#prepares,
      literalsOnly: this.#literalsOnly || statements.length > 1,
      steady: this.#steady && statements.length === 1,
      general: this.#general,
      parametersMax: Math.max(0, ...statements.map(parametersMax)),
    };
  }

  statement(statement: TaggedNode, offset: number): void {
    const part = rewrittenPart(statement);
    if (part === undefined) return;
    if (part.tag === "PrepareStmt") {
      this.#prepare(part);
      return;
    }
    if (part.tag === "ExecuteStmt") this.#execute(part.node, offset);
    // The grammar gives their expressions no parameters.
    if (part.tag === "ExecuteStmt" || part.tag === "CopyStmt") this.#literalsOnly = true;
    if (part.tag === "CopyStmt") this.#steady = false; // while it reads data nothing can be asked
    this.#below(part);
  }

  #prepare(statement: TaggedNode): void {
    const { node } = statement;
    const query = tagged(anyField(node, "query"));
    const part = query && rewrittenPart(query);
    if (part === undefined) return;
    this.#steady = false;
    const given = Math.max(childList(node, "argtypes").length, parametersMax(statement));
    this.#values = { asked: [], firstParameter: given + 1 };
    this.#below(part);
    const { asked } = this.#values;
    const first = given + 1;
    if (asked.length > 0) this.#prepares.push({ name: textField(node, "name"), asked, first });
    this.#values = this.#outer;
  }

  /** The values of the parameters that its PREPARE was given stand behind the client's arguments. */
  #execute(node: TreeNode, offset: number): void {
    const name = textField(node, "name");
    const added = this.#context.addedTo(name);
    if (added.length === 0) return;
    this.#steady = false;
    const text = this.#text;
    let at = text.tokenAtByte(offset) ?? text.tokens.length;
    const begins = (index: number) =>
      text.is(index, "execute") && nameOfToken(text, index + 1) === name;
    while (at < text.tokens.length && !begins(at)) at++;
    if (at === text.tokens.length) return;
    const values = separated(added.map((asked) => this.#hole(asked)));
    if (text.is(at + 2, "(")) {
      const close = text.close(at + 2);
      const before = close === at + 3 ? [] : [", "];
      this.#insert(text.fromOf(close), [...before, ...values]);
    } else this.#insert(text.toOf(at + 1), ["(", ...values, ")"]);
  }

  // ------------------------------------------------------------ edits

  #hole(asked: string): Piece {
    const { asked: all, firstParameter } = this.#values;
    let index = all.indexOf(asked);
    if (index < 0) index = all.push(asked) - 1;
    return firstParameter === undefined ? { value: index } : { parameter: firstParameter + index };
  }

  #replace(from: number, to: number, pieces: readonly Piece[]): void {
    this.#edits.set(from, { from, to, pieces });
  }

  #insert(at: number, pieces: readonly Piece[]): void {
    this.#insertions.set(at, { from: at, to: at, pieces });
  }

  // ------------------------------------------------------------ the tree

  #below(root: TaggedNode): void {
    walkTree(root, (field, child) => {
      if (isNode(child)) return this.#visit(field, child);
      if (field === "targetList" || field === "exprs") this.#nameTargets(child);
      return true;
    });
  }

  /** False when nothing below it is of interest. */
  #visit(field: string, node: TreeNode): boolean {
    switch (field) {
      case "FuncCall":
      case "SQLValueFunction":
      case "TypeCast":
        return !this.#timeSpot(field, node, []);
      case "RangeFunction":
        this.#nameFunction(node);
        return true;
      case "InsertStmt":
        this.#insertStatement(node);
        return true;
      case "UpdateStmt":
        this.#defaultsSet(childList(node, "targetList"), this.#columnsOf(node));
        return true;
      case "MergeStmt":
        this.#mergeStatement(node);
        return true;
      default:
        return true;
    }
  }

  #columnsOf(statement: TreeNode): TableColumns | undefined {
    const table = relationOf(anyField(statement, "relation"));
    return table && this.#context.columnsOf(table);
  }

  // ------------------------------------------------------------ the time

  /** `behind`: what follows it, an alias. True when it was one, now or when it was seen before. */
  #timeSpot(tag: string, node: TreeNode, behind: readonly Piece[], before = ""): boolean {
    const spot = timeSpotOf(tag, node);
    if (spot === undefined) return false;
    const text = this.#text;
    const isConstant = spot.form === "constant";
    const constant = isConstant ? timeConstant(node) : undefined;
    const first = text.tokenAtByte(numberField(constant ?? node, "location"));
    if (first === undefined) return false;
    const from = text.fromOf(first);
    if (this.#edits.has(from)) return true;
    if (!spot.steady) this.#steady = false;
    if (spot.precise) this.#general = false;
    const moment: Piece[] = [this.#hole(spot.asked), "::pg_catalog.text"];
    if (isConstant) this.#timeConstant(node, first, moment);
    else {
      const to = spot.form === "call" ? callEnd(text, first) : keywordEnd(text, first);
      const pieces = [before, "CAST(", ...moment, ` AS ${spot.type})`, ...behind];
      this.#replace(
        from,
        to,
        pieces.filter((piece) => piece !== ""),
      );
    }
    return true;
  }

  #timeConstant(cast: TreeNode, constant: number, moment: readonly Piece[]): void {
    const text = this.#text;
    const location = anyField(cast, "location");
    const type = text.tokenAtByte(numberField(childNode(cast, "typeName") ?? {}, "location"));
    // The grammar gives TIMESTAMP 'now' no place of its own, since the type stands in front.
    if (location === -1 && type !== undefined && type < constant) {
      const name = text.sql.slice(text.fromOf(type), text.toOf(constant - 1));
      this.#general = false;
      const pieces = ["CAST(", ...moment, ` AS ${name})`];
      this.#replace(text.fromOf(type), text.toOf(constant), pieces);
    } else this.#replace(text.fromOf(constant), text.toOf(constant), moment);
  }

  /** A column without a name takes it from what it is made of: it must keep it. */
  #nameTargets(targets: readonly unknown[]): void {
    for (const item of targets) {
      const target = unwrap(item, "ResTarget");
      if (target === undefined || textField(target, "name") !== "") continue;
      const value = tagged(anyField(target, "val"));
      const naming = value && namingNode(value);
      const spot = naming && timeSpotOf(naming.tag, naming.node);
      if (naming === undefined || spot === undefined || spot.form === "constant") continue;
      const alias = ` AS ${quoteName(spot.name)}`;
      if (naming.node === value?.node) this.#timeSpot(naming.tag, naming.node, [alias]);
      else this.#timeSpot(naming.tag, naming.node, [`${alias})`], "(SELECT ");
    }
  }

  /** `FROM now()` is a table of that name. */
  #nameFunction(node: TreeNode): void {
    const functions = childList(node, "functions");
    const first = unwrap(functions[0], "List");
    const call = first && tagged(childList(first, "items")[0]);
    if (functions.length !== 1 || call === undefined || childNode(node, "alias")) return;
    const spot = timeSpotOf(call.tag, call.node);
    if (spot !== undefined && !flagField(node, "ordinality")) {
      this.#timeSpot(call.tag, call.node, [` AS ${quoteName(spot.name)}`]);
    }
  }

  // ------------------------------------------------------------ defaults

  #defaultValue(column: Column): Piece {
    this.#steady = false; // it may be more than the time, and another one by now
    return this.#hole(defaultSql(column));
  }

  /** `SET column = DEFAULT`, also within a row of values. */
  #defaultsSet(targets: readonly unknown[], table: TableColumns | undefined): void {
    if (table === undefined) return;
    for (const item of targets) {
      const target = unwrap(item, "ResTarget");
      const column = target && varyingColumn(table, textField(target, "name"));
      if (target === undefined || column === undefined) continue;
      if (childList(target, "indirection").length > 0) continue;
      const set = defaultOf(anyField(target, "val"));
      const at = set && this.#text.tokenAtByte(numberField(set, "location"));
      if (at !== undefined) this.#replaceToken(at, this.#defaultValue(column));
    }
  }

  #replaceToken(index: number, piece: Piece): void {
    const text = this.#text;
    this.#replace(text.fromOf(index), text.toOf(index), [piece]);
  }

  #insertStatement(node: TreeNode): void {
    const table = this.#columnsOf(node);
    const conflict = childNode(node, "onConflictClause");
    if (conflict !== undefined) this.#defaultsSet(childList(conflict, "targetList"), table);
    const relation = childNode(node, "relation");
    if (table === undefined || relation === undefined) return;
    const text = this.#text;
    const first = text.tokenAtByte(numberField(relation, "location"));
    if (first === undefined) return;
    let behind = text.nameEnd(first);
    if (text.is(behind, "as")) behind += 2;
    const source = childNode(childNode(node, "selectStmt") ?? {}, "SelectStmt");
    const named = namesOf(childList(node, "cols"));
    this.#fill(table, named, behind, source && leavesOf(source));
  }

  #mergeStatement(node: TreeNode): void {
    const table = this.#columnsOf(node);
    const relation = childNode(node, "relation");
    if (table === undefined || relation === undefined) return;
    const text = this.#text;
    let at = text.tokenAtByte(numberField(relation, "location")) ?? text.tokens.length;
    for (const item of childList(node, "mergeWhenClauses")) {
      const clause = unwrap(item, "MergeWhenClause");
      if (clause === undefined) continue;
      const kind = textField(clause, "commandType");
      if (kind === "CMD_UPDATE") this.#defaultsSet(childList(clause, "targetList"), table);
      if (kind !== "CMD_INSERT") continue;
      while (at < text.tokens.length && !(text.is(at, "then") && text.is(at + 1, "insert"))) at++;
      at += 2;
      const values = childList(clause, "values");
      const source =
        values.length === 0 ? undefined : [{ kind: "values" as const, rows: [values] }];
      this.#fill(table, namesOf(childList(clause, "targetList")), at, source);
    }
  }

  /**
   * `behind`: the token behind the table's name. `named`: the columns of the list there, if any.
   * `leaves`: where the rows come from; undefined is DEFAULT VALUES.
   */
  #fill(
    table: TableColumns,
    named: readonly string[],
    behind: number,
    leaves: readonly Leaf[] | undefined,
  ): void {
    const text = this.#text;
    if (leaves === undefined) {
      this.#defaultValues(table, behind);
      return;
    }
    const width = widthOf(leaves);
    const list = named.length > 0 ? named : table.columns.slice(0, width).map(({ name }) => name);
    if (list.length === 0) return;
    const places = leaves.map((leaf) => placeOf(text, leaf));
    const missing = table.columns.filter(
      ({ name, varying }) => varying !== undefined && !list.includes(name),
    );
    for (const place of places) {
      if (place?.kind === "values") this.#defaultsInRows(table, list, place.rows);
    }
    if (missing.length === 0 || width === undefined || places.includes(undefined)) return;
    if (named.length > 0) {
      const names = missing.map(({ name }) => `, ${quoteName(name)}`).join("");
      this.#insert(text.fromOf(text.close(behind)), [names]);
    } else {
      const names = [...list, ...missing.map(({ name }) => name)].map(quoteName).join(", ");
      this.#insert(text.toOf(behind - 1), [` (${names})`]);
    }
    for (const place of places) if (place !== undefined) this.#append(missing, place);
  }

  #defaultValues(table: TableColumns, behind: number): void {
    const text = this.#text;
    const varying = table.columns.filter((column) => column.varying !== undefined);
    let at = behind;
    while (at < behind + 4 && !text.is(at, "default")) at++;
    if (varying.length === 0 || !text.is(at, "default") || !text.is(at + 1, "values")) return;
    const names = varying.map(({ name }) => quoteName(name)).join(", ");
    const values = separated(varying.map((column) => this.#defaultValue(column)));
    this.#replace(text.fromOf(at), text.toOf(at + 1), [`(${names}) VALUES (`, ...values, ")"]);
  }

  #defaultsInRows(table: TableColumns, list: readonly string[], rows: readonly Span[]): void {
    const text = this.#text;
    for (const row of rows) {
      for (const [index, item] of text.items(row.from, row.to).entries()) {
        if (item.to - item.from !== 1 || !text.is(item.from, "default")) continue;
        const column = varyingColumn(table, list[index] ?? "");
        if (column !== undefined) this.#replaceToken(item.from, this.#defaultValue(column));
      }
    }
  }

  /** Values behind the last of each row, or behind the last column of a SELECT. */
  #append(missing: readonly Column[], place: Place): void {
    const text = this.#text;
    if (place.kind === "values") {
      const values = missing.flatMap((column) => [", ", this.#defaultValue(column)]);
      for (const { to } of place.rows) this.#insert(text.fromOf(to), values);
      return;
    }
    const values = missing.flatMap((column) => [
      ", CAST(",
      this.#defaultValue(column),
      ` AS ${column.type})`,
    ]);
    this.#insert(text.toOf(place.end - 1), values);
  }
}

/** Tokens from, and up to but not including, these indexes. */
type Span = { readonly from: number; readonly to: number };

/** Where rows come from: the arms of a UNION are several. */
type Leaf =
  | { readonly kind: "values"; readonly rows: readonly (readonly unknown[])[] }
  | { readonly kind: "select"; readonly targets: readonly unknown[] };

/** `rows`: what stands within the parentheses of each. `end`: behind the last column. */
type Place =
  | { readonly kind: "values"; readonly rows: readonly Span[] }
  | { readonly kind: "select"; readonly end: number };

function leavesOf(select: TreeNode): readonly Leaf[] {
  const leaves: Leaf[] = [];
  const pending: TreeNode[] = [select];
  while (pending.length > 0) {
    const node = pending.pop() ?? {};
    const left = childNode(node, "larg");
    const right = childNode(node, "rarg");
    if (left !== undefined && right !== undefined) pending.push(left, right);
    else if (childList(node, "valuesLists").length > 0) {
      const lists = childList(node, "valuesLists").map((list) => unwrap(list, "List") ?? {});
      leaves.push({ kind: "values", rows: lists.map((list) => childList(list, "items")) });
    } else leaves.push({ kind: "select", targets: childList(node, "targetList") });
  }
  return leaves;
}

/** How many columns the rows have; undefined when a `*` leaves that to the catalogs. */
function widthOf(leaves: readonly Leaf[]): number | undefined {
  const widths = leaves.map((leaf) => {
    if (leaf.kind === "values") return leaf.rows[0]?.length;
    const stars = leaf.targets.some((target) => {
      const column = unwrap(anyField(unwrap(target, "ResTarget") ?? {}, "val"), "ColumnRef");
      const last = column && childList(column, "fields").at(-1);
      return unwrap(last, "A_Star") !== undefined;
    });
    return stars ? undefined : leaf.targets.length;
  });
  const [first] = widths;
  return widths.every((width) => width === first) ? first : undefined;
}

function placeOf(text: TokenText, leaf: Leaf): Place | undefined {
  if (leaf.kind === "select") {
    const [first] = leaf.targets;
    const target = unwrap(first, "ResTarget");
    const from = target && text.tokenAtByte(numberField(target, "location"));
    return from === undefined ? undefined : { kind: "select", end: targetListEnd(text, from) };
  }
  const byte = firstLocation(leaf.rows[0]);
  let at = byte === undefined ? undefined : text.tokenAtByte(byte);
  while (at !== undefined && at > 0 && !text.is(at, "values")) at--;
  if (at === undefined || !text.is(at, "values")) return undefined;
  const rows: Span[] = [];
  for (at++; text.is(at, "("); at++) {
    const close = text.close(at);
    rows.push({ from: at + 1, to: close });
    at = close + 1;
    if (!text.is(at, ",")) break;
  }
  return rows.length === leaf.rows.length ? { kind: "values", rows } : undefined;
}

/** The smallest place below, in bytes: of a row that is the first item's, or a part of it. */
function firstLocation(row: unknown): number | undefined {
  let first: number | undefined;
  const pending: unknown[] = [row];
  while (pending.length > 0) {
    const value = pending.pop();
    if (Array.isArray(value)) pending.push(...value);
    if (!isNode(value)) continue;
    for (const field in value) {
      const child = value[field];
      if (field === "location" && typeof child === "number" && child >= 0) {
        if (first === undefined || child < first) first = child;
      } else if (typeof child === "object") pending.push(child);
    }
  }
  return first;
}

/** Reserved words that end a list of columns, wherever they stand outside of parentheses. */
const clauseWords: ReadonlySet<string> = new Set([
  ...["from", "where", "group", "having", "window", "union", "intersect", "except", "order"],
  ...["limit", "offset", "fetch", "for", "into", "on", "returning"],
]);

function targetListEnd(text: TokenText, from: number): number {
  let at = from;
  for (; at < text.tokens.length; at++) {
    if (text.is(at, "(") || text.is(at, "[")) at = text.close(at);
    else if (text.is(at, ")") || text.is(at, ";")) break;
    // Behind these two any word is a name.
    else if (text.is(at, ".") || text.is(at, "as")) at++;
    else if (text.is(at, "distinct") || text.is(at, "within")) at++;
    else if (clauseWords.has(text.word(at))) break;
  }
  return Math.min(at, text.tokens.length);
}

const namesOf = (targets: readonly unknown[]): string[] =>
  targets.map((target) => textField(unwrap(target, "ResTarget") ?? {}, "name"));

const varyingColumn = (table: TableColumns, name: string): Column | undefined =>
  table.columns.find((column) => column.name === name && column.varying !== undefined);

/** The DEFAULT that a column is set to, alone or in a row. */
function defaultOf(value: unknown): TreeNode | undefined {
  const multiple = unwrap(value, "MultiAssignRef");
  if (multiple === undefined) return unwrap(value, "SetToDefault");
  const row = unwrap(anyField(multiple, "source"), "RowExpr");
  return row && unwrap(childList(row, "args")[numberField(multiple, "colno") - 1], "SetToDefault");
}

/** What gives a column its name (FigureColname of PostgreSQL), as far as that may tell the time. */
function namingNode(value: TaggedNode): TaggedNode | undefined {
  let at: TaggedNode | undefined = value;
  for (let depth = 0; at !== undefined && depth < 100; depth++) {
    if (timeSpotOf(at.tag, at.node) !== undefined) return at;
    if (at.tag === "TypeCast" || at.tag === "CollateClause") at = tagged(anyField(at.node, "arg"));
    else if (at.tag === "CaseExpr") at = tagged(anyField(at.node, "defresult"));
    else return undefined;
  }
  return undefined;
}

function callEnd(text: TokenText, first: number): number {
  return text.toOf(text.close(text.nameEnd(first)));
}

/** CURRENT_TIMESTAMP or CURRENT_TIMESTAMP(3). */
function keywordEnd(text: TokenText, first: number): number {
  return text.toOf(text.is(first + 1, "(") ? text.close(first + 1) : first);
}

function nameOfToken(text: TokenText, index: number): string {
  const token = text.tokens[index];
  if (token === undefined) return "";
  const written = text.sql.slice(token.from, token.to);
  if (token.kind === "quoted") return written.slice(1, -1).replaceAll('""', '"');
  return token.kind === "word" ? written.toLowerCase() : "";
}

function separated(pieces: readonly Piece[]): Piece[] {
  return pieces.flatMap((piece, index) => (index === 0 ? [piece] : [", ", piece]));
}

/** The highest `$n` in the statement. */
function parametersMax(statement: TaggedNode): number {
  let highest = 0;
  walkTree(statement, (field, child) => {
    if (field === "ParamRef" && isNode(child)) {
      highest = Math.max(highest, numberField(child, "number"));
    }
    return true;
  });
  return highest;
}
