import { describe, expect, test } from "bun:test";
import { decodeWatchdogInfo } from "../../core/pcp/watchdog_info.ts";
import {
  decodeFailoverResult,
  encodeClusterCommand,
  encodeDataRequest,
  encodeFailoverResult,
  encodeFunctionCall,
} from "../../watchdog/bodies.ts";
import {
  decodeIpcCommand,
  decodeVariableBody,
  encodeIpcReply,
  encodeIpcRequest,
  ipcCutter,
  ipcFrameOf,
  jsonText,
  messageOf,
  type NodeList,
  nodeListBody,
  okReply,
  variableBody,
} from "../../watchdog/ipc.ts";
import { MEMBERSHIPS, stateOf } from "../../watchdog/states.ts";
import { OversizedMessage } from "../../watchdog/wire.ts";
import { ipcFrames } from "./captures.ts";

const bytes = (text: string) => new TextEncoder().encode(text);
const asked = ipcFrames.filter(({ direction }) => direction === ">");
const answered = ipcFrames.filter(({ direction }) => direction === "<");
const text = (body: Uint8Array) => Buffer.from(body).toString();

/** The shared key that a captured command carried, or any for those that need none. */
const sharedKeyOf = (body: Uint8Array) =>
  Number(/"IPCSharedKey":(-?\d+)/.exec(text(body))?.[1] ?? 1);

describe("commands of real programs", () => {
  test.each(asked.map((each) => [each.line, each] as const))("%s is understood", (_, frame) => {
    const keys = { sharedKey: sharedKeyOf(frame.body), authKey: "" };
    const command = decodeIpcCommand(frame, keys);
    expect(command.kind).not.toBe("refused");
    switch (command.kind) {
      case "failover":
      case "recovery":
        expect(text(encodeFunctionCall(command.call))).toBe(text(frame.body));
        break;
      case "cluster_command":
        expect(text(encodeClusterCommand(command.command))).toBe(text(frame.body));
        break;
      case "leader_data":
        expect(text(encodeDataRequest(command.request))).toBe(text(frame.body));
        break;
      default:
    }
  });

  test("our own programs write the same", () => {
    const written = (letter: "2" | "3" | "v", fields: { [name: string]: number | string }) =>
      text(ipcFrameOf(encodeIpcRequest(letter, fields, "")).body);
    const lines = [
      `ipc > 3 ${written("3", { NodeID: -1 })}`,
      `ipc > v ${written("v", { VarName: "WDState" })}`,
      `ipc > 2 ${written("2", { NodeID: 2, NodeStatus: 1, Message: "ext lifecheck: dead" })}`,
    ];
    for (const line of lines) expect(asked.map((each) => each.line)).toContain(line);
    expect(text(encodeIpcRequest("3", { NodeID: 0 }, "key").subarray(5))).toBe(
      '{"IPCAuthKey":"key","NodeID":0}',
    );
  });
});

describe("answers of real watchdogs", () => {
  test.each(answered.map((each) => [each.line, each] as const))(
    "%s is what we write",
    (_, frame) => {
      const json = text(frame.body);
      if (json === "") return expect(["6", "7"]).toContain(frame.letter);
      if (json.startsWith('{"RemoteNodeCount"'))
        return expect(text(nodeListBody(listOf(json)))).toBe(json);
      if (json.startsWith('{"ValueDataType"')) {
        const value = decodeVariableBody(frame.body);
        return expect(text(variableBody(value ?? -9))).toBe(json);
      }
      if (json.startsWith('{"FAILOVER')) {
        const result = decodeFailoverResult(frame.body);
        return expect(text(encodeFailoverResult(result ?? "ERROR"))).toBe(json);
      }
      expect(json).toStartWith('{"BackendNodeStatusList"');
    },
  );

  test("a boolean has a type of its own", () => {
    expect(text(variableBody(true))).toBe('{"ValueDataType":3,"ValueData":1}\0');
  });

  test("nobody has no state, and there may be no leader", () => {
    const list: NodeList = {
      remoteCount: 2,
      memberRemoteCount: 2,
      votesNeeded: 2,
      quorumStatus: -2,
      aliveNodeCount: 0,
      escalated: false,
      leader: undefined,
      nodes: undefined,
    };
    const info = decodeWatchdogInfo(jsonText(nodeListBody(list)));
    expect(info.leaderNodeName).toBe("Not Set");
    expect(info.nodes).toEqual([
      {
        id: -1,
        state: -1,
        stateName: "Not_Set",
        membership: -1,
        membershipName: "Not_Set",
        nodeName: "Not_Set",
        hostName: "Not_Set",
        delegateIp: "Not_Set",
        wdPort: 0,
        pgpoolPort: 0,
        priority: 0,
        lifecheckStarted: undefined,
      },
    ]);
  });
});

