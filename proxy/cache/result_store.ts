/**
 * Results kept in memory, bounded by bytes and by number. Which of them still hold is for others to
 * say (table_versions.ts): they are told to the store as things to remove.
 *
 * When room is needed the hand of a clock goes round: a result that was used since the hand came by
 * last stays for another round. So a flood of results that nobody asks for again pushes out no
 * others than its own.
 */

import type { Clock } from "../../core/ports.ts";

/** Where a result is found: the database, the session's settings and rights, and then the text. */
export class ResultSpace {
  /** Its name among all. */
  readonly path: string;
  readonly results = new Map<string, KeptResult>();
  /** Something was kept in shared memory. */
  used = false;

  constructor(path: string) {
    this.path = path;
  }
}

/** What a result depends on: a table's name, or a whole database. */
export class Dependency {
  /** In no order; each knows its place. */
  readonly results: KeptResult[] = [];
}

export class KeptResult {
  readonly space: ResultSpace;
  readonly key: string;
  /** All that the client is sent, with a ReadyForQuery at its end. Never changed. */
  readonly bytes: Uint8Array;
  readonly dependencies: readonly Dependency[];
  /** Milliseconds of the store's clock. */
  readonly expiresAt: number;
  /** Its place among the results of each dependency. */
  readonly places: number[] = [];
  used = false;
  next: KeptResult = this;
  previous: KeptResult = this;

  constructor(options: {
    readonly space: ResultSpace;
    readonly key: string;
    readonly bytes: Uint8Array;
    readonly dependencies: readonly Dependency[];
    readonly expiresAt: number;
  }) {
    this.space = options.space;
    this.key = options.key;
    this.bytes = options.bytes;
    this.dependencies = options.dependencies;
    this.expiresAt = options.expiresAt;
  }

  /** Of memory, about: the result, its key at two bytes a character, and a flat rate for the rest. */
  get size(): number {
    return this.bytes.length + 2 * this.key.length + OVERHEAD;
  }
}

const OVERHEAD = 450;

export type StoreCounters = {
  added: number;
  evicted: number;
  expired: number;
};

export class ResultStore {
  readonly #bytesMax: number;
  readonly #countMax: number;
  readonly counters: StoreCounters = { added: 0, evicted: 0, expired: 0 };
  #bytes = 0;
  #count = 0;
  /** Of the results themselves, for SHOW pool_cache. */
  #resultBytes = 0;
  /** The next that the clock's hand looks at; new ones are put right behind it. */
  #hand: KeptResult | undefined;

  constructor(options: { readonly bytesMax: number; readonly countMax: number }) {
    this.#bytesMax = options.bytesMax;
    this.#countMax = Math.max(1, options.countMax);
  }

  get bytes(): number {
    return this.#bytes;
  }
  get resultBytes(): number {
    return this.#resultBytes;
  }
  get count(): number {
    return this.#count;
  }

  /** `clock`: milliseconds; never jumps. */
  find(space: ResultSpace, key: string, clock: Clock): KeptResult | undefined {
    const result = space.results.get(key);
    if (result === undefined) return undefined;
    const { expiresAt } = result;
    if (expiresAt !== Number.POSITIVE_INFINITY && clock() >= expiresAt) {
      this.counters.expired++;
      this.remove(result);
      return undefined;
    }
    result.used = true;
    return result;
  }

  /** Takes the place of an older one of the same key. False when it is too large to be kept. */
  add(result: KeptResult): boolean {
    const { size } = result;
    if (size > this.#bytesMax) return false;
    const older = result.space.results.get(result.key);
    if (older !== undefined) this.remove(older);
    while (this.#bytes + size > this.#bytesMax || this.#count >= this.#countMax) this.#evict();
    this.#link(result);
    result.space.results.set(result.key, result);
    for (const { results } of result.dependencies) result.places.push(results.push(result) - 1);
    this.#bytes += size;
    this.#resultBytes += result.bytes.length;
    this.#count++;
    this.counters.added++;
    return true;
  }

  remove(result: KeptResult): void {
    const { space, key } = result;
    if (space.results.get(key) !== result) return;
    space.results.delete(key);
    for (let i = 0; i < result.dependencies.length; i++) leave(result, i);
    this.#unlink(result);
    this.#bytes -= result.size;
    this.#resultBytes -= result.bytes.length;
    this.#count--;
  }

  /** How many there were. */
  removeAllOf({ results }: Dependency): number {
    const { length } = results;
    for (let i = length - 1; i >= 0; i--) this.remove(results[i] as KeptResult);
    return length;
  }

  /** The same of all results of these. */
  removeSpaces(spaces: Iterable<ResultSpace>): number {
    let count = 0;
    for (const { results } of spaces) {
      count += results.size;
      for (const result of results.values()) this.remove(result);
    }
    return count;
  }

  #evict(): void {
    for (let result = this.#hand; result !== undefined; result = this.#hand) {
      if (!result.used) {
        this.counters.evicted++;
        this.remove(result);
        return;
      }
      result.used = false;
      this.#hand = result.next;
    }
  }

  #link(result: KeptResult): void {
    const hand = this.#hand;
    if (hand === undefined) {
      this.#hand = result;
      return;
    }
    result.previous = hand.previous;
    result.next = hand;
    hand.previous.next = result;
    hand.previous = result;
  }

  #unlink(result: KeptResult): void {
    if (this.#hand === result) this.#hand = result.next === result ? undefined : result.next;
    result.previous.next = result.next;
    result.next.previous = result.previous;
    result.next = result;
    result.previous = result;
  }
}

/** Its place among the results of one of its dependencies goes to the last of them. */
function leave(result: KeptResult, index: number): void {
  const dependency = result.dependencies[index] as Dependency;
  const place = result.places[index] as number;
  const last = dependency.results.pop();
  if (last === undefined || last === result) return;
  dependency.results[place] = last;
  last.places[last.dependencies.indexOf(dependency)] = place;
}
