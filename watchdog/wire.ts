/**
 * Messages between watchdogs over TCP (spec watchdog/wire.md sections 2 to 6): a letter, an id, a
 * length, a body. A reply carries the id of what it answers and may come on either of the two
 * connections of a pair of nodes.
 */

import { StreamCutter } from "../core/wire/cutter.ts";
import {
  type BackendStatus,
  type Beacon,
  type ClusterCommand,
  type DataRequest,
  decodeBackendStatus,
  decodeBeacon,
  decodeClusterCommand,
  decodeDataRequest,
  decodeFailoverResult,
  decodeFunctionCall,
  decodeNodeInfo,
  encodeBackendStatus,
  encodeBeacon,
  encodeClusterCommand,
  encodeDataRequest,
  encodeFailoverResult,
  encodeFunctionCall,
  encodeNodeInfo,
  type FailoverResult,
  type FunctionCall,
  type NodeInfo,
} from "./bodies.ts";
import { decodePoolConfig, encodePoolConfig, type PoolConfig } from "./pool_config.ts";

const HEADER_SIZE = 9;
/** 128 backends with the longest names make half of this. Pgpool-II has no limit. */
export const BODY_SIZE_MAX = 256 * 1024;
const EMPTY = new Uint8Array(0);

/** The letters of messages without a body, or whose body is not read. */
const BARE = {
  B: "request_info",
  C: "declare_coordinator",
  E: "error",
  F: "failover_start",
  G: "accept",
  H: "failover_end",
  J: "join_coordinator",
  K: "waiting_for_consensus",
  N: "in_network_trouble",
  Q: "quorum_lost",
  R: "reject",
  S: "stand_for_coordinator",
  X: "going_down",
  Y: "ask_config",
} as const;
export type BareKind = (typeof BARE)[keyof typeof BARE];

/** The one byte of a CLUSTER SERVICE MESSAGE (spec watchdog/wire.md 4.1). */
export const SERVICE_BYTES = {
  L: "quorum_lost",
  F: "quorum_found",
  B: "split_brain",
  E: "needs_election",
  M: "true_leader",
  X: "not_true_leader",
  R: "resigning",
  V: "invalid_version",
  I: "reload_state",
  Y: "appears_lost",
  Z: "appears_found",
} as const;
export type Service = (typeof SERVICE_BYTES)[keyof typeof SERVICE_BYTES];

export type WatchdogMessage =
  | { readonly kind: BareKind }
  | { readonly kind: "add_node" | "node_info"; readonly info: NodeInfo }
  | { readonly kind: "beacon"; readonly beacon: Beacon }
  | { readonly kind: "backend_status"; readonly status: BackendStatus }
  | { readonly kind: "config"; readonly config: PoolConfig }
  | { readonly kind: "failover_result"; readonly result: FailoverResult }
  | { readonly kind: "service"; readonly service: Service }
  | { readonly kind: "cluster_command"; readonly command: ClusterCommand }
  | { readonly kind: "data_request"; readonly request: DataRequest }
  | { readonly kind: "failover_function" | "online_recovery"; readonly call: FunctionCall };

/** What came, when it is no message: `unknown` letter, or a known one whose body says nothing. */
export type ReceivedMessage =
  | WatchdogMessage
  | { readonly kind: "unreadable"; readonly letter: string; readonly body: Uint8Array };

export type Packet<M = ReceivedMessage> = { readonly id: number; readonly message: M };

/** A peer claimed a body longer than any; its connection ends. */
export class OversizedMessage extends Error {}

/**
 * Cuts what a peer sends. No length is believed: at most about twice what has arrived is allocated.
 * `sizeMax` says how long a body may be now, which for a stranger is less. `next()` throws
 * OversizedMessage.
 */
export const packetCutter = (sizeMax: () => number = () => BODY_SIZE_MAX): StreamCutter =>
  new StreamCutter(HEADER_SIZE, (bytes, at) => {
    const length = uint32At(bytes, at + 5);
    if (length > sizeMax()) throw new OversizedMessage(`a body of ${length} bytes`);
    return HEADER_SIZE + length;
  });

const uint32At = (bytes: Uint8Array, at: number): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(at);

