/**
 * Why a statement goes where it goes: the words that the log, `SHOW pool_route_stats` and
 * `PGPOOL EXPLAIN ROUTE` use, each with the sentence that says it to an operator.
 */

import type { KindReason } from "../sql/facts.ts";

/**
 * Why a statement goes to a node. The words are counted and shown as they are; those of
 * `KindReason` say that the kind of statement alone decided.
 */
export type RouteReason =
  | KindReason
  | "raw_mode"
  | "load_balanced"
  | "load_balance_off"
  | "not_a_read"
  | "old_protocol"
  | "multi_statement"
  | "multi_statement_transaction"
  | "segment"
  | "wrote_earlier"
  | "wrote_in_transaction"
  | "failed_transaction"
  | "serializable"
  | "system_catalog"
  | "temporary_table"
  | "unlogged_table"
  | "sequence"
  | "asks_session"
  | "set_on_primary"
  | "query_pattern"
  | "writing_function"
  | "dml_adaptive"
  | "written_lately"
  | "cold_start"
  | "delayed"
  | "unknown_statement"
  | "prepared_again"
  | "replicated"
  | "transaction_id"
  | "backend_pid";

/** Why pgpool answers by itself. */
export type ProxyReason = "show_pool" | "pgpool_command" | "failed_transaction";

/** One sentence for each reason; the order is that of the columns and rows which list them. */
export const REASON_TEXTS: { readonly [R in RouteReason | ProxyReason]: string } = {
  load_balanced: "It only reads, so the node for reads gets it.",
  read: "It only reads.",
  write: "It writes.",
  row_lock: "It locks rows, which only the primary can do.",
  select_into: "SELECT INTO creates a table.",
  writing_with: "A WITH clause in it writes.",
  explain: "EXPLAIN shows the plan of the primary.",
  copy_in: "COPY writes, or reads a file of the server.",
  cursor: "Cursors live on the primary.",
  notification: "LISTEN, UNLISTEN and NOTIFY work on the primary only.",
  table_lock: "LOCK takes its locks where writes happen; the weakest also where reads go.",
  two_phase: "Two-phase commit is the primary's business.",
  utility: "It is a command that may change something.",
  unparsable: "It cannot be parsed, so it may do anything; the primary will say what is wrong.",
  serializable_setting: "A standby cannot run serializable transactions.",
  read_write_setting: "A standby cannot run read-write transactions.",
  session_setting: "It changes the session, which must be the same wherever it may read.",
  transaction_control: "A transaction begins and ends wherever the session may read.",
  prepared_statement: "It follows the prepared statement that it names.",
  pgpool_command: "It is a command of pgpool, which answers in the simple protocol only.",
  show_pool: "pgpool answers it by itself.",
  raw_mode: "In raw mode everything goes to the first node that is up.",
  load_balance_off: "Load balancing is switched off.",
  not_a_read: "By the settings in force its text does not count as a read.",
  old_protocol: "The client speaks a protocol older than 3.",
  multi_statement: "The text holds several statements, of which any may write.",
  multi_statement_transaction:
    "The transaction was begun within a text of several statements: only the primary knows it.",
  segment:
    "Earlier messages have run on the primary, and all messages up to a Sync are one transaction.",
  wrote_earlier: "The session has written before.",
  wrote_in_transaction: "The transaction has written before: only the primary is sure to see that.",
  failed_transaction: "The transaction has failed: until its end all statements are refused.",
  serializable: "The transaction is serializable, which no standby can be.",
  system_catalog: "It reads a system catalog.",
  temporary_table: "It reads a temporary table, which only the primary has.",
  unlogged_table: "It reads an unlogged table, which only the primary has.",
  sequence: "It reads a sequence, which on a standby is ahead of what was given out.",
  asks_session: "It asks for what only the session on the primary knows.",
  set_on_primary:
    "The session has set something of which only the primary knows: by set_config(), or by SET among other statements.",
  query_pattern: "Its text matches a pattern of statements for the primary.",
  writing_function: "It calls a function that may write.",
  dml_adaptive: "It reads a table that the transaction has written.",
  written_lately: "A table of it was written a moment ago, so that standbys may lack the change.",
  cold_start: "pgpool has just started: it does not know what was written before.",
  delayed: "The node for reads lags too far behind.",
  unknown_statement: "No prepared statement of that name is known.",
  prepared_again:
    "The node that holds the prepared statement must not run it now: it is prepared on the primary.",
  replicated: "Every node must do it, for all to remain equal.",
  transaction_id: "It asks for transaction ids, which each server counts by itself.",
  backend_pid: "It concerns a server process, which only its own node can reach.",
};

/** Every word, in the order of the table. */
export const routeReasons = Object.keys(REASON_TEXTS) as readonly (RouteReason | ProxyReason)[];

/** The place of each word in `routeReasons`, for counters. */
export const REASON_INDEX = Object.fromEntries(
  routeReasons.map((reason, index) => [reason, index]),
) as { readonly [R in RouteReason | ProxyReason]: number };
