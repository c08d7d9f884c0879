/**
 * What the query cache asks of a statement: may its result be kept, and what does its success make
 * untrue of results that are kept (spec routing/query-cache.md sections 4 and 6). Names stand here as
 * they are written; what they mean is the catalog's to say. All mistakes are on one side: too little
 * is kept, too much is forgotten.
 */

import { changedTables } from "./changed_tables.ts";
import {
  anyField,
  childNode,
  type FunctionName,
  findInTree,
  flagField,
  numberField,
  type RelationName,
  type TaggedNode,
  type TreeFindings,
  type TreeNode,
  tagged,
  textField,
  writingTags,
} from "./parse_tree.ts";
import { analyzedBy, readsOnly } from "./statement.ts";

/** What of the kept results is in doubt; each kind includes those before it. */
export type Changes =
  | { readonly kind: "nothing" }
  /** Results that read tables of these bare names, in whatever schema. */
  | { readonly kind: "tables"; readonly names: readonly string[] }
  /** All results of this database. `definitions`: what the catalog has said is void, too. */
  | { readonly kind: "database"; readonly definitions: boolean }
  /** All results: roles, rights and databases are shared by all databases. */
  | { readonly kind: "all" };

export type CacheFacts = {
  /** A single SELECT whose answer depends on nothing but tables, settings and rights, as far as the text tells. */
  readonly mayKeep: boolean;
  /** A single SELECT that FORCE QUERY CACHE can have kept. */
  readonly mayForce: boolean;
  /** Tables of such a SELECT; names of WITH queries are among them. */
  readonly reads: readonly RelationName[];
  /** Functions that it calls and that may look or reach beyond their arguments. */
  readonly functions: readonly FunctionName[];
  /** Apart from what the functions of a SELECT do. */
  readonly changes: Changes;
  /** A setting, the role or the meaning of names may be another one in this session afterwards. */
  readonly unsettles: boolean;
  /** DECLARE: what each FETCH of the cursor does. */
  readonly declared: Changes;
  /** FETCH and MOVE run the query of a cursor. */
  readonly fetches: boolean;
};

export const noChanges: Changes = { kind: "nothing" };
const wholeDatabase: Changes = { kind: "database", definitions: false };
const redefinition: Changes = { kind: "database", definitions: true };
const everything: Changes = { kind: "all" };

const none: readonly never[] = [];

/** Of a text that does nothing. */
export const blankCacheFacts: CacheFacts = {
  mayKeep: false,
  mayForce: false,
  reads: none,
  functions: none,
  changes: noChanges,
  unsettles: false,
  declared: noChanges,
  fetches: false,
};

/** Of a text that we cannot read: it may do anything. */
export const unknownCacheFacts: CacheFacts = {
  ...blankCacheFacts,
  changes: everything,
  unsettles: true,
};

/** `below`: what lies below the first statement. */
export function cacheFactsOf(statements: readonly TaggedNode[], below: TreeFindings): CacheFacts {
  const [first] = statements;
  if (first === undefined) return blankCacheFacts;
  const isOneSelect = statements.length === 1 && first.tag === "SelectStmt";
  const isPlain = isOneSelect && readsOnly(first.node) && below.targets.length === 0;
  const mayForce = isPlain && !below.locksRows && !below.selectsInto;
  const functions = isOneSelect ? below.functions.filter(isNoted) : none;
  return {
    mayKeep: mayForce && below.plainTypesOnly && !below.unsteady && !callsUnsteady(functions),
    mayForce,
    reads: mayForce ? below.tables : none,
    functions,
    changes: isOneSelect ? changesBySelect(first, below) : changesOfAll(statements, below),
    unsettles: !isOneSelect && statements.some(unsettles),
    declared: statements.reduce<Changes>(
      (all, { tag, node }) =>
        tag === "DeclareCursorStmt"
          ? mergedChanges(all, changesWhenRun(anyField(node, "query")))
          : all,
      noChanges,
    ),
    fetches: statements.some(({ tag }) => tag === "FetchStmt"),
  };
}

