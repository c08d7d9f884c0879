/**
 * What a node does with a packet, by the state that it is in (spec watchdog/states.md section 3). No
 * word of a peer ends this node, but for a refusal by the cluster that it tries to enter.
 */

import { isBackendStatusRequest } from "./bodies.ts";
import { takeReply } from "./commands.ts";
import { obey, receiveFailover, tellFollowLock } from "./desk.ts";
import type { Postponed, Remote } from "./node.ts";
import { commandFinished, sendBeacon } from "./outcomes.ts";
import {
  answerAdd,
  applyInfo,
  copyInfo,
  endLoading,
  loseRemote,
  noteAge,
  settleSplitBrain,
} from "./peers.ts";
import { configDifferences, consensusTimeoutS } from "./pool_config.ts";
import { receiveRecovery } from "./recovery.ts";
import { receiveService } from "./service.ts";
import type { Turn } from "./turn.ts";
import type { ReceivedMessage } from "./wire.ts";

/** From a connection that is known to be that node's. */
export function receive(turn: Turn, remote: Remote, id: number, message: ReceivedMessage): void {
  remote.receivedAt = turn.now;
  remote.functionSentAt = undefined;
  // It may come late, by a connection that was closed meanwhile.
  if (remote.state === "LOST" && message.kind !== "node_info" && message.kind !== "add_node")
    return;
  if (message.kind === "node_info") applyInfo(turn, remote, message.info, id);
  if (message.kind === "going_down") {
    loseRemote(turn, remote, "SHUTDOWN");
    return;
  }
  const reply = takeReply(turn, remote, id, message);
  if (reply === "taken") return;
  if (reply !== undefined) {
    commandFinished(turn, reply);
    return;
  }
  switch (message.kind) {
    case "failover_function":
      receiveFailover(turn, remote, message.call, id);
      return;
    case "online_recovery":
      receiveRecovery(turn, remote, message.call, id);
      return;
    case "backend_status":
    case "failover_result":
      return;
    default:
      receiveInState(turn, remote, id, message);
  }
}

function receiveInState(turn: Turn, remote: Remote, id: number, message: ReceivedMessage): void {
  switch (turn.node.state) {
    case "LOADING":
    case "JOINING":
    case "INITIALIZING":
      beforeElection(turn, remote, id, message);
      return;
    case "STANDING FOR LEADER":
      whileStanding(turn, remote, id, message);
      return;
    case "PARTICIPATING IN ELECTION":
      whileParticipating(turn, remote, id, message);
      return;
    case "LEADER":
      whileLeading(turn, remote, id, message);
      return;
    case "STANDBY":
      asStandby(turn, remote, id, message);
      return;
    case "NETWORK ISOLATION":
      receiveAnywhere(turn, remote, id, message);
      return;
    case "DEAD":
    case "LOST":
    case "IN NETWORK TROUBLE":
    case "SHUTDOWN":
    case "ADD MESSAGE SENT":
  }
}

function beforeElection(turn: Turn, remote: Remote, id: number, message: ReceivedMessage): void {
  const { node } = turn;
  const isInitializing = node.state === "INITIALIZING";
  switch (message.kind) {
    case "stand_for_coordinator":
      if (isInitializing) {
        postpone(turn, { from: remote.id, id, message: { kind: message.kind } });
        return;
      }
      if (node.priority > remote.priority) {
        turn.send(remote, { kind: "reject" }, id);
        turn.enter("STANDING FOR LEADER");
        return;
      }
      turn.send(remote, { kind: "accept" }, id);
      turn.enter("PARTICIPATING IN ELECTION");
      return;
    case "declare_coordinator":
      if (isInitializing) postpone(turn, { from: remote.id, id, message: { kind: message.kind } });
      return;
    case "reject": {
      const isUnanswered =
        remote.state === "ADD MESSAGE SENT" ||
        (node.state === "LOADING" && remote.state === "DEAD");
      if (isUnanswered) turn.fatal("add to watchdog cluster request is rejected by node");
      return;
    }
    case "node_info":
      endLoading(turn);
      return;
    default:
      receiveAnywhere(turn, remote, id, message);
  }
}

/**
 * 4.3.5 gives no answer, for which a candidate waits four seconds; here it comes when this node is done.
 * Only a leader that is out of sight is given those four seconds: it needs them to let go.
 */
