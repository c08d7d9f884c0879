/**
 * Stands in for the server that took this session's writes and is gone. It answers what was under
 * way there, and the rest of a transaction that it took with it, as PostgreSQL would answer in a
 * transaction that has failed: so the client learns what it has lost and the session goes on, with
 * another server, when nothing of the old one is left.
 */
import type { StatementFacts } from "../../core/sql/facts.ts";
import { commandComplete, errorResponse, readyForQuery } from "../../core/wire/backend.ts";
import { transactionFailed } from "./messages.ts";
import { type ByteSink, IDLE, type NodeLink, type Owed } from "./replies.ts";
import { Portal, Prepared } from "./statements.ts";

const parseComplete = Uint8Array.of(0x31, 0, 0, 0, 4);
const bindComplete = Uint8Array.of(0x32, 0, 0, 0, 4);
const closeComplete = Uint8Array.of(0x33, 0, 0, 0, 4);
const noData = Uint8Array.of(0x6e, 0, 0, 0, 4);
/** ParameterDescription of no parameters, and NoData. */
const bareStatement = Uint8Array.of(0x74, 0, 0, 0, 6, 0, 0, ...noData);
const rolledBack = commandComplete("ROLLBACK");

/** What a client is told of a connection that was lost (spec wire/failover.md 4). */
export function connectionLost(
  severity: "ERROR" | "FATAL",
  link: NodeLink,
  detail: string,
  hint?: string,
): Uint8Array {
  const message = `unable to read data from DB node ${link.id}`;
  return errorResponse({ severity, code: "57P01", message, detail, hint });
}

const unknownOutcome = "It may have been executed all the same: look before you repeat it.";

export class StandIn implements ByteSink {
  readonly #link: NodeLink;
  readonly #why: string;
  readonly #deliver: (bytes: Uint8Array) => void;
  readonly #soon: (task: () => void) => void;
  /** A transaction was open, and the client has not yet ended it. Unknown until the first answer. */
  #inTransaction: boolean | undefined;
  /** The server has answered a part of a segment that its Sync was to make last. */
  #halfDone: boolean;
  /** The client knows of the loss. */
  #told = false;
  #begun = false;
  #paused = false;
  #scheduled = false;

  /**
   * `deliver` takes bytes as if the server had sent them, and `soon` a task, to run when the session
   * is done with what it does now. Nothing is said before `begin`.
   */
  constructor(options: {
    readonly link: NodeLink;
    readonly why: string;
    readonly deliver: (bytes: Uint8Array) => void;
    readonly soon: (task: () => void) => void;
  }) {
    this.#link = options.link;
    this.#why = options.why;
    this.#deliver = options.deliver;
    this.#soon = options.soon;
    this.#halfDone = options.link.inSegment;
  }

  begin(): void {
    this.#begun = true;
    this.#schedule();
  }

  send(): boolean {
    this.#schedule();
    return true;
  }

  pause(): void {
    this.#paused = true;
  }

  resume(): void {
    this.#paused = false;
    this.#schedule();
  }

