/** Bytes the kernel would not take yet, in order. Chunks are kept as given; only small ones are joined. */

/** Chunks below this are worth copying together: a system call costs more than the copy. */
const smallBytes = 16 * 1024;
const joinedBytesMax = 64 * 1024;
/** Spent entries are cut off when there are this many, so that a long queue does not keep them. */
const spentMax = 1024;

export class SendQueue {
  #chunks: Uint8Array[] = [];
  #head = 0;
  #bytes = 0;

  get bytes(): number {
    return this.#bytes;
  }

  push(chunk: Uint8Array): void {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
  }

  /** What to write next, or undefined when empty. Several small chunks come as one. */
  next(): Uint8Array | undefined {
    const head = this.#chunks[this.#head];
    if (head === undefined || head.length >= smallBytes) return head;
    return this.#joinFrom(head);
  }

  /** The kernel took this many bytes of what `next` gave. */
  consume(bytes: number): void {
    this.#bytes -= bytes;
    const head = this.#chunks[this.#head];
    if (head !== undefined && bytes < head.length) {
      this.#chunks[this.#head] = head.subarray(bytes);
      return;
    }
    this.#head += 1;
    if (this.#head === this.#chunks.length) {
      this.#chunks = [];
      this.#head = 0;
    } else if (this.#head >= spentMax) {
      this.#chunks = this.#chunks.slice(this.#head);
      this.#head = 0;
    }
  }

  clear(): void {
    this.#chunks = [];
    this.#head = 0;
    this.#bytes = 0;
  }

  #joinFrom(head: Uint8Array): Uint8Array {
    let end = this.#head + 1;
    let size = head.length;
    for (let next = this.#chunks[end]; next !== undefined; next = this.#chunks[++end]) {
      if (size + next.length > joinedBytesMax) break;
      size += next.length;
    }
    if (end === this.#head + 1) return head;
    const joined = new Uint8Array(size);
    let at = 0;
    for (const chunk of this.#chunks.slice(this.#head, end)) {
      joined.set(chunk, at);
      at += chunk.length;
    }
    this.#head = end - 1;
    this.#chunks[this.#head] = joined;
    return joined;
  }
}
