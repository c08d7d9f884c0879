/**
 * Other nodes: who may come in, what they say of themselves, when one counts as lost and when as found
 * again (spec watchdog/wire.md section 5, states.md 3, 5.1, 6.2 to 6.4).
 */

import { isAuthSum, nodeClaim } from "./auth_key.ts";
import type { NodeInfo } from "./bodies.ts";
import type { Remote } from "./node.ts";
import { compareLeaders, type LeaderClaim } from "./quorum.ts";
import {
  agedInRecovery,
  calledInRecovery,
  isSilentInRecovery,
  lostInRecovery,
  restartedInRecovery,
} from "./recovery.ts";
import { isActive, type LostReason, type StateName, stateNumber } from "./states.ts";
import { isReachable, MISSES_MAX, TIMES, type Turn } from "./turn.ts";
import type { ReceivedMessage } from "./wire.ts";

// ---------------------------------------------------------------- lost and found

/** `lost` gives up a node, `shutdown` lets it go. Its connections are closed. */
export function loseRemote(turn: Turn, remote: Remote, reason: LostReason): void {
  if (reason === "SHUTDOWN") {
    turn.log("LOG", `remote node "${turn.nameOf(remote)}" is shutting down`);
    remote.state = "SHUTDOWN";
    if (turn.rules.removeShutdownNodes) revoke(turn, remote, "REVOKED-SHUTDOWN");
  } else {
    turn.log("LOG", `remote node "${turn.nameOf(remote)}" is lost`, reason);
    remote.state = "LOST";
    if (isReachable(remote)) turn.service("appears_lost", remote);
  }
  remote.lostReason = reason;
  remote.lostAt = turn.now;
  remote.sendFailures = 0;
  remote.functionSentAt = undefined;
  remote.confirmedAt = undefined;
  remote.outbound = "closed";
  remote.inbound = "closed";
  turn.act({ kind: "close", node: remote.id });
  turn.dropStandby(remote.id);
  const hasSaidSo = reason === "SHUTDOWN" || reason === "UNKNOWN REASON";
  const isGone = hasSaidSo || (reason === "NOT REACHABLE" && remote.refusedUs);
  lostInRecovery(turn, remote, isGone);
  stopWaitingFor(turn, remote.id);
  if (turn.node.leader !== remote.id) return;
  turn.log("LOG", "watchdog cluster has lost the coordinator node");
  turn.node.leader = undefined;
  turn.node.mayStillLead = !isGone;
  if (turn.node.state === "STANDBY") turn.enter("JOINING");
}

function stopWaitingFor({ node }: Turn, id: number): void {
  node.commands = node.commands.map((command) =>
    command.waiting.includes(id)
      ? { ...command, waiting: command.waiting.filter((each) => each !== id) }
      : command,
  );
}

/** A node that was given up shows itself. */
export function findRemote(turn: Turn, remote: Remote): void {
  remote.lostReason = undefined;
  remote.lostAt = undefined;
  remote.state = "LOADING";
  remote.stateSince = undefined;
  remote.receivedAt = turn.now;
  remote.missedBeacons = 0;
  remote.membership = "MEMBER";
  turn.log("LOG", `remote node "${turn.nameOf(remote)}" became reachable again`);
  turn.service("appears_found", remote);
  if (turn.node.state === "LEADER") {
    turn.send(remote, { kind: "request_info" });
    requireReload(turn, remote);
  }
  if (turn.node.state === "NETWORK ISOLATION") turn.enter("JOINING");
}

/** Makes a standby join again; nodes before data version 1.1 know only elections. */
export function requireReload(turn: Turn, remote: Remote): void {
  turn.service(remote.dataVersion.minor >= 1 ? "reload_state" : "needs_election", remote);
}

function revoke(turn: Turn, remote: Remote, membership: Remote["membership"]): void {
  if (remote.membership !== "MEMBER") return;
  remote.membership = membership;
  turn.log("LOG", `"${turn.nameOf(remote)}" is no member any more: ${membership}`);
}