  /** As a server would: not while the session is still sending. */
  #schedule(): void {
    if (this.#scheduled || !this.#begun) return;
    this.#scheduled = true;
    this.#soon(() => {
      this.#scheduled = false;
      this.#answerAll();
    });
  }

  #answerAll(): void {
    const { queue } = this.#link;
    while (!this.#paused && this.#link.held === undefined) {
      const owed = queue.peek();
      if (owed === undefined) return;
      this.#inTransaction ??= this.#link.status !== IDLE;
      const before = queue.size;
      this.#deliver(this.#answerTo(owed));
      if (queue.size === before && queue.peek() === owed) return; // nobody listens any more
    }
  }

  #answerTo(owed: Owed): Uint8Array {
    switch (owed.kind) {
      case "Query":
      case "FunctionCall":
        return Buffer.concat([this.#execute(owed), this.#ready()]);
      case "Sync":
        return this.#sync(owed);
      case "Execute":
        return this.#execute(owed);
      case "Parse":
        return this.#fails(owed) ? this.#failure(owed) : parseComplete;
      case "Bind":
        return this.#fails(owed) ? this.#failure(owed) : bindComplete;
      case "Describe": {
        if (this.#fails(owed)) return this.#failure(owed);
        return owed.subject instanceof Prepared ? bareStatement : noData;
      }
      case "Close":
        return owed.interrupted && this.#fails(owed) ? this.#failure(owed) : closeComplete;
    }
  }

  /** What was done since the last one is not there, though each part of it was answered. */
  #sync(owed: Owed): Uint8Array {
    const unheard = this.#inTransaction && !this.#told;
    const fails = owed.interrupted || this.#halfDone || unheard;
    return fails && !owed.silent && !this.#link.skipping
      ? Buffer.concat([this.#failure(owed), this.#ready()])
      : this.#ready();
  }

  #ready(): Uint8Array {
    this.#halfDone = false;
    return readyForQuery(this.#inTransaction ? "E" : "I");
  }

  #execute(owed: Owed): Uint8Array {
    const fails = this.#fails(owed);
    const answer = fails ? this.#failure(owed) : rolledBack;
    if (endingOf(owed) !== undefined) this.#inTransaction = false;
    return answer;
  }

  /** A transaction that was lost can be rolled back, and committed once the client knows of it. */
  #fails(owed: Owed): boolean {
    // Our own messages: behind an error in one that nobody sees the client's would be passed over.
    if (owed.silent && !owed.errorsShow) return false;
    if (owed.interrupted) return true;
    const ending = endingOf(owed);
    return ending === undefined || (ending === "commit" && !this.#told);
  }

  #failure(owed: Owed): Uint8Array {
    if (this.#told && !owed.interrupted) return transactionFailed;
    this.#told = true;
    const hint = owed.interrupted && this.#mayBeDone() ? unknownOutcome : undefined;
    return connectionLost("ERROR", this.#link, this.#why, hint);
  }

  /** What is due now, or what will be passed over with it, may have been made to last. */
  #mayBeDone(): boolean {
    if (!this.#inTransaction) return true;
    const { queue } = this.#link;
    for (let i = 0; i < queue.size; i++) {
      const owed = queue.at(i);
      if (!owed?.interrupted) return false;
      if (mayCommit(owed)) return true;
      if (owed.kind === "Sync" || owed.kind === "Query" || owed.kind === "FunctionCall")
        return false;
    }
    return false;
  }
}

function factsOf({ kind, subject }: Owed): StatementFacts | undefined {
  if (subject instanceof Prepared) return subject.facts;
  if (subject instanceof Portal) return subject.statement.facts;
  return kind === "Query" ? (subject as StatementFacts | undefined) : undefined;
}

/** How the statement that is due would end the transaction, if it does that and nothing else. */
function endingOf(owed: Owed): "commit" | "rollback" | undefined {
  const facts = factsOf(owed);
  if (facts === undefined || facts.multiStatement) return undefined;
  const { statement } = facts;
  if (statement.kind !== "transaction") return undefined;
  const { control } = statement;
  switch (control.kind) {
    case "commit":
    case "rollback":
      return control.chain ? undefined : control.kind;
    case "two_phase":
      return control.step === "prepare" ? "commit" : undefined;
    case "begin":
    case "savepoint":
    case "release":
    case "rollback_to":
      return undefined;
  }
}

function mayCommit(owed: Owed): boolean {
  const facts = factsOf(owed);
  if (facts === undefined) return false;
  const { statement, multiStatement } = facts;
  if (multiStatement || statement.kind === "unparsable") return true;
  if (statement.kind !== "transaction") return false;
  return statement.control.kind === "commit" || statement.control.kind === "two_phase";
}
