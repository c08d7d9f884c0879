/**
 * The connections that are kept (spec wire/pooling.md). A set holds one connection to every usable
 * backend, for one exact start-up packet; any session may take any idle set of its packet.
 *
 * Pgpool keeps sets per child process and shows them so (`SHOW pool_pools`): `max_pool` places for
 * each of `num_init_children` children. Here the sets are shared and the places are a view: a set
 * stands in a place of the child slot that used it last, and moves with its user.
 */
import type { BackendDemand, BackendSecret } from "../core/auth/dialogue.ts";
import { type ClusterState, isLive, type NodeId, writeNode } from "../core/cluster/state.ts";
import type { Backend } from "./backend.ts";

/** What the backends asked of us when the set was opened: whoever reuses it must pass the same. */
export type SetDemand = BackendDemand | "trust";

export type SetIdentity = {
  /** The start-up packet with its parameters sorted by name, as text: equal text, equal session. */
  readonly key: string;
  readonly user: string;
  readonly database: string;
  readonly major: number;
  readonly minor: number;
};

export class BackendSet {
  readonly identity: SetIdentity;
  readonly #backends: (Backend | undefined)[];
  readonly demand: SetDemand;
  /** What answered the demand. A reuse by someone who showed nothing yet is held against it. */
  readonly secret: BackendSecret | undefined;
  /** Milliseconds since the epoch. */
  readonly openedAt: number;
  /** How many sessions have used it, this one included. */
  useCount = 1;
  inUse = true;
  releasedAt = 0;
  takenAt: number;
  /** Index of its place: slot × max_pool + pool id. */
  place = -1;

  constructor(options: {
    readonly identity: SetIdentity;
    readonly backends: readonly (Backend | undefined)[];
    readonly demand: SetDemand;
    readonly secret: BackendSecret | undefined;
    readonly now: number;
  }) {
    this.identity = options.identity;
    this.#backends = [...options.backends];
    this.demand = options.demand;
    this.secret = options.secret;
    this.openedAt = options.now;
    this.takenAt = options.now;
  }

  /** By node id; undefined where the node was down when the set was opened. */
  get backends(): readonly (Backend | undefined)[] {
    return this.#backends;
  }

  /** In the place of a connection that was lost. */
  replace(backend: Backend): void {
    this.#backends[backend.node]?.close();
    this.#backends[backend.node] = backend;
  }

  /** Terminate to every backend. */
  close(): void {
    for (const backend of this.backends) backend?.close();
  }
}

/**
 * Every node that is to be used now has a connection that is still open, and no other has: whoever
 * detached a node wants to stop it. Log-ins may have passed over a doubtful one.
 */
export function isComplete(
  backends: readonly (Pick<Backend, "closed"> | undefined)[],
  state: ClusterState,
  isDoubtful: (node: NodeId) => boolean,
): boolean {
  const isRaw = state.mode === "raw";
  const writes = writeNode(state);
  return state.nodes.every((node) => {
    const backend = backends[node.id];
    const isOpen = backend !== undefined && !backend.closed;
    if (!isLive(node)) return !isOpen;
    if (isRaw) return isOpen || node.id !== writes;
    return isOpen || (backend === undefined && isDoubtful(node.id));
  });
}

export class Pool {
  readonly #slotCount: number;
  readonly #placesPerSlot: number;
  readonly #places: (BackendSet | undefined)[];
  readonly #idle = new Map<string, BackendSet[]>();
  #size = 0;

  constructor(options: { readonly slotCount: number; readonly placesPerSlot: number }) {
    this.#slotCount = options.slotCount;
    this.#placesPerSlot = Math.max(1, options.placesPerSlot);
    this.#places = new Array(this.#slotCount * this.#placesPerSlot).fill(undefined);
  }

  /** The set in a place, for SHOW pool_pools. */
  at(slot: number, poolId: number): BackendSet | undefined {
    return this.#places[slot * this.#placesPerSlot + poolId];
  }

  get placesPerSlot(): number {
    return this.#placesPerSlot;
  }

