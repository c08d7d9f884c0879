/**
 * What programs of this host ask of the watchdog, our own pgpool among them (spec watchdog/ipc.md 4),
 * and what other nodes ask in their programs' name.
 */

import {
  type ClusterCommand,
  FAILOVER_FUNCTIONS,
  type FailoverFunction,
  type FailoverResult,
  type FunctionCall,
  NO_SECRETS,
  REQUEST_FLAGS,
} from "./bodies.ts";
import { expireVotes, judge, type Verdict } from "./consensus.ts";
import { stepFollowLock } from "./interlock.ts";
import type { IpcCommand, ListedNode, NodeList, NodeStatusReport } from "./ipc.ts";
import type { Answer, Remote, WatchdogRules } from "./node.ts";
import { findRemote, loseRemote } from "./peers.ts";
import { askRecovery } from "./recovery.ts";
import { stateNumber } from "./states.ts";
import { TIMES, type Turn } from "./turn.ts";

/** Answers at once, or leaves a command behind that will. */
export function ask(turn: Turn, client: number, command: IpcCommand): void {
  const answer = answerOf(turn, client, command);
  if (answer !== undefined) turn.answer(client, answer);
}

function answerOf(turn: Turn, client: number, command: IpcCommand): Answer | undefined {
  switch (command.kind) {
    case "register":
      return { kind: "kept_open" };
    case "node_status":
      return { kind: reportStatus(turn, command.node, command.status) };
    case "node_list":
      return { kind: "node_list", list: nodeList(turn, command.node) };
    case "variable":
      return variableOf(turn, command.variable);
    case "failover":
      return askFailover(turn, client, command.call);
    case "failover_indication":
      if (!turn.isTrueLeader) return failed("NOT_ALLOWED");
      turn.broadcast({ kind: command.begins ? "failover_start" : "failover_end" });
      return failed("PROCEED");
    case "leader_data":
      if (turn.isTrueLeader) return { kind: "ok" };
      return toLeader(turn, { kind: "leader_data", client }, "in_transition", {
        kind: "data_request",
        request: { ...NO_SECRETS, type: command.request.type },
      });
    case "recovery":
      return askRecovery(turn, client, command.call);
    case "cluster_command":
      return { kind: passOn(turn, command.command) };
  }
}

const failed = (result: FailoverResult): Answer => ({ kind: "failover_result", result });

/** A life check's word. */
export function reportStatus(
  turn: Turn,
  id: number,
  status: NodeStatusReport | undefined,
): "bad" | "silence" {
  const remote = turn.remote(id);
  if (remote === undefined && id !== turn.self) return "bad";
  switch (status) {
    case "DEAD":
      if (remote === undefined) turn.enter("LOST");
      else if (remote.state !== "SHUTDOWN") loseRemote(turn, remote, "REPORTED BY LIFECHECK");
      break;
    case "ALIVE":
      if (remote?.state === "LOST") findRemote(turn, remote);
      break;
    case "LIFECHECK STARTED":
      if (remote !== undefined) break;
      turn.node.lifecheckStarted = true;
      turn.tellInfoToAll();
      break;
    case undefined:
      turn.log("LOG", "invalid node status change request");
  }
  return "silence";
}

// ---------------------------------------------------------------- what is the case

function variableOf(turn: Turn, variable: "state" | "quorum" | "escalated"): Answer {
  switch (variable) {
    case "state":
      return { kind: "variable", value: stateNumber(turn.node.state) };
    case "quorum":
      return { kind: "variable", value: leadersQuorum(turn) };
    case "escalated":
      return { kind: "variable", value: turn.node.escalated };
  }
}

/** -2 without a leader. */
const leadersQuorum = (turn: Turn): number =>
  turn.isTrueLeader ? turn.node.quorum : (turn.leader?.quorumStatus ?? -2);

/** All nodes for a negative id. */
export function nodeList(turn: Turn, id: number): NodeList {
  const { rules, node } = turn;
  const self: ListedNode = { ...rules.self, ...node, ...listedSelf(turn) };
  const all = [self, ...turn.remotes.map(listed)];
  const chosen = id < 0 ? all : all.filter((each) => each.id === id);
  const leader = turn.isTrueLeader ? self : turn.leader && listed(turn.leader);
  return {
    remoteCount: turn.remotes.length,
    memberRemoteCount: turn.electorate.remotes,
    votesNeeded: turn.votesNeeded,
    quorumStatus: leadersQuorum(turn),
    aliveNodeCount: turn.isTrueLeader ? node.standbys.length : (turn.leader?.aliveNodeCount ?? 0),
    escalated: node.escalated,
    leader,
    nodes: chosen.length > 0 ? chosen : undefined,
  };
}

