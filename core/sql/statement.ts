/**
 * The kinds of statement that the proxy treats differently, with just the fields it needs. One
 * union, so that a session's `switch` finds what a new member misses.
 */

import {
  anyField,
  childList,
  childNode,
  constantOf,
  flagField,
  nameParts,
  type TaggedNode,
  type TreeNode,
  tagged,
  textField,
  unwrap,
} from "./parse_tree.ts";
import type { PgpoolCommand } from "./pgpool_command.ts";

export type TransactionControl =
  | {
      readonly kind: "begin";
      readonly readWrite: boolean;
      readonly readOnly: boolean;
      /** Lower case, as `repeatable read`; undefined when the statement names none. */
      readonly isolation: string | undefined;
    }
  | { readonly kind: "commit"; readonly chain: boolean }
  | { readonly kind: "rollback"; readonly chain: boolean }
  | { readonly kind: "savepoint"; readonly name: string }
  | { readonly kind: "release"; readonly name: string }
  | { readonly kind: "rollback_to"; readonly name: string }
  | {
      readonly kind: "two_phase";
      readonly step: "prepare" | "commit_prepared" | "rollback_prepared";
      readonly gid: string;
    };

/** What a SET does to the transaction's nature; `none` for every other variable. */
export type SetEffect = "serializable" | "read_write" | "read_only" | "none";

export type Statement =
  /** Blanks, `;`, comments: no statement at all. */
  | { readonly kind: "empty" }
  /** A syntax error to us, or longer than we parse. */
  | { readonly kind: "unparsable" }
  /** PGPOOL SHOW, SET, RESET: answered by the proxy. */
  | { readonly kind: "pgpool"; readonly command: PgpoolCommand }
  /** `SHOW pool_nodes` and its kin are among these: see `isPoolShow`. */
  | { readonly kind: "show"; readonly name: string }
  /** SELECT, VALUES, TABLE, WITH … SELECT. */
  | { readonly kind: "select" }
  | { readonly kind: "write"; readonly verb: "insert" | "update" | "delete" | "merge" }
  | {
      readonly kind: "copy";
      /** COPY … FROM, whatever the source. */
      readonly fromClient: boolean;
      /** Data flow through the connection, not a file or program of the server. */
      readonly throughClient: boolean;
      readonly toClient: boolean;
      /** The source is a table or a SELECT. */
      readonly reads: boolean;
    }
  | { readonly kind: "transaction"; readonly control: TransactionControl }
  | {
      readonly kind: "set";
      /** "" for RESET ALL. */
      readonly name: string;
      readonly form: "value" | "default" | "reset" | "reset_all" | "multi";
      readonly local: boolean;
      readonly effect: SetEffect;
    }
  | {
      readonly kind: "prepare";
      readonly name: string;
      readonly inner: "select" | "write";
      /** The inner statement is a SELECT without INTO, locks or writing WITH at its own level. */
      readonly innerReads: boolean;
    }
  | { readonly kind: "execute"; readonly name: string }
  /** DEALLOCATE ALL when `name` is undefined. */
  | { readonly kind: "deallocate"; readonly name: string | undefined }
  | { readonly kind: "discard"; readonly target: "all" | "plans" | "sequences" | "temp" }
  | { readonly kind: "explain"; readonly analyze: boolean; readonly ofSelect: boolean }
  | { readonly kind: "create_temp_table"; readonly name: string }
  | { readonly kind: "drop_table"; readonly names: readonly string[] }
  | { readonly kind: "listen"; readonly listens: boolean }
  /** Everything else, by its tag in the parse tree. */
  | { readonly kind: "other"; readonly tag: string };

export function statementOf(raw: TaggedNode): Statement {
  const { tag, node } = raw;
  switch (tag) {
    case "SelectStmt":
      return { kind: "select" };
    case "InsertStmt":
      return { kind: "write", verb: "insert" };
    case "UpdateStmt":
      return { kind: "write", verb: "update" };
    case "DeleteStmt":
      return { kind: "write", verb: "delete" };
    case "MergeStmt":
      return { kind: "write", verb: "merge" };
    case "CopyStmt":
      return copyOf(node);
    case "TransactionStmt":
      return transactionOf(node);
    case "VariableSetStmt":
      return setOf(node);
    case "VariableShowStmt":
      return { kind: "show", name: textField(node, "name") };
    case "PrepareStmt":
      return prepareOf(node);
    case "ExecuteStmt":
      return { kind: "execute", name: textField(node, "name") };
    case "DeallocateStmt":
      return { kind: "deallocate", name: textField(node, "name") || undefined };
    case "DiscardStmt":
      return discardOf(node);
    case "ExplainStmt":
      return explainOf(node);
    case "ListenStmt":
      return { kind: "listen", listens: true };
    case "UnlistenStmt":
      return { kind: "listen", listens: false };
    case "CreateStmt":
    case "DropStmt":
      return tableDefinitionOf(raw);
    default:
      return { kind: "other", tag };
  }
}

