/**
 * Reading the JSON parse trees of libpg_query without trusting them: every accessor answers
 * "absent" for what is missing or of another kind. Two conventions bite (spec
 * routing/libpg-query-notes.md section 3): nodes of a fixed type are not wrapped in their tag, and
 * fields that hold a default value (false, 0, "", empty list) are left out.
 */

import { isPlainType } from "./session_objects.ts";

export type TreeNode = { readonly [field: string]: unknown };

/** One statement of a text: its tag, such as `SelectStmt`, and its fields. */
export type TaggedNode = { readonly tag: string; readonly node: TreeNode };

const absent: TreeNode = {};

export function isNode(value: unknown): value is TreeNode {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

/** The raw value of a field, undefined when left out. */
export const anyField = (node: TreeNode, field: string): unknown => node[field];

/** A boolean field; false when left out. */
export const flagField = (node: TreeNode, field: string): boolean => node[field] === true;

export function childNode(node: TreeNode, field: string): TreeNode | undefined {
  const value = node[field];
  return isNode(value) ? value : undefined;
}

export function childList(node: TreeNode, field: string): readonly unknown[] {
  const value = node[field];
  return Array.isArray(value) ? value : [];
}

/** A string field; "" when left out, as libpg_query leaves out empty strings. */
export function textField(node: TreeNode, field: string): string {
  const value = node[field];
  return typeof value === "string" ? value : "";
}

/** A number field; 0 when left out. */
export function numberField(node: TreeNode, field: string): number {
  const value = node[field];
  return typeof value === "number" ? value : 0;
}

/** `{"SelectStmt": {…}}` as a tag and its fields; undefined for anything else. */
export function tagged(value: unknown): TaggedNode | undefined {
  if (!isNode(value)) return undefined;
  for (const tag in value) return { tag, node: childNode(value, tag) ?? absent };
  return undefined;
}

/** The fields of a node wrapped in this very tag. */
export function unwrap(value: unknown, tag: string): TreeNode | undefined {
  return isNode(value) ? childNode(value, tag) : undefined;
}

/** The strings of a list of `{"String": {"sval": …}}`, as names are written. */
export function nameParts(list: readonly unknown[]): string[] {
  const parts: string[] = [];
  for (const item of list) {
    const text = unwrap(item, "String");
    if (text !== undefined) parts.push(textField(text, "sval"));
  }
  return parts;
}

/** A constant, seen through a cast: `'x'::text` is the string x. */
export type Constant =
  | { readonly kind: "string"; readonly value: string }
  | { readonly kind: "integer"; readonly value: number }
  | { readonly kind: "other" };

export function constantOf(value: unknown): Constant {
  const cast = unwrap(value, "TypeCast");
  const constant = unwrap(cast === undefined ? value : anyField(cast, "arg"), "A_Const");
  if (constant === undefined) return { kind: "other" };
  const text = childNode(constant, "sval");
  if (text !== undefined) return { kind: "string", value: textField(text, "sval") };
  const integer = childNode(constant, "ival");
  if (integer !== undefined) return { kind: "integer", value: numberField(integer, "ival") };
  return { kind: "other" };
}

/** A relation name; `key` identifies it in caches (a NUL cannot occur in a name). */
export type RelationName = {
  readonly schema: string | undefined;
  readonly name: string;
  readonly key: string;
};
/** A function's last one or two name parts. */
export type FunctionName = RelationName;

export function qualifiedName(schema: string | undefined, name: string): RelationName {
  return { schema, name, key: schema === undefined ? name : `${schema}\0${name}` };
}

/** For how long a statement sets something where only the server that runs it hears of it. */
export type SetsHere = "nothing" | "transaction" | "session";

/** What lies below a node that the routing rules ask for. */
export type TreeFindings = {
  /** Every table reference, in no particular order and without repetition. */
  readonly tables: readonly RelationName[];
  readonly functions: readonly FunctionName[];
  /** Targets of INSERT, UPDATE, DELETE and MERGE below: those of a WITH. */
  readonly targets: readonly RelationName[];
  /** FOR UPDATE, NO KEY UPDATE, SHARE or KEY SHARE at any depth. */
  readonly locksRows: boolean;
  /** SELECT … INTO at any depth. */
  readonly selectsInto: boolean;
  /** The constant first argument of a pg_terminate_backend(pid[, timeout]). */
  readonly terminatesPid: number | undefined;
  /** What set_config() is called for. */
  readonly sets: SetsHere;
  /** current_setting() is called for a name that the text does not tell. */
  readonly asksAnySetting: boolean;
  /** Every type named is one of PostgreSQL's own that stands for no object. */
  readonly plainTypesOnly: boolean;
  /**
   * The answer may differ though no table has changed: CURRENT_DATE and its kin, TABLESAMPLE, where
   * a row stands (ctid, xmin, …), texts from elsewhere read as dates ('today' would be one).
   */
  readonly unsteady: boolean;
};

/** Distinct names. Most statements have few, for which an index would be waste. */
class NameList {
  readonly names: RelationName[] = [];
  #keys: Set<string> | undefined;

  add(name: RelationName): void {
    if (this.#has(name.key)) return;
    this.names.push(name);
    this.#keys?.add(name.key);
    if (this.names.length === 16) this.#keys = new Set(this.names.map(({ key }) => key));
  }

  #has(key: string): boolean {
    if (this.#keys !== undefined) return this.#keys.has(key);
    for (const name of this.names) if (name.key === key) return true;
    return false;
  }
}

const noNames: readonly RelationName[] = [];

/** Statements that change the rows of the table they name. */
export const writingTags: ReadonlySet<string> = new Set([
  "InsertStmt",
  "UpdateStmt",
  "DeleteStmt",
  "MergeStmt",
]);

function withTarget(targets: readonly RelationName[], statement: unknown): readonly RelationName[] {
  const target = isNode(statement) ? relationOf(anyField(statement, "relation")) : undefined;
  return target === undefined ? targets : [...targets, target];
}

/** Fields that hold a RangeVar without its tag and mean "this table is used". */
const bareRelationFields: ReadonlySet<string> = new Set(["relation"]);

/**
 * Visits everything below `root`, more deeply than Pgpool's walker does (it skips XMLTABLE,
 * SQL/JSON and some statement kinds): that can only move a statement to the primary. The stack is
 * ours, so that a deep expression cannot exhaust the engine's.
 */
export function findInTree(root: TreeNode): TreeFindings {
  const tables = new NameList();
  const functions = new NameList();
  let targets = noNames;
  let locksRows = false;
  let selectsInto = false;
  let terminatesPid: number | undefined;
  let plainTypesOnly = true;
  let unsteady = false;
  let sets: SetsHere = "nothing";
  let asksAnySetting = false;
  // Not by `walkTree`: calls for each field would take three times as long.
  const pending: unknown[] = [root];
  while (pending.length > 0) {
    const value = pending.pop();
    if (Array.isArray(value)) {
      for (const item of value) if (typeof item === "object") pending.push(item);
      continue;
    }
    if (!isNode(value)) continue;
    for (const field in value) {
      const child = value[field];
      if (typeof child !== "object" || child === null) continue;
      if (field === "LockingClause") locksRows = true;
      else if (field === "intoClause") selectsInto = true;
      else if (field === "RangeVar") addRelation(tables, child);
      else if (field === "FuncCall") {
        addFunction(functions, child);
        terminatesPid ??= terminatedPid(child);
        if (sets !== "session") sets = setBy(child, sets);
        asksAnySetting ||= isAnySetting(child);
      } else if (field === "typeName") {
        plainTypesOnly &&= isPlainType(typeNameOf(child));
        unsteady ||= readsClock(value, child);
      } else if (field === "ColumnRef") unsteady ||= isSystemColumn(child);
      else if (unsteadyTags.has(field)) unsteady = true;
      else if (bareRelationFields.has(field)) addRelation(tables, child);
      else if (writingTags.has(field)) targets = withTarget(targets, child);
      pending.push(child);
    }
  }
  return {
    tables: tables.names,
    functions: functions.names,
    targets,
    locksRows,
    selectsInto,
    terminatesPid,
    sets,
    asksAnySetting,
    plainTypesOnly,
    unsteady,
  };
}

const unsteadyTags: ReadonlySet<string> = new Set([
  "SQLValueFunction",
  "RangeTableSample",
  "CurrentOfExpr",
]);

/** VACUUM, CLUSTER and row locks change these without a change of the row. */
const systemColumns: ReadonlySet<string> = new Set(["ctid", "xmin", "xmax", "cmin", "cmax"]);

function isSystemColumn(reference: object): boolean {
  if (!isNode(reference)) return false;
  return systemColumns.has(nameParts(childList(reference, "fields")).at(-1) ?? "");
}

const clockTypes: ReadonlySet<string> = new Set(["date", "time", "timestamp"]);
const zonedTypes: ReadonlySet<string> = new Set(["timetz", "timestamptz"]);

/** `holder` names this type: of its own constants whoever sees the whole text may judge. */
function readsClock(holder: TreeNode, type: object): boolean {
  const name = typeNameOf(type).at(-1) ?? "";
  if (zonedTypes.has(name)) return true;
  if (!clockTypes.has(name)) return false;
  const what = tagged(anyField(holder, "arg"))?.tag;
  return what !== "A_Const" && what !== "ParamRef";
}

const typeNameOf = (value: unknown): string[] =>
  isNode(value) ? nameParts(childList(value, "names")) : [];

/**
 * Shows every node and list of the statement, itself too, with the field or tag that holds it; `visit`
 * says whether to go on below it. The stack is ours, so that a deep expression cannot exhaust the
 * engine's.
 */
export function walkTree(
  statement: TaggedNode,
  visit: (field: string, child: TreeNode | readonly unknown[]) => boolean,
): void {
  const pending: unknown[] = [{ [statement.tag]: statement.node }];
  while (pending.length > 0) {
    const value = pending.pop();
    if (Array.isArray(value)) {
      for (const item of value) if (typeof item === "object") pending.push(item);
      continue;
    }
    if (!isNode(value)) continue;
    for (const field in value) {
      const child = value[field];
      if ((isNode(child) || Array.isArray(child)) && visit(field, child)) pending.push(child);
    }
  }
}

export function relationOf(value: unknown): RelationName | undefined {
  if (!isNode(value)) return undefined;
  const name = textField(value, "relname");
  if (name === "") return undefined;
  return qualifiedName(textField(value, "schemaname") || undefined, name);
}

function addRelation(into: NameList, value: unknown): void {
  const relation = relationOf(value);
  if (relation !== undefined) into.add(relation);
}

function addFunction(into: NameList, value: unknown): void {
  if (!isNode(value)) return;
  const parts = nameParts(childList(value, "funcname"));
  const name = parts.at(-1);
  if (name === undefined) return;
  into.add(qualifiedName(parts.at(-2), name));
}

/** `before`: what calls before this one set. */
function setBy(call: unknown, before: SetsHere): SetsHere {
  if (!isNode(call)) return before;
  if (nameParts(childList(call, "funcname")).at(-1) !== "set_config") return before;
  const isLocal = childNode(unwrap(childList(call, "args")[2], "A_Const") ?? absent, "boolval");
  return isLocal !== undefined && flagField(isLocal, "boolval") ? "transaction" : "session";
}

function isAnySetting(call: unknown): boolean {
  if (!isNode(call)) return false;
  if (nameParts(childList(call, "funcname")).at(-1) !== "current_setting") return false;
  return unwrap(childList(call, "args")[0], "A_Const") === undefined;
}

/** The pid of a call pg_terminate_backend(pid[, timeout]) whose first argument is an integer. */
function terminatedPid(call: unknown): number | undefined {
  if (!isNode(call)) return undefined;
  const name = nameParts(childList(call, "funcname")).at(-1);
  if (name !== "pg_terminate_backend") return undefined;
  const args = childList(call, "args");
  const pid = unwrap(args[0], "A_Const");
  const integer = pid && childNode(pid, "ival");
  if (integer === undefined || args.length > 2) return undefined;
  return numberField(integer, "ival");
}
