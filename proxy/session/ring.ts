/** A first-in first-out queue over one array that grows by doubling; push and shift never allocate. */
export class Ring<T> {
  #items: (T | undefined)[] = new Array<T | undefined>(8).fill(undefined);
  #head = 0;
  #size = 0;

  get size(): number {
    return this.#size;
  }

  peek(): T | undefined {
    return this.#items[this.#head];
  }

  /** The item `index` places behind the head. */
  at(index: number): T | undefined {
    if (index >= this.#size) return undefined;
    return this.#items[(this.#head + index) & (this.#items.length - 1)];
  }

  push(item: T): void {
    if (this.#size === this.#items.length) this.#grow();
    this.#items[(this.#head + this.#size) & (this.#items.length - 1)] = item;
    this.#size++;
  }

  shift(): T | undefined {
    if (this.#size === 0) return undefined;
    const item = this.#items[this.#head];
    this.#items[this.#head] = undefined;
    this.#head = (this.#head + 1) & (this.#items.length - 1);
    this.#size--;
    return item;
  }

  #grow(): void {
    const length = this.#items.length;
    const items = new Array<T | undefined>(length * 2).fill(undefined);
    for (let i = 0; i < length; i++) items[i] = this.#items[(this.#head + i) & (length - 1)];
    this.#items = items;
    this.#head = 0;
  }
}
