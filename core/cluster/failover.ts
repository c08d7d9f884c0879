/**
 * What happens when a node is lost, comes back, or is made the primary (spec wire/failover.md
 * section 5). One request is one generator: it yields what is to be done, and is told after each
 * deed what the cluster is now, because the world does not stand still while a command runs.
 * Nothing is done here: proxy/cluster/failover.ts does it, a simulation does it with a virtual clock.
 */

import type { Config } from "../config/schema.ts";
import type { LogSeverity } from "../ports.ts";
import { type CommandNode, commandLine } from "./placeholders.ts";
import {
  type BackendNode,
  type ClusterState,
  hasPrimary,
  isLive,
  mainNode,
  type NodeId,
  type NodeStatus,
  type Ongoing,
  replicates,
  STATUS_NUMBERS,
  writeNode,
} from "./state.ts";

export type FailoverRequest =
  /** The nodes are not to be used any more. */
  | {
      readonly kind: "detach";
      readonly nodes: readonly NodeId[];
      readonly why: string;
      /** Somebody wants it so: a primary that answers after all does not return by itself. */
      readonly byOperator?: boolean;
    }
  /** As detach, but only here, and until its health check succeeds: the watchdog did not agree. */
  | { readonly kind: "quarantine"; readonly nodes: readonly NodeId[]; readonly why: string }
  | {
      readonly kind: "attach";
      readonly node: NodeId;
      /** It was the primary, and nobody has succeeded it: its standbys have nothing to follow. */
      readonly asBefore?: boolean;
    }
  /** The end of a quarantine: no command is run, nothing is written. */
  | { readonly kind: "restore"; readonly node: NodeId }
  /** Our idea of the primary moves; the other nodes are to follow it. */
  | { readonly kind: "promote"; readonly node: NodeId }
  /** The present primary is detached, with the named node told to failover_command as the new one. */
  | { readonly kind: "switchover"; readonly node: NodeId }
  /** The leader of the watchdog has said how the nodes are. Whoever was in quarantine is so no more. */
  | {
      readonly kind: "adopt";
      readonly statuses: ReadonlyMap<NodeId, "unused" | "waiting" | "down">;
      readonly primary: NodeId | undefined;
    }
  /** The primary is searched, at the start or after a search that was cut short; `lost` was it. */
  | { readonly kind: "find"; readonly lost: NodeId | undefined };

/** The parameters that matter; a Config is one. */
export type FailoverRules = Pick<
  Config,
  | "backends"
  | "failover_command"
  | "failback_command"
  | "follow_primary_command"
  | "failover_method"
>;

export type FailoverEffect =
  | {
      readonly kind: "log";
      readonly severity: LogSeverity;
      readonly message: string;
      readonly detail?: string;
    }
  /** Published as one snapshot. `primary` is left alone when it is not named. */
  | {
      readonly kind: "change";
      readonly statuses?: ReadonlyMap<NodeId, NodeStatus>;
      /** Of the statuses: an operator wants them. */
      readonly byOperator?: boolean;
      readonly primary?: { readonly is: NodeId | undefined };
      readonly quarantinedPrimary?: { readonly is: NodeId | undefined };
      readonly ongoing?: { readonly is: Ongoing | undefined };
    }
  /** pgpool_status is to be written. */
  | { readonly kind: "record" }
  /** A shell command; the next effect waits for its end. */
  | { readonly kind: "run"; readonly text: string }
  /**
   * Asks the servers until one is the primary; `facts.primary` is who. With failover_method =
   * promote a successor of `lost` is made, when that is safe.
   */
  | { readonly kind: "find_primary"; readonly lost?: LostPrimary }
  /** Commands that run one after the other behind everybody's back. */
  | { readonly kind: "follow"; readonly runs: readonly FollowRun[] };

export type FollowRun = { readonly node: NodeId; readonly text: string };

export type LostPrimary = {
  readonly node: NodeId;
  /** It may have its role back if it answers before it has a successor. */
  readonly mayReturn: boolean;
};

/** What is told after each effect. */
export type FailoverFacts = {
  readonly state: ClusterState;
  /** After find_primary: who was found. */
  readonly primary: NodeId | undefined;
};

export type Outcome = "done" | keyof typeof REFUSALS;

