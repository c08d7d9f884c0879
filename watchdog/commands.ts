/**
 * Answers to messages of ours: which command they belong to, when it is complete, and what is told to
 * a program that waits for it (spec watchdog/states.md section 3). What an election makes of its own
 * commands is in election.ts.
 */

import type { FailoverResult } from "./bodies.ts";
import type { Command, CommandOutcome, CommandPurpose, Remote } from "./node.ts";
import { requireReload } from "./peers.ts";
import { heardOfEnd, recoveryDoubt } from "./recovery.ts";
import type { Turn } from "./turn.ts";
import type { ReceivedMessage } from "./wire.ts";

export type Finished = { readonly command: Command; readonly outcome: CommandOutcome };

type ClientPurpose = Extract<CommandPurpose, { readonly client: number }>;

/**
 * Takes the packet as an answer, if it is one; undefined when it is something else. A rejection ends
 * the command at once; the others are found by `nextFinished`.
 */
export function takeReply(
  turn: Turn,
  remote: Remote,
  id: number,
  message: ReceivedMessage,
): Finished | "taken" | undefined {
  const command = turn.node.commands.find(
    (each) => each.id === id && each.waiting.includes(remote.id),
  );
  if (command === undefined) return undefined;
  const { purpose } = command;
  if (purpose.kind === "failover" || purpose.kind === "leader_data") {
    return takeForwarded(turn, command, purpose, message);
  }
  switch (message.kind) {
    case "error":
    case "reject":
      turn.forget(command);
      return { command, outcome: { kind: "rejected", by: remote.id, with: message.kind } };
    case "accept":
    case "node_info":
      turn.replace({
        ...command,
        waiting: command.waiting.filter((each) => each !== remote.id),
        replied: [...command.replied, remote.id],
      });
      if (purpose.kind === "beacon") noteBeaconReply(turn, remote, command, message);
      if (purpose.kind === "recovery" || purpose.kind === "recovery_over") heardOfEnd(turn, remote);
      return "taken";
    default:
      return undefined;
  }
}

/**
 * Only a standby's own word confirms a leader; see `Lease`. One that believes to have joined, and is
 * not counted, is asked to join again: its message was lost with a connection.
 */
function noteBeaconReply(
  turn: Turn,
  remote: Remote,
  { sentAt }: Command,
  message: ReceivedMessage,
): void {
  remote.missedBeacons = 0;
  if (message.kind !== "node_info" || message.info.state !== "STANDBY") return;
  remote.confirmedAt = Math.max(remote.confirmedAt ?? sentAt, sentAt);
  if (turn.isTrueLeader && !turn.node.standbys.includes(remote.id)) requireReload(turn, remote);
}

/** What a program of ours asked of the leader. */
function takeForwarded(
  turn: Turn,
  command: Command,
  { kind, client }: ClientPurpose,
  message: ReceivedMessage,
): "taken" | undefined {
  if (kind === "failover") {
    const result = forwardedResult(message);
    if (result === undefined) return undefined;
    turn.answer(client, { kind: "failover_result", result });
  } else {
    if (message.kind === "backend_status") {
      turn.answer(client, { kind: "backend_status", status: message.status });
    } else if (message.kind === "error" || message.kind === "reject") {
      turn.answer(client, { kind: "bad" });
    } else return undefined;
  }
  turn.forget(command);
  return "taken";
}

function forwardedResult(message: ReceivedMessage): FailoverResult | undefined {
  switch (message.kind) {
    case "failover_result":
      return message.result;
    case "accept":
      return "PROCEED";
    case "reject":
    case "error":
      return "LEADER_REJECTED";
    default:
      return undefined;
  }
}

/** A command of ours that is over, taken off the list. Those of programs are answered here. */
export function nextFinished(turn: Turn): Finished | undefined {
  for (const command of turn.node.commands) {
    const outcome = outcomeOf(turn, command);
    if (outcome === undefined) continue;
    turn.forget(command);
    return { command, outcome };
  }
  return undefined;
}

function outcomeOf(turn: Turn, command: Command): CommandOutcome | undefined {
  const { asked, waiting, replied, deadline } = command;
  if (asked > 0 && waiting.length === 0) {
    return { kind: replied.length > 0 ? "all_replied" : "nobody_left" };
  }
  return deadline !== undefined && turn.now >= deadline ? { kind: "timeout" } : undefined;
}

/** The end of what a program asked of other nodes. */
export function finishForClient(turn: Turn, purpose: ClientPurpose, outcome: CommandOutcome): void {
  // Whether the question or the answer was lost: it is asked again.
  if (purpose.kind === "leader_data" && outcome.kind === "timeout") turn.notify("sync_backends");
  // Recovery goes on without nodes that died meanwhile; a question to the leader dies with it.
  const isOver = outcome.kind === "all_replied" || outcome.kind === "nobody_left";
  const isRecovery = purpose.kind === "recovery" || purpose.kind === "recovery_check";
  const isDoubted = turn.node.recoveryBy === turn.self && recoveryDoubt(turn.node) !== undefined;
  const isDone = isRecovery && isOver && !isDoubted;
  turn.answer(purpose.client, { kind: isDone ? "ok" : "bad" });
}
