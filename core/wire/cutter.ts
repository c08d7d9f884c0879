/**
 * Cuts a stream of bytes into pieces whose size stands in a header, and knows nothing of what is
 * inside. Pieces that lie whole within a chunk are views into it; one that is spread over several
 * chunks is gathered in a buffer of its own. So no byte is copied more than a few times however the
 * stream is cut, and no more is allocated than about twice what has really arrived.
 */

const EMPTY = new Uint8Array(0);
/** Up to here a piece's announced size is believed when its buffer is allocated. */
export const TRUSTED_SIZE = 8192;

/**
 * The whole size, header included, of the piece whose header begins at `at`; throws to refuse it.
 * Asked again with each chunk until the piece is complete, so it may become stricter meanwhile.
 */
export type SizeOf = (bytes: Uint8Array, at: number) => number;

export class StreamCutter {
  readonly #headerSize: number;
  readonly #sizeOf: SizeOf;
  /** Chunks not looked at yet; more than one only when a caller pushes without taking. */
  readonly #waiting: Uint8Array[] = [];
  #chunk: Uint8Array = EMPTY;
  #at = 0;
  /** The beginning of a piece that no chunk holds whole. Comes before everything in `#chunk`. */
  #partial: Uint8Array = EMPTY;
  #partialLength = 0;

  constructor(headerSize: number, sizeOf: SizeOf) {
    this.#headerSize = headerSize;
    this.#sizeOf = sizeOf;
  }

  push(chunk: Uint8Array): void {
    if (this.#at < this.#chunk.length || this.#waiting.length > 0) {
      this.#waiting.push(chunk);
      return;
    }
    this.#chunk = chunk;
    this.#at = 0;
  }

  /** The next whole piece, or undefined when more bytes are needed. */
  next(): Uint8Array | undefined {
    for (;;) {
      const available = this.#chunk.length - this.#at;
      if (available === 0) {
        const next = this.#waiting.shift();
        if (next === undefined) {
          this.#release();
          return undefined;
        }
        this.#chunk = next;
        this.#at = 0;
        continue;
      }
      const piece = this.#partialLength === 0 ? this.#whole(available) : undefined;
      if (piece !== undefined) return piece;
      const gathered = this.#gather();
      if (gathered !== undefined) return gathered;
    }
  }

  /** The first byte not taken yet. */
  peek(): number | undefined {
    return this.#partialLength > 0 ? this.#partial[0] : this.#chunk[this.#at];
  }

  /** Bytes pushed and not taken yet. */
  get buffered(): number {
    let size = this.#partialLength + this.#chunk.length - this.#at;
    for (const chunk of this.#waiting) size += chunk.length;
    return size;
  }

  /** How many bytes the piece that has begun lacks, as far as is known; 0 when none has. */
  get missing(): number {
    if (this.#partialLength === 0) return 0;
    const isKnown = this.#partialLength >= this.#headerSize;
    const size = isKnown ? this.#sizeOf(this.#partial, 0) : this.#headerSize;
    return size - this.#partialLength;
  }

  /** Bytes allocated here: at most `TRUSTED_SIZE`, or twice what has arrived of the piece. */
  get allocated(): number {
    return this.#partial.length;
  }

  /** Takes all that is left, in order, whether it makes whole pieces or not. */
  rest(): Uint8Array {
    const rest = new Uint8Array(this.buffered);
    rest.set(this.#partial.subarray(0, this.#partialLength));
    let length = this.#partialLength;
    for (const chunk of [this.#chunk.subarray(this.#at), ...this.#waiting.splice(0)]) {
      rest.set(chunk, length);
      length += chunk.length;
    }
    this.#release();
    this.#partial = EMPTY;
    this.#partialLength = 0;
    return rest;
  }

  /** A piece straight from the chunk. */
  #whole(available: number): Uint8Array | undefined {
    if (available < this.#headerSize) return undefined;
    const size = this.#sizeOf(this.#chunk, this.#at);
    if (available < size) return undefined;
    const from = this.#at;
    this.#at = from + size;
    return this.#chunk.subarray(from, from + size);
  }

  /** Adds what the chunk has to the partial piece: first its header, then the rest of it. */
  #gather(): Uint8Array | undefined {
    this.#gatherUpTo(this.#headerSize, this.#headerSize);
    if (this.#partialLength < this.#headerSize) return undefined;
    const size = this.#sizeOf(this.#partial, 0);
    this.#gatherUpTo(size, size);
    if (this.#partialLength < size) return undefined;
    const whole = this.#partial;
    const piece = whole.length === size ? whole : whole.subarray(0, size);
    // Given away for good: whoever took the piece may still be sending it.
    this.#partial = EMPTY;
    this.#partialLength = 0;
    return piece;
  }

  #gatherUpTo(length: number, size: number): void {
    const taken = Math.min(length - this.#partialLength, this.#chunk.length - this.#at);
    if (taken <= 0) return;
    this.#reserve(this.#partialLength + taken, size);
    this.#partial.set(this.#chunk.subarray(this.#at, this.#at + taken), this.#partialLength);
    this.#partialLength += taken;
    this.#at += taken;
  }

  #reserve(length: number, size: number): void {
    if (length <= this.#partial.length) return;
    const doubled = Math.max(length, this.#partial.length * 2, TRUSTED_SIZE);
    const grown = new Uint8Array(Math.min(size, doubled));
    grown.set(this.#partial.subarray(0, this.#partialLength));
    this.#partial = grown;
  }

  /** An idle decoder must not hold on to the last chunk's memory. */
  #release(): void {
    this.#chunk = EMPTY;
    this.#at = 0;
  }
}
