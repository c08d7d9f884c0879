/**
 * What becomes of a session whose connections are lost. A standby with nothing of ours under way is
 * simply not used any more; a statement it was running fails with a clear error. Where the write
 * node is lost a stand-in answers what was under way and what is left of the transaction, and the
 * session goes on with the next node that takes writes, unless more is lost than that.
 */
import type { Leaves } from "../../core/sql/facts.ts";
import { readyForQuery } from "../../core/wire/backend.ts";
import type { Desk, SessionEnd } from "./desk.ts";
import { statusLetter } from "./messages.ts";
import { type ByteSink, IN_TRANSACTION, type NodeLink } from "./replies.ts";
import { connectionLost, StandIn } from "./stand_in.ts";

/** Takes what is still said to a server that is gone. */
const nobody: ByteSink = { send: () => true, pause() {}, resume() {} };

/** The session that loses something. */
export interface Loser extends Desk {
  readonly ended: boolean;
  /** What of it lives on the write node alone. */
  readonly left: Leaves;
  /** The transaction that is open on this node has failed. */
  failTransaction(link: NodeLink): void;
  nodeDrained(): void;
  nodesChanged(): void;
}

export class Losses {
  readonly #session: Loser;
  readonly #finish: (end: SessionEnd) => void;
  /** What servers have said before they closed the connection. */
  readonly #farewells = new Map<NodeLink, Uint8Array>();
  /** Standbys that have said goodbye, until the verdict; and how they were lost. */
  readonly #judged = new Map<NodeLink, string>();
  #standIn: StandIn | undefined;

  constructor(session: Loser, finish: (end: SessionEnd) => void) {
    this.#session = session;
    this.#finish = finish;
  }

  /** It is not known yet whether one of these is lost or this session was meant. */
  areJudged(links: readonly NodeLink[]): boolean {
    return this.#judged.size > 0 && links.some((link) => this.#judged.has(link));
  }

  /** Whether the server goes down or an administrator ended this session shows in a moment. */
  farewell(link: NodeLink, frame: Uint8Array): void {
    this.#farewells.set(link, frame.slice());
  }

  lost(link: NodeLink, message: string): void {
    const session = this.#session;
    if (link.bodyLeft > 0 && link.bodyForward) {
      // The client waits for the rest of a message that will not come: no word would reach it.
      session.ports.dropped(link, message);
      this.#finish({ kind: "broken", why: message });
      return;
    }
    if (link === session.writeLink) {
      this.#writeNodeLost(link, message);
      return;
    }
    if (this.#judged.has(link)) {
      this.#leaveOut(link, message);
      return;
    }
    session.router.lost(link.id);
    session.ports.dropped(link, message);
    session.nodeDrained(); // it may be the one that took no more
    if (this.#farewells.has(link)) {
      session.replies.replace(link, nobody);
      this.#judged.set(link, message);
      session.ports.saidGoodbye(link);
    } else this.#leaveOut(link, message);
  }

  /** The session goes on without this standby. */
  #leaveOut(link: NodeLink, message: string): void {
    this.#judged.delete(link);
    this.#farewells.delete(link);
    const { replies } = this.#session;
    const unanswered = replies.drop(link);
    if (unanswered.length > 0) this.#answerInPlace(link, unanswered, message);
    replies.proceed();
    this.#session.nodesChanged();
  }

  #answerInPlace(link: NodeLink, unanswered: readonly string[], message: string): void {
    const session = this.#session;
    if (session.writeLink.status === IN_TRANSACTION) {
      session.router.noteError("elsewhere", true);
      session.failTransaction(session.writeLink);
    }
    const status = statusLetter(session.replies.status());
    let failing = false;
    for (const kind of unanswered) {
      if (!failing) session.replies.toClient(connectionLost("ERROR", link, message));
      failing = true;
      if (kind === "Query" || kind === "FunctionCall" || kind === "Sync") {
        session.replies.toClient(readyForQuery(status));
        failing = false;
      }
    }
    session.discarding = failing;
  }

  #writeNodeLost(link: NodeLink, message: string): void {
    if (link.lost) return;
    const session = this.#session;
    session.cache?.abandoned(link);
    session.router.lost(link.id);
    session.ports.dropped(link, message);
    const saidGoodbye = this.#farewells.has(link);
    const told = link.fatal && !saidGoodbye;
    if (told || session.left === "state") {
      this.end(link, message, told);
      return;
    }
    const standIn = new StandIn({
      link,
      why: message,
      deliver: (bytes) => this.#heardInstead(link, bytes),
      soon: (task) => session.ports.soon(task),
    });
    session.replies.replace(link, standIn);
    this.#standIn = standIn;
    session.nodeDrained(); // it may be the one that took no more
    if (saidGoodbye) session.ports.saidGoodbye(link);
    else standIn.begin();
  }

  #heardInstead(link: NodeLink, bytes: Uint8Array): void {
    if (this.#session.ended) return;
    if (link.bodyLeft > 0 && link.bodyForward) {
      this.#finish({ kind: "broken", why: "lost in the middle of a message" });
      return;
    }
    this.#session.replies.receiveInstead(link, bytes);
  }

  /** Without this node the session is over. `told`: the client knows why. */
  end(link: NodeLink, message: string, told: boolean): void {
    const { replies } = this.#session;
    if (!told && !replies.midMessage) {
      replies.toClient(this.#farewells.get(link) ?? connectionLost("FATAL", link, message));
    }
    this.#finish({ kind: "broken", why: message });
  }

  /** Whether the server that said goodbye is still there: then this session was meant, and is over. */
  verdict(link: NodeLink, isAlive: boolean): void {
    const lostStandby = this.#judged.get(link);
    if (isAlive) this.end(link, "terminated by an administrator", false);
    else if (lostStandby !== undefined) this.#leaveOut(link, lostStandby);
    else if (link === this.#session.writeLink) this.#standIn?.begin();
    this.#farewells.delete(link);
  }
}
