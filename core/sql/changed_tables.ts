/**
 * Which tables a statement leaves different from what a lagging standby still shows, for
 * disable_load_balance_on_write = dml_adaptive_global (spec routing/load-balance.md 8.2). Bare names:
 * whoever reads a table of that name, in whatever schema, is taken to read this one. Beyond Pgpool's
 * list: what is newly defined, which a standby does not have at all yet.
 */

import {
  anyField,
  childList,
  childNode,
  findInTree,
  nameParts,
  type RelationName,
  relationOf,
  type TaggedNode,
  type TreeNode,
  textField,
  unwrap,
  writingTags,
} from "./parse_tree.ts";
import { analyzedBy } from "./statement.ts";

export const noTables: readonly string[] = [];

/** `below`: the targets below the first statement, when they have been looked for already. */
export function changedTables(
  statements: readonly TaggedNode[],
  below?: readonly RelationName[],
): readonly string[] {
  let names: Set<string> | undefined;
  for (const [index, { tag, node }] of statements.entries()) {
    const targets = index === 0 && below !== undefined ? below : undefined;
    for (const name of changedBy(tag, node, targets)) {
      names ??= new Set();
      names.add(name);
    }
  }
  return names === undefined ? noTables : [...names];
}

function changedBy(
  tag: string,
  node: TreeNode,
  below: readonly RelationName[] | undefined,
): readonly string[] {
  if (writingTags.has(tag)) return [...nameOf(node, "relation"), ...targetsBelow(node, below)];
  switch (tag) {
    case "SelectStmt": {
      const into = childNode(node, "intoClause");
      return [...(into ? nameOf(into, "rel") : noTables), ...targetsBelow(node, below)];
    }
    case "CreateTableAsStmt": {
      const into = childNode(node, "into");
      return into ? nameOf(into, "rel") : noTables;
    }
    case "CopyStmt":
      return anyField(node, "is_from") === true
        ? nameOf(node, "relation")
        : targetsBelow(node, below);
    case "TruncateStmt":
      return childList(node, "relations").flatMap(namesOfRangeVar);
    case "DropStmt":
      return droppedNames(node);
    case "ExplainStmt": {
      const inner = analyzedBy(node);
      return inner === undefined ? noTables : changedBy(inner.tag, inner.node, below);
    }
    case "RenameStmt":
      return [...nameOf(node, "relation"), ...renamed(node)];
    case "ViewStmt":
      return nameOf(node, "view");
    case "CreateStmt":
    case "AlterTableStmt":
    case "RefreshMatViewStmt":
      return nameOf(node, "relation");
    default:
      return noTables;
  }
}

function targetsBelow(
  node: TreeNode,
  below: readonly RelationName[] | undefined,
): readonly string[] {
  const targets = below ?? findInTree(node).targets;
  return targets.length === 0 ? noTables : targets.map(({ name }) => name);
}

function nameOf(node: TreeNode, field: string): readonly string[] {
  const relation = relationOf(anyField(node, field));
  return relation === undefined ? noTables : [relation.name];
}

function namesOfRangeVar(item: unknown): readonly string[] {
  const relation = relationOf(unwrap(item, "RangeVar"));
  return relation === undefined ? noTables : [relation.name];
}

const relationKinds: ReadonlySet<string> = new Set([
  "OBJECT_TABLE",
  "OBJECT_VIEW",
  "OBJECT_MATVIEW",
  "OBJECT_FOREIGN_TABLE",
]);

function droppedNames(node: TreeNode): readonly string[] {
  if (!relationKinds.has(textField(node, "removeType"))) return noTables;
  return childList(node, "objects").flatMap((object) => {
    const list = unwrap(object, "List");
    return list === undefined ? [] : nameParts(childList(list, "items")).slice(-1);
  });
}

function renamed(node: TreeNode): readonly string[] {
  const newName = textField(node, "newname");
  return newName !== "" && relationKinds.has(textField(node, "renameType")) ? [newName] : noTables;
}
