/**
 * A session whose server for writes is gone gets another: one it already has a connection to, as
 * soon as the control plane has settled on it, or a new connection, when nothing but committed data
 * was on the old one.
 */
import { BackendRefused } from "../core/auth/client.ts";
import type { ClusterState, NodeId } from "../core/cluster/state.ts";
import { settledWriteNode } from "../core/cluster/state.ts";
import { BackendUnavailable, PgpoolError } from "../core/errors.ts";
import type { Clock } from "../core/ports.ts";
import type { Backend } from "./backend.ts";

/** How long a statement, or a log-in, waits for a failover (spec wire/failover.md 7). */
export const WRITE_NODE_WAIT_MS = 30_000;
const RETRY_MS = 250;
/** A server that does not answer is asked again, or another: who takes writes may have changed. */
const ATTEMPT_MS = 5000;

/** What the search needs of the engine. */
export interface ClusterWatch {
  readonly state: ClusterState;
  readonly clock: Clock;
  /** Resolves at the next snapshot of the cluster, at the latest after `timeoutMs`. */
  stateChanged(timeoutMs: number): Promise<void>;
}

/** What it needs of one client. */
export interface Homeless {
  /** The client has left, or has what it needs. */
  isOver(): boolean;
  /** Goes over to a node that takes writes and to which it has a connection, and so may be over. */
  follow(): void;
  /** Goes over to whatever node there is, though it may take no writes, and so may be over. */
  makeDo(): void;
  /** Whether all that the session is made of can be had on a new connection. */
  mayAdopt(): boolean;
  /** Rejects when there is no connection within `limitMs`. */
  open(node: NodeId, limitMs: number): Promise<Backend>;
  adopt(backend: Backend): void;
}

/** Undefined when the client has what it needs, or is gone; else why it cannot have it. */
export async function findWriteNode(
  client: Homeless,
  cluster: ClusterWatch,
): Promise<PgpoolError | undefined> {
  const until = cluster.clock() + WRITE_NODE_WAIT_MS;
  let failure: PgpoolError | undefined;
  for (;;) {
    client.follow();
    if (client.isOver()) return undefined;
    const leftMs = until - cluster.clock();
    if (leftMs <= 0) {
      client.makeDo();
      return client.isOver() ? undefined : (failure ?? nobodyTakesWrites());
    }
    const node = settledWriteNode(cluster.state);
    if (node !== undefined && client.mayAdopt()) {
      try {
        const backend = await client.open(node, Math.min(leftMs, ATTEMPT_MS));
        // By now the client may be gone, or the node detached.
        if (client.isOver() || settledWriteNode(cluster.state) !== node) backend.close();
        else client.adopt(backend);
        client.follow();
        if (client.isOver()) return undefined;
      } catch (error) {
        failure = error instanceof PgpoolError ? error : undefined;
        if (error instanceof BackendRefused && !error.isTemporary) return error;
      }
    }
    await cluster.stateChanged(RETRY_MS);
  }
}

/** For a log-in: waits while a failover is to settle where writes go. */
export async function awaitWriteNode(cluster: ClusterWatch, signal: AbortSignal): Promise<void> {
  const until = cluster.clock() + WRITE_NODE_WAIT_MS;
  while (settledWriteNode(cluster.state) === undefined && cluster.state.ongoing !== undefined) {
    if (cluster.clock() >= until || signal.aborted) return;
    await cluster.stateChanged(RETRY_MS);
  }
}

const nobodyTakesWrites = () =>
  new BackendUnavailable("there is no DB node that takes writes", {
    sqlstate: "57P01",
    detail: `none was found within ${WRITE_NODE_WAIT_MS / 1000} seconds after the last one was lost`,
  });
