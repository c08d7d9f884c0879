/**
 * Reading the JSON parse trees of libpg_query without trusting them: every accessor answers
 * "absent" for what is missing or of another kind. Two conventions bite (spec
 * routing/libpg-query-notes.md section 3): nodes of a fixed type are not wrapped in their tag, and
 * fields that hold a default value (false, 0, "", empty list) are left out.
 */

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

/** What lies below a node that the routing rules ask for. */
export type TreeFindings = {
  /** Every table reference, in no particular order and without repetition. */
  readonly tables: readonly RelationName[];
  readonly functions: readonly FunctionName[];
  /** FOR UPDATE, NO KEY UPDATE, SHARE or KEY SHARE at any depth. */
  readonly locksRows: boolean;
  /** SELECT … INTO at any depth. */
  readonly selectsInto: boolean;
  /** The constant first argument of a pg_terminate_backend(pid[, timeout]). */
  readonly terminatesPid: number | undefined;
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
  let locksRows = false;
  let selectsInto = false;
  let terminatesPid: number | undefined;
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
      } else if (bareRelationFields.has(field)) addRelation(tables, child);
      pending.push(child);
    }
  }
  return {
    tables: tables.names,
    functions: functions.names,
    locksRows,
    selectsInto,
    terminatesPid,
  };
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
