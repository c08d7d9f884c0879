/**
 * What the control plane asks and does, in the watchdog's words and back: requests about backends
 * (spec watchdog/wire.md 6.3), and how backends stand.
 */

import type { Motion } from "../core/cluster/control.ts";
import type { FailoverRequest } from "../core/cluster/failover.ts";
import {
  type BackendNode,
  type ClusterState,
  isLive,
  type NodeStatus,
  nodeId,
  STATUS_NUMBERS,
} from "../core/cluster/state.ts";
import { type FailoverFunction, type FailoverResult, REQUEST_FLAGS } from "./bodies.ts";
import type { BackendView } from "./node.ts";

export type Call = {
  readonly name: FailoverFunction;
  readonly flags: number;
  readonly nodes: readonly number[];
};

/** Undefined for what is nobody else's business. */
export function callOf(request: FailoverRequest, motion: Motion): Call | undefined {
  const flags =
    (motion.switchover ? REQUEST_FLAGS.switchover : 0) |
    (motion.confirmed ? REQUEST_FLAGS.confirmed : 0) |
    (motion.again ? REQUEST_FLAGS.update : 0);
  switch (request.kind) {
    case "detach":
      return { name: "DEGENERATE_BACKEND_REQUEST", flags, nodes: request.nodes };
    case "attach":
      return { name: "FAILBACK_REQUEST", flags, nodes: [request.node] };
    case "promote":
      return { name: "PROMOTE_BACKEND_REQUEST", flags, nodes: [request.node] };
    case "switchover": {
      // A detach of the node that is to be the primary, with a flag that says what is meant.
      const meant = flags | REQUEST_FLAGS.switchover | REQUEST_FLAGS.promote;
      return { name: "DEGENERATE_BACKEND_REQUEST", flags: meant, nodes: [request.node] };
    }
    case "quarantine":
    case "restore":
    case "adopt":
    case "find":
      return undefined;
  }
}

/** What the cluster has decided, as this pgpool is to carry it out. */
export function requestsOf(
  name: FailoverFunction,
  nodes: readonly number[],
  flags: number,
): readonly FailoverRequest[] {
  const ids = nodes.map((id) => nodeId(id));
  switch (name) {
    case "DEGENERATE_BACKEND_REQUEST": {
      if ((flags & REQUEST_FLAGS.promote) !== 0) {
        return ids.map((node) => ({ kind: "switchover", node }));
      }
      const byOperator = (flags & REQUEST_FLAGS.confirmed) !== 0;
      const why = byOperator
        ? "by order of an operator at another pgpool node"
        : "the pgpool nodes agreed";
      return [{ kind: "detach", nodes: ids, why, byOperator }];
    }
    case "FAILBACK_REQUEST":
      return ids.map((node) => ({ kind: "attach", node }));
    case "PROMOTE_BACKEND_REQUEST":
      return ids.map((node) => ({ kind: "promote", node }));
  }
}

/** Whether what was asked has been done, as far as this pgpool has heard of it. */
export function isCarriedOut({ name, nodes, flags }: Call, state: ClusterState): boolean {
  const every = (holds: (node: BackendNode) => boolean) =>
    nodes.every((id) => state.nodes.some((node) => node.id === id && holds(node)));
  const isPromotion = name === "PROMOTE_BACKEND_REQUEST" || (flags & REQUEST_FLAGS.promote) !== 0;
  if (isPromotion) return every(({ id }) => id === state.primary);
  return every(name === "FAILBACK_REQUEST" ? isLive : ({ status }) => status === "down");
}

const FUNCTION_WORDS: { readonly [F in FailoverFunction]: string } = {
  DEGENERATE_BACKEND_REQUEST: "degenerate backend",
  FAILBACK_REQUEST: "failback",
  PROMOTE_BACKEND_REQUEST: "promote backend",
};

/** What is logged where the question was asked. */
export function verdictText(
  { name, nodes }: Call,
  result: FailoverResult,
  motion: Motion,
  pid: number,
): string {
  const count = `${nodes.length} node(s) from pid [${pid}]`;
  const one = `node_id: ${nodes.join(", ")} from pid [${pid}]`;
  const words = FUNCTION_WORDS[name];
  switch (result) {
    case "WILL_BE_DONE":
      return `${words} request for ${count}, will be handled by watchdog`;
    case "NO_QUORUM":
    case "CONSENSUS_MAY_FAIL":
      if (name === "DEGENERATE_BACKEND_REQUEST" && !motion.again) {
        return `${words} request for ${count}, is changed to quarantine node request by watchdog`;
      }
      return `${words} request for ${one}, is canceled because watchdog does not hold quorum`;
    case "BUILDING_CONSENSUS":
      return `${words} request for ${one}, will be handled by watchdog, which is building consensus for request`;
    default:
      return `${words} request for ${one}, is canceled by other pgpool (${result})`;
  }
}

/** Waiting or up is the same to others. */
export const kindOf = (status: NodeStatus): string => (status === "up" ? "waiting" : status);

/** A quarantined backend is nobody else's business. */
const toldStatus = (status: NodeStatus): number =>
  status === "quarantine" ? STATUS_NUMBERS.waiting : STATUS_NUMBERS[status];

/** `isSearched`: that there is no primary is known. */
export function viewOf(state: ClusterState, isSearched: boolean): BackendView {
  return {
    status: {
      statuses: state.nodes.map(({ status }) => toldStatus(status)),
      primary: state.primary ?? (isSearched ? -1 : -2),
    },
    quarantined: state.nodes.filter(({ status }) => status === "quarantine").map(({ id }) => id),
    quarantinedPrimary: state.quarantinedPrimary,
  };
}
