/**
 * The JSON bodies that watchdogs send each other, as plain values (spec watchdog/wire.md section 6).
 * Each decoder answers undefined for what it cannot read; each encoder writes the keys in the order of
 * 4.3.5. The configuration's body is in pool_config.ts.
 */

import { type Fields, readJson, writeJson } from "./json.ts";
import { type QuorumStatus, type StateName, stateNumber, stateOf } from "./states.ts";

/** Backends and watchdog nodes alike. */
const NODES_MAX = 128;

/** What a node says of itself. Times are in whole seconds. */
export type NodeInfo = {
  readonly pgpoolVersion: string | undefined;
  readonly dataVersion: { readonly major: number; readonly minor: number };
  readonly state: StateName;
  readonly wdPort: number;
  readonly pgpoolPort: number;
  readonly priority: number;
  readonly nodeId: number;
  readonly nodeName: string;
  readonly hostName: string;
  readonly delegateIp: string;
  readonly age: NodeAge;
  readonly quorumStatus: QuorumStatus;
  readonly aliveNodeCount: number;
  readonly escalated: boolean;
  /** Undefined from nodes older than 4.8, which pass over it when they read. */
  readonly lifecheckStarted: boolean | undefined;
  /** The sum of auth_key.ts. */
  readonly authKey: string | undefined;
};

export type NodeAge =
  | { readonly kind: "ages"; readonly startup: number; readonly state: number }
  /** Before 3.5: the moment of the start alone, in seconds since the epoch. */
  | { readonly kind: "startup_time"; readonly startup: number };

export const encodeNodeInfo = (info: NodeInfo): Uint8Array =>
  writeJson({
    PGPOOL_VERSION: info.pgpoolVersion,
    DATA_VERSION_MAJOR: String(info.dataVersion.major),
    DATA_VERSION_MINOR: String(info.dataVersion.minor),
    State: stateNumber(info.state),
    WdPort: info.wdPort,
    PgpoolPort: info.pgpoolPort,
    WdPriority: info.priority,
    PgpoolNodeId: info.nodeId,
    NodeName: info.nodeName,
    HostName: info.hostName,
    VIP: info.delegateIp,
    ...(info.age.kind === "ages"
      ? { SecondsSinceStartup: info.age.startup, SecondsSinceCurrentState: info.age.state }
      : { StartupTimeSecs: info.age.startup }),
    QuorumStatus: info.quorumStatus,
    AliveNodeCount: info.aliveNodeCount,
    Escalated: info.escalated,
    LifecheckStarted: info.lifecheckStarted,
    authkey: info.authKey,
  });

export const decodeNodeInfo = (bytes: Uint8Array): NodeInfo | undefined =>
  sound(readJson(bytes, readNodeInfo));

/** Fields whose numbers must have names; a number without one makes the whole body unreadable. */
type Sound = { readonly state: StateName; readonly quorumStatus: QuorumStatus };
type Unsound = { readonly [K in keyof Sound]: Sound[K] | undefined };

const isSound = <T extends Unsound>(body: T): body is T & Sound =>
  body.state !== undefined && body.quorumStatus !== undefined;

const sound = <T extends Unsound>(body: T | undefined): (T & Sound) | undefined =>
  body !== undefined && isSound(body) ? body : undefined;

function readNodeInfo(fields: Fields): Omit<NodeInfo, keyof Sound> & Unsound {
  return {
    pgpoolVersion: fields.textOr("PGPOOL_VERSION", undefined),
    dataVersion: {
      major: Number(fields.textOr("DATA_VERSION_MAJOR", "1")) || 0,
      minor: Number(fields.textOr("DATA_VERSION_MINOR", "0")) || 0,
    },
    ...readSound(fields),
    wdPort: fields.int("WdPort"),
    pgpoolPort: fields.int("PgpoolPort"),
    priority: fields.int("WdPriority"),
    nodeId: fields.int("PgpoolNodeId"),
    nodeName: fields.text("NodeName"),
    hostName: fields.text("HostName"),
    delegateIp: fields.text("VIP"),
    age: readAge(fields),
    aliveNodeCount: fields.int("AliveNodeCount"),
    escalated: fields.flag("Escalated"),
    lifecheckStarted: fields.has("LifecheckStarted") ? fields.flag("LifecheckStarted") : undefined,
    authKey: fields.textOr("authkey", undefined),
  };
}

function readSound(fields: Fields): Unsound {
  const quorum = fields.int("QuorumStatus");
  return {
    state: stateOf(fields.int("State")),
    quorumStatus: quorum === 1 || quorum === 0 || quorum === -1 ? quorum : undefined,
  };
}