function postpone({ node }: Turn, packet: Postponed): void {
  if (node.mayStillLead) return;
  node.postponed = [...node.postponed.filter(({ from }) => from !== packet.from), packet];
}

export function receivePostponed(turn: Turn): void {
  const { postponed } = turn.node;
  turn.node.postponed = [];
  for (const { from, id, message } of postponed) {
    const remote = turn.remote(from);
    if (remote !== undefined) receiveInState(turn, remote, id, message);
  }
}

function whileStanding(turn: Turn, remote: Remote, id: number, message: ReceivedMessage): void {
  switch (message.kind) {
    case "stand_for_coordinator":
      if (isAhead(turn, remote)) {
        turn.send(remote, { kind: "reject" }, id);
        return;
      }
      turn.send(remote, { kind: "accept" }, id);
      turn.enter("PARTICIPATING IN ELECTION");
      return;
    case "declare_coordinator":
      if (turn.node.priority > remote.priority) {
        turn.send(remote, { kind: "reject" }, id);
        return;
      }
      turn.send(remote, { kind: "accept" }, id);
      turn.enter("JOINING");
      return;
    default:
      receiveAnywhere(turn, remote, id, message);
  }
}

/** By priority, then by who started earlier, in whole seconds as they are told. */
function isAhead({ node }: Turn, remote: Remote): boolean {
  if (node.priority !== remote.priority) return node.priority > remote.priority;
  const seconds = (at: number | undefined) => Math.trunc((at ?? 0) / 1000);
  return seconds(node.startedAt) <= seconds(remote.startedAt);
}

function whileParticipating(
  turn: Turn,
  remote: Remote,
  id: number,
  message: ReceivedMessage,
): void {
  const isBetter = remote.priority >= turn.node.priority;
  switch (message.kind) {
    case "stand_for_coordinator":
      turn.send(remote, { kind: isBetter ? "accept" : "reject" }, id);
      if (!isBetter) turn.enter("STANDING FOR LEADER");
      return;
    case "declare_coordinator":
      turn.send(remote, { kind: isBetter ? "accept" : "reject" }, id);
      turn.enter(isBetter ? "INITIALIZING" : "STANDING FOR LEADER");
      return;
    case "beacon":
      turn.enter("JOINING");
      return;
    default:
      receiveAnywhere(turn, remote, id, message);
  }
}

function whileLeading(turn: Turn, remote: Remote, id: number, message: ReceivedMessage): void {
  switch (message.kind) {
    case "stand_for_coordinator":
      turn.send(remote, { kind: "reject" }, id);
      return;
    case "declare_coordinator":
      turn.send(remote, { kind: "error" }, id);
      return;
    case "join_coordinator":
      receiveJoin(turn, remote, id);
      return;
    case "beacon":
      copyBeacon(turn, remote, message);
      settleSplitBrain(turn, remote, id);
      return;
    case "unreadable":
      if (message.letter !== "M") {
        logUnreadable(turn, remote, message);
        return;
      }
      turn.service("needs_election", remote, id);
      turn.enter("JOINING");
      return;
    case "config":
      compareConfig(turn, remote, message);
      return;
    default:
      receiveAnywhere(turn, remote, id, message);
  }
}

function receiveJoin(turn: Turn, remote: Remote, id: number): void {
  const { node } = turn;
  if (remote.state === "LOST") {
    turn.send(remote, { kind: "reject" }, id);
    return;
  }
  turn.send(remote, { kind: "accept" }, id);
  turn.send(remote, { kind: "ask_config" });
  tellFollowLock(turn, remote);
  remote.missedBeacons = 0;
  if (!node.standbys.includes(remote.id)) {
    node.standbys = [...node.standbys, remote.id];
    turn.log("LOG", `adding watchdog node "${turn.nameOf(remote)}" to the standby list`);
  }
  // With a lease it counts from its first answer on, which need not be waited for.
  if (turn.rules.lease !== undefined) sendBeacon(turn, [remote]);
}

function compareConfig(
  turn: Turn,
  remote: Remote,
  { config }: Extract<ReceivedMessage, { readonly kind: "config" }>,
): void {
  const { rules, node } = turn;
  remote.config = config;
  const name = turn.nameOf(remote);
  for (const { message, detail } of configDifferences(rules.config, config, name)) {
    turn.log("WARNING", message, detail);
  }
  const others = turn.remotes.flatMap((each) => (each.config === undefined ? [] : [each.config]));
  node.voteTimeoutMs = consensusTimeoutS([rules.config, ...others]) * 1000;
}

