import { expect, test } from "bun:test";
import { decodeWatchdogInfo } from "../../../core/pcp/watchdog_info.ts";

const node43 = {
  ...{ ID: 0, State: 4, Membership: 0, MembershipString: "MEMBER", StateName: "LEADER" },
  ...{ NodeName: "a:1 Linux vm", HostName: "a", DelegateIP: "Not_Set" },
  ...{ WdPort: 9000, PgpoolPort: 9999, Priority: 1 },
};
const cluster43 = {
  ...{ RemoteNodeCount: 1, MemberRemoteNodeCount: 1, NodesRequireForQuorum: 2 },
  ...{ QuorumStatus: -1, AliveNodeCount: 0, Escalated: 1, NodeCount: 1 },
  ...{ LeaderNodeName: "a:1 Linux vm", LeaderHostName: "a" },
};

test("what 4.3 sends is read", () => {
  const info = decodeWatchdogInfo(JSON.stringify({ ...cluster43, WatchdogNodes: [node43] }));
  expect(info).toMatchObject({ remoteNodeCount: 1, quorumStatus: -1, escalated: true });
  expect(info.nodes[0]).toMatchObject({ stateName: "LEADER", membership: 0, priority: 1 });
  expect(info.nodes[0]?.lifecheckStarted).toBeUndefined();
});

test("4.1 has masters and no members, 4.8 says whether the life check has begun", () => {
  const { LeaderNodeName: MasterNodeName, LeaderHostName: MasterHostName, ...rest } = cluster43;
  const { MemberRemoteNodeCount: _, ...cluster41 } = { ...rest, MasterNodeName, MasterHostName };
  const WatchdogNodes = [{ ...node43, LifecheckStarted: 1 }];
  const info = decodeWatchdogInfo(JSON.stringify({ ...cluster41, WatchdogNodes }));
  expect(info.leaderHostName).toBe("a");
  expect(info.memberRemoteNodeCount).toBeUndefined();
  expect(info.nodes[0]?.lifecheckStarted).toBe(true);
});

test.each(["", "[", "null", "7", '"x"', "{}", '{"WatchdogNodes":[1]}', '{"WatchdogNodes":{}}'])(
  "%p is refused in words",
  (json) => {
    expect(() => decodeWatchdogInfo(json)).toThrow(
      expect.objectContaining({ message: "invalid watchdog information from PCP server" }),
    );
  },
);