/** What is told to whoever asked for a transition that came to nothing. */
export const REFUSALS = {
  nothing_to_do: "there was nothing to do",
  rival: "its server is a primary of its own: rewind or rebuild it first",
  behind:
    "others may have been written to meanwhile: recover it, or attach it when it is known to be the same",
} as const;

type Steps<T> = Generator<FailoverEffect, T, FailoverFacts>;

/** All that one request comes to, in the order of events. */
export function* carryOut(
  request: FailoverRequest,
  state: ClusterState,
  rules: FailoverRules,
): Steps<Outcome> {
  switch (request.kind) {
    case "detach":
      return yield* degenerate({ ...request, state, rules });
    case "quarantine":
      return yield* quarantine(request.nodes, state, request.why);
    case "attach":
      return yield* failback(request, state, rules);
    case "restore":
      return yield* restore(request.node, state);
    case "promote":
      return yield* promote(request.node, state, rules);
    case "switchover": {
      const nodes = state.primary === undefined ? [] : [state.primary];
      const why = `switchover to node ${request.node}`;
      return yield* degenerate({ nodes, state, rules, why, heir: request.node, byOperator: true });
    }
    case "adopt":
      return yield* adopt(request, state);
    case "find":
      return yield* find(request.lost, state, rules);
  }
}

// ------------------------------------------------------------------ loss

type Loss = {
  readonly nodes: readonly NodeId[];
  readonly state: ClusterState;
  readonly rules: FailoverRules;
  readonly why: string;
  readonly byOperator?: boolean;
  /** Of a switchover: who is to be the primary. */
  readonly heir?: NodeId;
};

function* degenerate({ nodes, state: before, rules, why, heir, byOperator }: Loss): Steps<Outcome> {
  // Of several that are named one may have been detached meanwhile, or may not be detached at all.
  const lost = before.nodes.filter(
    ({ id }) => nodes.includes(id) && mayBeDetached(id, before, rules),
  );
  if (lost.length === 0) {
    yield log("failover: no backends are degenerated");
    return "nothing_to_do";
  }
  for (const node of lost) {
    yield log(`=== Starting degeneration. shutdown host ${placeOf(node)} ===`, why);
  }
  // A primary in quarantine is the primary again for as long as its loss is told to the command.
  const oldPrimary = before.primary ?? lost.find(({ id }) => id === before.quarantinedPrimary)?.id;
  const primaryLost = lost.some(({ id }) => id === oldPrimary);
  let { state } = yield {
    kind: "change",
    statuses: new Map(lost.map(({ id }) => [id, "down"])),
    byOperator: byOperator === true,
    ongoing: { is: "failover" },
    ...(primaryLost ? { primary: { is: undefined }, quarantinedPrimary: { is: undefined } } : {}),
  };
  yield { kind: "record" };
  const main = mainNode(state);
  if (main === undefined) yield log("failover: no valid backend node found");
  for (const { id } of lost) {
    const newMain = heir ?? main;
    const roles = { newMain, oldMain: mainNode(before), oldPrimary };
    yield* run(rules.failover_command, id, roles, rules);
  }
  let primary = oldPrimary;
  if (!hasPrimary(state)) primary = undefined;
  else if (primaryLost || oldPrimary === undefined) {
    ({ state, primary } = yield primaryLost && oldPrimary !== undefined
      ? { kind: "find_primary", lost: { node: oldPrimary, mayReturn: byOperator !== true } }
      : { kind: "find_primary" });
  }
  if (primaryLost || (oldPrimary === undefined && primary !== undefined)) {
    yield* follow(primary, oldPrimary, rules, state);
  }
  yield* conclude(primary);
  for (const node of lost) yield log(`=== Failover done. shutdown host ${placeOf(node)} ===`);
  return "done";
}

