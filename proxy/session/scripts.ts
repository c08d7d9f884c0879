/**
 * What a session that replicates does, step by step: units of the client's messages, run by scripts
 * that say what they wait for (`Ensemble`, `Segments`, `CopyToAll`).
 */
import type { StatementFacts } from "../../core/sql/facts.ts";
import type { Frame } from "../../core/wire/frame.ts";
import type { Protocol } from "../routing/route.ts";
import type { ReplicationPorts, SessionEnd, SessionPorts } from "./desk.ts";
import type { Exchange, Replica } from "./replica.ts";
import type { SessionRouter } from "./router.ts";

/**
 * What a script waits for: that every node has said all it was asked, and what became of lost ones is
 * known; the client; a turn.
 */
export type Pause = "answers" | "client" | "turn";
export type Script<T = void> = Generator<Pause, T, void>;

/** Messages of the client that are run together, on one node or on several. */
export type Unit = {
  readonly sql: string;
  readonly facts: StatementFacts;
  readonly protocol: Protocol;
  /** Something is executed, and not just parsed or described. */
  readonly executes: boolean;
  /** Should the one node that runs it be lost, then another may. */
  readonly repeatable: boolean;
  /** Nothing follows in the same implicit transaction: the client waits for ReadyForQuery. */
  readonly last: boolean;
  /** A Sync behind it would undo or end what it begins: it executes something, or makes a portal. */
  readonly lasting: boolean;
  /**
   * What comes before it, in its transaction: locks, questions to the main node, whose answers change
   * the messages. Gives the error that ended it.
   */
  readonly prelude: ((main: Replica, others: readonly Replica[]) => Script<Prelude>) | undefined;
  /** Tables whose rows it numbers, under the locks of `prelude`. Quoted, with their schemas. */
  readonly numbered: readonly string[];
  /** What the main node is asked just before it, in one go; the messages of the others follow from that. */
  readonly along: Question | undefined;
  /** The messages, up to one that is answered by ReadyForQuery. */
  message(replica: Replica): Uint8Array;
  /** A ParameterDescription as the client is to see it. */
  readonly parameters: ((frame: Uint8Array) => Uint8Array) | undefined;
  /** What this node lacks for them. */
  before(replica: Replica): Lacking | undefined;
  /** It is about to be sent there, and this will be the answer. */
  note(replica: Replica, exchange: Exchange): void;
};

export type Lacking = {
  /** What brings it, up to a ReadyForQuery. */
  readonly messages: Uint8Array;
  /** They have failed: the node lacks it still. */
  undo(): void;
};

/** `done`, or the error of a statement of our own; undefined: the main node was lost. */
export type Prelude = "done" | Uint8Array | undefined;

export type Outcome = {
  readonly failed: boolean;
  /** Messages that were answered before one failed. */
  readonly completed: number;
  /** What completed it, which the client is still to be told; undefined when it knows. */
  readonly untold: Uint8Array | undefined;
  /** The client has even had ReadyForQuery. */
  readonly readyTold: boolean;
};

/** Expressions for the main node, and who takes what it says of them. */
export type Question = {
  readonly asked: readonly string[];
  answer(values: readonly (string | null)[]): void;
};

/** What a node has answered to a statement of ours. */
export type OwnAnswer = {
  readonly rows: readonly Uint8Array[];
  readonly error: Uint8Array | undefined;
  readonly lost: boolean;
};

/** What the session lends. */
export interface EnsembleHost {
  readonly ports: SessionPorts;
  readonly replication: ReplicationPorts;
  readonly router: SessionRouter;
  toClient(bytes: Uint8Array): void;
  /** The client's next message; undefined until there is one. */
  nextMessage(): Frame | undefined;
  /** It is to be read again. */
  unread(message: Frame): void;
  /** The session is over. */
  end(end: SessionEnd, error?: Uint8Array): void;
  /** A turn has come. */
  wake(): void;
}

/** A node, and what it was asked. */
export type Asked = { readonly replica: Replica; readonly exchange: Exchange };

/** The session has ended: this script is never resumed. */
export function* over(): Script<never> {
  for (;;) yield "answers";
}
