/**
 * COPY … FROM STDIN where pgpool replicates: the client's data go to every node that reads them, or to
 * none to the end (manual: "COPY Operations").
 */
import { errorResponse } from "../../core/wire/backend.ts";
import { FRONTEND } from "../../core/wire/codes.ts";
import type { Frame } from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { syncMessage } from "./own_messages.ts";
import { type Exchange, fieldOf } from "./replica.ts";
import { type Asked, type EnsembleHost, over, type Script, type Unit } from "./scripts.ts";

const copyFail = encodeFrontend({ kind: "CopyFail", reason: "COPY has failed on another node" });
const MISPLACED = "pgpool: a message that is no data";

export class CopyToAll {
  readonly #host: EnsembleHost;

  constructor(host: EnsembleHost) {
    this.#host = host;
  }

  /** The client's data go to every node that reads them, as often as the text has a COPY. */
  *run(asked: readonly Asked[], { protocol }: Unit): Script {
    while (asked.some(({ exchange }) => exchange.copying)) {
      const began = asked.filter(({ exchange }) => exchange.copying);
      const main = asked.find(({ exchange }) => !exchange.lost);
      if (main === undefined) break;
      if (protocol === "extended") this.#unsynced = [...began];
      if (began.length < asked.filter(({ exchange }) => !exchange.lost).length) {
        // Some have refused what others begin: that is for the comparison to tell.
        endCopy(began, copyFail);
      } else {
        this.#tellCopy(main.exchange);
        yield* this.#passData(began);
      }
      for (const { replica } of this.#unsynced.splice(0)) replica.add(syncMessage);
      yield "answers";
    }
  }

  /** The Sync that was sent with their COPY they have ignored. */
  #unsynced: Asked[] = [];

  /** What the text has completed before, and that data are wanted. */
  #tellCopy(exchange: Exchange): void {
    const { outcome, copyResponse } = exchange;
    if (outcome !== undefined) this.#host.toClient(outcome);
    if (copyResponse !== undefined) this.#host.toClient(copyResponse);
    exchange.outcome = undefined;
    exchange.heard++;
  }

  *#passData(began: readonly Asked[]): Script {
    for (;;) {
      const reading = began.filter(({ exchange }) => exchange.copying);
      if (reading.length < began.filter(({ exchange }) => !exchange.lost).length) {
        endCopy(reading, copyFail); // it has failed on one of them
        return;
      }
      const message = this.#host.nextMessage();
      if (message === undefined) {
        yield "client";
        continue;
      }
      switch (message.type) {
        case FRONTEND.CopyData:
          for (const { replica } of reading) replica.add(message.raw);
          break;
        case FRONTEND.Flush:
        case FRONTEND.Sync:
          break; // PostgreSQL ignores them here
        case FRONTEND.Terminate:
          // Servers that wait for data would answer nothing: their connections are given up.
          this.#host.end({ kind: "broken", why: "the client left in the middle of COPY" });
          yield* over();
          break;
        case FRONTEND.CopyDone:
        case FRONTEND.CopyFail:
          endCopy(reading, message.raw);
          return;
        default:
          yield* this.#misplaced(reading, message);
          return;
      }
    }
  }

  /**
   * COPY reads this message and fails of it; unless it has failed before of something else, and then
   * the message stands on its own. CopyFail tells, for a server ignores it where no COPY reads.
   */
  *#misplaced(reading: readonly Asked[], message: Frame): Script {
    let isRead = false;
    for (const { exchange } of reading) {
      exchange.instead = (error) => {
        if (!(fieldOf(error, "M") ?? "").includes(MISPLACED)) return undefined;
        isRead = true;
        const type = message.type.toString(16).toUpperCase();
        const text = `unexpected message type 0x${type} during COPY from stdin`;
        return errorResponse({ severity: "ERROR", code: "08P01", message: text });
      };
    }
    endCopy(reading, encodeFrontend({ kind: "CopyFail", reason: MISPLACED }));
    for (const { replica } of this.#unsynced.splice(0)) replica.add(syncMessage);
    yield "answers";
    if (!isRead) this.#host.unread(message);
  }
}

function endCopy(reading: readonly Asked[], message: Uint8Array): void {
  for (const { replica, exchange } of reading) {
    exchange.copying = false;
    replica.add(message);
  }
}