function* quarantine(nodes: readonly NodeId[], before: ClusterState, why: string): Steps<Outcome> {
  const lost = before.nodes.filter((node) => nodes.includes(node.id) && isLive(node));
  if (lost.length === 0) {
    yield log("failover: no backends are degenerated");
    return "nothing_to_do";
  }
  for (const node of lost) {
    yield log(`=== Starting quarantine. shutdown host ${placeOf(node)} ===`, why);
  }
  const primaryLost = lost.some(({ id }) => id === before.primary);
  const { state } = yield {
    kind: "change",
    statuses: new Map(lost.map(({ id }) => [id, "quarantine"])),
    ongoing: { is: "failover" },
    ...(primaryLost
      ? { primary: { is: undefined }, quarantinedPrimary: { is: before.primary } }
      : {}),
  };
  if (mainNode(state) === undefined) yield log("failover: no valid backend node found");
  yield* conclude(primaryLost ? undefined : before.primary);
  for (const node of lost) yield log(`=== Quarantine done. shutdown host ${placeOf(node)} ===`);
  return "done";
}

// ------------------------------------------------------------------ return

function* failback(
  { node: id, asBefore }: Extract<FailoverRequest, { readonly kind: "attach" }>,
  before: ClusterState,
  rules: FailoverRules,
): Steps<Outcome> {
  const node = before.nodes[id];
  if (node === undefined || node.port === 0 || isLive(node)) return yield* refuseFailback(id, node);
  yield log(`=== Starting fail back. reconnect host ${placeOf(node)} ===`);
  yield {
    kind: "change",
    statuses: new Map([[id, "waiting"]]),
    ongoing: { is: "failback" },
  };
  let { state } = yield { kind: "record" };
  const roles = {
    newMain: mainNode(state),
    oldMain: mainNode(before),
    oldPrimary: writeNode(before),
  };
  yield* run(rules.failback_command, id, roles, rules);
  let primary = before.primary;
  if (hasPrimary(before)) {
    const facts = yield { kind: "find_primary" };
    state = facts.state;
    // A search in vain does not depose a primary that still serves.
    primary = facts.primary ?? before.primary;
    if (rules.failover_method === "promote" && isRival(state.nodes[id], primary)) {
      return yield* turnAway(node, primary);
    }
  }
  const isNew = before.primary === undefined && !(asBefore === true && primary === id);
  if (isNew && primary !== undefined) {
    yield* follow(primary, undefined, rules, state);
  }
  yield* conclude(primary);
  yield log(`=== Failback done. reconnect host ${placeOf(node)} ===`);
  return "done";
}

/** It calls itself the primary, and another one is. */
const isRival = (node: BackendNode | undefined, primary: NodeId | undefined): boolean =>
  primary !== undefined && node?.id !== primary && node?.serverRole === "primary";

/**
 * An old primary that was started again as it was: what it holds is not what the others hold. Where
 * we promote ourselves it cannot be a standby that somebody has put in order.
 */
function* turnAway(node: BackendNode, primary: NodeId | undefined): Steps<Outcome> {
  const message = `node ${node.id} is detached again: beside the primary, node ${primary}, it is another`;
  yield { kind: "log", severity: "WARNING", message };
  yield { kind: "change", statuses: new Map([[node.id, "down"]]) };
  yield { kind: "record" };
  yield* conclude(primary);
  return "rival";
}

function* restore(id: NodeId, before: ClusterState): Steps<Outcome> {
  const node = before.nodes[id];
  if (node?.status !== "quarantine") return yield* refuseFailback(id, node);
  if (replicates(before)) {
    // Nothing but us keeps the servers the same, and it may have missed a write.
    yield log(`node ${id} stays in quarantine: ${REFUSALS.behind}`);
    return "behind";
  }
  yield log(`=== Starting fail back. reconnect host ${placeOf(node)} ===`);
  const returns = before.primary === undefined && before.quarantinedPrimary === id;
  const primary = returns ? id : before.primary;
  yield {
    kind: "change",
    statuses: new Map([[id, "waiting"]]),
    quarantinedPrimary: { is: returns ? undefined : before.quarantinedPrimary },
    ongoing: { is: "failback" },
  };
  yield* conclude(primary);
  yield log(`=== Failback done. reconnect host ${placeOf(node)} ===`);
  return "done";
}

function* adopt(
  { statuses, primary }: Extract<FailoverRequest, { readonly kind: "adopt" }>,
  before: ClusterState,
): Steps<Outcome> {
  const changed = [...statuses].filter(([id, told]) => {
    const node = before.nodes[id];
    if (node === undefined || node.status === "unused" || told === "unused") return false;
    return told === "down" ? node.status !== "down" : !isLive(node);
  });
  const isQuarantined = before.quarantinedPrimary !== undefined;
  if (changed.length === 0 && primary === before.primary && !isQuarantined) return "nothing_to_do";
  yield {
    kind: "change",
    statuses: new Map(changed),
    primary: { is: primary },
    quarantinedPrimary: { is: undefined },
  };
  yield { kind: "record" };
  return "done";
}

