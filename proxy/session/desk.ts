/** What the two halves of a session share, and what a session asks of the one who runs it. */
import type { NodeId } from "../../core/cluster/state.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";
import type { Outbound } from "./outbound.ts";
import type { ByteSink, NodeLink, Owed, Replies } from "./replies.ts";
import type { SessionRouter } from "./router.ts";

/** Why a session ended, and so whether its backends may serve another. */
export type SessionEnd =
  /** Terminate: the backends are clean after the reset queries. */
  | { readonly kind: "terminate" }
  /** The client broke the protocol, or a node it needs is gone; it has been told. */
  | { readonly kind: "broken"; readonly why: string };

/** What a session asks of the one who runs it. */
export interface SessionPorts {
  readonly client: ByteSink;
  ended(end: SessionEnd): void;
  /** The session no longer uses this node: close its connection, do not pool the set. */
  dropped(link: NodeLink, why: string): void;
  /** A ParameterStatus of a node, whole: remembered for the next session on that connection. */
  parameterStatus(link: NodeLink, frame: Uint8Array): void;
  /** A command that pgpool answers itself: SHOW pool_nodes, PGPOOL SET … Gives all but ReadyForQuery. */
  answer(sql: string, facts: StatementFacts): Uint8Array;
  /** Logs and counts; called for each statement and node it goes to. */
  noteStatement(sql: string, facts: StatementFacts): void;
  /** A node answered the client's statement with this ErrorResponse. */
  noteError(link: NodeLink, frame: Uint8Array): void;
  noteNodeStatement(link: NodeLink, label: string, sql: string, facts: StatementFacts): void;
}

/** The session as its extended-protocol half sees it. */
export interface Desk {
  readonly ports: SessionPorts;
  readonly router: SessionRouter;
  readonly replies: Replies;
  readonly out: Outbound;
  readonly writeLink: NodeLink;
  readonly inTransaction: boolean;
  /** An error was answered in an unfinished segment: messages are ignored until Sync. */
  discarding: boolean;
  /** The nodes that read COPY data from the client, until CopyDone or CopyFail. */
  readonly copyLinks: readonly NodeLink[];
  /** They have said that they do: a Sync means nothing to them. */
  readonly copying: boolean;
  linksOf(nodes: readonly NodeId[]): readonly NodeLink[];
  /** Of the nodes asked, the one whose answers the client sees. */
  speaker(links: readonly NodeLink[]): NodeLink;
  /** Whether a message for `links` may go out while earlier answers are still owed. */
  mayFollow(links: readonly NodeLink[], main: NodeLink): boolean;
  /** No message follows until nothing is owed. */
  holdNext(): void;
  /** Stalls until nothing is owed; always false, for a handler to return. */
  waitDrained(): false;
  /** The message that the session is stalled before has been answered: it is not to be read again. */
  dropStalled(): void;
  /** The client broke the protocol: it is told, and the session ends. */
  violation(message: string): true;
  /** A statement has run: routing learns from it. */
  noteDone(owed: Owed, facts: StatementFacts): void;
  /** Something unknown was written: reads of this transaction stay with it. */
  noteWrite(owed: Owed): void;
  /** If the statement just sent is a COPY … FROM STDIN, data for `links` will follow. */
  noteCopy(owed: Owed, facts: StatementFacts, links: readonly NodeLink[]): void;
}
