/**
 * What programs of the same host say to the watchdog over its Unix socket, and hear (spec
 * watchdog/ipc.md): a letter, a length, JSON. One command per connection. Life checks, wd_cli and
 * the pcp_* programs of either generation speak it.
 */

import { StreamCutter } from "../core/wire/cutter.ts";
import { decodeText } from "../core/wire/text.ts";
import {
  type ClusterCommand,
  type DataRequest,
  decodeClusterCommand,
  decodeDataRequest,
  decodeFunctionCall,
  encodeFailoverResult,
  endingInNul,
  type FunctionCall,
} from "./bodies.ts";
import { type JsonObject, parseJsonObject, readJson, writeJson } from "./json.ts";
import { MEMBERSHIPS, type Membership, type StateName, stateNumber } from "./states.ts";
import { BODY_SIZE_MAX, OversizedMessage } from "./wire.ts";

const HEADER_SIZE = 5;

/** Where the watchdog whose own `wd_portN` is `port` listens. */
export const ipcSocketPath = (dir: string, port: number): string =>
  `${dir}/.s.PGPOOLWD_CMD.${port}`;

/** Cuts either direction; believes no length. `next()` throws OversizedMessage. */
export const ipcCutter = (): StreamCutter =>
  new StreamCutter(HEADER_SIZE, (bytes, at) => {
    const length = new DataView(bytes.buffer, bytes.byteOffset).getUint32(at + 1);
    if (length > BODY_SIZE_MAX) throw new OversizedMessage(`a body of ${length} bytes`);
    return HEADER_SIZE + length;
  });

export type IpcFrame = { readonly letter: string; readonly body: Uint8Array };

/** The body is a view. */
export const ipcFrameOf = (piece: Uint8Array): IpcFrame => ({
  letter: String.fromCharCode(piece[0] ?? 0),
  body: piece.subarray(HEADER_SIZE),
});

export function encodeIpcFrame({ letter, body }: IpcFrame): Uint8Array {
  const bytes = new Uint8Array(HEADER_SIZE + body.length);
  bytes[0] = letter.charCodeAt(0);
  new DataView(bytes.buffer).setUint32(1, body.length);
  bytes.set(body, HEADER_SIZE);
  return bytes;
}

/** The variables that `get_variable` knows, by their names in lower case. */
const VARIABLES = { wdstate: "state", quorumstate: "quorum", escalated: "escalated" } as const;
export type RuntimeVariable = (typeof VARIABLES)[keyof typeof VARIABLES];

export type NodeStatusReport = "DEAD" | "ALIVE" | "LIFECHECK STARTED";
const NODE_STATUSES: readonly (NodeStatusReport | undefined)[] = [
  undefined,
  "DEAD",
  "ALIVE",
  "LIFECHECK STARTED",
];

export type IpcCommand =
  | { readonly kind: "register" }
  | {
      readonly kind: "node_status";
      readonly node: number;
      /** Undefined is a number that nobody knows: logged, and no error. */
      readonly status: NodeStatusReport | undefined;
      readonly text: string;
    }
  /** Every node when negative. */
  | { readonly kind: "node_list"; readonly node: number }
  | { readonly kind: "variable"; readonly variable: RuntimeVariable }
  | { readonly kind: "failover"; readonly call: FunctionCall }
  | { readonly kind: "failover_indication"; readonly begins: boolean }
  | { readonly kind: "leader_data"; readonly request: DataRequest }
  | { readonly kind: "recovery"; readonly call: FunctionCall }
  | { readonly kind: "cluster_command"; readonly command: ClusterCommand };

/** What is wrong with a command; the watchdog answers it without a second thought. */
export type IpcRefusal = { readonly kind: "refused"; readonly reply: IpcReply };

export type IpcReply =
  | { readonly kind: "ok" | "bad" | "in_transition" | "timeout"; readonly body: Uint8Array }
  /** Closed without a word: the answer to a report of a node's status. */
  | { readonly kind: "silence" };

const REPLY_LETTERS = { ok: "7", bad: "6", in_transition: "5", timeout: "8" } as const;
const EMPTY = new Uint8Array(0);

