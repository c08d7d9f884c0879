/**
 * Which node a session reads from: redirect preferences, a lottery by weight, and how far the
 * standbys lag behind (spec load-balance.md section 2). Chance is an argument.
 */

import {
  type BackendNode,
  type ClusterState,
  isLive,
  type NodeId,
  nodeId,
  writeNode,
} from "../../core/cluster/state.ts";
import type { Redirect } from "../../core/config/schema.ts";
import type { Random } from "../../core/ports.ts";
import type { RoutingRules } from "./rules.ts";

/** Who reads: what redirect lists match, and which nodes it can reach. */
export type Reader = {
  readonly user: string;
  readonly database: string;
  readonly applicationName: string;
  /** Nodes to which the session has no connection. */
  readonly lostNodes: ReadonlySet<NodeId>;
};

export const isStreaming = (cluster: ClusterState): boolean =>
  cluster.mode === "streaming_replication" || cluster.mode === "logical_replication";

/** The write node, or node 0 when every node is down: whoever sends there finds out. */
export const chiefNode = (cluster: ClusterState): NodeId => writeNode(cluster) ?? nodeId(0);

export const isUsable = (reader: Reader, node: BackendNode): boolean =>
  isLive(node) && !reader.lostNodes.has(node.id);

/**
 * The load-balance node of a session. Draws one number, and a second one unless the first has
 * decided; `random` is never called when load balancing is off.
 */
export function chooseLoadBalanceNode(
  reader: Reader,
  cluster: ClusterState,
  rules: RoutingRules,
  random: Random,
): NodeId {
  const chief = chiefNode(cluster);
  if (!rules.loadBalance || cluster.mode === "raw") return chief;
  const draw = random();
  const redirect = isStreaming(cluster) ? redirectOf(reader, cluster, rules) : undefined;
  const isChosen = redirect !== undefined && draw <= redirect.ratio;
  let excluded: NodeId | undefined;
  if (redirect?.node === "standby") {
    if (!isChosen) return chief;
    excluded = chief;
  } else if (redirect !== undefined) {
    const node = redirect.node === "primary" ? chief : redirect.node;
    if (node !== chief && isTooLate(cluster, rules, node)) {
      if (rules.preferLowerDelay) return leastDelayed(reader, cluster, rules);
    }
    if (isChosen) return node;
    excluded = node;
  }
  const winner = drawByWeight(reader, cluster, excluded, random());
  if (rules.preferLowerDelay && isTooLate(cluster, rules, winner)) {
    return leastDelayed(reader, cluster, rules);
  }
  return winner;
}

/** The most specific list that matches: application before database before user (2.3). */
export function redirectOf(
  reader: Reader,
  cluster: ClusterState,
  { redirects }: RoutingRules,
): Redirect | undefined {
  const found =
    (reader.applicationName === ""
      ? undefined
      : firstMatch(redirects.appName, reader.applicationName)) ??
    firstMatch(redirects.database, reader.database) ??
    firstMatch(redirects.user, reader.user);
  if (found === undefined || typeof found.node === "string") return found;
  const node = cluster.nodes[found.node];
  if (node === undefined) return { ...found, node: firstUsable(reader, cluster) };
  return isUsable(reader, node) ? found : undefined;
}

function firstMatch(list: readonly Redirect[], name: string): Redirect | undefined {
  return list.find((redirect) => redirect.pattern.test(name));
}

/** The main node as this session sees it. */
function firstUsable(reader: Reader, cluster: ClusterState): NodeId {
  return cluster.nodes.find((node) => isUsable(reader, node))?.id ?? chiefNode(cluster);
}

/** The lottery: node i wins for draws in its share of [0, 1), shares in id order. */
function drawByWeight(
  reader: Reader,
  cluster: ClusterState,
  excluded: NodeId | undefined,
  draw: number,
): NodeId {
  let total = 0;
  for (const node of cluster.nodes) {
    if (node.id !== excluded && isUsable(reader, node)) total += node.weight;
  }
  const ticket = draw * total;
  let sum = 0;
  let winner: NodeId | undefined;
  for (const node of cluster.nodes) {
    if (node.id === excluded || node.weight <= 0 || !isUsable(reader, node)) continue;
    if (winner !== undefined && ticket < sum) break;
    winner = node.id;
    sum += node.weight;
  }
  return winner ?? firstUsable(reader, cluster);
}

/**
 * Is this node further behind the primary than allowed? Streaming replication only. Bytes are
 * compared with bytes and time with time (Pgpool compares whichever number it has with both).
 */
export function isTooLate(cluster: ClusterState, rules: RoutingRules, id: NodeId): boolean {
  const node = cluster.nodes[id];
  if (node === undefined || cluster.mode !== "streaming_replication") return false;
  if (id === cluster.primary) return false;
  const limit = node.delayByTime ? rules.delayMaxMicroseconds : rules.delayMaxBytes;
  return limit > 0 && node.delay > limit;
}

/** Among the standbys within the limit the one least behind; weight decides a tie (2.4). */
function leastDelayed(reader: Reader, cluster: ClusterState, rules: RoutingRules): NodeId {
  const chief = chiefNode(cluster);
  let best: BackendNode | undefined;
  for (const node of cluster.nodes) {
    if (node.id === chief || node.weight <= 0 || !isUsable(reader, node)) continue;
    if (isTooLate(cluster, rules, node.id)) continue;
    const isBetter =
      best === undefined ||
      node.delay < best.delay ||
      (node.delay === best.delay && node.weight > best.weight);
    if (isBetter) best = node;
  }
  return best?.id ?? chief;
}
