/** What happened to the cluster lately, told from one snapshot to the next. */

import type { BackendNode, ClusterState, NodeId } from "../cluster/state.ts";

export type ClusterEvent = {
  /** Milliseconds since the epoch. */
  readonly at: number;
  /** Undefined for what is of no single node. */
  readonly node: NodeId | undefined;
  readonly text: string;
};

/** The changes that an operator would ask about: statuses, and who is the primary. */
export function eventsBetween(
  before: ClusterState,
  after: ClusterState,
  at: number,
): readonly ClusterEvent[] {
  const events: ClusterEvent[] = [];
  for (const node of after.nodes) {
    const was = before.nodes[node.id]?.status;
    if (was === node.status) continue;
    const text = `${nameOf(node)} is ${node.status}${was === undefined ? "" : `, was ${was}`}`;
    events.push({ at, node: node.id, text });
  }
  if (before.primary !== after.primary) {
    const primary = after.primary === undefined ? undefined : after.nodes[after.primary];
    const text = primary === undefined ? "no primary" : `${nameOf(primary)} is the primary`;
    events.push({ at, node: after.primary, text });
  }
  return events;
}

const nameOf = ({ id, hostname, port }: BackendNode): string => `node ${id} (${hostname}:${port})`;

const EVENTS_MAX = 50;

/** The last events, oldest first. */
export class EventHistory {
  #state: ClusterState;
  #events: readonly ClusterEvent[] = [];

  constructor(state: ClusterState) {
    this.#state = state;
  }

  get events(): readonly ClusterEvent[] {
    return this.#events;
  }

  /** The cluster is like this from now on. */
  note(state: ClusterState, at: number): void {
    const events = eventsBetween(this.#state, state, at);
    this.#state = state;
    if (events.length > 0) this.#events = [...this.#events, ...events].slice(-EVENTS_MAX);
  }
}