const listedSelf = ({ rules: { self }, node }: Turn): ListedNode => ({
  id: self.id,
  state: node.state,
  membership: "MEMBER",
  nodeName: self.nodeName,
  hostName: self.hostname,
  delegateIp: self.delegateIp,
  wdPort: self.wdPort,
  pgpoolPort: self.pgpoolPort,
  priority: node.priority,
});

const listed = (remote: Remote): ListedNode => ({
  id: remote.id,
  state: remote.state,
  membership: remote.membership,
  nodeName: remote.nodeName,
  hostName: remote.hostname,
  delegateIp: remote.delegateIp,
  wdPort: remote.wdPort,
  pgpoolPort: remote.pgpoolPort,
  priority: remote.priority,
});

// ---------------------------------------------------------------- backends

const isFailoverFunction = (name: string): name is FailoverFunction =>
  FAILOVER_FUNCTIONS.some((each) => each === name);

function askFailover(turn: Turn, client: number, call: FunctionCall): Answer | undefined {
  if (!isFailoverFunction(call.name)) return failed("INVALID_FUNCTION");
  if (turn.isTrueLeader) return failed(decide(turn, call, turn.self));
  const [node] = call.nodes;
  const passed = { ...call, ...NO_SECRETS, nodes: node === undefined ? [] : [node] };
  const answer = toLeader(turn, { kind: "failover", client }, "bad", {
    kind: "failover_function",
    call: passed,
  });
  if (answer === undefined && turn.leader !== undefined) {
    turn.leader.functionSentAt ??= turn.now;
  }
  return answer;
}

/** The request of another node's program. */
export function receiveFailover(turn: Turn, remote: Remote, call: FunctionCall, id: number): void {
  if (!turn.isTrueLeader) {
    turn.send(remote, { kind: "error" }, id);
    return;
  }
  const result = isFailoverFunction(call.name) ? decide(turn, call, remote.id) : "INVALID_FUNCTION";
  turn.send(remote, { kind: "failover_result", result }, id);
}

/** The leader's decision, and what follows of it at once (spec watchdog/states.md 7.1, 7.2). */
function decide(turn: Turn, call: FunctionCall, voter: number): FailoverResult {
  if (!isFailoverFunction(call.name)) return "INVALID_FUNCTION";
  const { rules, node } = turn;
  const question = { name: call.name, nodes: call.nodes, flags: call.flags };
  const remote = turn.remote(voter);
  const from = remote === undefined ? "local pgpool-II on IPC interface" : turn.nameOf(remote);
  turn.log(
    "LOG",
    `watchdog is processing the failover command [${call.name}] received from ${from}`,
  );
  const verdict = judge(
    { ...rules, votesNeeded: turn.votesNeeded, quorum: turn.currentQuorum() },
    node.votes,
    question,
    voter,
    turn.now,
  );
  node.votes = verdict.votes;
  turn.log("LOG", ...reasonsOf(rules, verdict.result, call.flags));
  if (verdict.result === "BUILDING_CONSENSUS") {
    turn.broadcast({ kind: "waiting_for_consensus" });
    if (voter !== turn.self) turn.notify("revote_quarantined");
  }
  if (verdict.result !== "PROCEED" || voter === turn.self) return verdict.result;
  const flags = verdict.flags | REQUEST_FLAGS.watchdog;
  turn.act({ kind: "failover", ...question, flags, requestedBy: voter });
  return "WILL_BE_DONE";
}

/** Why the leader decides so: what is logged, and its detail. */
function reasonsOf(
  rules: WatchdogRules,
  result: Verdict["result"],
  flags: number,
): readonly [message: string, detail: string] {
  const proceeding = "proceeding with the failover";
  switch (result) {
    case "NO_QUORUM":
      return [
        "failover requires the quorum to hold, which is not present at the moment",
        "Rejecting the failover request",
      ];
    case "BUILDING_CONSENSUS":
      return [
        "failover requires the majority vote, waiting for consensus",
        "failover request noted",
      ];
    case "CONSENSUS_MAY_FAIL":
      return ["duplicate failover request from the same node", "request ignored"];
    case "PROCEED":
      if (!rules.failoverWhenQuorumExists) {
        return ["we do not need quorum to hold to proceed with failover", proceeding];
      }
      if ((flags & REQUEST_FLAGS.confirmed) !== 0) {
        return ["The failover request does not need quorum to hold", proceeding];
      }
      if (!rules.failoverRequireConsensus) {
        return ["we do not require majority votes to proceed with failover", proceeding];
      }
      return ["we have got the consensus to perform the failover", proceeding];
  }
}

/**
 * Votes that came to nothing. Whoever leads without its primary, and cannot convince the others that
 * it is down, is itself in the wrong place: it resigns, and stands last in the next election.
 */
