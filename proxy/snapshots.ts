/**
 * Snapshot isolation across servers: no transaction commits between the moments at which different
 * servers take the snapshot of one other transaction (spec native-replication.md section 9). Any
 * number may take snapshots at the same time, or commit; the two exclude each other. Those who have
 * to wait enter in the order in which they came, so that nobody waits for ever.
 */

export type Errand = "snapshot" | "commit";

/** A place in it, or before it. */
export class Turn {
  readonly errand: Errand;
  /** Called once, when it is this one's turn; not when it was at once. */
  onTurn: (() => void) | undefined;
  state: "waiting" | "inside" | "over" = "waiting";

  constructor(errand: Errand) {
    this.errand = errand;
  }
}

export class SnapshotGate {
  #inside = 0;
  #errand: Errand = "snapshot";
  #waiting: Turn[] = [];
  /** Somebody has left since `tick`. */
  #moves = false;

  /** Inside at once, or when `onTurn` is called. */
  enter(errand: Errand): Turn {
    const turn = new Turn(errand);
    if (this.#waiting.length === 0 && this.#admits(errand)) this.#admit(turn);
    else this.#waiting.push(turn);
    return turn;
  }

  /** Also of one that has not had its turn and does not want it any more. */
  leave(turn: Turn): void {
    const was = turn.state;
    turn.state = "over";
    if (was === "over") return;
    this.#moves = true;
    if (was === "inside") this.#inside--;
    else this.#waiting = this.#waiting.filter((each) => each !== turn);
    for (;;) {
      const next = this.#waiting[0];
      if (next === undefined || !this.#admits(next.errand)) return;
      this.#waiting.shift();
      this.#admit(next);
      next.onTurn?.();
    }
  }

  /**
   * To be called now and then. Who commits may wait for a lock of one who wants to commit, and stands
   * behind a snapshot that waits for the first: when nobody has left for a while, it goes ahead.
   */
  tick(): void {
    const isStuck = !this.#moves && this.#inside > 0 && this.#errand === "commit";
    this.#moves = false;
    if (!isStuck) return;
    const ahead = this.#waiting.filter(({ errand }) => errand === "commit");
    this.#waiting = this.#waiting.filter(({ errand }) => errand !== "commit");
    for (const turn of ahead) {
      this.#admit(turn);
      turn.onTurn?.();
    }
  }

  #admits(errand: Errand): boolean {
    return this.#inside === 0 || this.#errand === errand;
  }

  #admit(turn: Turn): void {
    this.#errand = turn.errand;
    this.#inside++;
    turn.state = "inside";
  }
}