export const okReply = (body: Uint8Array = EMPTY): IpcReply => ({ kind: "ok", body });
export const IN_TRANSITION: IpcReply = { kind: "in_transition", body: EMPTY };
export const BAD: IpcReply = { kind: "bad", body: EMPTY };
const badReply = (text: string): IpcReply => ({
  kind: "bad",
  body: endingInNul(writeJson({ MESSAGE: text })),
});
export const unknownClusterCommand: IpcReply = badReply("unknown cluster command requested");

/** Undefined where the connection is only closed. */
export const encodeIpcReply = (reply: IpcReply): Uint8Array | undefined =>
  reply.kind === "silence"
    ? undefined
    : encodeIpcFrame({ letter: REPLY_LETTERS[reply.kind], body: reply.body });

/** The text of an error, for the programs that show it; undefined when there is none. */
export const messageOf = (body: Uint8Array): string | undefined =>
  readJson(body, (fields) => fields.text("MESSAGE"));

/** What a command must show. `authKey` is wd_authkey; `sharedKey` the secret of this process. */
export type IpcKeys = { readonly sharedKey: number; readonly authKey: string };

/**
 * Who may say what (spec watchdog/ipc.md section 3): either key, when there is a wd_authkey; or always
 * the shared one. `i` needs none in 4.3.5 (its section 6 counts that among the defects); here it
 * needs the shared key, which the only program that sends it has.
 */
const NEEDS: { readonly [letter: string]: "either" | "shared" } = {
  "0": "either",
  "2": "either",
  "3": "either",
  v: "either",
  f: "shared",
  r: "shared",
  c: "shared",
  d: "shared",
  i: "shared",
};

/** Checks the keys, then the command. Never throws, whatever the frame holds. */
export function decodeIpcCommand(
  { letter, body }: IpcFrame,
  keys: IpcKeys,
): IpcCommand | IpcRefusal {
  const need = Object.hasOwn(NEEDS, letter) ? NEEDS[letter] : undefined;
  if (need === undefined) return refused(badReply("unknown IPC command type"));
  const object = parseJsonObject(body);
  if (need === "shared" || keys.authKey !== "") {
    if (object === undefined) return refused(badReply("authentication failed: invalid data"));
    if (!isAdmitted(object, need, keys)) {
      return refused(badReply("authentication failed: invalid KEY"));
    }
  }
  return decodeChecked(letter, body) ?? refused(BAD);
}

const refused = (reply: IpcReply): IpcRefusal => ({ kind: "refused", reply });

/** The socket's file mode is the door; a comparison in constant time would guard nothing more. */
function isAdmitted(object: JsonObject, need: "either" | "shared", keys: IpcKeys): boolean {
  if (object.get("ipcsharedkey") === keys.sharedKey) return true;
  return need === "either" && object.get("ipcauthkey") === keys.authKey;
}

function decodeChecked(letter: string, body: Uint8Array): IpcCommand | IpcRefusal | undefined {
  switch (letter) {
    case "0":
      return { kind: "register" };
    case "2":
      return readJson(body, (fields) => ({
        kind: "node_status",
        node: fields.int("NodeID"),
        status: NODE_STATUSES[fields.int("NodeStatus")],
        text: fields.textOr("Message", ""),
      }));
    case "3":
      return readJson(body, (fields) => ({ kind: "node_list", node: fields.int("NodeID") }));
    case "v":
      return decodeVariable(body);
    case "i": {
      const state = readJson(body, (fields) => fields.int("FailoverFuncState"));
      if (state === undefined || state < 0) {
        return refused(okReply(encodeFailoverResult("INVALID_FUNCTION")));
      }
      return { kind: "failover_indication", begins: state === 0 };
    }
    case "f":
    case "r": {
      const call = decodeFunctionCall(body);
      if (call === undefined) return undefined;
      return { kind: letter === "f" ? "failover" : "recovery", call };
    }
    case "d": {
      const request = decodeDataRequest(body);
      return request === undefined ? undefined : { kind: "leader_data", request };
    }
    default: {
      const command = decodeClusterCommand(body);
      return command === undefined ? undefined : { kind: "cluster_command", command };
    }
  }
}

