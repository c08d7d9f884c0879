/** What the two halves of a session share, and what a session asks of the one who runs it. */
import type { Table } from "../../core/admin/table.ts";
import type { NodeId } from "../../core/cluster/state.ts";
import type { Config } from "../../core/config/schema.ts";
import type { RouteReason } from "../../core/routing/reasons.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import type { Protocol } from "../routing/route.ts";
import type { Errand, Turn } from "../snapshots.ts";
import type { CopyIn } from "./copy_in.ts";
import type { Outbound } from "./outbound.ts";
import type { ByteSink, NodeLink, Owed, Replies } from "./replies.ts";
import type { SessionRouter } from "./router.ts";
import type { SessionCache } from "./session_cache.ts";

/** Why a session ended, and so whether its backends may serve another. */
export type SessionEnd =
  /** Terminate: the backends are clean after the reset queries. */
  | { readonly kind: "terminate" }
  /** The client broke the protocol, or a node it needs is gone; it has been told. */
  | { readonly kind: "broken"; readonly why: string };

/** What a statement is sent to a node by: a Query, or these of the extended protocol. */
export type NodeStatementLabel = "" | "Parse" | "Bind" | "Execute";

/** What a session asks of the one who runs it. */
export interface SessionPorts {
  readonly client: ByteSink;
  ended(end: SessionEnd): void;
  /** The session no longer uses this node: close its connection, do not pool the set. */
  dropped(link: NodeLink, why: string): void;
  /** Runs `task` when the present chunk has been dealt with. */
  soon(task: () => void): void;
  /**
   * A server has ended the connection in so many words, and may have meant this session alone; the
   * answer is `Session.verdict`. Never calls back before it returns.
   */
  saidGoodbye(link: NodeLink): void;
  /** A statement waits for a node that takes writes: `Session.nodesChanged` when there is one. */
  writeNodeNeeded(): void;
  /**
   * These nodes gave other answers than the rest: what they hold is not what the others hold. Resolves
   * to whether they are detached; that they are lost the session is told before, as of any other.
   */
  disagreed(links: readonly NodeLink[], why: string): Promise<boolean>;
  /** Writes go to another node from now on. */
  writeNodeMoved(from: NodeLink, to: NodeLink): void;
  /** A ParameterStatus of a node, whole: remembered for the next session on that connection. */
  parameterStatus(link: NodeLink, frame: Uint8Array): void;
  /** A command that pgpool answers itself: SHOW pool_nodes, PGPOOL SET … Gives all but ReadyForQuery. */
  answer(sql: string, facts: StatementFacts): Uint8Array;
  /** The client runs this statement. */
  noteStatement(sql: string): void;
  /** It cannot be parsed. */
  noteUnparsable(sql: string): void;
  /** A node answered the client's statement with this ErrorResponse. `simple`: it was a Query. */
  noteError(link: NodeLink, frame: Uint8Array, simple: boolean): void;
  /** `label`: "" for a simple query, else the name of the message. `why` it goes to this node. */
  noteNodeStatement(
    link: NodeLink,
    label: NodeStatementLabel,
    sql: string,
    facts: StatementFacts,
    why: RouteReason,
  ): void;
}

/** What sessions of native replication and snapshot isolation read of the configuration. */
export type ReplicationSettings = Pick<
  Config,
  | "backend_clustering_mode"
  | "backends"
  | "num_init_children"
  | "replication_stop_on_mismatch"
  | "failover_if_affected_tuples_mismatch"
  | "insert_lock"
  | "lobj_lock_table"
>;

/** What a session asks besides where pgpool itself keeps the servers alike. */
export interface ReplicationPorts {
  settings(): ReplicationSettings;
  /** For the log. */
  warn(message: string, detail: string | undefined): void;
  /** What this node is running is of no use any more. Resolves when it has been told. */
  cancel(link: NodeLink): Promise<void>;
  /**
   * The connection to a node is gone. It is to be found out what that means: `Session.verdict` when
   * the node is there all the same, and this session has to end; else it is to leave the cluster.
   */
  lost(link: NodeLink): void;
  /** Takes its place among those who take snapshots, or commit. */
  enter(errand: Errand): Turn;
  leave(turn: Turn): void;
}

