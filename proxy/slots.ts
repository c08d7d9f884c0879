/**
 * Client slots: Pgpool's child processes as numbered places (spec wire/pooling.md 1, 5, 6). A
 * session needs a slot for as long as it lives; `num_init_children` is their number. A client that
 * finds none free waits its turn.
 */

export type SlotActivity =
  | "Wait for connection"
  | "Connecting"
  | "Idle"
  | "Idle in transaction"
  | "Execute command";

export class Slot {
  readonly index: number;
  /** Unique, stable until the slot is renewed; shown where Pgpool shows a child's pid. */
  pid: number;
  startedAt: number;
  /** Sessions ended since the slot was started or renewed. */
  clientCount = 0;
  /** When the last session ended; 0 before the first. */
  lastUsedAt = 0;

  constructor(index: number, pid: number, now: number) {
    this.index = index;
    this.pid = pid;
    this.startedAt = now;
  }
}

type Waiter = { readonly admit: (slot: Slot) => void; readonly signal: AbortSignal };

export class Slots {
  readonly all: readonly Slot[];
  readonly #free: Slot[];
  readonly #waiting = new Set<Waiter>();
  #nextPid: number;
  /** How many want new clients to wait. */
  #shut = 0;

  constructor(options: {
    readonly count: number;
    readonly firstPid: number;
    readonly now: number;
  }) {
    this.all = Array.from(
      { length: options.count },
      (_, index) => new Slot(index, options.firstPid + index, options.now),
    );
    this.#nextPid = options.firstPid + options.count;
    this.#free = [...this.all].reverse();
  }

  get freeCount(): number {
    return this.#free.length;
  }

  get busyCount(): number {
    return this.all.length - this.#free.length;
  }

  /** Clients wait, however many places are free. */
  get isShut(): boolean {
    return this.#shut > 0;
  }

  get waitingCount(): number {
    return this.#waiting.size;
  }

  /** A free slot at once, else in the order of arrival. Rejects with the signal's reason. */
  acquire(signal: AbortSignal): Promise<Slot> | Slot {
    if (signal.aborted) return Promise.reject(signal.reason as Error);
    const slot = this.#shut > 0 ? undefined : this.#free.pop();
    if (slot !== undefined) return slot;
    return new Promise((resolve, reject) => {
      const onAbort = () => {
        this.#waiting.delete(waiter);
        reject(signal.reason as Error);
      };
      const waiter: Waiter = {
        signal,
        admit: (given) => {
          signal.removeEventListener("abort", onAbort);
          resolve(given);
        },
      };
      this.#waiting.add(waiter);
      signal.addEventListener("abort", onAbort, { once: true });
    });
  }

  release(slot: Slot, now: number): void {
    slot.lastUsedAt = now;
    slot.clientCount++;
    this.#free.push(slot);
    this.#admit();
  }

  /** From now on every client waits, until `open` has been called as often. */
  shut(): void {
    this.#shut++;
  }

  open(): void {
    this.#shut--;
    this.#admit();
  }

  #admit(): void {
    for (const waiter of this.#waiting) {
      const slot = this.#shut > 0 ? undefined : this.#free.pop();
      if (slot === undefined) return;
      this.#waiting.delete(waiter);
      waiter.admit(slot);
    }
  }

  /** What a child's exit and re-fork shows: a new pid, a new start, nothing served yet. */
  renew(slot: Slot, now: number): void {
    slot.pid = this.#nextPid++;
    slot.startedAt = now;
    slot.clientCount = 0;
    slot.lastUsedAt = 0;
  }

  isFree(slot: Slot): boolean {
    return this.#free.includes(slot);
  }
}