function readAge(fields: Fields): NodeAge {
  if (fields.has("StartupTimeSecs")) {
    return { kind: "startup_time", startup: fields.int("StartupTimeSecs") };
  }
  return {
    kind: "ages",
    startup: fields.int("SecondsSinceStartup"),
    state: fields.int("SecondsSinceCurrentState"),
  };
}

/** What the leader says of itself every ten seconds. */
export type Beacon = {
  readonly state: StateName;
  readonly startupAge: number;
  readonly stateAge: number;
  readonly quorumStatus: QuorumStatus;
  readonly aliveNodeCount: number;
  readonly escalated: boolean;
};

export const encodeBeacon = (beacon: Beacon): Uint8Array =>
  writeJson({
    State: stateNumber(beacon.state),
    SecondsSinceStartup: beacon.startupAge,
    SecondsSinceCurrentState: beacon.stateAge,
    QuorumStatus: beacon.quorumStatus,
    AliveNodeCount: beacon.aliveNodeCount,
    Escalated: beacon.escalated,
  });

export const decodeBeacon = (bytes: Uint8Array): Beacon | undefined =>
  sound(
    readJson(bytes, (fields) => ({
      startupAge: fields.int("SecondsSinceStartup"),
      stateAge: fields.int("SecondsSinceCurrentState"),
      aliveNodeCount: fields.int("AliveNodeCount"),
      escalated: fields.flag("Escalated"),
      ...readSound(fields),
    })),
  );

/**
 * The credentials of the program that spoke to its own watchdog. Pgpool passes them on to other nodes
 * by mistake, wd_authkey in clear; nobody reads them there, and our node sends a zero.
 */
export type LocalSecrets = {
  readonly sharedKey: number | undefined;
  readonly authKey: string | undefined;
};
export const NO_SECRETS: LocalSecrets = { sharedKey: 0, authKey: undefined };

const secretFields = ({ sharedKey, authKey }: LocalSecrets) => ({
  IPCSharedKey: sharedKey,
  IPCAuthKey: authKey,
});

const readSecrets = (fields: Fields): LocalSecrets => ({
  sharedKey: fields.intOr("IPCSharedKey", undefined),
  authKey: fields.textOr("IPCAuthKey", undefined),
});

export const FAILOVER_FUNCTIONS = [
  "FAILBACK_REQUEST",
  "DEGENERATE_BACKEND_REQUEST",
  "PROMOTE_BACKEND_REQUEST",
] as const;
export type FailoverFunction = (typeof FAILOVER_FUNCTIONS)[number];
export const RECOVERY_FUNCTIONS = ["START_RECOVERY", "END_RECOVERY"] as const;
export type RecoveryFunction = (typeof RECOVERY_FUNCTIONS)[number];

/** Bits of `flags` in a FunctionCall. */
export const REQUEST_FLAGS = {
  /** Sessions that do not use the backend are kept. */
  switchover: 1,
  /** The watchdog has decided already. */
  watchdog: 2,
  /** An operator's word: neither quorum nor consensus is asked for. */
  confirmed: 4,
  /** The status of a quarantined backend. */
  update: 8,
  /** A switchover by promotion, since 4.3. */
  promote: 16,
} as const;

/** FAILOVER FUNCTION and ONLINE RECOVERY. */
export type FunctionCall = LocalSecrets & {
  /** In capitals. One that nobody knows is refused by whoever is asked, and not by the reader. */
  readonly name: string;
  readonly flags: number;
  /** Backends. Send one at most: readers of 4.x write past their array at the second. */
  readonly nodes: readonly number[];
};

export const encodeFunctionCall = (call: FunctionCall): Uint8Array =>
  writeJson({
    ...secretFields(call),
    Function: call.name,
    Flags: call.flags,
    NodeCount: call.nodes.length,
    NodeIdList: call.nodes.length > 0 ? call.nodes : undefined,
  });

export const decodeFunctionCall = (bytes: Uint8Array): FunctionCall | undefined => {
  const call = readJson(bytes, (fields) => {
    const count = fields.intOr("NodeCount", 0);
    const nodes = count > 0 ? fields.ints("NodeIdList") : [];
    return {
      ...readSecrets(fields),
      name: fields.text("Function").toUpperCase(),
      flags: fields.intOr("Flags", 0),
      nodes,
      isCounted: count <= 0 || nodes.length === count,
    };
  });
  if (call === undefined) return undefined;
  const { isCounted, ...rest } = call;
  const isBackend = (node: number) => node >= 0 && node < NODES_MAX;
  return isCounted && rest.nodes.every(isBackend) ? rest : undefined;
};