/** What time alone does to others, and the loss of a connection; on every tick. */
export function watchRemotes(turn: Turn): void {
  const { rules, node } = turn;
  for (const remote of turn.remotes) {
    redial(turn, remote);
    const reason = lossOf(turn, remote);
    if (reason !== undefined) loseRemote(turn, remote, reason);
    const noShowMs = rules.noShowNodeRemovalS * 1000;
    const lostMs = rules.lostNodeRemovalS * 1000;
    if (noShowMs > 0 && remote.state === "DEAD" && turn.since(node.startedAt) >= noShowMs) {
      revoke(turn, remote, "REVOKED-NO-SHOW");
    }
    if (lostMs > 0 && remote.state === "LOST" && turn.since(remote.lostAt) >= lostMs) {
      revoke(turn, remote, "REVOKED-LOST");
    }
  }
}

/**
 * 4.3.5 leaves it to a newcomer to dial, and never dials who left. So two that could not reach each
 * other at the right moment may lead side by side for good, or one may stand before a closed door. Here
 * whoever has no cluster dials everybody.
 */
function redial(turn: Turn, remote: Remote): void {
  if (remote.outbound !== "closed") return;
  if ((remote.state === "DEAD" || remote.state === "SHUTDOWN") && !isInWant(turn)) return;
  if (turn.since(remote.dialledAt) > TIMES.redial * 1000) turn.dial(remote);
}

const isInWant = ({ node }: Turn): boolean =>
  node.state !== "STANDBY" && (node.state !== "LEADER" || node.quorum < 0);

function lossOf(turn: Turn, remote: Remote): LostReason | undefined {
  if (["DEAD", "LOST", "SHUTDOWN"].includes(remote.state)) return undefined;
  if (!isReachable(remote) && remote.outbound !== "dialling") return "NOT REACHABLE";
  const { functionSentAt } = remote;
  if (functionSentAt !== undefined && turn.since(functionSentAt) >= TIMES.functionReply * 1000) {
    return "RECEIVE TIMEOUT";
  }
  if (isSilentInRecovery(turn, remote)) return "RECEIVE TIMEOUT";
  if (remote.sendFailures > MISSES_MAX) return "SEND MESSAGE FAILURES";
  return remote.missedBeacons > MISSES_MAX ? "MISSING BEACON REPLIES" : undefined;
}

// ---------------------------------------------------------------- who may come in

export type Stranger = {
  readonly connection: number;
  readonly address: string;
  readonly id: number;
  readonly message: ReceivedMessage;
};

/**
 * The first packet of an accepted connection. Only ADD NODE of a configured node that knows the key
 * is let in; anybody else is sent away and has changed nothing.
 */
export function admit(turn: Turn, { connection, address, id, message }: Stranger): void {
  const isAdd = message.kind === "unreadable" && message.letter === "A";
  if (message.kind !== "add_node") {
    turn.act(isAdd ? { kind: "refuse", connection, id } : { kind: "hang_up", connection });
    return;
  }
  const { info } = message;
  if (info.nodeId === turn.self) {
    turn.act({ kind: "hang_up", connection });
    return;
  }
  const remote = knowsKey(turn, info) ? configured(turn, info, address) : undefined;
  if (remote === undefined) {
    turn.log("WARNING", `ADD NODE from "${address}" is refused`, `node id ${info.nodeId}`);
    turn.act({ kind: "refuse", connection, id });
    return;
  }
  turn.act({ kind: "attach", connection, node: remote.id });
  greet(turn, remote, info, id);
}

function knowsKey({ rules }: Turn, info: NodeInfo): boolean {
  if (rules.authKey === "") return true;
  const claim = nodeClaim(stateNumber(info.state), info.wdPort);
  return isAuthSum(info.authKey, rules.authKey, claim);
}

/** Port for port, and the host by its name or by where it comes from. */
const configured = (turn: Turn, info: NodeInfo, address: string): Remote | undefined =>
  turn.remotes.find(
    ({ id, wdPort, pgpoolPort, hostname }) =>
      id === info.nodeId &&
      wdPort === info.wdPort &&
      pgpoolPort === info.pgpoolPort &&
      (hostname === address || hostname === info.hostName),
  );

/** Starts are told in whole seconds, and told again a little differently. */
const SAME_START_MS = 2000;

/** Two clocks run apart by less, and by much less as a rule. */
const DRIFT_MAX = 0.125;