  /** The sets that wait for their next session. */
  *idle(): Generator<BackendSet> {
    for (const set of this.#places) if (set !== undefined && !set.inUse) yield set;
  }

  /** Sets held, idle and in use. */
  get size(): number {
    return this.#size;
  }

  /** The idle set of this start-up packet that was used last, moved to a place of `slot`. */
  take(key: string, slot: number, now: number): BackendSet | undefined {
    const sets = this.#idle.get(key);
    const set = sets?.pop();
    if (set === undefined) return undefined;
    if (sets?.length === 0) this.#idle.delete(key);
    set.inUse = true;
    set.useCount++;
    set.takenAt = now;
    this.#move(set, slot);
    return set;
  }

  /**
   * A place of `slot` for a set about to be opened. When all of them are taken, the set that has
   * been idle longest gives way (Pgpool's victim rule); there is always one, since a slot serves
   * one client at a time.
   */
  makeRoom(slot: number): BackendSet | undefined {
    if (this.#freePlace(slot) >= 0) return undefined;
    const victim = this.#oldestIdle(slot);
    if (victim !== undefined) this.remove(victim);
    return victim;
  }

  add(set: BackendSet, slot: number): void {
    const place = this.#freePlace(slot);
    if (place < 0) return; // more sessions than places: it lives without one and is not kept
    set.place = place;
    this.#places[place] = set;
    this.#size++;
  }

  /** The session is over and the set is clean. Returns false when it cannot be kept. */
  release(set: BackendSet, now: number): boolean {
    set.inUse = false;
    set.releasedAt = now;
    if (set.place < 0) return false;
    const sets = this.#idle.get(set.identity.key);
    if (sets === undefined) this.#idle.set(set.identity.key, [set]);
    else sets.push(set);
    return true;
  }

  /** Forgets a set, idle or in use; closing it is the caller's. */
  remove(set: BackendSet): void {
    if (set.place >= 0 && this.#places[set.place] === set) {
      this.#places[set.place] = undefined;
      this.#size--;
    }
    set.place = -1;
    const sets = this.#idle.get(set.identity.key);
    const index = sets?.indexOf(set) ?? -1;
    if (sets === undefined || index < 0) return;
    sets.splice(index, 1);
    if (sets.length === 0) this.#idle.delete(set.identity.key);
  }

  /** Removes and returns the idle sets for which `test` holds. */
  removeIdle(test: (set: BackendSet) => boolean): BackendSet[] {
    const removed = this.#places.filter(
      (set): set is BackendSet => set !== undefined && !set.inUse && test(set),
    );
    for (const set of removed) this.remove(set);
    return removed;
  }

  slotOf(set: BackendSet): number {
    return set.place < 0 ? -1 : Math.floor(set.place / this.#placesPerSlot);
  }

  #freePlace(slot: number): number {
    const first = slot * this.#placesPerSlot;
    for (let place = first; place < first + this.#placesPerSlot; place++) {
      if (this.#places[place] === undefined) return place;
    }
    return -1;
  }

  #oldestIdle(slot: number): BackendSet | undefined {
    let oldest: BackendSet | undefined;
    const first = slot * this.#placesPerSlot;
    for (let place = first; place < first + this.#placesPerSlot; place++) {
      const set = this.#places[place];
      if (set === undefined || set.inUse) continue;
      if (oldest === undefined || set.releasedAt < oldest.releasedAt) oldest = set;
    }
    return oldest;
  }

  /** Into a free place of the slot, else in exchange with the slot's longest idle set. */
  #move(set: BackendSet, slot: number): void {
    const from = set.place;
    if (Math.floor(from / this.#placesPerSlot) === slot) return;
    const free = this.#freePlace(slot);
    if (free >= 0) {
      this.#places[from] = undefined;
      this.#places[free] = set;
      set.place = free;
      return;
    }
    const other = this.#oldestIdle(slot);
    if (other === undefined) return;
    const to = other.place;
    this.#places[from] = other;
    other.place = from;
    this.#places[to] = set;
    set.place = to;
  }
}
