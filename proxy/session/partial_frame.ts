/** A frame of which not all has come, for one that must be read whole. */
export class PartialFrame {
  #pieces: Uint8Array[] = [];
  #bytes = 0;
  #needed = 0;

  /** Nothing is kept. */
  get empty(): boolean {
    return this.#bytes === 0;
  }

  /** Keeps the beginning of a frame that is to be looked at again when there are `needed` bytes of it. */
  keep(bytes: Uint8Array, needed: number): void {
    this.#pieces = [bytes];
    this.#bytes = bytes.length;
    this.#needed = needed;
  }

  /** All that is kept with the new bytes behind it, once there are enough: copied once per frame. */
  join(chunk: Uint8Array): Uint8Array | undefined {
    this.#pieces.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes < this.#needed) return undefined;
    const whole = new Uint8Array(this.#bytes);
    let at = 0;
    for (const piece of this.#pieces) {
      whole.set(piece, at);
      at += piece.length;
    }
    this.clear();
    return whole;
  }

  clear(): void {
    this.#pieces = [];
    this.#bytes = 0;
  }
}