function copyOf(node: TreeNode): Statement {
  const query = tagged(anyField(node, "query"));
  const server = anyField(node, "filename") !== undefined || flagField(node, "is_program");
  const from = flagField(node, "is_from");
  return {
    kind: "copy",
    fromClient: from,
    throughClient: !server,
    toClient: !from && !server,
    reads: !from && !server && (query === undefined || query.tag === "SelectStmt"),
  };
}

function transactionOf(node: TreeNode): Statement {
  return { kind: "transaction", control: controlOf(node) };
}

function controlOf(node: TreeNode): TransactionControl {
  const chain = flagField(node, "chain");
  const name = textField(node, "savepoint_name");
  switch (textField(node, "kind")) {
    case "TRANS_STMT_COMMIT":
      return { kind: "commit", chain };
    case "TRANS_STMT_ROLLBACK":
      return { kind: "rollback", chain };
    case "TRANS_STMT_SAVEPOINT":
      return { kind: "savepoint", name };
    case "TRANS_STMT_RELEASE":
      return { kind: "release", name };
    case "TRANS_STMT_ROLLBACK_TO":
      return { kind: "rollback_to", name };
    case "TRANS_STMT_PREPARE":
      return { kind: "two_phase", step: "prepare", gid: textField(node, "gid") };
    case "TRANS_STMT_COMMIT_PREPARED":
      return { kind: "two_phase", step: "commit_prepared", gid: textField(node, "gid") };
    case "TRANS_STMT_ROLLBACK_PREPARED":
      return { kind: "two_phase", step: "rollback_prepared", gid: textField(node, "gid") };
    default:
      return { kind: "begin", ...modesOf(childList(node, "options")) };
  }
}

type TransactionModes = {
  readonly readWrite: boolean;
  readonly readOnly: boolean;
  readonly isolation: string | undefined;
};

/** The options of BEGIN, SET TRANSACTION and SET SESSION CHARACTERISTICS. */
function modesOf(options: readonly unknown[]): TransactionModes {
  let readWrite = false;
  let readOnly = false;
  let isolation: string | undefined;
  for (const option of options) {
    const element = unwrap(option, "DefElem");
    if (element === undefined) continue;
    const value = constantOf(anyField(element, "arg"));
    const name = textField(element, "defname");
    if (name === "transaction_read_only" && value.kind === "integer") {
      readWrite = value.value === 0;
      readOnly = value.value !== 0;
    }
    if (name === "transaction_isolation" && value.kind === "string") {
      isolation = value.value.toLowerCase();
    }
  }
  return { readWrite, readOnly, isolation };
}

const setForms = {
  VAR_SET_VALUE: "value",
  VAR_SET_DEFAULT: "default",
  VAR_SET_CURRENT: "value",
  VAR_SET_MULTI: "multi",
  VAR_RESET: "reset",
  VAR_RESET_ALL: "reset_all",
} as const;

function setOf(node: TreeNode): Statement {
  const kind = textField(node, "kind");
  const form = kind in setForms ? setForms[kind as keyof typeof setForms] : "value";
  // Names of settings are case-insensitive even when quoted.
  const name = textField(node, "name").toLowerCase();
  const local = flagField(node, "is_local");
  return { kind: "set", name, form, local, effect: setEffectOf(node, form, name) };
}

function setEffectOf(node: TreeNode, form: string, name: string): SetEffect {
  const args = childList(node, "args");
  if (form === "multi") {
    const modes = modesOf(args);
    if (modes.isolation === "serializable") return "serializable";
    if (modes.readWrite) return "read_write";
    return modes.readOnly ? "read_only" : "none";
  }
  if (form !== "value") return "none";
  const value = constantOf(args[0]);
  if (name === "transaction_isolation" || name === "default_transaction_isolation") {
    const level = value.kind === "string" ? value.value.toLowerCase() : "";
    return level === "serializable" ? "serializable" : "none";
  }
  return name === "transaction_read_only" ? readOnlyEffect(value) : "none";
}

