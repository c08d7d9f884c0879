/** The connections of a log-in while they are being opened, one for each node, side by side. */
import { isLive, type NodeId } from "../core/cluster/state.ts";
import { BackendUnavailable } from "../core/errors.ts";
import type { Backend } from "./backend.ts";
import type { ClusterWatch } from "./write_node.ts";

export class Opening {
  /** By node id. What is not open when `abandonRest` is called stays undefined. */
  readonly opened: (Backend | undefined)[] = [];
  /** Nodes that have neither let us in nor refused. */
  readonly pending = new Set<NodeId>();
  /** Why others did not. */
  readonly failures = new Map<NodeId, unknown>();
  readonly #attempts: Promise<unknown>[] = [];
  readonly #giveUp = new AbortController();
  readonly #open: (node: NodeId, signal: AbortSignal) => Promise<Backend>;
  readonly #signal: AbortSignal;

  constructor(signal: AbortSignal, open: (node: NodeId, signal: AbortSignal) => Promise<Backend>) {
    this.#signal = AbortSignal.any([signal, this.#giveUp.signal]);
    this.#open = open;
  }

  /** Whoever awaits nothing need not fear the failure. */
  begin(node: NodeId): Promise<Backend> {
    this.pending.add(node);
    const attempt = this.#attempt(node);
    this.#attempts.push(attempt.catch(() => undefined));
    return attempt;
  }

  async #attempt(node: NodeId): Promise<Backend> {
    try {
      const backend = await this.#open(node, this.#signal);
      if (this.#giveUp.signal.aborted) backend.close();
      else this.opened[node] = backend;
      return backend;
    } catch (error) {
      this.failures.set(node, error);
      throw error;
    } finally {
      this.pending.delete(node);
    }
  }

  /** Resolves when every node has let us in or refused; never rejects. */
  async settled(): Promise<void> {
    await Promise.all(this.#attempts);
  }

  /** What is open stays open; nothing more is opened. */
  abandonRest(): void {
    this.#giveUp.abort(new Error("given up"));
  }

  abandon(): void {
    this.abandonRest();
    for (const backend of this.opened) backend?.close();
  }
}

/** A node that does not answer is about to be detached, unless it may not be. */
const DETACHED_WITHIN_MS = 5000;
const LOOK_AGAIN_MS = 250;

/**
 * Where we replicate, a session without one of the live nodes would write past it: waits until all of
 * them have let us in, or have left the cluster. Nodes that are attached meanwhile are opened too.
 * Rejects with what keeps one of them out.
 */
export async function openEverywhere(
  opening: Opening,
  cluster: ClusterWatch,
  signal: AbortSignal,
): Promise<void> {
  let until: number | undefined;
  for (;;) {
    signal.throwIfAborted();
    const missing = cluster.state.nodes.filter(
      (node) => isLive(node) && opening.opened[node.id]?.closed !== false,
    );
    if (missing.length === 0) break;
    for (const { id } of missing) {
      const isNew = !opening.pending.has(id) && !opening.failures.has(id);
      if (isNew) void opening.begin(id).catch(() => undefined);
    }
    const failed = missing.find(({ id }) => opening.failures.has(id));
    if (failed === undefined) {
      await Promise.race([opening.settled(), cluster.stateChanged(LOOK_AGAIN_MS)]);
      continue;
    }
    const failure = opening.failures.get(failed.id);
    until ??= cluster.clock() + DETACHED_WITHIN_MS;
    if (!(failure instanceof BackendUnavailable) || cluster.clock() >= until) throw failure;
    await cluster.stateChanged(LOOK_AGAIN_MS);
  }
  opening.abandonRest();
}
