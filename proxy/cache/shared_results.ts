/**
 * Results kept where several pgpools reach them, and where they outlive each of them: memcached (spec
 * routing/query-cache.md sections 6 and 7, where files in memqcache_oiddir have this role).
 *
 * Everything that results depend on has a *stamp* there, sixteen bytes of chance; a result carries the
 * stamps that were there when its read was sent, and holds while they are still the same. A stamp
 * that memcached has lost is replaced by a new one, so what is lost is never taken for unchanged.
 * A writer counts itself in before it sends what may commit, and changes the stamp then and once more
 * when it counts itself out: while there are writers nobody uses or keeps what depends on it.
 *
 * All names of keys hold the *generation*; a new one makes everything void. Whoever has lost
 * memcached for a moment may have missed to tell a change: it begins a new generation before it uses
 * anything again, and uses nothing until the others, who may have lost it too, have had the time to do
 * so. What comes back is believed only with the right sum over it.
 */
import { createHash, createHmac } from "node:crypto";
import type { Versioned } from "./table_versions.ts";

/** As much of memcached as is needed. Everything rejects when it is out of reach or too slow. */
export interface SharedMemory {
  get(key: string): Promise<Uint8Array | undefined>;
  /** False when it does not take it: too large. `seconds`: 0 is for ever. */
  set(key: string, value: Uint8Array, seconds: number): Promise<boolean>;
  /** Adds to a counter, which begins at nothing and never goes below. */
  count(key: string, by: 1 | -1): Promise<void>;
  delete(key: string): Promise<void>;
}

export type Fetched =
  | { readonly kind: "hit"; readonly bytes: Uint8Array }
  /** It may be kept with these stamps. */
  | { readonly kind: "miss"; readonly stamps: readonly Uint8Array[] }
  /** Somebody is about to change what it depends on; or memcached is lost. */
  | { readonly kind: "none" };

export type SharedOptions = {
  readonly memory: SharedMemory;
  /** The same for all pgpools that share results: the sum over what is kept is keyed with it. */
  readonly secret: string;
  readonly randomBytes: (size: number) => Uint8Array;
  readonly expireSeconds: number;
  /** Somebody else has changed this; `definitions` may have been among it. */
  readonly onChanged: (dependency: Versioned) => void;
  readonly onLost: (why: string) => void;
  readonly onFound: () => void;
  readonly after: (ms: number, task: () => void) => void;
};

const STAMP_SIZE = 16;
const MAC_SIZE = 32;
const MAGIC = Buffer.from("PGQC\x01");
const RETRY_MS = 500;
/** Longer than a try that fails by its limit of time, and the pause before the next. */
const SETTLE_MS = 3000;
const GENERATION_KEY = "pgpool:generation";

export class SharedResults {
  readonly #options: SharedOptions;
  readonly #memory: SharedMemory;
  #generation = "";
  #isReady = false;
  /** Changes may not have been told: what is there must not be used. */
  #mustRenew = false;
  #isClosed = false;
  /** Losses of which others may not have recovered: they could not tell what they change. */
  #unsettled = 0;
  #wasLost = false;

  constructor(options: SharedOptions) {
    this.#options = options;
    this.#memory = options.memory;
  }

  get isReady(): boolean {
    return this.#isReady;
  }

  /** Finds what earlier and other pgpools have kept; `renew`: makes it void. Tries for ever. */
  async begin(renew: boolean): Promise<void> {
    this.#mustRenew ||= renew;
    try {
      do await this.#learnGeneration();
      while (this.#mustRenew); // somebody has written meanwhile, and could not tell
      this.#isReady = true;
      if (this.#wasLost) this.#settle();
      this.#options.onFound();
    } catch {
      if (!this.#isClosed) this.#options.after(RETRY_MS, () => void this.begin(false));
    }
  }

  #settle(): void {
    this.#wasLost = false;
    this.#unsettled++;
    this.#options.after(SETTLE_MS, () => {
      this.#unsettled--;
    });
  }