function asStandby(turn: Turn, remote: Remote, id: number, message: ReceivedMessage): void {
  const { node, leader } = turn;
  switch (message.kind) {
    case "stand_for_coordinator":
      if (leader === undefined) {
        turn.send(remote, { kind: "accept" }, id);
        turn.enter("PARTICIPATING IN ELECTION");
        return;
      }
      turn.send(remote, { kind: "error" }, id);
      turn.send(leader, { kind: "request_info" });
      return;
    case "declare_coordinator":
      if (node.leader === remote.id) {
        turn.send(remote, { kind: "accept" }, id);
        return;
      }
      turn.send(remote, { kind: "error" }, id);
      if (leader !== undefined) turn.send(leader, { kind: "request_info" });
      return;
    case "failover_end":
      turn.notify("sync_backends");
      return;
    default:
      receiveAnywhere(turn, remote, id, message);
  }
}

/** What is done with a packet in every state that has no opinion of its own. */
function receiveAnywhere(turn: Turn, remote: Remote, id: number, message: ReceivedMessage): void {
  const { node } = turn;
  switch (message.kind) {
    case "waiting_for_consensus":
      turn.log(
        "LOG",
        `remote node "${turn.nameOf(remote)}" is asking to inform about quarantined backend nodes`,
      );
      turn.notify("revote_quarantined");
      return;
    case "cluster_command":
      obey(turn, remote, message.command);
      return;
    case "service":
      receiveService(turn, remote, message.service, id);
      return;
    case "data_request": {
      if (!isBackendStatusRequest(message.request)) {
        turn.send(remote, { kind: "error" }, id);
        return;
      }
      const { nodeName } = turn.rules.self;
      const status = { ...node.backends.status, nodeName };
      turn.send(remote, { kind: "backend_status", status }, id);
      return;
    }
    case "ask_config":
      turn.send(remote, { kind: "config", config: turn.rules.config }, id);
      return;
    case "add_node":
      copyInfo(turn, remote, message.info);
      answerAdd(turn, remote, id);
      return;
    case "request_info":
      turn.tellInfo(remote, id);
      return;
    case "join_coordinator":
      turn.send(remote, { kind: turn.isTrueLeader ? "accept" : "reject" }, id);
      return;
    case "beacon":
      receiveBeacon(turn, remote, id, message);
      return;
    case "unreadable":
      logUnreadable(turn, remote, message);
      return;
    default:
      // Answers that nobody waits for any more, and words that nobody says today.
      return;
  }
}

type BeaconMessage = Extract<ReceivedMessage, { readonly kind: "beacon" }>;

function copyBeacon(turn: Turn, remote: Remote, { beacon }: BeaconMessage): void {
  remote.state = beacon.state;
  remote.stateSince = turn.now - beacon.stateAge * 1000;
  noteAge(turn, remote, beacon.startupAge);
  remote.quorumStatus = beacon.quorumStatus;
  remote.aliveNodeCount = beacon.aliveNodeCount;
  remote.escalated = beacon.escalated;
}

function receiveBeacon(turn: Turn, remote: Remote, id: number, message: BeaconMessage): void {
  const { node, rules } = turn;
  if (node.leader === undefined) return;
  if (node.leader !== remote.id) {
    turn.broadcastService("split_brain", id);
    return;
  }
  copyBeacon(turn, remote, message);
  if (rules.lease !== undefined) {
    const { promise } = node;
    const isBound = promise !== undefined && promise.to !== remote.id && turn.now < promise.until;
    const isYoung = turn.since(node.startedAt) < rules.lease.promiseMs;
    // No answer: it may count us once what we may have promised to another is over.
    if (isBound || isYoung || node.state !== "STANDBY") return;
    node.promise = { to: remote.id, until: turn.now + rules.lease.promiseMs };
  }
  turn.tellInfo(remote, id);
}

function logUnreadable(
  turn: Turn,
  remote: Remote,
  { letter, body }: Extract<ReceivedMessage, { readonly kind: "unreadable" }>,
): void {
  const what = `packet "${letter}" of ${body.length} bytes`;
  turn.log("WARNING", `unable to read a ${what} from "${turn.nameOf(remote)}"`);
}