/**
 * It has told its age, in seconds. That may be the age of a pgpool which was started anew, and has made a
 * connection since. A word that comes late makes it look younger, but as a rule by no more than that
 * connection is old; and nobody is younger than he was when he was heard last.
 */
export function noteAge(turn: Turn, remote: Remote, age: number): void {
  const { now } = turn;
  const { life } = remote;
  const startedAt = now - age * 1000;
  remote.startedAt = startedAt;
  const youngerMs = startedAt - (life?.startedAt ?? startedAt);
  const explainedMs = turn.since(remote.connectedAt) + DRIFT_MAX * turn.since(life?.heardAt);
  const isAnew =
    life !== undefined && youngerMs > SAME_START_MS + explainedMs && youngerMs >= life.age * 1000;
  if (isAnew) restartedInRecovery(turn, remote);
  agedInRecovery(turn, remote, age);
  const since = isAnew ? startedAt : Math.min(startedAt, life?.startedAt ?? startedAt);
  remote.life = { startedAt: since, heardAt: now, age };
}

function greet(turn: Turn, remote: Remote, info: NodeInfo, id: number): void {
  const before = remote.state;
  const { startedAt } = remote;
  remote.connectedAt = turn.now;
  copyInfo(turn, remote, info);
  if (info.state !== "STANDBY") turn.dropStandby(remote.id);
  const isAnotherLife = (remote.startedAt ?? 0) - (startedAt ?? turn.now) > SAME_START_MS;
  if (isAnotherLife && remote.outbound === "open") {
    // What is sent by it would be lost, and the answer to this with it.
    turn.act({ kind: "close_outbound", node: remote.id });
    turn.dial(remote);
  } else if (remote.outbound === "closed") {
    // A newcomer hears at once who we are, by our own ADD NODE, which makes nobody go on.
    turn.dial(remote);
  }
  remote.inbound = "open";
  remote.receivedAt = turn.now;
  remote.sendFailures = 0;
  remote.membership = "MEMBER";
  calledInRecovery(turn, remote);
  // 4.3.5 answers only nodes it had given up. A leader shows itself to newcomers as well; from others
  // an answer would do harm: whoever hears of some, and not of the leader, stands for leader himself.
  if (before === "SHUTDOWN") {
    answerAdd(turn, remote, id);
    return;
  }
  if (before === "LOST" || turn.isTrueLeader) turn.tellInfo(remote, id);
  if (before === "LOST") findRemote(turn, remote);
  resync(turn, remote);
  if (info.state === "LEADER" && BEFORE_ELECTION.includes(turn.node.state))
    recordLeader(turn, remote);
  endLoading(turn);
}

const BEFORE_ELECTION: readonly StateName[] = ["LOADING", "JOINING", "INITIALIZING"];

function recordLeader(turn: Turn, remote: Remote): void {
  if (turn.node.leader !== undefined) return;
  turn.node.leader = remote.id;
  // Whoever waited for just this need not wait much longer, only until the others have heard it too.
  if (turn.node.state === "INITIALIZING" && !turn.node.mayStillLead) {
    turn.hurryTimer(TIMES.followDeclared);
  }
  turn.node.mayStillLead = false;
  const name = turn.nameOf(remote);
  turn.log("LOG", `setting the remote node "${name}" as watchdog cluster leader`);
}

/**
 * 4.3.5 goes on with the first answer that it hears, though the leader may not have spoken yet: then
 * it stands for leader itself. Here the leader must have been heard, or everybody.
 */
export function endLoading(turn: Turn): void {
  if (turn.node.state !== "LOADING") return;
  const isHeard = ({ state }: Remote) => state !== "DEAD" && state !== "ADD MESSAGE SENT";
  if (turn.node.leader === undefined && !turn.remotes.every(isHeard)) return;
  turn.enter("INITIALIZING");
  // What they became meanwhile they have not told one that was loading.
  turn.broadcast({ kind: "request_info" });
}

/** With a connection the end of a failover may have been lost, and the leader says it once only. */
export function resync(turn: Turn, remote: Remote): void {
  const { state, leader } = turn.node;
  if (state === "STANDBY" && leader === remote.id) turn.notify("sync_backends");
}

