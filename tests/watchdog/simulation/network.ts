/**
 * A network of TCP connections and datagrams between hosts: delay, loss, duplication, reordering,
 * links cut in one direction, hosts that vanish without a word. What TCP loses, it loses with all that
 * follows, and the connection breaks in the end. It neither doubles nor reorders; here both happen
 * all the same, because the machine must stand even that.
 */

import type { VirtualTime } from "./time.ts";

export type Weather = {
  readonly delayMs: number;
  readonly loss: number;
  readonly duplication: number;
  readonly reordering: number;
};

export const CALM: Weather = { delayMs: 5, loss: 0, duplication: 0, reordering: 0 };

export type Connection = {
  readonly id: number;
  readonly from: number;
  readonly to: number;
  /** Which ends hold it open. */
  readonly open: { [host: number]: boolean };
  /** When the last bytes on their way to a host arrive: later ones come later. */
  readonly lastAt: { [host: number]: number };
  /** Nothing arrives any more, and neither end knows yet. */
  broken: boolean;
};

/** What retransmission takes until it gives up. */
const BREAK_MS = 3000;

export class Network {
  weather = CALM;
  readonly #time: VirtualTime;
  readonly #random: () => number;
  readonly #cut = new Set<string>();
  readonly #stuck = new Map<string, (() => void)[]>();

  constructor(time: VirtualTime, random: () => number) {
    this.#time = time;
    this.#random = random;
  }

  cut(from: number, to: number): void {
    this.#cut.add(`${from}>${to}`);
  }

  /** What was stuck goes on. */
  heal(): void {
    this.#cut.clear();
    const stuck = [...this.#stuck.values()].flat();
    this.#stuck.clear();
    for (const deliver of stuck) this.#time.after(this.#delay(), deliver);
  }

  isCut(from: number, to: number): boolean {
    return this.#cut.has(`${from}>${to}`);
  }

  /**
   * A message on a connection; `deliver` finds out whether it is still open. `broke` is called when the
   * connection has come to nothing.
   */
  carry(connection: Connection, to: number, deliver: () => void, broke: () => void): void {
    const { loss, duplication, reordering } = this.weather;
    const from = to === connection.to ? connection.from : connection.to;
    if (this.isCut(from, to)) {
      // Retransmitted until the link is back, or nobody wants it any more.
      const key = `${from}>${to}`;
      this.#stuck.set(key, [...(this.#stuck.get(key) ?? []), deliver]);
      return;
    }
    if (connection.broken) return;
    if (this.#random() < loss) {
      connection.broken = true;
      this.#time.after(BREAK_MS, broke);
      return;
    }
    const arrival = this.#time.now + this.#delay();
    const isInOrder = this.#random() >= reordering;
    const at = isInOrder ? Math.max(arrival, (connection.lastAt[to] ?? 0) + 0.01) : arrival;
    if (isInOrder) connection.lastAt[to] = at;
    this.#time.after(at - this.#time.now, deliver);
    if (this.#random() < duplication) this.#time.after(this.#delay() * 3, deliver);
  }

  /** A datagram. */
  cast(from: number, to: number, deliver: () => void): void {
    if (this.isCut(from, to) || this.#random() < this.weather.loss) return;
    this.#time.after(this.#delay(), deliver);
  }

  #delay(): number {
    return this.weather.delayMs * (0.5 + this.#random());
  }
}
