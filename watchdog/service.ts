/** Cluster service messages, by their single byte (spec watchdog/wire.md 4.1). */

import type { Beacon } from "./bodies.ts";
import type { Remote } from "./node.ts";
import { requireReload } from "./peers.ts";
import { isReachable, type Turn } from "./turn.ts";
import type { Service } from "./wire.ts";

export function receiveService(turn: Turn, remote: Remote, service: Service, id: number): void {
  const { node } = turn;
  switch (service) {
    case "quorum_lost":
    case "quorum_found":
      return;
    case "split_brain":
      hearSplitBrain(turn);
      return;
    case "needs_election":
      turn.enter("JOINING");
      return;
    case "true_leader":
      hearTrueLeader(turn, remote, id);
      return;
    case "not_true_leader":
    case "resigning":
      if (node.leader === remote.id) turn.enter("JOINING");
      return;
    case "invalid_version":
      // Pgpool's watchdog ends here, and its pgpool with it. No word of a peer may do that.
      turn.log("WARNING", `"${remote.nodeName}" could not read a message of ours`);
      return;
    case "reload_state":
      if (node.state === "STANDBY") {
        rejoin(turn);
        return;
      }
      if (node.state === "NETWORK ISOLATION") turn.enter("JOINING");
      return;
    case "appears_lost":
      hearLost(turn, remote);
      return;
    case "appears_found":
      hearFound(turn, remote, id);
      return;
  }
}

function hearSplitBrain(turn: Turn): void {
  for (const remote of turn.remotes) turn.dialUnconnected(remote);
  // By their answers leaders learn of each other.
  if (turn.isTrueLeader) sendBeacon(turn, turn.remotes);
}

/** The leader's beacon, without waiting for answers. */
function sendBeacon(turn: Turn, to: readonly Remote[]): void {
  for (const remote of to) {
    if (isReachable(remote)) turn.send(remote, { kind: "beacon", beacon: beaconOf(turn) });
  }
}

/** What this node, which leads, says in a beacon. */
export function beaconOf(turn: Turn): Beacon {
  const { node } = turn;
  const seconds = (at: number) => Math.max(0, Math.trunc(turn.since(at) / 1000));
  return {
    state: node.state,
    startupAge: seconds(node.startedAt),
    stateAge: seconds(node.since),
    quorumStatus: node.quorum,
    aliveNodeCount: node.standbys.length,
    escalated: node.escalated,
  };
}

function hearTrueLeader(turn: Turn, remote: Remote, id: number): void {
  const { node } = turn;
  if (node.state === "LEADER") {
    turn.broadcastService("resigning", id);
    turn.enter("JOINING");
    return;
  }
  if (node.leader === undefined || node.leader === remote.id) return;
  turn.broadcastService("needs_election", id);
  turn.enter("JOINING");
}

function hearLost(turn: Turn, remote: Remote): void {
  remote.hasLostUs = true;
  if (turn.node.state === "LEADER") turn.dropStandby(remote.id);
  if (turn.node.state === "STANDBY" && turn.node.leader === remote.id) turn.enter("JOINING");
}

function hearFound(turn: Turn, remote: Remote, id: number): void {
  remote.hasLostUs = false;
  switch (turn.node.state) {
    case "LEADER":
      requireReload(turn, remote);
      return;
    case "STANDBY":
      turn.tellInfo(remote, id);
      return;
    case "NETWORK ISOLATION":
      turn.enter("JOINING");
      return;
    default:
  }
}

/** A standby asks its leader once more to be counted. */
function rejoin(turn: Turn): void {
  const { leader } = turn;
  if (leader === undefined) {
    turn.enter("JOINING");
    return;
  }
  turn.command({ kind: "join" }, { kind: "join_coordinator" }, [leader], 5);
}
