/**
 * What PCP needs of the rest of the program: facts to show and things to have done. Whoever joins
 * the parts implements it; PCP itself knows neither pools nor controllers.
 */

import type { ClusterEvent } from "../core/admin/events.ts";
import type { AdminView } from "../core/admin/view.ts";
import type { NodeId } from "../core/cluster/state.ts";
import type { PcpScope } from "../core/pcp/request.ts";
import type { StopMode } from "../core/ports.ts";

/** What a server says of itself when it is asked now. */
export type NodeProbe = {
  readonly pgStatus: "up" | "down" | "unknown";
  readonly serverRole: "primary" | "standby" | "unknown";
};

/**
 * Actions reject with a PgpoolError, which the client is shown. They resolve when the request is
 * accepted; gracefully, by recovery and by switchover when it is done.
 */
export interface PcpDesk {
  /** As no session sees it: without settings of its own. */
  view(): AdminView;
  /** Oldest first. */
  events(): readonly ClusterEvent[];
  /** Never rejects, and takes a few seconds at most. */
  probe(node: NodeId): Promise<NodeProbe>;
  /** Why neither recovery nor a stop is possible now, such as `failover is in progress`. */
  busyWith(): string | undefined;
  attachNode(node: NodeId): Promise<void>;
  detachNode(node: NodeId, options: { readonly gracefully: boolean }): Promise<void>;
  promoteNode(
    node: NodeId,
    options: { readonly gracefully: boolean; readonly switchover: boolean },
  ): Promise<void>;
  recoverNode(node: NodeId): Promise<void>;
  /** Called once the client has been answered. */
  stop(mode: StopMode, scope: PcpScope): void;
  reload(scope: PcpScope): Promise<void>;
  rotateLog(scope: PcpScope): Promise<void>;
  invalidateCache(): Promise<void>;
  /** JSON of one watchdog node, or with -1 of all. */
  watchdogInfo(id: number): Promise<string>;
}

/** A socket as far as PCP uses it; the proxy's `Conn` is one. */
export interface PcpConn {
  readonly peer:
    | { readonly kind: "tcp"; readonly host: string; readonly port: number }
    | { readonly kind: "unix" };
  handler: PcpConnHandler;
  /** Takes the bytes; false when some are left buffered: wait for `onDrain`. */
  send(bytes: Uint8Array): boolean;
  pause(): void;
  resume(): void;
  /** Sends what is buffered, then closes. */
  end(): void;
  destroy(): void;
}

export interface PcpConnHandler {
  onData(chunk: Uint8Array): void;
  onDrain(): void;
  onClose(error?: Error): void;
}