function changesOfAll(statements: readonly TaggedNode[], below: TreeFindings): Changes {
  let changes = noChanges;
  for (const [index, each] of statements.entries()) {
    changes = mergedChanges(changes, changesOf(each, index === 0 ? below : findInTree(each.node)));
    // Among others it is not looked up what the name stands for.
    if (statements.length > 1 && each.tag === "ExecuteStmt")
      changes = mergedChanges(changes, wholeDatabase);
  }
  return changes;
}

/** Both together. */
export function mergedChanges(a: Changes, b: Changes): Changes {
  if (a.kind === "nothing") return b;
  if (b.kind === "nothing") return a;
  if (a.kind === "all" || b.kind === "all") return everything;
  if (a.kind === "database" || b.kind === "database") {
    const definitions =
      (a.kind === "database" && a.definitions) || (b.kind === "database" && b.definitions);
    return definitions ? redefinition : wholeDatabase;
  }
  return { kind: "tables", names: [...new Set([...a.names, ...b.names])] };
}

/** Where nobody asks the catalog what the functions of a SELECT do. */
export const changesByCallsToo = ({ changes, functions }: CacheFacts): Changes =>
  functions.length === 0 ? changes : mergedChanges(changes, unknownWrite);

/** What a call of a function does that is not known to leave tables alone. */
export const unknownWrite: Changes = wholeDatabase;

/** `below`: what lies below the statement. */
function changesOf(statement: TaggedNode, below: TreeFindings): Changes {
  const { tag, node } = statement;
  if (harmless.has(tag)) return noChanges;
  if (tag === "SelectStmt")
    return mergedChanges(changesBySelect(statement, below), changesByCalls(below));
  if (writingTags.has(tag))
    return mergedChanges(changesByRows(statement, below), changesByCalls(below));
  switch (tag) {
    case "CopyStmt": {
      const writes = flagField(node, "is_from") || below.targets.length > 0;
      const calls = changesByCalls(below);
      return writes ? mergedChanges(changesByRows(statement, below), calls) : calls;
    }
    case "TruncateStmt":
      // Whatever refers to them is emptied with them.
      if (textField(node, "behavior") === "DROP_CASCADE") return wholeDatabase;
      return changesByRows(statement, below);
    case "ExplainStmt": {
      const inner = analyzedBy(node);
      return inner === undefined ? noChanges : changesWhenRun(anyField(node, "query"));
    }
    case "TransactionStmt":
      return textField(node, "kind") === "TRANS_STMT_COMMIT_PREPARED" ? redefinition : noChanges;
    case "CreateStmt":
    case "CreateTableAsStmt": {
      if (!createsTemporary(tag, node)) return redefinition;
      const query = anyField(node, "query");
      return query === undefined ? changesByCalls(below) : changesWhenRun(query);
    }
    case "GrantStmt":
      if (!flagField(node, "is_grant")) return everything;
      // A schema that one may look into may stand before others in his search path.
      return textField(node, "objtype") === "OBJECT_SCHEMA" ? redefinition : noChanges;
    case "DeclareCursorStmt":
      // COMMIT runs what is left of a cursor that outlives its transaction.
      if ((numberField(node, "options") & CURSOR_HOLD) === 0) return noChanges;
      return changesWhenRun(anyField(node, "query"));
    default:
      return shared.has(tag) || concernsDatabase(node) ? everything : redefinition;
  }
}

/** Apart from what its functions do. */
function changesBySelect(select: TaggedNode, below: TreeFindings): Changes {
  if (below.selectsInto) return redefinition;
  return below.targets.length === 0 ? noChanges : changesByRows(select, below);
}

/** What FETCH of a cursor, or EXECUTE of a prepared statement, does each time. */
export function changesWhenRun(query: unknown): Changes {
  const statement = tagged(query);
  if (statement === undefined || statement.tag === "ExecuteStmt") return wholeDatabase;
  return changesOf(statement, findInTree(statement.node));
}