function* refuseFailback(id: NodeId, node: BackendNode | undefined): Steps<Outcome> {
  const status = node?.status ?? "unused";
  yield log(
    `invalid failback request, status: [${status}] of node id : ${id} is invalid for failback`,
  );
  return "nothing_to_do";
}

// ------------------------------------------------------------------ promotion

function* promote(id: NodeId, before: ClusterState, rules: FailoverRules): Steps<Outcome> {
  const node = before.nodes[id];
  if (node === undefined || !isLive(node) || !hasPrimary(before)) {
    yield log("failover: no backends are promoted");
    return "nothing_to_do";
  }
  const { state } = yield {
    kind: "change",
    primary: { is: id },
    ongoing: { is: "promote node operation" },
  };
  yield* follow(id, before.primary, rules, state, "whether or not there is a command");
  yield* conclude(id);
  yield log(`=== Promotion done. promoted host ${placeOf(node)} ===`);
  return "done";
}

function* find(
  lost: NodeId | undefined,
  before: ClusterState,
  rules: FailoverRules,
): Steps<Outcome> {
  const { state, primary } = yield { kind: "find_primary" };
  if (primary === undefined || primary === before.primary) return "nothing_to_do";
  if (lost === undefined) {
    yield { kind: "change", primary: { is: primary } };
    return "done";
  }
  yield* follow(primary, lost, rules, state);
  yield* conclude(primary);
  return "done";
}

// ------------------------------------------------------------------ common ends

/**
 * Standbys of another primary than theirs are of no use until they follow: they are detached, and
 * follow_primary_command is run for each node that is down then, in the order of their ids.
 */
function* follow(
  primary: NodeId | undefined,
  oldPrimary: NodeId | undefined,
  rules: FailoverRules,
  state: ClusterState,
  always?: "whether or not there is a command",
): Steps<void> {
  const template = rules.follow_primary_command;
  if (primary === undefined || state.mode !== "streaming_replication") return;
  if (template === "" && always === undefined) return;
  const others = state.nodes.filter((node) => isLive(node) && node.id !== primary);
  for (const node of others) {
    yield log(`starting follow degeneration. shutdown host ${placeOf(node)}`);
  }
  const after = yield {
    kind: "change",
    statuses: new Map(others.map(({ id }) => [id, "down"])),
    primary: { is: primary },
  };
  yield { kind: "record" };
  yield log(`failover: ${others.length} follow backends have been degenerated`);
  if (template === "") return;
  const roles = { newMain: primary, oldMain: oldPrimary, oldPrimary };
  const runs = after.state.nodes
    .filter(({ status }) => status === "down")
    .map(({ id }) => ({ node: id, text: textOf(template, id, roles, rules) }));
  if (runs.length > 0) yield { kind: "follow", runs };
}

function* conclude(primary: NodeId | undefined): Steps<void> {
  const { state } = yield { kind: "change", primary: { is: primary }, ongoing: { is: undefined } };
  if (hasPrimary(state)) yield log(`failover: set new primary node: ${primary ?? -1}`);
  yield log(`failover: set new main node: ${mainNode(state) ?? -1}`);
}

type Roles = {
  readonly newMain: NodeId | undefined;
  readonly oldMain: NodeId | undefined;
  readonly oldPrimary: NodeId | undefined;
};

function* run(template: string, node: NodeId, roles: Roles, rules: FailoverRules): Steps<void> {
  if (template === "") return;
  yield { kind: "run", text: textOf(template, node, roles, rules) };
}

/** fence_command: ends the primary that is lost, so that `heir` may take its place. */
export const fenceText = (
  rules: Pick<Config, "backends" | "fence_command">,
  lost: NodeId,
  heir: NodeId,
): string =>
  textOf(rules.fence_command, lost, { newMain: heir, oldMain: lost, oldPrimary: lost }, rules);

