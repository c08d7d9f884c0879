/**
 * PBKDF2 is the dearest sum of a login (2.3 ms), and a pooler repeats it for the same few users:
 * this remembers the last results and does new ones off the event loop.
 *
 * Neither the password nor anything that helps to guess it is kept as a key: entries are found by
 * an HMAC under a secret of this process. The values are as good as the password towards servers
 * with that salt, so nothing here is enumerable, printable or reachable from outside.
 */
import { encodeText } from "../wire/text.ts";
import { concatBytes, hmacSha256, latin1, sha256 } from "./bytes.ts";
import { type Derivation, deriveScramKeysAsync, type ScramKeys } from "./scram_keys.ts";

/** A bound on memory, about 300 bytes an entry; the least recently used is dropped. */
export const scramKeyCacheSize = 1024;

export class ScramKeyCache {
  readonly #blindingKey: Uint8Array;
  readonly #sizeMax: number;
  readonly #derive: (work: Derivation) => Promise<ScramKeys>;
  /** In order of use, oldest first. Work under way is an entry already, so it is done once. */
  readonly #entries = new Map<string, Promise<ScramKeys>>();

  /** `blindingKey`: 32 random bytes drawn at start. `derive` is replaced only by tests. */
  constructor(options: {
    readonly blindingKey: Uint8Array;
    readonly sizeMax?: number;
    readonly derive?: (work: Derivation) => Promise<ScramKeys>;
  }) {
    this.#blindingKey = options.blindingKey;
    this.#sizeMax = options.sizeMax ?? scramKeyCacheSize;
    this.#derive = options.derive ?? deriveScramKeysAsync;
  }

  get size(): number {
    return this.#entries.size;
  }

  /** The answer to a `derive` effect. */
  keysOf(work: Derivation): Promise<ScramKeys> {
    const name = this.#nameOf(work);
    const known = this.#entries.get(name);
    if (known !== undefined) {
      this.#entries.delete(name);
      this.#entries.set(name, known);
      return known;
    }
    const keys = this.#derive(work);
    this.#entries.set(name, keys);
    this.#dropOldest();
    // A failure is its waiters' to see and not worth remembering.
    keys.catch(() => this.#entries.delete(name));
    return keys;
  }

  /** Forgets everything, as after a reload that may have changed passwords. */
  clear(): void {
    this.#entries.clear();
  }

  #dropOldest(): void {
    if (this.#entries.size <= this.#sizeMax) return;
    const oldest = this.#entries.keys().next();
    if (!oldest.done) this.#entries.delete(oldest.value);
  }

  /** Every part is hashed to one length first, so that no two works can share a name. */
  #nameOf(work: Derivation): string {
    const parts = concatBytes(
      sha256(work.password),
      sha256(work.salt),
      encodeText(String(work.iterations)),
    );
    return latin1(hmacSha256(this.#blindingKey, parts));
  }
}