function changesByRows(statement: TaggedNode, below: TreeFindings): Changes {
  const names = changedTables([statement], below.targets);
  if (names.length === 0) return wholeDatabase;
  // Catalogs are not for clients to write; who does may have changed anything.
  if (names.some((name) => name.startsWith("pg_"))) return everything;
  return { kind: "tables", names };
}

function changesByCalls({ functions }: TreeFindings): Changes {
  return functions.some(isNoted) ? wholeDatabase : noChanges;
}

/** Statements that change neither rows nor definitions nor rights; some run others, told elsewhere. */
const harmless: ReadonlySet<string> = new Set([
  ...["VariableSetStmt", "VariableShowStmt", "DeallocateStmt", "DiscardStmt", "FetchStmt"],
  ...["ListenStmt", "UnlistenStmt", "NotifyStmt", "LockStmt", "ConstraintsSetStmt"],
  ...[
    "PrepareStmt",
    "CheckPointStmt",
    "ClosePortalStmt",
    "VacuumStmt",
    "ReindexStmt",
    "CommentStmt",
  ],
  ...["LoadStmt", "ExecuteStmt", "IndexStmt", "CreateStatsStmt", "ClusterStmt"],
]);

/** PostgreSQL's CURSOR_OPT_HOLD (parsenodes.h). */
const CURSOR_HOLD = 0x20;

/** Roles, rights and databases: what they change is not of one database alone. */
const shared: ReadonlySet<string> = new Set([
  ...["GrantRoleStmt", "CreateRoleStmt", "AlterRoleStmt", "AlterRoleSetStmt"],
  ...["DropRoleStmt", "DropOwnedStmt", "ReassignOwnedStmt", "AlterSystemStmt"],
  ...["CreatedbStmt", "DropdbStmt", "AlterDatabaseStmt", "AlterDatabaseSetStmt"],
  ...["AlterDatabaseRefreshCollStmt", "DropTableSpaceStmt", "AlterTableSpaceOptionsStmt"],
]);

/** ALTER … RENAME and OWNER TO of roles and databases. */
function concernsDatabase(node: TreeNode): boolean {
  for (const field of ["renameType", "objectType"]) {
    const type = textField(node, field);
    if (type === "OBJECT_DATABASE" || type === "OBJECT_ROLE") return true;
  }
  return false;
}

function createsTemporary(tag: string, node: TreeNode): boolean {
  const holder = tag === "CreateStmt" ? node : (childNode(node, "into") ?? node);
  const relation = childNode(holder, tag === "CreateStmt" ? "relation" : "rel");
  return relation !== undefined && textField(relation, "relpersistence") === "t";
}

/** After these settings, the role or the session's own objects may be others. */
function unsettles({ tag, node }: TaggedNode): boolean {
  switch (tag) {
    case "VariableSetStmt":
    case "DiscardStmt":
    case "LoadStmt":
    case "CallStmt":
    case "DoStmt":
    case "ExecuteStmt":
    case "FetchStmt":
    case "CreateExtensionStmt":
    case "AlterSystemStmt":
      return true;
    case "TransactionStmt":
    case "VariableShowStmt":
      return false;
    default:
      return findInTree(node).functions.some(isNoted);
  }
}

const isNoted = ({ schema, name }: FunctionName): boolean =>
  (schema !== undefined && schema !== "pg_catalog") || !ofArgumentsAlone.has(name);

/**
 * PostgreSQL's functions whose answer depends on their arguments alone, or on settings besides,
 * which are part of a result's key. (That no function of a user's hides behind one of these names is
 * asked of the catalog.)
 */
