/**
 * What a connection owes its handler, whichever runtime reads the socket: chunks in order, none
 * while paused, `onClose` once and last, and no way for an exception to pass into the runtime.
 */
import type { ConnHandler } from "./conn.ts";

/**
 * How long a peer may take to read the end of what it was sent and to close as well. Longer than a
 * round trip anywhere; short, since nobody watches over the connection any more.
 */
export const lingerMs = 2_000;

/** Before an owner has taken the connection; everything is held back for it. */
const nobody: ConnHandler = { onData() {}, onDrain() {}, onClose() {} };

export class Delivery {
  #handler: ConnHandler = nobody;
  /** Undefined while chunks flow straight to the handler: the usual state and the cheap one. */
  #held: Uint8Array[] | undefined = [];
  #paused = false;
  #settling = false;
  /** Nothing but `onClose` may follow. */
  #muted = false;
  /** The stream has ended, though held chunks may still be owed. */
  #over = false;
  #told = false;
  readonly #onThrow: (error: Error) => void;

  /** `onThrow` must close the connection: a handler that threw has lost its place in the stream. */
  constructor(onThrow: (error: Error) => void) {
    this.#onThrow = onThrow;
  }

  get handler(): ConnHandler {
    return this.#handler;
  }

  set handler(handler: ConnHandler) {
    const first = this.#handler === nobody;
    this.#handler = handler;
    if (first) this.#release();
  }

  get paused(): boolean {
    return this.#paused;
  }

  /** Whether bytes are here that the handler has not seen. */
  get holdsData(): boolean {
    return this.#held !== undefined && this.#held.length > 0;
  }

  data(chunk: Uint8Array): void {
    if (this.#held !== undefined) {
      this.#held.push(chunk);
      return;
    }
    if (this.#muted) return;
    try {
      this.#handler.onData(chunk);
    } catch (error) {
      this.#onThrow(asError(error));
    }
  }

  drained(): void {
    if (this.#muted) return;
    try {
      this.#handler.onDrain();
    } catch (error) {
      this.#onThrow(asError(error));
    }
  }

  pause(): void {
    this.#paused = true;
    this.#held ??= [];
  }

  /** What a runtime read before it noticed the pause is delivered first, from a microtask. */
  resume(): void {
    if (!this.#paused) return;
    this.#paused = false;
    this.#release();
  }

  /** Holds chunks back while TLS is set up, independently of `pause`. */
  settle(): void {
    this.#settling = true;
    this.#held ??= [];
  }

  /**
   * Ends `settle` in a later turn of the loop: the first encrypted bytes may come together with the
   * end of the handshake, and whoever awaited it must have set its handler by then.
   */
  settled(): void {
    setImmediate(() => {
      this.#settling = false;
      this.#release();
    });
  }

  /** From now on nothing but `onClose` reaches the handler. */
  mute(): void {
    this.#muted = true;
    this.#held = undefined;
    if (this.#over) queueMicrotask(() => this.#tell(undefined));
  }

  /** The stream ended. An orderly end waits for chunks held back; a failure does not. */
  close(error?: Error): void {
    if (this.#over) return;
    this.#over = true;
    const waits = error === undefined && this.#held !== undefined && this.#held.length > 0;
    if (!waits) this.#tell(error);
  }

  /** As `close`, for a caller that may be the handler itself: tells it in a microtask. */
  closeSoon(error?: Error): void {
    this.#over = true;
    this.#muted = true;
    this.#held = undefined;
    queueMicrotask(() => this.#tell(error));
  }

  #release(): void {
    if (this.#held === undefined) return;
    if (this.#held.length > 0 || this.#over) {
      queueMicrotask(() => this.#deliverHeld());
    } else if (this.#mayFlow()) {
      this.#held = undefined;
    }
  }

  #mayFlow(): boolean {
    return !this.#paused && !this.#settling && this.#handler !== nobody;
  }

  #deliverHeld(): void {
    const held = this.#held;
    if (held === undefined || !this.#mayFlow()) return;
    this.#held = undefined;
    for (const [index, chunk] of held.entries()) {
      this.data(chunk);
      if (this.#muted) return;
      if (!this.#mayFlow()) {
        this.#held = held.slice(index + 1);
        return;
      }
    }
    if (this.#over) this.#tell(undefined);
  }

  #tell(error: Error | undefined): void {
    if (this.#told) return;
    this.#told = true;
    this.#muted = true;
    this.#held = undefined;
    try {
      this.#handler.onClose(error);
    } catch {
      // The connection is gone already: there is nothing left to close, and nobody left to tell.
    }
  }
}

export function asError(thrown: unknown): Error {
  return thrown instanceof Error ? thrown : new Error(String(thrown));
}
