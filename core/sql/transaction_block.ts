/**
 * Whether a text may be run within a transaction block that is not the client's own, so that it can
 * be undone on every node until all have run it (spec native-replication.md section 3). What is not
 * in these lists PostgreSQL accepts there.
 */
import { anyField, childList, flagField, isNode, type TaggedNode, unwrap } from "./parse_tree.ts";

/**
 * PostgreSQL refuses these in a block (PreventInTransactionBlock), or may: procedures and DO blocks
 * that commit, partitioned tables of REINDEX and CLUSTER. And what begins or ends a block itself.
 */
const refused: ReadonlySet<string> = new Set([
  "TransactionStmt",
  "VacuumStmt",
  "CreatedbStmt",
  "DropdbStmt",
  "AlterDatabaseStmt",
  "CreateTableSpaceStmt",
  "DropTableSpaceStmt",
  "AlterSystemStmt",
  "ClusterStmt",
  "ReindexStmt",
  "CreateSubscriptionStmt",
  "AlterSubscriptionStmt",
  "DropSubscriptionStmt",
  "CallStmt",
  "DoStmt",
  "DiscardStmt",
]);

/**
 * Nothing of these could be undone, or PostgreSQL has something to say of them outside of a block
 * that the client is to hear: alone they are run as they are.
 */
const pointless: ReadonlySet<string> = new Set([
  "CheckPointStmt",
  "ClosePortalStmt",
  "ConstraintsSetStmt",
  "DeallocateStmt",
  "DeclareCursorStmt",
  "FetchStmt",
  "ListenStmt",
  "LoadStmt",
  "LockStmt",
  "PrepareStmt",
  "UnlistenStmt",
  "VariableSetStmt",
  "VariableShowStmt",
]);

/**
 * What a transaction block around a text would do: PostgreSQL refuses the text there, or has nothing
 * to say against it but would outside; it makes no difference; or all of it could be undone.
 */
export type InBlock = "refused" | "idle" | "undone";

/** Alone they are an error outside of a block, and that the client is to hear. */
const needBlock: ReadonlySet<string> = new Set(["DeclareCursorStmt", "LockStmt"]);

/** `statements`: all of a text. */
export function inBlock(statements: readonly TaggedNode[]): InBlock {
  const [first] = statements;
  const isAlone = statements.length === 1 && first !== undefined;
  if (statements.some(isRefused) || (isAlone && needBlock.has(first.tag))) return "refused";
  return statements.some(({ tag }) => !pointless.has(tag)) ? "undone" : "idle";
}

function isRefused({ tag, node }: TaggedNode): boolean {
  if (refused.has(tag)) return true;
  if (tag === "IndexStmt" || tag === "DropStmt") return flagField(node, "concurrent");
  if (tag !== "AlterTableStmt") return false;
  return childList(node, "cmds").some((each) => {
    const command = unwrap(each, "AlterTableCmd");
    const partition = command && unwrap(anyField(command, "def"), "PartitionCmd");
    return isNode(partition) && flagField(partition, "concurrent");
  });
}
