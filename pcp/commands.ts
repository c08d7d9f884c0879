/**
 * One function for everything a logged-in client may ask: checks what can be checked from outside,
 * has it done, and answers. Refusals carry Pgpool's texts (spec wire/pcp.md sections 4.9 to 4.15).
 */

import type { AdminView } from "../core/admin/view.ts";
import { type BackendNode, type NodeId, nodeId, STATUS_NUMBERS } from "../core/cluster/state.ts";
import { PcpError } from "../core/pcp/frame.ts";
import { encodeTexts } from "../core/pcp/reply.ts";
import { leadingInteger, type PcpRequest, replyLetter } from "../core/pcp/request.ts";
import type { StopMode } from "../core/ports.ts";
import {
  type Frames,
  healthCheckStats,
  nodeCount,
  nodeInfo,
  poolStatus,
  processInfo,
  processList,
  status,
} from "./answers.ts";
import type { PcpDesk } from "./desk.ts";

/** What only the connection itself can answer. */
type OfConnection = "salt" | "authenticate" | "set" | "disconnect";
export type PcpCommand = Exclude<PcpRequest, { readonly kind: OfConnection }>;

export type PcpAnswer = {
  readonly frames: Frames;
  /** To be done once the answer is out. */
  readonly afterwards?: () => void;
};

/** @throws PgpoolError, the client's answer in place of frames */
export async function perform(command: PcpCommand, desk: PcpDesk): Promise<PcpAnswer> {
  switch (command.kind) {
    case "node_count":
      return { frames: nodeCount(desk.view()) };
    case "process_list":
      return { frames: processList(desk.view()) };
    case "node_info":
      return { frames: await nodeInfo(desk, command.argument) };
    case "health_check_stats":
      return { frames: healthCheckStats(desk.view(), command.argument) };
    case "process_info":
      return { frames: processInfo(desk.view(), command.argument) };
    case "pool_status":
      return { frames: poolStatus(desk.view()) };
    case "status":
      return { frames: status(desk) };
    case "watchdog_info": {
      const json = await desk.watchdogInfo(leadingInteger(command.argument));
      return { frames: [encodeTexts("w", [json])] };
    }
    case "stop_recovery":
      return { frames: [] }; // accepted without effect and without an answer, as ever
    case "stop":
      return stop(command, desk);
    default:
      await act(command, desk);
      return { frames: [encodeTexts(replyLetter(command))] };
  }
}

/** What is answered by an acknowledgement. */
type Action = Extract<
  PcpCommand,
  {
    readonly kind:
      | "attach_node"
      | "detach_node"
      | "promote_node"
      | "recovery_node"
      | "reload"
      | "rotate_log"
      | "invalidate_cache";
  }
>;

async function act(action: Action, desk: PcpDesk): Promise<void> {
  switch (action.kind) {
    case "attach_node":
      return await desk.attachNode(attachable(desk.view(), leadingInteger(action.argument)));
    case "detach_node":
      return await desk.detachNode(nodeId(leadingInteger(action.argument)), action);
    case "promote_node":
      return await desk.promoteNode(
        promotable(desk.view(), leadingInteger(action.argument)),
        action,
      );
    case "recovery_node":
      refuseWhileBusy(desk);
      return await desk.recoverNode(nodeId(leadingInteger(action.argument)));
    case "reload":
      return await desk.reload(action.scope);
    case "rotate_log":
      return await desk.rotateLog(action.scope);
    case "invalidate_cache":
      if (!desk.view().config.memory_cache_enabled) {
        throw new PcpError("query cache is not enabled");
      }
      return await desk.invalidateCache();
  }
}

const stopModes: { readonly [letter: string]: StopMode } = {
  s: "smart",
  f: "fast",
  i: "immediate",
};

function stop({ mode, scope }: Extract<PcpCommand, { kind: "stop" }>, desk: PcpDesk): PcpAnswer {
  refuseWhileBusy(desk);
  const stopMode = stopModes[mode];
  if (stopMode === undefined) {
    const detail = `invalid shutdown mode "${mode}"`;
    throw new PcpError("PCP: error while processing shutdown request", { detail });
  }
  const letter = scope === "cluster" ? "t" : "T";
  return {
    frames: [encodeTexts(letter.toLowerCase())],
    afterwards: () => desk.stop(stopMode, scope),
  };
}

function refuseWhileBusy(desk: PcpDesk): void {
  const detail = desk.busyWith();
  if (detail === undefined) return;
  throw new PcpError("failed to process PCP request at the moment", { detail });
}

const nodeAt = ({ cluster }: AdminView, id: number): BackendNode | undefined => cluster.nodes[id];

/** Pgpool would take any number below this and attach what is not there; we take what exists. */
const NODE_COUNT_MAX = 128;

/** A node that is up already may be attached: nothing happens. */
function attachable(view: AdminView, id: number): NodeId {
  const node = nodeAt(view, id);
  if (node === undefined || node.status === "unused") {
    throw new PcpError(
      `invalid failback request, node id: ${id} is out of range. node id must be between [0 and ${NODE_COUNT_MAX}]`,
    );
  }
  if (view.cluster.mode === "raw" && node.status !== "down") {
    throw new PcpError(
      `invalid failback request, node id : ${id} status: [${STATUS_NUMBERS[node.status]}] not valid for failback`,
    );
  }
  return node.id;
}

function promotable(view: AdminView, id: number): NodeId {
  if (nodeAt(view, id) === undefined) {
    const detail = `node id ${id} is not valid`;
    throw new PcpError("could not process promote request", { detail });
  }
  if (view.cluster.mode !== "streaming_replication") {
    throw new PcpError("invalid pgpool mode for process promote request", { severity: "FATAL" });
  }
  if (view.cluster.primary === id) {
    throw new PcpError("invalid promote request", {
      severity: "FATAL",
      detail: `specified node is already primary node, can't promote node id ${id}`,
    });
  }
  return nodeId(id);
}
