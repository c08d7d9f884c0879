/**
 * What becomes of a node when a message of its own has been answered, or has not (spec
 * watchdog/states.md sections 3 to 5).
 */

import { type Finished, finishForClient, nextFinished } from "./commands.ts";
import { releaseOrTake } from "./desk.ts";
import type { CommandOutcome, Remote } from "./node.ts";
import { beaconOf } from "./service.ts";
import type { StateName } from "./states.ts";
import { TIMES, type Turn } from "./turn.ts";

export function settleCommands(turn: Turn): void {
  for (let done = nextFinished(turn); done !== undefined; done = nextFinished(turn)) {
    commandFinished(turn, done);
  }
}

export function commandFinished(turn: Turn, { command, outcome }: Finished): void {
  const { purpose } = command;
  switch (purpose.kind) {
    case "failover":
    case "leader_data":
    case "recovery":
    case "recovery_check":
      finishForClient(turn, purpose, outcome);
      return;
    case "request_info":
      if (turn.node.state === "JOINING") turn.enter("INITIALIZING");
      return;
    case "stand":
      if (turn.node.state === "STANDING FOR LEADER") turn.enter(afterStanding(outcome));
      return;
    case "declare":
      if (turn.node.state === "LEADER") declared(turn, outcome);
      return;
    case "join":
      if (turn.node.state === "STANDBY") joined(turn, outcome);
      return;
    case "recovery_over":
      return;
    case "beacon":
      if (turn.node.state === "LEADER") beaconAnswered(turn, command.waiting, outcome);
  }
}

function afterStanding(outcome: CommandOutcome): StateName {
  switch (outcome.kind) {
    case "all_replied":
    case "timeout":
      return "LEADER";
    case "rejected":
      return outcome.with === "error" ? "NETWORK ISOLATION" : "PARTICIPATING IN ELECTION";
    case "nobody_left":
      return "JOINING";
  }
}

/** Nobody has objected: now it leads. */
function declared(turn: Turn, outcome: CommandOutcome): void {
  if (outcome.kind === "rejected") {
    turn.enter("JOINING");
    return;
  }
  turn.node.leader = turn.self;
  releaseOrTake(turn, false); // it was an earlier leader's
  const all = outcome.kind === "all_replied";
  turn.log(
    "LOG",
    "I am the cluster leader node",
    all ? "our declare coordinator message is accepted by all nodes" : undefined,
  );
  turn.log(
    "LOG",
    `setting the local node "${turn.rules.self.nodeName}" as watchdog cluster leader`,
  );
  if (turn.currentQuorum() >= 0) {
    turn.log("LOG", "I am the cluster leader node. Starting escalation process");
  } else {
    const detail = "waiting for the quorum to start escalation process";
    turn.log(
      "LOG",
      "I am the cluster leader node but we do not have enough nodes in cluster",
      detail,
    );
  }
  turn.notify("state_changed");
}

function joined(turn: Turn, outcome: CommandOutcome): void {
  const { leader } = turn;
  if (outcome.kind === "rejected") {
    turn.enter(leader?.hasLostUs === true ? "NETWORK ISOLATION" : "JOINING");
    return;
  }
  const name = leader === undefined ? "" : turn.nameOf(leader);
  turn.log(
    "LOG",
    "successfully joined the watchdog cluster as standby node",
    `our join coordinator request is accepted by cluster leader node "${name}"`,
  );
  // The follow-primary lock of an earlier leader is of no more use.
  releaseOrTake(turn, false);
  turn.notify("state_changed");
  turn.tellInfoToAll();
}

function beaconAnswered(turn: Turn, silent: readonly number[], outcome: CommandOutcome): void {
  if (outcome.kind === "rejected") turn.dropStandby(outcome.by);
  for (const id of silent) {
    const remote = turn.remote(id);
    if (remote === undefined) continue;
    remote.missedBeacons = remote.state === "STANDBY" ? remote.missedBeacons + 1 : 0;
  }
}

/** The leader's word that it is there; whoever does not answer is missed. */
export function sendBeacon(turn: Turn, to: readonly Remote[]): void {
  turn.node.beaconAt = turn.now;
  turn.command({ kind: "beacon" }, { kind: "beacon", beacon: beaconOf(turn) }, to, TIMES.reply);
}
