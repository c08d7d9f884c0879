/**
 * What a watchdog is asked for over PCP: one JSON text, in the words of every release that asks for
 * them (spec wire/pcp.md section 4.8, watchdog/pcp-watchdog-info.md).
 */

import { PcpError } from "./frame.ts";

export type WatchdogNode = {
  readonly id: number;
  readonly state: number;
  readonly stateName: string;
  /** Undefined before 4.3. */
  readonly membership: number | undefined;
  readonly membershipName: string | undefined;
  readonly nodeName: string;
  readonly hostName: string;
  readonly delegateIp: string;
  readonly wdPort: number;
  readonly pgpoolPort: number;
  readonly priority: number;
  /** Undefined before 4.8. */
  readonly lifecheckStarted: boolean | undefined;
};

export type WatchdogInfo = {
  readonly remoteNodeCount: number;
  /** Undefined before 4.3. */
  readonly memberRemoteNodeCount: number | undefined;
  readonly nodesRequiredForQuorum: number | undefined;
  /** 1 quorum, 0 on its edge, -1 none, -2 no leader. */
  readonly quorumStatus: number;
  readonly aliveNodeCount: number;
  readonly escalated: boolean;
  readonly leaderNodeName: string;
  readonly leaderHostName: string;
  readonly nodes: readonly WatchdogNode[];
};

/** @throws PcpError when the text is not such JSON */
export function decodeWatchdogInfo(json: string): WatchdogInfo {
  const whole = parseObject(json);
  const { WatchdogNodes: nodes } = whole;
  if (!Array.isArray(nodes)) throw invalid("no WatchdogNodes");
  return {
    remoteNodeCount: numberOf(whole, "RemoteNodeCount"),
    memberRemoteNodeCount: optional(whole, "MemberRemoteNodeCount"),
    nodesRequiredForQuorum: optional(whole, "NodesRequireForQuorum"),
    quorumStatus: numberOf(whole, "QuorumStatus"),
    aliveNodeCount: numberOf(whole, "AliveNodeCount"),
    escalated: numberOf(whole, "Escalated") === 1,
    leaderNodeName: textOf(whole, "LeaderNodeName", "MasterNodeName"),
    leaderHostName: textOf(whole, "LeaderHostName", "MasterHostName"),
    nodes: nodes.map((node) => nodeOf(objectOf(node))),
  };
}

type JsonObject = { readonly [name: string]: unknown };

function nodeOf(node: JsonObject): WatchdogNode {
  const lifecheck = optional(node, "LifecheckStarted");
  return {
    id: numberOf(node, "ID"),
    state: numberOf(node, "State"),
    stateName: textOf(node, "StateName"),
    membership: optional(node, "Membership"),
    membershipName: optionalText(node, "MembershipString"),
    nodeName: textOf(node, "NodeName"),
    hostName: textOf(node, "HostName"),
    delegateIp: textOf(node, "DelegateIP"),
    wdPort: numberOf(node, "WdPort"),
    pgpoolPort: numberOf(node, "PgpoolPort"),
    priority: numberOf(node, "Priority"),
    lifecheckStarted: lifecheck === undefined ? undefined : lifecheck === 1,
  };
}

const invalid = (detail: string): PcpError =>
  new PcpError("invalid watchdog information from PCP server", { detail });

function parseObject(json: string): JsonObject {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch {
    throw invalid("not JSON");
  }
  return objectOf(value);
}

function objectOf(value: unknown): JsonObject {
  if (typeof value !== "object" || value === null) throw invalid("not an object");
  return value as JsonObject;
}

/** Numbers may be written as JSON's booleans or texts by some other server. */
function optional(object: JsonObject, name: string): number | undefined {
  const value = object[name];
  return value === undefined ? undefined : Number(value) || 0;
}

const numberOf = (object: JsonObject, name: string): number => optional(object, name) ?? 0;

const optionalText = (object: JsonObject, name: string): string | undefined =>
  object[name] === undefined ? undefined : String(object[name]);

/** The first of the names that is there. */
function textOf(object: JsonObject, ...names: readonly string[]): string {
  for (const name of names) {
    const text = optionalText(object, name);
    if (text !== undefined) return text;
  }
  return "Not_Set";
}