  close(): void {
    this.#isClosed = true;
    this.#isReady = false;
  }

  async #learnGeneration(): Promise<void> {
    const known = this.#mustRenew ? undefined : await this.#memory.get(GENERATION_KEY);
    if (known !== undefined && known.length === STAMP_SIZE) {
      this.#generation = textOf(known);
      return;
    }
    this.#mustRenew = false;
    const fresh = this.#options.randomBytes(STAMP_SIZE);
    try {
      await this.#memory.set(GENERATION_KEY, fresh, 0);
    } catch (error) {
      this.#mustRenew = true;
      throw error;
    }
    this.#generation = textOf(fresh);
  }

  #lose(why: unknown): void {
    this.#mustRenew = true;
    if (!this.#isReady) return;
    this.#isReady = false;
    this.#wasLost = true;
    this.#options.onLost(why instanceof Error ? why.message : String(why));
    if (!this.#isClosed) this.#options.after(RETRY_MS, () => void this.begin(false));
  }

  async #guarded<T>(otherwise: T, work: () => Promise<T>): Promise<T> {
    if (!this.#isReady) return otherwise;
    try {
      return await work();
    } catch (error) {
      this.#lose(error);
      return otherwise;
    }
  }

  /** Forgets everything, for everybody. */
  async clear(): Promise<void> {
    await this.#guarded(undefined, async () => {
      this.#mustRenew = true;
      await this.#learnGeneration();
    });
  }

  /** Looks up a result, and what is needed to keep it if it is not there. */
  fetch(key: string, dependencies: readonly Versioned[]): Promise<Fetched> {
    if (this.#unsettled > 0) return Promise.resolve({ kind: "none" });
    return this.#guarded<Fetched>({ kind: "none" }, async () => {
      const generation = this.#generation;
      const entryKey = this.#keyOf("r", key);
      // First the result, then what says that it holds.
      const entry = this.#memory.get(entryKey);
      const stamps = this.#stampsOf(dependencies);
      const [value, found] = await Promise.all([entry, stamps]);
      if (found === undefined || generation !== this.#generation) return { kind: "none" };
      const bytes = value && this.#opened(entryKey, value, found);
      return bytes === undefined ? { kind: "miss", stamps: found } : { kind: "hit", bytes };
    });
  }

  /** Keeps a result, unless what it depends on has changed since. */
  store(
    key: string,
    dependencies: readonly Versioned[],
    stamps: readonly Uint8Array[],
    bytes: Uint8Array,
  ): Promise<void> {
    return this.#guarded(undefined, async () => {
      const found = await this.#stampsOf(dependencies);
      if (found === undefined || !found.every((stamp, i) => isEqual(stamp, stamps[i]))) return;
      const entryKey = this.#keyOf("r", key);
      const sealed = this.#sealed(entryKey, stamps, bytes);
      await this.#memory.set(entryKey, sealed, this.#options.expireSeconds);
    });
  }

  delete(key: string): Promise<void> {
    return this.#guarded(undefined, () => this.#memory.delete(this.#keyOf("r", key)));
  }

  /**
   * Counts a writer in. `common` is looked at first (what others have changed is told to `onChanged`);
   * what it writes is decided afterwards. Resolves to what it was counted in for.
   */
  countIn(
    common: readonly Versioned[],
    targets: () => readonly Versioned[],
  ): Promise<readonly Versioned[]> {
    if (!this.#isReady) this.#mustRenew = true;
    return this.#guarded<readonly Versioned[]>([], async () => {
      await this.#stampsOf(common);
      const chosen = targets();
      await Promise.all(
        chosen.flatMap((target) => [
          this.#memory.count(this.#keyOf("w", target.path), 1),
          this.#restamp(target),
        ]),
      );
      return chosen;
    });
  }

  /** Counts it out: what it has written is committed, or not, and can be seen by all. */
  countOut(targets: readonly Versioned[]): Promise<void> {
    return this.#guarded(undefined, async () => {
      const keys = targets.map((target) => this.#keyOf("w", target.path));
      await this.#checkGeneration();
      await Promise.all(targets.map((target) => this.#restamp(target)));
      await Promise.all(keys.map((key) => this.#memory.count(key, -1)));
    });
  }

  /** The present stamps; undefined while somebody writes, or when another generation has begun. */
  async #stampsOf(dependencies: readonly Versioned[]): Promise<readonly Uint8Array[] | undefined> {
    const generation = this.#checkGeneration();
    const read = dependencies.map(async (each) => {
      const [stamp, writers] = await Promise.all([
        this.#memory.get(this.#keyOf("s", each.path)),
        this.#memory.get(this.#keyOf("w", each.path)),
      ]);
      const isCalm = writers === undefined || /^0*\s*$/.test(Buffer.from(writers).toString());
      return { stamp: stamp ?? (await this.#restamp(each)), isCalm };
    });
    const [isSame, found] = await Promise.all([generation, Promise.all(read)]);
    for (const [i, { stamp }] of found.entries()) this.#observe(dependencies[i], stamp);
    if (!isSame || !found.every(({ isCalm }) => isCalm)) return undefined;
    return found.map(({ stamp }) => stamp);
  }

  async #checkGeneration(): Promise<boolean> {
    const found = await this.#memory.get(GENERATION_KEY);
    if (found !== undefined && textOf(found) === this.#generation) return true;
    await this.#learnGeneration();
    return false;
  }

  async #restamp(dependency: Versioned): Promise<Uint8Array> {
    const stamp = this.#options.randomBytes(STAMP_SIZE);
    dependency.seen = textOf(stamp);
    await this.#memory.set(this.#keyOf("s", dependency.path), stamp, 0);
    return stamp;
  }

  #observe(dependency: Versioned | undefined, stamp: Uint8Array): void {
    if (dependency === undefined) return;
    const text = textOf(stamp);
    if (dependency.seen === text) return;
    dependency.seen = text;
    this.#options.onChanged(dependency);
  }

  /** Whatever is in a name: within 250 bytes, without blanks. */
  #keyOf(kind: "r" | "s" | "w", name: string): string {
    const sum = createHash("sha256").update(`${this.#generation}\0${name}`).digest("base64url");
    return `pgpool:${kind}:${sum}`;
  }

  #sealed(key: string, stamps: readonly Uint8Array[], bytes: Uint8Array): Uint8Array {
    const body = Buffer.concat([Buffer.of(stamps.length), ...stamps, bytes]);
    return Buffer.concat([MAGIC, this.#macOf(key, body), body]);
  }

  /** The result, if this is one of ours, whole, and with these stamps. */
  #opened(key: string, value: Uint8Array, stamps: readonly Uint8Array[]): Uint8Array | undefined {
    const bodyAt = MAGIC.length + MAC_SIZE;
    if (value.length <= bodyAt || !isEqual(value.subarray(0, MAGIC.length), MAGIC))
      return undefined;
    const body = value.subarray(bodyAt);
    if (!isEqual(this.#macOf(key, body), value.subarray(MAGIC.length, bodyAt))) return undefined;
    if (body[0] !== stamps.length) return undefined;
    const isSame = stamps.every((stamp, i) => {
      const at = 1 + i * STAMP_SIZE;
      return isEqual(stamp, body.subarray(at, at + STAMP_SIZE));
    });
    return isSame ? body.subarray(1 + stamps.length * STAMP_SIZE) : undefined;
  }

  #macOf(key: string, body: Uint8Array): Uint8Array {
    return createHmac("sha256", this.#options.secret)
      .update(key)
      .update("\0")
      .update(body)
      .digest();
  }
}

const textOf = (stamp: Uint8Array): string => Buffer.from(stamp).toString("base64");

function isEqual(a: Uint8Array, b: Uint8Array | undefined): boolean {
  return b !== undefined && Buffer.from(a.buffer, a.byteOffset, a.length).equals(b);
}