/** Is told of every message, for the log. A session has one only while somebody wants to know. */
export interface Observer {
  /** The client has sent the frame at [at, end); of a large CopyData the end may be still to come. */
  fromClient(bytes: Uint8Array, at: number, end: number): void;
  fromNode(node: NodeId, type: number): void;
  /** What is sent to a node beside the client's statements. */
  toNode(node: NodeId, statement: string): void;
}

/** A session as the one who runs it sees it, in whatever mode. */
export interface ClientSession {
  /** By node id. */
  readonly links: readonly (NodeLink | undefined)[];
  /** Told of every message, while there is one. */
  observer: Observer | undefined;
  readonly writeLink: NodeLink;
  readonly inTransaction: boolean;
  /** It owes the client answers, also those to what it has not sent on yet. */
  readonly busy: boolean;
  /** Whether all that this session is made of can be had on a new connection. */
  readonly leftNothing: boolean;
  fromClient(chunk: Uint8Array): void;
  /** All that `send` had left in the client's socket is gone. */
  clientDrained(): void;
  fromNode(link: NodeLink, chunk: Uint8Array): void;
  /** A node takes bytes again. */
  nodeDrained(): void;
  /** Its connection is gone. */
  nodeLost(link: NodeLink, message: string): void;
  /** An operator has detached a node: what it is doing for this session it may finish. */
  retire(link: NodeLink): void;
  /** Whether the server that said goodbye is still there: then this session was meant, and is over. */
  verdict(link: NodeLink, isAlive: boolean): void;
  /** A cancel request, while a statement waits for a node that takes writes. Whether one was waiting. */
  cancelWaiting(): boolean;
  /** The cluster is not what it was. */
  nodesChanged(): void;
  /** A second has passed. */
  tick?(): void;
  /** A new connection, in the place of one that was lost or never was. `nodesChanged` is to follow. */
  adopt(id: NodeId, sink: ByteSink): NodeLink;
  /** Sends the client a message of our own that answers nothing. */
  aside(frame: Uint8Array): void;
  /** Ends the session from outside, with an error that the client is shown when it can be. */
  end(end: SessionEnd, error?: Uint8Array): void;
}

/** The session as its extended-protocol half sees it. */
export interface Desk {
  readonly ports: SessionPorts;
  readonly router: SessionRouter;
  readonly replies: Replies;
  readonly out: Outbound;
  readonly observer: Observer | undefined;
  /** Undefined while the query cache is off. */
  readonly cache: SessionCache | undefined;
  readonly writeLink: NodeLink;
  readonly inTransaction: boolean;
  /** An error was answered in an unfinished segment: messages are ignored until Sync. */
  discarding: boolean;
  /** Data of COPY on their way from the client. */
  readonly copyIn: CopyIn;
  linksOf(nodes: readonly NodeId[]): readonly NodeLink[];
  /** Of the nodes asked, the one whose answers the client sees. */
  speaker(links: readonly NodeLink[]): NodeLink;
  /** Of the nodes asked, those that have a transaction for COMMIT and ROLLBACK to end. */
  targetsOf(facts: StatementFacts, links: readonly NodeLink[], main: NodeLink): readonly NodeLink[];
  /** Whether a message for `links` may go out while earlier answers are still owed. */
  mayFollow(links: readonly NodeLink[], main: NodeLink): boolean;
  /** No message follows until nothing is owed. */
  holdNext(): void;
  /** Stalls until nothing is owed; always false, for a handler to return. */
  waitDrained(): false;
  /** What a message waited for has come from elsewhere than a node: it is read again. */
  resume(): void;
  /** The message that the session is stalled before has been answered: it is not to be read again. */
  dropStalled(): void;
  /** The client broke the protocol: it is told, and the session ends. */
  violation(message: string): true;
  /**
   * PGPOOL EXPLAIN ROUTE: where `sql` would go if the client said it now. Undefined when the catalog
   * is asked first: the session stalls. Only while nothing is owed.
   */
  explain(sql: string, protocol: Protocol): Table | undefined;
  /** A statement has run: routing learns from it. */
  noteDone(owed: Owed, facts: StatementFacts): void;
  /** Something unknown was written: reads of this transaction stay with it. */
  noteWrite(owed: Owed): void;
  /** If the statement just sent is a COPY … FROM STDIN, data for `links` will follow. */
  noteCopy(owed: Owed, facts: StatementFacts, links: readonly NodeLink[]): void;
}