export const ofArgumentsAlone: ReadonlySet<string> = new Set([
  ...["count", "sum", "avg", "min", "max", "array_agg", "string_agg", "bool_and", "bool_or"],
  ...["every", "stddev", "variance", "stddev_pop", "stddev_samp", "var_pop", "var_samp"],
  ...["row_number", "rank", "dense_rank", "percent_rank", "cume_dist", "ntile", "lag", "lead"],
  ...["first_value", "last_value", "nth_value", "percentile_cont", "percentile_disc", "mode"],
  ...["lower", "upper", "initcap", "length", "char_length", "character_length", "octet_length"],
  ...["substring", "substr", "left", "right", "btrim", "ltrim", "rtrim", "replace", "translate"],
  ...["position", "strpos", "split_part", "lpad", "rpad", "repeat", "reverse", "overlay"],
  ...["starts_with", "ascii", "chr", "md5", "concat", "concat_ws", "format", "quote_ident"],
  ...["regexp_replace", "regexp_match", "regexp_matches", "regexp_split_to_array", "like_escape"],
  ...["abs", "round", "ceil", "ceiling", "floor", "trunc", "mod", "power", "sqrt", "sign", "exp"],
  ...["ln", "log", "div", "gcd", "lcm", "width_bucket", "degrees", "radians", "pi"],
  ...["date_part", "extract", "date_trunc", "to_char", "make_date", "make_time", "make_interval"],
  ...["justify_days", "justify_hours", "isfinite", "overlaps"],
  ...["generate_series", "unnest", "array_length", "array_upper", "array_lower", "cardinality"],
  ...["array_append", "array_prepend", "array_cat", "array_position", "array_remove"],
  ...["array_to_string", "string_to_array", "array_ndims", "array_dims"],
  ...["json_build_object", "jsonb_build_object", "json_build_array", "jsonb_build_array"],
  ...["json_agg", "jsonb_agg", "json_object_agg", "jsonb_object_agg", "to_json", "to_jsonb"],
  ...["row_to_json", "array_to_json", "jsonb_array_length", "json_array_length", "jsonb_typeof"],
  ...["jsonb_array_elements", "jsonb_array_elements_text", "json_array_elements", "jsonb_each"],
  ...["jsonb_each_text", "jsonb_object_keys", "jsonb_extract_path", "jsonb_extract_path_text"],
  ...["jsonb_set", "jsonb_strip_nulls", "jsonb_pretty", "encode", "decode", "sha256", "hashtext"],
  ...["to_tsvector", "to_tsquery", "plainto_tsquery", "websearch_to_tsquery", "ts_rank"],
  ...["bit_count", "lower_inc", "upper_inc", "isempty"],
]);

/** Conversions in the form of a call: a text that reads `today` would be a date. */
const conversions: ReadonlySet<string> = new Set([
  ...["date", "time", "timestamp", "timestamptz", "timetz", "daterange", "tsrange", "tstzrange"],
  ...["datemultirange", "tsmultirange", "tstzmultirange", "abstime"],
]);
const callsUnsteady = (functions: readonly FunctionName[]): boolean =>
  functions.some(({ name }) => conversions.has(name));

/** Words in a constant that PostgreSQL may read as a moment of the clock. */
const clockWords = /(?<![a-z])(?:now|today|tomorrow|yesterday)(?![a-z])/i;
/** Spellings that could hide one: escapes, and constants that go on in the next line. */
const hidden = /\\|u&['"]|'(?:\s|--[^\n]*\n)+'/i;

/** Where there is neither there is no constant but numbers. */
const quotes = /'|\$\D/;

/** Nothing in this statement may be a date that is another tomorrow. */
export const isSteadyText = (sql: string): boolean =>
  !quotes.test(sql) || !(clockWords.test(sql) || hidden.test(sql));

/** The same of values that are bound to it. */
export const isSteadyValue = (text: string): boolean => !clockWords.test(text);

export type CacheHint = "force" | "no" | "none";

/** The comment at the very beginning of a text (spec 4, rules 1 and 2). */
export function cacheHintOf(sql: string): CacheHint {
  if (sql.charCodeAt(0) !== 0x2f) return "none"; // a slash
  const head = sql.slice(0, 21).toLowerCase();
  if (head.startsWith("/*force query cache*/")) return "force";
  return head.startsWith("/*no query cache*/") ? "no" : "none";
}
