import { describe, expect, test } from "bun:test";
import {
  type ClusterState,
  isLive,
  mainNode,
  type NodeStatus,
  nodeId,
  roleOf,
  withNode,
  withPrimary,
  writeNode,
} from "../../../core/cluster/state.ts";
import { clusterOf } from "../../proxy/routing/rules.ts";

const withStatuses = (statuses: readonly NodeStatus[], rest: Partial<ClusterState> = {}) =>
  clusterOf(
    statuses.map((status) => ({ status })),
    rest,
  );

describe("cluster state", () => {
  const rows: readonly [NodeStatus, boolean][] = [
    ["up", true],
    ["waiting", true],
    ["down", false],
    ["quarantine", false],
    ["unused", false],
  ];
  test.each(rows)("a node that is %s is live: %p", (status, live) => {
    const [node] = withStatuses([status]).nodes;
    expect(node !== undefined && isLive(node)).toBe(live);
  });

  const chiefs: readonly [
    string,
    readonly NodeStatus[],
    number | undefined,
    number | undefined,
    number | undefined,
  ][] = [
    ["the primary takes writes", ["up", "up"], 1, 0, 1],
    ["a primary that is down does not", ["up", "down"], 1, 0, 0],
    ["nor does one that is quarantined", ["waiting", "quarantine"], 1, 0, 0],
    ["without a primary the lowest live node does", ["down", "up", "up"], undefined, 1, 1],
    ["nobody when all are down", ["down", "down"], 0, undefined, undefined],
    ["a primary that is no node does not", ["up"], 7, 0, 0],
  ];
  test.each(chiefs)("%s", (_, statuses, primary, main, writes) => {
    const state = withStatuses(statuses, {
      primary: primary === undefined ? undefined : nodeId(primary),
    });
    expect<number | undefined>(mainNode(state)).toBe(main);
    expect<number | undefined>(writeNode(state)).toBe(writes);
  });

  test("roles are primary and standby where servers stream, main and replica elsewhere", () => {
    const streaming = withStatuses(["down", "up", "up"], { primary: nodeId(2) });
    const roles = (state: ClusterState) => state.nodes.map(({ id }) => roleOf(state, id));
    expect(roles(streaming)).toEqual(["standby", "standby", "primary"]);
    expect(roles({ ...streaming, mode: "logical_replication", primary: undefined })).toEqual([
      "standby",
      "standby",
      "standby",
    ]);
    for (const mode of ["raw", "native_replication", "snapshot_isolation"] as const) {
      expect(roles({ ...streaming, mode })).toEqual(["replica", "main", "replica"]);
    }
  });

  test("a change makes a newer snapshot and leaves the old one as it was", () => {
    const before = withStatuses(["up", "up"]);
    const after = withNode(before, nodeId(1), { status: "down" }, 77);
    expect(after.version).toBe(before.version + 1);
    expect(before.nodes.map(({ status }) => status)).toEqual(["up", "up"]);
    expect(after.nodes.map(({ status, lastStatusChange }) => [status, lastStatusChange])).toEqual([
      ["up", 0],
      ["down", 77],
    ]);
    expect(after.nodes[0]).toBe(before.nodes[0] as NonNullable<(typeof before.nodes)[0]>);
  });

  test("only a change of status is dated", () => {
    const before = withStatuses(["up"]);
    const [delayed] = withNode(before, nodeId(0), { delay: 5 }, 77).nodes;
    const [same] = withNode(before, nodeId(0), { status: "up" }, 77).nodes;
    expect([delayed?.delay, delayed?.lastStatusChange, same?.lastStatusChange]).toEqual([5, 0, 0]);
  });

  test("the same primary again is no new snapshot", () => {
    const state = withStatuses(["up", "up"]);
    expect(withPrimary(state, nodeId(0))).toBe(state);
    const moved = withPrimary(state, nodeId(1));
    expect([moved.version, moved.primary]).toEqual([state.version + 1, nodeId(1)]);
    expect(withPrimary(moved, undefined).primary).toBeUndefined();
  });
});