/** A whole piece of the cutter as a message. Keeps no view of it, except of what is unreadable. */
export function decodePacket(piece: Uint8Array): Packet {
  const letter = String.fromCharCode(piece[0] ?? 0);
  const body = piece.subarray(HEADER_SIZE);
  const message = decodeBody(letter, body) ?? { kind: "unreadable", letter, body };
  return { id: uint32At(piece, 1), message };
}

const isBare = (letter: string): letter is keyof typeof BARE => Object.hasOwn(BARE, letter);
const isService = (letter: string): letter is keyof typeof SERVICE_BYTES =>
  Object.hasOwn(SERVICE_BYTES, letter);

function decodeBody(letter: string, body: Uint8Array): WatchdogMessage | undefined {
  if (isBare(letter)) return { kind: BARE[letter] };
  switch (letter) {
    case "A":
      return made(decodeNodeInfo(body), (info) => ({ kind: "add_node", info }));
    case "I":
      return made(decodeNodeInfo(body), (info) => ({ kind: "node_info", info }));
    case "M":
      return made(decodeBeacon(body), (beacon) => ({ kind: "beacon", beacon }));
    case "D":
      return made(decodeBackendStatus(body), (status) => ({ kind: "backend_status", status }));
    case "Z":
      return made(decodePoolConfig(body), (config) => ({ kind: "config", config }));
    case "-":
      return made(decodeFailoverResult(body), (result) => ({ kind: "failover_result", result }));
    case "!":
      return made(decodeClusterCommand(body), (command) => ({ kind: "cluster_command", command }));
    case "d":
      return made(decodeDataRequest(body), (request) => ({ kind: "data_request", request }));
    case "f":
      return made(decodeFunctionCall(body), (call) => ({ kind: "failover_function", call }));
    case "r":
      return made(decodeFunctionCall(body), (call) => ({ kind: "online_recovery", call }));
    case "#":
      return decodeService(body);
    default:
      return undefined;
  }
}

const made = <T, R>(value: T | undefined, make: (value: T) => R): R | undefined =>
  value === undefined ? undefined : make(value);

function decodeService(body: Uint8Array): WatchdogMessage | undefined {
  const letter = String.fromCharCode(body[0] ?? 0);
  if (body.length !== 1 || !isService(letter)) return undefined;
  return { kind: "service", service: SERVICE_BYTES[letter] };
}

/** The bytes of one message, to be sent in one write: real nodes wait a second for the rest. */
export function encodePacket({ id, message }: Packet<WatchdogMessage>): Uint8Array {
  const [letter, body] = encodeBody(message);
  const bytes = new Uint8Array(HEADER_SIZE + body.length);
  const view = new DataView(bytes.buffer);
  bytes[0] = letter.charCodeAt(0);
  view.setUint32(1, id);
  view.setUint32(5, body.length);
  bytes.set(body, HEADER_SIZE);
  return bytes;
}

function encodeBody(message: WatchdogMessage): readonly [letter: string, body: Uint8Array] {
  switch (message.kind) {
    case "add_node":
      return ["A", encodeNodeInfo(message.info)];
    case "node_info":
      return ["I", encodeNodeInfo(message.info)];
    case "beacon":
      return ["M", encodeBeacon(message.beacon)];
    case "backend_status":
      return ["D", encodeBackendStatus(message.status)];
    case "config":
      return ["Z", encodePoolConfig(message.config)];
    case "failover_result":
      return ["-", encodeFailoverResult(message.result)];
    case "cluster_command":
      return ["!", encodeClusterCommand(message.command)];
    case "data_request":
      return ["d", encodeDataRequest(message.request)];
    case "failover_function":
      return ["f", encodeFunctionCall(message.call)];
    case "online_recovery":
      return ["r", encodeFunctionCall(message.call)];
    case "service":
      return ["#", Uint8Array.of(serviceByte(message.service))];
    default:
      return [bareLetter(message.kind), EMPTY];
  }
}

const bareLetters = new Map<string, string>(
  Object.entries(BARE).map(([letter, kind]) => [kind, letter]),
);
const serviceLetters = new Map<string, string>(
  Object.entries(SERVICE_BYTES).map(([letter, service]) => [service, letter]),
);
const bareLetter = (kind: BareKind): string => bareLetters.get(kind) ?? "E";
const serviceByte = (service: Service): number =>
  (serviceLetters.get(service) ?? "V").charCodeAt(0);
