/** Virtual time. */

type Due = { readonly at: number; readonly order: number; readonly act: () => void };

/** What is due, in the order of time and then of asking: a binary heap. */
export class VirtualTime {
  now = 0;
  #order = 0;
  readonly #heap: Due[] = [];

  after(ms: number, act: () => void): void {
    const due = { at: this.now + Math.max(0, ms), order: this.#order++, act };
    const heap = this.#heap;
    let at = heap.push(due) - 1;
    while (at > 0) {
      const parent = (at - 1) >> 1;
      const above = heap[parent];
      if (above === undefined || !isBefore(due, above)) break;
      heap[at] = above;
      at = parent;
    }
    heap[at] = due;
  }

  /** Everything up to that moment, `each` after each. */
  run(until: number, each: () => void): void {
    for (let due = this.#heap[0]; due !== undefined && due.at <= until; due = this.#heap[0]) {
      this.#pop();
      this.now = due.at;
      due.act();
      each();
    }
    this.now = until;
  }

  #pop(): void {
    const heap = this.#heap;
    const last = heap.pop();
    if (last === undefined || heap.length === 0) return;
    let at = 0;
    for (;;) {
      const left = 2 * at + 1;
      const [a, b] = [heap[left], heap[left + 1]];
      if (a === undefined) break;
      const isRight = b !== undefined && isBefore(b, a);
      const child = isRight ? b : a;
      if (!isBefore(child, last)) break;
      heap[at] = child;
      at = isRight ? left + 1 : left;
    }
    heap[at] = last;
  }
}

const isBefore = (a: Due, b: Due): boolean => a.at < b.at || (a.at === b.at && a.order < b.order);
