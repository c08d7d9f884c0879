/**
 * The watchdog's state machine (spec watchdog/states.md): one node, one event, the time; out come the
 * node as it is then and what is to be done. Thirteen states, of which a node passes LOADING, JOINING
 * and INITIALIZING on its way to STANDING FOR LEADER or to STANDBY. There is one timer for the state.
 * What packets do is in packets.ts, what answers to our own do in outcomes.ts.
 */

import { ask, askFollowLock, dropOldVotes, reportStatus } from "./desk.ts";
import type { Remote, Watchdog, WatchdogEffect, WatchdogEvent, WatchdogRules } from "./node.ts";
import { sendBeacon, settleCommands } from "./outcomes.ts";
import { receive, receivePostponed } from "./packets.ts";
import { admit, loseRemote, resync, watchRemotes } from "./peers.ts";
import { answerRecovery, tellRecovery, wakeInRecovery, watchRecovery } from "./recovery.ts";
import { isActive, type StateName } from "./states.ts";
import { TIMES, Turn } from "./turn.ts";

/** States in which a node does nothing any more. */
const OVER: readonly StateName[] = ["LOST", "IN NETWORK TROUBLE", "SHUTDOWN"];

/** One event. Changes nothing that it is given; the effects are to be carried out in their order. */
export function stepWatchdog(
  rules: WatchdogRules,
  before: Watchdog,
  event: WatchdogEvent,
  now: number,
): readonly [Watchdog, readonly WatchdogEffect[]] {
  const turn = new Turn(rules, before, now);
  if (OVER.includes(before.state)) {
    const isAsking = event.kind === "ask" || event.kind === "follow_lock";
    if (isAsking) turn.answer(event.client, { kind: "bad" });
    return [before, turn.effects];
  }
  // Time may have passed since anything was looked at, as after the process was stopped.
  refreshQuorum(turn);
  happen(turn, event);
  settleCommands(turn);
  refreshQuorum(turn);
  return [turn.node, turn.effects];
}

function happen(turn: Turn, event: WatchdogEvent): void {
  const { node } = turn;
  switch (event.kind) {
    case "start":
      for (const remote of turn.remotes) turn.dial(remote);
      turn.enter("LOADING");
      return;
    case "tick":
      tick(turn);
      return;
    case "packet": {
      const remote = turn.remote(event.from);
      if (remote !== undefined) receive(turn, remote, event.id, event.message);
      return;
    }
    case "stranger":
      admit(turn, event);
      return;
    case "outbound_opened":
    case "outbound_failed":
    case "outbound_closed":
    case "inbound_closed":
    case "send_failed":
      connectionChanged(turn, event);
      return;
    case "lifecheck":
      reportStatus(turn, event.node, event.alive ? "ALIVE" : "DEAD");
      return;
    case "network":
      networkChanged(turn, event.up, event.hasDelegateIp);
      return;
    case "ask":
      ask(turn, event.client, event.command);
      return;
    case "client_gone":
      node.commands = node.commands.filter(
        ({ purpose }) => !("client" in purpose && purpose.client === event.client),
      );
      return;
    case "backends":
      node.backends = event.view;
      return;
    case "client_count":
      node.clientCount = event.count;
      answerRecovery(turn);
      return;
    case "follow_lock":
      askFollowLock(turn, event.client, event.wanted);
      return;
    case "stop":
      stop(turn);
      return;
  }
}

type ConnectionEvent = Extract<
  WatchdogEvent,
  {
    readonly kind: `${"outbound" | "inbound"}_${string}` | "send_failed";
  }
>;

function connectionChanged(turn: Turn, event: ConnectionEvent): void {
  const remote = turn.remote(event.node);
  if (remote === undefined) return;
  switch (event.kind) {
    case "outbound_opened":
      remote.outbound = "open";
      remote.connectedAt = turn.now;
      remote.refusedUs = false;
      remote.sendFailures = 0;
      turn.send(remote, { kind: "add_node", info: turn.info() });
      resync(turn, remote);
      tellRecovery(turn, remote);
      // Real nodes do not answer a newcomer's ADD NODE, but this.
      if (!isActive(remote.state) && turn.node.state !== "LOADING") {
        turn.send(remote, { kind: "request_info" });
      }
      return;
    case "outbound_failed":
      remote.outbound = "closed";
      remote.refusedUs = event.refused;
      watchRemotes(turn);
      return;
    case "outbound_closed":
      remote.outbound = "closed";
      callAgain(turn, remote);
      return;
    case "inbound_closed":
      remote.inbound = "closed";
      callAgain(turn, remote);
      return;
    case "send_failed":
      remote.sendFailures++;
  }
}