function textOf(
  template: string,
  node: NodeId,
  roles: Roles,
  rules: Pick<FailoverRules, "backends">,
): string {
  const nodeOf = (id: NodeId | undefined): CommandNode | undefined => {
    const backend = id === undefined ? undefined : rules.backends[id];
    if (backend === undefined) return undefined;
    const { hostname, port, data_directory: dataDirectory } = backend;
    return { id: backend.id, hostname, port, dataDirectory };
  };
  const unknown = { id: node, hostname: "", port: 0, dataDirectory: "" };
  return commandLine(template, {
    node: nodeOf(node) ?? unknown,
    newMain: nodeOf(roles.newMain),
    oldMain: roles.oldMain,
    oldPrimary: nodeOf(roles.oldPrimary),
  });
}

const mayBeDetached = (id: NodeId, state: ClusterState, { backends }: FailoverRules): boolean => {
  const node = state.nodes[id];
  if (node === undefined || !isDetachable(node)) return false;
  return backends[id]?.flag.allowToFailover !== false;
};

const isDetachable = (node: BackendNode): boolean => isLive(node) || node.status === "quarantine";

const placeOf = ({ hostname, port }: BackendNode): string => `${hostname}(${port})`;

function log(message: string, detail?: string): FailoverEffect {
  const words = { kind: "log", severity: "LOG", message } as const;
  return detail === undefined ? words : { ...words, detail };
}

// ------------------------------------------------------------------ before the queue

/** Why a request is turned away at the door, in Pgpool's words; undefined lets it in. */
export function refusalOf(
  request: FailoverRequest,
  state: ClusterState,
  rules: FailoverRules,
  pid: number,
): string | undefined {
  const { backends } = rules;
  switch (request.kind) {
    case "detach":
    case "quarantine": {
      const refusals = request.nodes.map((id) => detachRefusal(id, state, backends, pid));
      return refusals.includes(undefined) ? undefined : (refusals[0] ?? "no node is named");
    }
    case "attach":
    case "restore":
      if (isConfigured(request.node, state)) return undefined;
      return `invalid failback request, node id: ${request.node} is out of range. node id must be between [0 and ${NODE_COUNT_MAX}]`;
    case "promote":
      if (isConfigured(request.node, state)) return undefined;
      return `node id ${request.node} is not valid`;
    case "switchover":
      if (!isConfigured(request.node, state)) return `node id ${request.node} is not valid`;
      if (state.primary === undefined) return "there is no primary node to take over from";
      if (rules.failover_method === "promote" && rules.failover_command === "") {
        return "a switchover needs failover_command: the present primary cannot be stopped over SQL";
      }
      return detachRefusal(state.primary, state, backends, pid);
    case "adopt":
    case "find":
      return undefined;
  }
}

/** What upstream names as the limit, whatever is configured. */
const NODE_COUNT_MAX = 128;

const isConfigured = (id: NodeId, state: ClusterState): boolean =>
  (state.nodes[id]?.port ?? 0) !== 0;

function detachRefusal(
  id: NodeId,
  state: ClusterState,
  backends: FailoverRules["backends"],
  pid: number,
): string | undefined {
  const node = state.nodes[id];
  if (node === undefined || !isConfigured(id, state)) {
    return `invalid degenerate backend request, node id: ${id} is out of range. node id must be between [0 and ${NODE_COUNT_MAX}]`;
  }
  if (!isDetachable(node)) {
    return `invalid degenerate backend request, node id : ${id} status: [${STATUS_NUMBERS[node.status]}] is not valid for failover`;
  }
  if (backends[id]?.flag.allowToFailover === false) {
    return `degenerate backend request for node_id: ${id} from pid [${pid}] is canceled because failover is disallowed on the node`;
  }
  return undefined;
}

/** Two requests of which the second would come to nothing: it need not wait in the queue. */
export function isSameRequest(one: FailoverRequest, other: FailoverRequest): boolean {
  if (one.kind !== other.kind || one.kind === "adopt") return false;
  return nodesOf(one).join() === nodesOf(other).join();
}

/** The nodes that a request names. */
export function nodesOf(request: FailoverRequest): readonly NodeId[] {
  if ("nodes" in request) return request.nodes;
  return "node" in request ? [request.node] : [];
}
