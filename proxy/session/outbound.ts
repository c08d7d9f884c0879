/**
 * Client bytes on their way to the backends. Frames that follow each other in one received chunk
 * and go to the same node leave in one write, as the very bytes that came.
 */
import type { NodeLink } from "./replies.ts";

export class Outbound {
  #chunk: Uint8Array = new Uint8Array(0);
  #link: NodeLink | undefined;
  #from = 0;
  #to = 0;
  readonly #onPressure: () => void;

  /** `onPressure` is told when a node does not take bytes as fast as the client sends them. */
  constructor(onPressure: () => void) {
    this.#onPressure = onPressure;
  }

  /** The chunk that `pass` speaks of from now on. */
  open(chunk: Uint8Array): void {
    this.#chunk = chunk;
    this.#link = undefined;
  }

  /** Sends bytes [from, to) of the chunk to one node, soon: at the next `flush`. */
  pass(link: NodeLink, from: number, to: number): void {
    if (this.#link === link && this.#to === from) {
      this.#to = to;
      return;
    }
    this.flush();
    this.#link = link;
    this.#from = from;
    this.#to = to;
  }

  passAll(links: readonly NodeLink[], from: number, to: number): void {
    const only = links[0];
    if (links.length === 1 && only !== undefined) {
      this.pass(only, from, to);
      return;
    }
    const bytes = this.#chunk.subarray(from, to);
    for (const link of links) this.send(link, bytes);
  }

  /** Sends bytes of our own to a node, behind what was passed before. */
  send(link: NodeLink, bytes: Uint8Array): void {
    this.flush();
    this.#write(link, bytes);
  }

  flush(): void {
    const link = this.#link;
    if (link === undefined) return;
    this.#link = undefined;
    const whole = this.#from === 0 && this.#to === this.#chunk.length;
    this.#write(link, whole ? this.#chunk : this.#chunk.subarray(this.#from, this.#to));
  }

  #write(link: NodeLink, bytes: Uint8Array): void {
    link.touched = true;
    if (!link.sink.send(bytes)) this.#onPressure();
  }
}
