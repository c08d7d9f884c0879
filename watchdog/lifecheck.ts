/**
 * Whether other pgpools live, by the heartbeats that come from them or by queries to them (spec
 * watchdog/lifecheck.md). Values in, reports out; sockets, queries and the pause of wd_interval are
 * somebody else's.
 */

import { type Heartbeat, isNewer } from "./heartbeat.ts";

export type LifecheckNode = {
  readonly id: number;
  readonly hostname: string;
  readonly pgpoolPort: number;
};

/** A change of opinion, to be told to the watchdog as it stands. */
export type LifeReport = {
  readonly node: number;
  readonly alive: boolean;
  /** Pgpool's words. */
  readonly text: string;
};

export type HeardNode = LifecheckNode & {
  readonly last: Heartbeat | undefined;
  /** By our own clock, in milliseconds; undefined until it was heard. */
  readonly heardAt: number | undefined;
  readonly dead: boolean;
};

/** The other nodes, none of them heard yet. */
export const unheard = (nodes: readonly LifecheckNode[]): readonly HeardNode[] =>
  nodes.map((node) => ({ ...node, last: undefined, heardAt: undefined, dead: false }));

/**
 * A heartbeat whose sum was right. It is the node's whose port it names and whose host it names or
 * comes from. Of signed ones, one that was heard before, or that is older, changes nothing. Those that
 * anybody may have sent are heard whatever their time: a stranger's, from the future, would make the
 * node's own the older ones.
 */
export const hear = (
  nodes: readonly HeardNode[],
  beat: Heartbeat,
  address: string,
  now: number,
  isSigned = true,
): readonly HeardNode[] =>
  nodes.map((node) => {
    const isHost = node.hostname === beat.host || node.hostname === address;
    if (!isHost || node.pgpoolPort !== beat.pgpoolPort) return node;
    if (isSigned && node.last !== undefined && !isNewer(beat, node.last)) return node;
    return { ...node, last: beat, heardAt: now };
  });

/** The check begins when every node has been heard once; until then nobody can be dead. */
export const allHeard = (nodes: readonly HeardNode[]): boolean =>
  nodes.every(({ heardAt }) => heardAt !== undefined);

/**
 * A node that has no place in the cluster yet sends no heartbeats. What it sent in an earlier life says
 * nothing of this one: its silence counts from the moment that it has its place, and its clock may have
 * been set back meanwhile.
 */
export const excuse = (
  nodes: readonly HeardNode[],
  isPlaced: (id: number) => boolean,
  now: number,
): readonly HeardNode[] =>
  nodes.map((node) =>
    node.dead || node.heardAt === undefined || isPlaced(node.id)
      ? node
      : { ...node, last: undefined, heardAt: now },
  );

/** Once per wd_interval: who has been silent for longer than `deadMs`, and who is heard again. */
export function checkHeartbeats(
  nodes: readonly HeardNode[],
  deadMs: number,
  now: number,
): readonly [readonly HeardNode[], readonly LifeReport[]] {
  const reports: LifeReport[] = [];
  const checked = nodes.map((node) => {
    // Whole seconds, as the original counts them.
    const silentS = node.heardAt === undefined ? 0 : Math.trunc((now - node.heardAt) / 1000);
    const dead = silentS * 1000 > deadMs;
    if (dead === node.dead) return node;
    const text = dead ? "No heartbeat signal from node" : "Heartbeat signal found";
    reports.push({ node: node.id, alive: !dead, text });
    return { ...node, dead };
  });
  return [checked, reports];
}

export type QueriedNode = { readonly id: number; readonly points: number; readonly dead: boolean };

/**
 * A query's outcome. Each failure costs a point of wd_life_point, a success gives them all back. The
 * original never reports a node alive again; this does.
 */
export function noteQuery(
  node: QueriedNode,
  answered: boolean,
  lifePoints: number,
): readonly [QueriedNode, LifeReport | undefined] {
  if (answered) {
    const report = { node: node.id, alive: true, text: "node answers queries again" };
    return [{ ...node, points: lifePoints, dead: false }, node.dead ? report : undefined];
  }
  const points = Math.max(0, node.points - 1);
  const dead = points === 0;
  const report = { node: node.id, alive: false, text: "unable to connect to node" };
  return [{ ...node, points, dead }, dead && !node.dead ? report : undefined];
}
