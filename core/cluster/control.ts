/**
 * What others may ask of the control plane: PCP, online recovery, a watchdog. Implemented by
 * proxy/cluster; the texts of refusals are those of spec wire/pcp.md 4.9 to 4.12. And what it asks of
 * the other pgpools of a watchdog's cluster, which cmd/ implements.
 */

import type { FailoverRequest } from "./failover.ts";
import type { NodeHealth } from "./health.ts";
import type { ClusterState, NodeId } from "./state.ts";

/** How an order ended. `why` says what is to be told to whoever gave it. */
export type OrderResult =
  | { readonly kind: "done" }
  | { readonly kind: "refused"; readonly why: string; readonly detail?: string | undefined };

export type PromoteOptions = {
  /** The present primary is to be replaced by way of failover_command; else only our idea of it moves. */
  readonly switchover: boolean;
  readonly gracefully: boolean;
};

export interface ClusterControl {
  /** The snapshot of now; `ongoing` in it says what is being carried out. */
  readonly state: ClusterState;
  healthOf(node: NodeId): NodeHealth;
  /** Each resolves when the order has been carried out, or refused; none rejects. */
  detachNode(node: NodeId, options: { readonly gracefully: boolean }): Promise<OrderResult>;
  attachNode(node: NodeId): Promise<OrderResult>;
  promoteNode(node: NodeId, options: PromoteOptions): Promise<OrderResult>;
  /**
   * Until it is released no transition begins, except by `attach` of what is given; what is asked
   * meanwhile waits its turn. Resolves when none is under way.
   */
  hold(): Promise<Hold>;
}

/** Clients wait until it is released; empty: all that were there have left. */
export type Quiet = {
  readonly empty: boolean;
  /** Why some may have come in elsewhere all the same, if they may; asks them. */
  doubt(): Promise<string | undefined>;
  release(): void;
};

/** Owned by whoever holds transitions back, such as an online recovery. */
export interface Hold {
  /** Attaches the recovered node ahead of everything that waits. */
  attach(node: NodeId): Promise<OrderResult>;
  /** Transitions go on. Safe to call twice. */
  release(): void;
}

/** What the pgpools of a cluster, asked by one of them, say to its request. */
export type Verdict =
  | "proceed"
  /** A backend is left out here and nowhere else, until it answers or the others agree. */
  | "quarantine"
  /** Another pgpool has done it, and what became of it has been taken over. */
  | "done_elsewhere"
  /** More votes are wanted. */
  | "open"
  | "cancelled";

export type Motion = {
  /** An operator's word: it needs no votes. */
  readonly confirmed: boolean;
  /** Sessions that do not use the backend are kept. */
  readonly switchover: boolean;
  /** A backend in quarantine is voted on once more. */
  readonly again: boolean;
};

/** The cluster of pgpools, as one that is alone need not ask it. */
export interface Council {
  /** Resolves when it is known; never rejects. */
  judge(request: FailoverRequest, motion: Motion): Promise<Verdict>;
  /** Standbys are led to a new primary here, or that is over: others must not judge meanwhile. */
  follow(begins: boolean): Promise<void>;
  /** Another pgpool leads standbys to a new primary. */
  readonly isFollowing: boolean;
  /** Whether it is for this pgpool to act on what it sees of primaries and standbys. */
  readonly isLeader: boolean;
}