/** Only these spellings are recognised (section 3.5 rule a): `no` and '0' are not. */
function readOnlyEffect(value: ReturnType<typeof constantOf>): SetEffect {
  switch (value.kind) {
    case "integer":
      return value.value === 0 ? "read_write" : "read_only";
    case "string": {
      const word = value.value.toLowerCase();
      if (word === "off" || word === "f" || word === "false") return "read_write";
      return word === "on" || word === "t" || word === "true" ? "read_only" : "none";
    }
    case "other":
      return "none";
  }
}

function prepareOf(node: TreeNode): Statement {
  const query = tagged(anyField(node, "query"));
  const select = query?.tag === "SelectStmt" ? query.node : undefined;
  return {
    kind: "prepare",
    name: textField(node, "name"),
    inner: select === undefined ? "write" : "select",
    innerReads: select !== undefined && readsOnly(select),
  };
}

/** No INTO, no locking clause, no writing WITH at the SELECT's own level (section 3.7). */
export function readsOnly(select: TreeNode): boolean {
  return (
    childNode(select, "intoClause") === undefined &&
    childList(select, "lockingClause").length === 0 &&
    !writesInWith(select)
  );
}

/** INSERT, UPDATE, DELETE or MERGE in the WITH clause of this very SELECT. */
export function writesInWith(select: TreeNode): boolean {
  const withClause = childNode(select, "withClause");
  if (withClause === undefined) return false;
  return childList(withClause, "ctes").some((cte) => {
    const expression = tagged(cte);
    const query = expression && tagged(anyField(expression.node, "ctequery"));
    return query !== undefined && query.tag !== "SelectStmt";
  });
}

function discardOf(node: TreeNode): Statement {
  switch (textField(node, "target")) {
    case "DISCARD_PLANS":
      return { kind: "discard", target: "plans" };
    case "DISCARD_SEQUENCES":
      return { kind: "discard", target: "sequences" };
    case "DISCARD_TEMP":
      return { kind: "discard", target: "temp" };
    default:
      return { kind: "discard", target: "all" };
  }
}

/** An option named analyze counts whatever its value, as in Pgpool. */
function analyzes(explain: TreeNode): boolean {
  return childList(explain, "options").some((option) => {
    const element = unwrap(option, "DefElem");
    return element !== undefined && textField(element, "defname").toLowerCase() === "analyze";
  });
}

/** The statement that this EXPLAIN runs. */
export function analyzedBy(explain: TreeNode): TaggedNode | undefined {
  return analyzes(explain) ? tagged(anyField(explain, "query")) : undefined;
}

function explainOf(node: TreeNode): Statement {
  const analyze = analyzes(node);
  const query = tagged(anyField(node, "query"));
  const ofSelect = query?.tag === "SelectStmt" && readsOnly(query.node);
  return { kind: "explain", analyze, ofSelect };
}

function tableDefinitionOf({ tag, node }: TaggedNode): Statement {
  if (tag === "CreateStmt") {
    const relation = childNode(node, "relation");
    if (relation !== undefined && textField(relation, "relpersistence") === "t") {
      return { kind: "create_temp_table", name: textField(relation, "relname") };
    }
    return { kind: "other", tag };
  }
  if (textField(node, "removeType") !== "OBJECT_TABLE") return { kind: "other", tag };
  const names = childList(node, "objects").map((object) => {
    const list = unwrap(object, "List");
    return list === undefined ? "" : (nameParts(childList(list, "items")).at(-1) ?? "");
  });
  return { kind: "drop_table", names };
}

/** The SHOWs that the proxy answers itself, spelled as after the parser's down-casing (3.2). */
const poolShows: ReadonlySet<string> = new Set([
  "pool_status",
  "pool_pools",
  "pool_processes",
  "pool_nodes",
  "pool_version",
  "pool_cache",
  "pool_health_check_stats",
  "pool_backend_stats",
  "pool_route_stats",
  "pool_cache_stats",
]);

export function isPoolShow(statement: Statement): boolean {
  return statement.kind === "show" && poolShows.has(statement.name);
}
