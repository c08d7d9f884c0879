/**
 * What native replication asks of a statement before it sends it to several nodes: whether these
 * would come to different rows (spec routing/native-replication.md 4 and 5). `rewrite_plan.ts` finds
 * the places.
 */

import {
  anyField,
  isNode,
  type RelationName,
  relationOf,
  type TaggedNode,
  type TreeFindings,
  tagged,
  textField,
  walkTree,
} from "./parse_tree.ts";
import { rewrittenPart } from "./rewrite_plan.ts";
import { timeSpotOf } from "./time_of_day.ts";

export type ReplicatedFacts = {
  /** An expression tells the time, where the main node's has to be put. */
  readonly tellsTime: boolean;
  /** Tables whose column defaults may take effect: routing asks the catalogs for their columns. */
  readonly fills: readonly RelationName[];
  /** Targets of INSERT, of which some may need a lock; what a PREPARE would insert is not among them. */
  readonly inserts: readonly RelationName[];
  /** Prepared statements that are executed, by EXECUTE, EXPLAIN or CREATE TABLE AS. */
  readonly executed: readonly string[];
};

const none: readonly never[] = [];
const timeTags: ReadonlySet<string> = new Set(["FuncCall", "SQLValueFunction", "TypeCast"]);

export const nothingReplicated: ReplicatedFacts = {
  tellsTime: false,
  fills: none,
  inserts: none,
  executed: none,
};

/** `below`: what lies below the first of the statements. */
export function replicatedFacts(
  statements: readonly TaggedNode[],
  below: TreeFindings,
): ReplicatedFacts {
  const [first] = statements;
  if (statements.length === 1 && first?.tag === "SelectStmt" && isPlain(below)) {
    return nothingReplicated;
  }
  const found: Found = { tellsTime: false, fills: [], inserts: [], executed: [] };
  for (const statement of statements) look(statement, found);
  return found;
}

/** A SELECT that no rule sends to several nodes. */
const isPlain = ({ functions, targets, selectsInto, locksRows }: TreeFindings): boolean =>
  functions.length === 0 && targets.length === 0 && !selectsInto && !locksRows;

type Found = {
  tellsTime: boolean;
  fills: RelationName[];
  inserts: RelationName[];
  executed: string[];
};

function look(statement: TaggedNode, found: Found): void {
  const part = rewrittenPart(statement);
  if (part === undefined) return;
  if (part.tag === "ExecuteStmt") found.executed.push(textField(part.node, "name"));
  const query = part.tag === "PrepareStmt" ? tagged(anyField(part.node, "query")) : part;
  const looked = query && rewrittenPart(query);
  if (looked !== undefined) lookBelow(looked, found, part.tag === "PrepareStmt");
}

/** Targets of INSERT in the statement that a PREPARE prepares. */
export function insertsOf(query: TaggedNode): readonly RelationName[] {
  const part = rewrittenPart(query);
  if (part === undefined) return none;
  const found: Found = { tellsTime: false, fills: [], inserts: [], executed: [] };
  lookBelow(part, found, false);
  return found.inserts;
}

function lookBelow(root: TaggedNode, found: Found, prepared: boolean): void {
  const updated: RelationName[] = [];
  let setsDefault = false;
  walkTree(root, (field, child) => {
    if (timeTags.has(field)) found.tellsTime ||= timeSpotOf(field, child) !== undefined;
    else if (field === "SetToDefault") setsDefault = true;
    else if (field === "UpdateStmt") addTarget(updated, child);
    else if (field === "InsertStmt" || field === "MergeStmt") {
      addTarget(found.fills, child);
      if (!prepared) addTarget(found.inserts, child);
    }
    return true;
  });
  if (setsDefault) found.fills.push(...updated);
}

function addTarget(into: RelationName[], statement: unknown): void {
  const target = isNode(statement) ? relationOf(anyField(statement, "relation")) : undefined;
  if (target !== undefined && !into.some(({ key }) => key === target.key)) into.push(target);
}
