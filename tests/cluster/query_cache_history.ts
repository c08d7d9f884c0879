/**
 * What concurrent writers were told and readers saw, and what of it cannot be: a counter for each key
 * only grows, so whoever reads after a commit was acknowledged must see at least its value, and
 * within a session no read may see less than one before it.
 */

export type Read = {
  readonly session: string;
  readonly key: number;
  readonly value: number;
  readonly sentAt: number;
};

export class History {
  /** By key: acknowledged values with their times, in order of time. */
  readonly #acknowledged = new Map<number, { readonly value: number; readonly at: number }[]>();
  readonly #reads: Read[] = [];

  acknowledge(key: number, value: number, at: number): void {
    const known = this.#acknowledged.get(key) ?? [];
    known.push({ value, at });
    this.#acknowledged.set(key, known);
  }

  read(read: Read): void {
    this.#reads.push(read);
  }

  get reads(): number {
    return this.#reads.length;
  }
  get writes(): number {
    return [...this.#acknowledged.values()].reduce((sum, each) => sum + each.length, 0);
  }

  /** Reads of less than what was acknowledged before they were sent. */
  staleReads(): string[] {
    return this.#reads.flatMap(({ session, key, value, sentAt }) => {
      const before = (this.#acknowledged.get(key) ?? []).filter(({ at }) => at < sentAt);
      const least = Math.max(0, ...before.map((each) => each.value));
      if (value >= least) return [];
      return [`${session} read ${value} of key ${key}, of which ${least} had been acknowledged`];
    });
  }

  /** Reads of less than what the same session had read before. */
  undone(): string[] {
    const last = new Map<string, number>();
    return this.#reads.flatMap(({ session, key, value }) => {
      const name = `${session} ${key}`;
      const before = last.get(name) ?? 0;
      last.set(name, value);
      return value >= before ? [] : [`${session} read ${value} of key ${key} after ${before}`];
    });
  }
}