/** What a captured node list says, as we would say it. */
function listOf(json: string): NodeList {
  const info = decodeWatchdogInfo(json.replace(/\0+$/, ""));
  const unset = (name: string) => (name === "Not_Set" ? "" : name);
  return {
    remoteCount: info.remoteNodeCount,
    memberRemoteCount: info.memberRemoteNodeCount ?? -9,
    votesNeeded: info.nodesRequiredForQuorum ?? -9,
    quorumStatus: info.quorumStatus,
    aliveNodeCount: info.aliveNodeCount,
    escalated: info.escalated,
    leader: { nodeName: info.leaderNodeName, hostName: info.leaderHostName },
    nodes: info.nodes.map((node) => ({
      id: node.id,
      state: stateOf(node.state) ?? "DEAD",
      membership: MEMBERSHIPS[node.membership ?? 0] ?? "MEMBER",
      nodeName: unset(node.nodeName),
      hostName: node.hostName,
      delegateIp: unset(node.delegateIp),
      wdPort: node.wdPort,
      pgpoolPort: node.pgpoolPort,
      priority: node.priority,
    })),
  };
}

describe("who may say what", () => {
  const open = { sharedKey: 77, authKey: "" };
  const keyed = { sharedKey: 77, authKey: "secret" };
  const invalidKey = "authentication failed: invalid KEY";
  const invalidData = "authentication failed: invalid data";
  const function_ = '"Function":"FAILBACK_REQUEST","NodeCount":1,"NodeIdList":[0]';

  test.each([
    ["v is open without wd_authkey", open, "v", '{"VarName":"wdstate"}', undefined],
    ["v needs a key with it", keyed, "v", '{"VarName":"WDState"}', invalidKey],
    ["v takes wd_authkey", keyed, "v", '{"IPCAuthKey":"secret","VarName":"WDState"}', undefined],
    ["v takes the shared key", keyed, "v", '{"IPCSharedKey":77,"VarName":"WDState"}', undefined],
    [
      "a shared key is no text",
      keyed,
      "v",
      '{"IPCSharedKey":"77","VarName":"WDState"}',
      invalidKey,
    ],
    ["f needs the shared key", open, "f", `{${function_}}`, invalidKey],
    ["f takes the shared key", open, "f", `{"IPCSharedKey":77,${function_}}`, undefined],
    [
      "wd_authkey is not enough for f",
      keyed,
      "f",
      `{"IPCAuthKey":"secret",${function_}}`,
      invalidKey,
    ],
    ["f needs an object", open, "f", "notjson", invalidData],
    ["3 needs an object with a key", keyed, "3", "", invalidData],
    ["i needs the shared key here", open, "i", '{"FailoverFuncState":0}', invalidKey],
    ["i of an empty object is refused, and kills nobody", open, "i", "{}", invalidData],
    ["an unknown letter needs no key", keyed, "Z", "{}", "unknown IPC command type"],
    ["the letter s is unknown", keyed, "s", "{}", "unknown IPC command type"],
    ["an unknown variable", open, "v", '{"VarName":"Foo"}', "unknown variable requested"],
    ["no variable", open, "v", '{"x":1}', "requested variable name is null"],
    ["a node that is no number", open, "3", '{"NodeID":"x"}', ""],
    ["a report without a node", open, "2", '{"NodeStatus":1}', ""],
  ])("%s", (_, keys, letter, json, refusal) => {
    const command = decodeIpcCommand({ letter, body: bytes(json) }, keys);
    if (command.kind !== "refused") return expect(refusal).toBeUndefined();
    if (command.reply.kind !== "bad") throw new Error(command.reply.kind);
    expect(messageOf(command.reply.body) ?? "").toBe(refusal ?? "(taken)");
  });

  test("an indication of nothing is an invalid function", () => {
    const command = decodeIpcCommand({ letter: "i", body: bytes('{"IPCSharedKey":77}') }, open);
    expect(command).toEqual({
      kind: "refused",
      reply: okReply(encodeFailoverResult("INVALID_FUNCTION")),
    });
  });
});

describe("frames", () => {
  test("the answer to a report of a node is none", () => {
    expect(encodeIpcReply({ kind: "silence" })).toBeUndefined();
    expect(encodeIpcReply(okReply())).toEqual(Uint8Array.of(0x37, 0, 0, 0, 0));
  });

  test("a length that nobody sends is refused", () => {
    const cutter = ipcCutter();
    cutter.push(Uint8Array.of(0x76, 0x7f, 0xff, 0xff, 0xff));
    expect(() => cutter.next()).toThrow(OversizedMessage);
  });
});