export function dropOldVotes(turn: Turn): void {
  const { node } = turn;
  const { open, expired } = expireVotes(node.votes, node.voteTimeoutMs, turn.now);
  if (expired.length === 0) return;
  node.votes = open;
  const { quarantined, quarantinedPrimary, status } = node.backends;
  const isCutOff = expired.some(
    ({ name, nodes, voters }) =>
      name === "DEGENERATE_BACKEND_REQUEST" &&
      voters.includes(turn.self) &&
      quarantinedPrimary !== undefined &&
      status.primary === -1 &&
      nodes.includes(quarantinedPrimary) &&
      quarantined.includes(quarantinedPrimary),
  );
  if (!isCutOff) return;
  node.priority = -1;
  turn.broadcastService("resigning");
  turn.enter("JOINING");
}

type Passed =
  | { readonly kind: "failover_function"; readonly call: FunctionCall }
  | {
      readonly kind: "data_request";
      readonly request: { readonly type: string } & typeof NO_SECRETS;
    };

/** A standby asks its leader; nobody else can. */
function toLeader(
  turn: Turn,
  purpose: { readonly kind: "failover" | "leader_data"; readonly client: number },
  otherwise: "bad" | "in_transition",
  message: Passed,
): Answer | undefined {
  const { leader, node } = turn;
  if (node.state !== "STANDBY" || leader === undefined) return { kind: otherwise };
  turn.command(purpose, message, [leader], TIMES.functionReply);
  return undefined;
}

// ---------------------------------------------------------------- commands for all

const FOLLOW_LOCK = "APPLY_LOCK_ON_STANDBY";
const CLUSTER_COMMANDS = [
  "SHUTDOWN_CLUSTER",
  "RELOAD_CONFIG_CLUSTER",
  "LOGROTATE_CLUSTER",
  FOLLOW_LOCK,
];

/** The local effect is the asker's own business. */
function passOn(turn: Turn, command: ClusterCommand): "ok" | "bad" | "unknown_command" {
  if (!CLUSTER_COMMANDS.includes(command.name)) return "unknown_command";
  if (command.name === FOLLOW_LOCK && !turn.isTrueLeader) return "bad";
  turn.broadcast({ kind: "cluster_command", command: { ...command, ...NO_SECRETS } });
  return "ok";
}

const STOP_MODES = { s: "smart", f: "fast", i: "immediate" } as const;

/** EXECUTE COMMAND of another node. */
export function obey(turn: Turn, remote: Remote, command: ClusterCommand): void {
  const arg = (name: string) =>
    command.args.find((each) => each.name.toLowerCase() === name.toLowerCase())?.value;
  switch (command.name) {
    case "SHUTDOWN_CLUSTER": {
      const mode = arg("mode") ?? "s";
      if (mode === "s" || mode === "f" || mode === "i") {
        turn.log("LOG", `processing shutdown command from remote node "${turn.nameOf(remote)}"`);
        turn.act({ kind: "stop_pgpool", mode: STOP_MODES[mode] });
      }
      return;
    }
    case "RELOAD_CONFIG_CLUSTER":
      turn.log("LOG", `processing reload config command from remote node "${turn.nameOf(remote)}"`);
      turn.act({ kind: "reload" });
      return;
    case "LOGROTATE_CLUSTER":
      turn.act({ kind: "rotate_log" });
      return;
    case FOLLOW_LOCK: {
      if (turn.node.state !== "STANDBY" || turn.node.leader !== remote.id) return;
      const operation = arg("LockingOperation")?.toLowerCase();
      if (operation !== "acquire" && operation !== "release") return;
      const name = turn.nameOf(remote);
      turn.log(
        "LOG",
        `processing follow primary looking[${operation}] request from remote node "${name}"`,
      );
      releaseOrTake(turn, operation === "acquire");
      return;
    }
    default:
      turn.log("LOG", `unknown cluster command "${command.name}" from "${remote.nodeName}"`);
  }
}

/** To a standby that joins while backends are led to a new primary. */
export function tellFollowLock(turn: Turn, remote: Remote): void {
  if (turn.node.followLock.holder !== "local") return;
  const args = [
    { name: "StandbyLockType", value: "1" },
    { name: "LockingOperation", value: "acquire" },
  ];
  const command = { ...NO_SECRETS, name: FOLLOW_LOCK, args };
  turn.send(remote, { kind: "cluster_command", command });
}

export function releaseOrTake(turn: Turn, acquire: boolean): void {
  const [lock] = stepFollowLock(turn.node.followLock, { by: "leader", acquire });
  turn.node.followLock = lock;
}

/** The local pgpool wants the lock, or is done with it. */
export function askFollowLock(turn: Turn, client: number, acquire: boolean): void {
  const [lock, granted] = stepFollowLock(turn.node.followLock, { by: "local", acquire });
  turn.node.followLock = lock;
  turn.answer(client, { kind: "follow_lock", granted });
}