/** What comes of a request about a backend; its number is its place (spec watchdog/wire.md 6.4). */
export const FAILOVER_RESULTS = [
  "ERROR",
  "TRANSITION",
  "SUCCESS",
  "PROCEED",
  "NO_QUORUM",
  "WILL_BE_DONE",
  "NOT_ALLOWED",
  "INVALID_FUNCTION",
  "LEADER_REJECTED",
  "BUILDING_CONSENSUS",
  "CONSENSUS_MAY_FAIL",
  "TIMEOUT",
] as const;
export type FailoverResult = (typeof FAILOVER_RESULTS)[number];

export const encodeFailoverResult = (result: FailoverResult): Uint8Array =>
  endingInNul(
    writeJson({
      FAILOVER_COMMAND_RESULT: FAILOVER_RESULTS.indexOf(result),
      FAILOVER_COMMAND_ID: 0,
    }),
  );

export const decodeFailoverResult = (bytes: Uint8Array): FailoverResult | undefined => {
  const number = readJson(bytes, (fields) => fields.int("FAILOVER_COMMAND_RESULT"));
  return number === undefined ? undefined : FAILOVER_RESULTS[number];
};

/** Some texts are sent with the end that C gives them, counted in the length. */
export function endingInNul(bytes: Uint8Array): Uint8Array {
  const ended = new Uint8Array(bytes.length + 1);
  ended.set(bytes);
  return ended;
}

/** GET LEADER DATA. The only type there is is BackendStatus; another is answered by an error. */
export type DataRequest = LocalSecrets & { readonly type: string };

export const encodeDataRequest = (request: DataRequest): Uint8Array =>
  writeJson({ ...secretFields(request), DataRequestType: request.type });

export const decodeDataRequest = (bytes: Uint8Array): DataRequest | undefined =>
  readJson(bytes, (fields) => ({ ...readSecrets(fields), type: fields.text("DataRequestType") }));

export const isBackendStatusRequest = ({ type }: DataRequest): boolean =>
  type.toLowerCase() === "backendstatus";

/** How the leader sees the backends. */
export type BackendStatus = {
  /** By backend: 0 unused, 1 waiting or quarantined, 2 up, 3 down. */
  readonly statuses: readonly number[];
  /** -1 none, -2 not looked for yet. */
  readonly primary: number;
  readonly nodeName: string;
};

export const encodeBackendStatus = (status: BackendStatus): Uint8Array =>
  writeJson({
    BackendNodeStatusList: status.statuses,
    PrimaryNodeId: status.primary,
    NodeName: status.nodeName,
  });

export const decodeBackendStatus = (bytes: Uint8Array): BackendStatus | undefined => {
  const status = readJson(bytes, (fields) => ({
    statuses: fields.ints("BackendNodeStatusList"),
    primary: fields.int("PrimaryNodeId"),
    nodeName: fields.text("NodeName"),
  }));
  if (status === undefined) return undefined;
  const { statuses, primary } = status;
  const isReadable =
    statuses.length > 0 &&
    statuses.length <= NODES_MAX &&
    statuses.every((each) => each >= 0 && each <= 3) &&
    primary >= -2 &&
    primary < statuses.length;
  return isReadable ? status : undefined;
};

/** EXECUTE COMMAND: what all nodes are to do. */
export type ClusterCommand = LocalSecrets & {
  /** In capitals. */
  readonly name: string;
  readonly args: readonly { readonly name: string; readonly value: string }[];
};

const ARGS_MAX = 16;
/** Readers of 4.x have room for no more. */
const ARG_LENGTH_MAX = 63;

export const encodeClusterCommand = (command: ClusterCommand): Uint8Array =>
  writeJson({
    ...secretFields(command),
    Command: command.name,
    nArgs: command.args.length,
    argument_list:
      command.args.length > 0
        ? command.args.map(({ name, value }) => ({ arg_name: name, arg_value: value }))
        : undefined,
  });

export const decodeClusterCommand = (bytes: Uint8Array): ClusterCommand | undefined => {
  const command = readJson(bytes, (fields) => {
    const count = fields.int("nArgs");
    const args =
      count > 0
        ? fields.objects("argument_list", (each) => ({
            name: each.text("arg_name"),
            value: each.text("arg_value"),
          }))
        : [];
    return { ...readSecrets(fields), name: fields.text("Command").toUpperCase(), args, count };
  });
  if (command === undefined) return undefined;
  const { count, ...rest } = command;
  const isShort = (text: string) => text.length <= ARG_LENGTH_MAX;
  const isReadable =
    rest.args.length <= ARGS_MAX &&
    (count <= 0 || rest.args.length === count) &&
    rest.args.every(({ name, value }) => isShort(name) && isShort(value));
  return isReadable ? rest : undefined;
};