function decodeVariable(body: Uint8Array): IpcCommand | IpcRefusal | undefined {
  const name = readJson(body, (fields) => fields.text("VarName"))?.toLowerCase();
  if (name === undefined) return refused(badReply("requested variable name is null"));
  if (!isVariable(name)) return refused(badReply("unknown variable requested"));
  return { kind: "variable", variable: VARIABLES[name] };
}

const isVariable = (name: string): name is keyof typeof VARIABLES => Object.hasOwn(VARIABLES, name);

/** The answer to `variable`: an integer, or a boolean as 0 and 1. */
export const variableBody = (value: number | boolean): Uint8Array =>
  endingInNul(
    writeJson({ ValueDataType: typeof value === "number" ? 1 : 3, ValueData: Number(value) }),
  );

export const decodeVariableBody = (body: Uint8Array): number | undefined =>
  readJson(body, (fields) => fields.int("ValueData"));

/** One element of the node list, as 4.3 and later describe it. */
export type ListedNode = {
  readonly id: number;
  readonly state: StateName;
  readonly membership: Membership;
  readonly nodeName: string;
  readonly hostName: string;
  readonly delegateIp: string;
  readonly wdPort: number;
  readonly pgpoolPort: number;
  readonly priority: number;
};

export type NodeList = {
  readonly remoteCount: number;
  readonly memberRemoteCount: number;
  readonly votesNeeded: number;
  /** -2 without a leader. */
  readonly quorumStatus: number;
  readonly aliveNodeCount: number;
  readonly escalated: boolean;
  /** Undefined while there is none. */
  readonly leader: { readonly nodeName: string; readonly hostName: string } | undefined;
  /** The local node first. Undefined is the answer to an id that no node has. */
  readonly nodes: readonly ListedNode[] | undefined;
};

/** The JSON of `node_list`, which PCP passes on as it is. */
export const nodeListBody = (list: NodeList): Uint8Array =>
  endingInNul(
    writeJson({
      RemoteNodeCount: list.remoteCount,
      MemberRemoteNodeCount: list.memberRemoteCount,
      NodesRequireForQuorum: list.votesNeeded,
      QuorumStatus: list.quorumStatus,
      AliveNodeCount: list.aliveNodeCount,
      Escalated: list.escalated,
      LeaderNodeName: list.leader?.nodeName ?? "Not Set",
      LeaderHostName: list.leader?.hostName ?? "Not Set",
      NodeCount: list.nodes?.length ?? 1,
      WatchdogNodes: list.nodes?.map(listedFields) ?? [NOBODY],
    }),
  );

const orNotSet = (text: string): string => (text === "" ? "Not_Set" : text);

const listedFields = (node: ListedNode) => ({
  ID: node.id,
  State: stateNumber(node.state),
  Membership: MEMBERSHIPS.indexOf(node.membership),
  MembershipString: node.membership,
  NodeName: orNotSet(node.nodeName),
  HostName: orNotSet(node.hostName),
  StateName: node.state,
  DelegateIP: orNotSet(node.delegateIp),
  WdPort: node.wdPort,
  PgpoolPort: node.pgpoolPort,
  Priority: node.priority,
});

const NOBODY = {
  ID: -1,
  State: -1,
  Membership: -1,
  MembershipString: "Not_Set",
  NodeName: "Not_Set",
  HostName: "Not_Set",
  StateName: "Not_Set",
  DelegateIP: "Not_Set",
  WdPort: 0,
  PgpoolPort: 0,
  Priority: 0,
};

/** The body of a request that our own programs send; `keys` as far as they have them. */
export function encodeIpcRequest(
  letter: "2" | "3" | "v",
  fields: { readonly [name: string]: number | string },
  authKey: string,
): Uint8Array {
  const key = authKey === "" ? {} : { IPCAuthKey: authKey };
  return encodeIpcFrame({ letter, body: writeJson({ ...key, ...fields }) });
}

/** The JSON of an answer as text, for `decodeWatchdogInfo`. */
export const jsonText = (body: Uint8Array): string => decodeText(body).replace(/\0+$/, "");
