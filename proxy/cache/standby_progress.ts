/**
 * How far standbys have come, in terms of what the cache has seen change: rows read on a standby may
 * be kept only if it has replayed every change that they depend on. A read that it answers from
 * before a commit would otherwise be kept after the commit was told to the cache.
 *
 * What the cache saw changed up to some moment is in the write node's WAL before the position that
 * is asked there afterwards; a standby that has replayed up to that position shows all of it.
 */

import type { NodeId } from "../../core/cluster/state.ts";
import type { Clock } from "../../core/ports.ts";

type Position = { readonly version: number; readonly lsn: bigint };

/** At least so long between two questions of a kind. */
const ASK_AGAIN_MS = 50;
/** Positions remembered: a standby that lags further behind catches up with a later one. */
const POSITIONS_MAX = 256;

export class StandbyProgress {
  readonly #clock: Clock;
  readonly #positions: Position[] = [];
  readonly #confirmed: ({ readonly version: number; readonly serial: number } | undefined)[] = [];
  #positionAskedAt = Number.NEGATIVE_INFINITY;
  readonly #replayAskedAt: number[] = [];
  #serial = 0;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  /** For `since`: a connection that is open now and stays open is to a server that has not restarted. */
  get serial(): number {
    return this.#serial;
  }

  /** Whether all changes up to `version` are seen through a connection that was open at `since`. */
  shows(node: NodeId, version: number, since: number): boolean {
    const confirmed = this.#confirmed[node];
    return confirmed !== undefined && confirmed.version >= version && confirmed.serial > since;
  }

  /** What is to be asked next to learn that; "nothing" when it is too early to ask again. */
  next(node: NodeId, version: number): "position" | "replayed" | "nothing" {
    const now = this.#clock();
    const latest = this.#positions.at(-1);
    if (latest === undefined || latest.version < version) {
      if (now - this.#positionAskedAt < ASK_AGAIN_MS) return "nothing";
      this.#positionAskedAt = now;
      return "position";
    }
    if (now - (this.#replayAskedAt[node] ?? Number.NEGATIVE_INFINITY) < ASK_AGAIN_MS) {
      return "nothing";
    }
    this.#replayAskedAt[node] = now;
    return "replayed";
  }

  /** The write node's WAL ended here, when it was asked after all changes up to `version`. */
  notePosition(version: number, lsn: bigint): void {
    const latest = this.#positions.at(-1);
    if (latest !== undefined && (latest.version >= version || latest.lsn > lsn)) return;
    this.#positions.push({ version, lsn });
    if (this.#positions.length > POSITIONS_MAX) this.#positions.shift();
  }

  /** The standby has replayed up to here. */
  noteReplayed(node: NodeId, lsn: bigint): void {
    const reached = this.#positions.findLast((position) => position.lsn <= lsn);
    if (reached === undefined) return;
    const version = Math.max(reached.version, this.#confirmed[node]?.version ?? 0);
    this.#confirmed[node] = { version, serial: ++this.#serial };
  }

  /** Another node takes writes: positions of the one before mean nothing there. */
  forget(): void {
    this.#positions.length = 0;
    this.#confirmed.length = 0;
    this.#positionAskedAt = Number.NEGATIVE_INFINITY;
    this.#replayAskedAt.length = 0;
  }
}

/** Undefined for what is no position, as NULL. */
export function lsnOf(text: string | null | undefined): bigint | undefined {
  const found = /^([0-9A-F]{1,8})\/([0-9A-F]{1,8})$/i.exec(text ?? "");
  if (found === null) return undefined;
  return (BigInt(`0x${found[1]}`) << 32n) | BigInt(`0x${found[2]}`);
}