/** ADD NODE of a node that has been here: it begins anew. */
export function answerAdd(turn: Turn, remote: Remote, id: number): void {
  if (turn.node.state === "LEADER") turn.dropStandby(remote.id);
  turn.tellInfo(remote, id);
  const isLeaderAnew = turn.node.state === "STANDBY" && turn.node.leader === remote.id;
  if (isLeaderAnew) turn.enter("JOINING");
}

// ---------------------------------------------------------------- what they say of themselves

export function copyInfo(turn: Turn, remote: Remote, info: NodeInfo): void {
  const { age } = info;
  remote.state = info.state;
  remote.priority = info.priority;
  remote.nodeName = info.nodeName;
  remote.delegateIp = info.delegateIp;
  remote.dataVersion = info.dataVersion;
  remote.escalated = info.escalated;
  remote.aliveNodeCount = info.aliveNodeCount;
  remote.quorumStatus = info.quorumStatus;
  if (age.kind === "ages") {
    remote.stateSince = turn.now - age.state * 1000;
    noteAge(turn, remote, age.startup);
    return;
  }
  remote.startedAt ??= turn.now;
  remote.stateSince = undefined;
  agedInRecovery(turn, remote, undefined);
}

/** NODE INFO (spec watchdog/states.md 5.1). `id` is that of the packet. */
export function applyInfo(turn: Turn, remote: Remote, info: NodeInfo, id: number): void {
  const { node } = turn;
  const before = { ...remote };
  copyInfo(turn, remote, info);
  if (!isActive(info.state)) {
    // Its last word; what was asked of it is not answered any more. The life check's own word stands.
    const isReported = before.lostReason === "REPORTED BY LIFECHECK" && info.state !== "SHUTDOWN";
    const said = info.state === "SHUTDOWN" ? "SHUTDOWN" : "UNKNOWN REASON";
    loseRemote(turn, remote, isReported ? "REPORTED BY LIFECHECK" : said);
    return;
  }
  if (before.state === "LOST") {
    // The life check's word stands until it takes it back, or the node introduces itself again.
    if (before.lostReason !== "REPORTED BY LIFECHECK") findRemote(turn, remote);
    remote.state = before.lostReason === "REPORTED BY LIFECHECK" ? "LOST" : info.state;
    if (remote.state === "LOST") return;
  }
  if (info.state !== "STANDBY") turn.dropStandby(remote.id);
  if (info.state === "LEADER") {
    applyLeader(turn, remote, before, id);
    return;
  }
  if (node.leader !== remote.id) return;
  node.leader = undefined;
  // A candidate goes on: 4.3.5 gives up here, and two that are each other's rivals may do so for ever.
  if (node.state !== "STANDING FOR LEADER") turn.enter("JOINING");
}

function applyLeader(turn: Turn, remote: Remote, before: Remote, id: number): void {
  const { node } = turn;
  if (node.state === "LEADER") {
    settleSplitBrain(turn, remote, id);
    return;
  }
  if (node.leader === undefined) {
    recordLeader(turn, remote);
    return;
  }
  if (node.leader !== remote.id) {
    turn.broadcastService("split_brain", id);
    return;
  }
  if (before.quorumStatus !== remote.quorumStatus) turn.notify("quorum_changed");
}

/** Both lead: one of them must not (spec watchdog/states.md 6.3). */
export function settleSplitBrain(turn: Turn, remote: Remote, id: number): void {
  const { node } = turn;
  const local: LeaderClaim = {
    state: node.state,
    escalated: node.escalated,
    quorumStatus: node.quorum,
    standbys: node.standbys.length,
    since: node.since,
  };
  const other: LeaderClaim = {
    state: remote.state,
    escalated: remote.escalated,
    quorumStatus: remote.quorumStatus,
    standbys: remote.aliveNodeCount,
    since: remote.stateSince,
  };
  switch (compareLeaders(local, other)) {
    case "local":
      turn.service("true_leader", remote, id);
      return;
    case "other":
      turn.broadcastService("not_true_leader", id);
      turn.enter("JOINING");
      return;
    case "open":
      turn.service("needs_election", remote, id);
      turn.enter("JOINING");
      return;
  }
}