/** Who hangs up is called at once, if that was not tried just now: the answer tells whether anybody is left. */
function callAgain(turn: Turn, remote: Remote): void {
  if (turn.since(remote.dialledAt) > TIMES.dialPause * 1000) remote.dialledAt = undefined;
  watchRemotes(turn);
}

function networkChanged(turn: Turn, up: boolean, hasDelegateIp: boolean): void {
  if (!up) {
    turn.enter("IN NETWORK TROUBLE");
    return;
  }
  if (turn.node.state === "NETWORK ISOLATION") turn.enter("JOINING");
  if (turn.node.escalated && !hasDelegateIp) turn.act({ kind: "restore_delegate_ip" });
}

function stop(turn: Turn): void {
  const { node } = turn;
  const id = turn.nextId();
  for (const remote of turn.active()) turn.send(remote, { kind: "going_down" }, id);
  if (node.escalated) turn.act({ kind: "de_escalate" });
  node.escalated = false;
  node.standbys = [];
  node.leader = undefined;
  node.state = "SHUTDOWN";
  node.since = turn.now;
}

// ---------------------------------------------------------------- time

function tick(turn: Turn): void {
  const { node } = turn;
  wakeInRecovery(turn);
  settleCommands(turn);
  if (node.timerAt !== undefined && turn.now >= node.timerAt) {
    node.timerAt = undefined;
    timerEnds(turn);
  }
  watchRemotes(turn);
  if (node.state === "STANDBY") watchLeader(turn);
  answerRecovery(turn);
  watchRecovery(turn);
  dropOldVotes(turn);
  if (turn.isTrueLeader && turn.rules.lease !== undefined) {
    if (turn.since(node.beaconAt) >= turn.rules.lease.beaconMs) sendBeacon(turn, turn.active());
  }
}

function timerEnds(turn: Turn): void {
  switch (turn.node.state) {
    case "LOADING":
    case "PARTICIPATING IN ELECTION":
    case "NETWORK ISOLATION":
      turn.enter("JOINING");
      return;
    case "JOINING":
      turn.enter("INITIALIZING");
      return;
    case "INITIALIZING":
      turn.enter(afterInitializing(turn));
      receivePostponed(turn);
      return;
    case "STANDING FOR LEADER":
      turn.enter("LEADER");
      return;
    case "LEADER":
      turn.startTimer(TIMES.beacon);
      sendBeacon(turn, turn.active());
      return;
    case "STANDBY":
      turn.startTimer(TIMES.standbyCheck);
      return;
    case "DEAD":
    case "LOST":
    case "IN NETWORK TROUBLE":
    case "SHUTDOWN":
    case "ADD MESSAGE SENT":
  }
}

function afterInitializing(turn: Turn): StateName {
  if (turn.leader !== undefined) return "STANDBY";
  const active = turn.active();
  if (active.length === 0) return "LEADER";
  const isContested = active.some(({ state }) => state === "STANDING FOR LEADER");
  return isContested ? "PARTICIPATING IN ELECTION" : "STANDING FOR LEADER";
}

/** A leader that is not heard is asked, then given up as 4.3.17 does. */
function watchLeader(turn: Turn): void {
  const { leader, node } = turn;
  if (leader === undefined) {
    turn.enter("JOINING");
    return;
  }
  const silentMs = turn.since(leader.receivedAt);
  if (silentMs >= giveUpMs(turn)) {
    loseRemote(turn, leader, "MISSING BEACON REPLIES");
    return;
  }
  if (silentMs < TIMES.leaderSilentAsk * 1000) return;
  if (turn.since(node.askedLeaderAt) < TIMES.sameService * 1000) return;
  node.askedLeaderAt = turn.now;
  turn.send(leader, { kind: "request_info" });
}

/** With a lease, beacons come every second and a promise is soon over. */
const giveUpMs = ({ rules: { lease } }: Turn): number =>
  lease === undefined ? TIMES.leaderSilentGiveUp * 1000 : lease.promiseMs;

// ---------------------------------------------------------------- quorum

/** A leader looks again at whether it is supported, and holds the delegate IP only while it is. */
function refreshQuorum(turn: Turn): void {
  const { node } = turn;
  if (!turn.isTrueLeader) return;
  const quorum = turn.currentQuorum();
  const escalated = quorum >= 0;
  if (quorum === node.quorum && escalated === node.escalated) return;
  const isChanged = quorum !== node.quorum;
  node.quorum = quorum;
  if (isChanged && quorum < 0) turn.log("LOG", "We have lost the quorum");
  else if (escalated && !node.escalated)
    turn.log("LOG", "quorum found", "starting escalation process");
  if (escalated !== node.escalated) {
    node.escalated = escalated;
    turn.act({ kind: escalated ? "escalate" : "de_escalate" });
  }
  turn.tellInfoToAll();
  if (isChanged) turn.notify("quorum_changed");
}
