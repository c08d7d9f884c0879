/**
 * A bounded map that forgets what was not used lately. Entries live in a young and an old
 * generation; when the young one is full it becomes the old one, and what the old one held is
 * dropped unless it was asked for in between. A hit in the young generation changes nothing, which
 * makes it cheaper than a list kept in order of use.
 */

export class TwoGenerations<V> {
  readonly #countMax: number;
  readonly #weightMax: number;
  #young = new Map<string, V>();
  #old = new Map<string, V>();
  #youngWeight = 0;
  #oldWeight = 0;
  readonly #weigh: (key: string, value: V) => number;

  /** Both bounds hold for the two generations together. */
  constructor(options: {
    readonly countMax: number;
    readonly weightMax?: number;
    readonly weigh?: (key: string, value: V) => number;
  }) {
    this.#countMax = Math.max(1, Math.floor(options.countMax / 2));
    this.#weightMax = (options.weightMax ?? Number.POSITIVE_INFINITY) / 2;
    this.#weigh = options.weigh ?? (() => 0);
  }

  /** Entries held, counting one that is being moved between generations once. */
  get size(): number {
    return this.#young.size + this.#old.size;
  }

  get weight(): number {
    return this.#youngWeight + this.#oldWeight;
  }

  get(key: string): V | undefined {
    const young = this.#young.get(key);
    if (young !== undefined) return young;
    const old = this.#old.get(key);
    if (old !== undefined) this.set(key, old);
    return old;
  }

  set(key: string, value: V): void {
    this.delete(key);
    const weight = this.#weigh(key, value);
    if (weight > this.#weightMax) return;
    const full = this.#young.size >= this.#countMax || this.#youngWeight + weight > this.#weightMax;
    if (full) {
      this.#old = this.#young;
      this.#oldWeight = this.#youngWeight;
      this.#young = new Map();
      this.#youngWeight = 0;
    }
    this.#young.set(key, value);
    this.#youngWeight += weight;
  }

  delete(key: string): void {
    const young = this.#young.get(key);
    if (young !== undefined) {
      this.#young.delete(key);
      this.#youngWeight -= this.#weigh(key, young);
      return;
    }
    const old = this.#old.get(key);
    if (old === undefined) return;
    this.#old.delete(key);
    this.#oldWeight -= this.#weigh(key, old);
  }

  clear(): void {
    this.#young = new Map();
    this.#old = new Map();
    this.#youngWeight = 0;
    this.#oldWeight = 0;
  }
}
