import { describe, expect, test } from "bun:test";
import type { Motion } from "../../core/cluster/control.ts";
import type { FailoverRequest } from "../../core/cluster/failover.ts";
import { type ClusterState, type NodeStatus, nodeId } from "../../core/cluster/state.ts";
import { type Call, callOf, isCarriedOut, requestsOf, viewOf } from "../../watchdog/requests.ts";

const order: Motion = { confirmed: true, switchover: false, again: false };
const vote: Motion = { confirmed: false, switchover: false, again: false };
const one = nodeId(1);

describe("requests on the wire", () => {
  test.each<[string, FailoverRequest, Motion, string, number]>([
    [
      "pcp_detach_node",
      detach("x"),
      { ...order, switchover: true },
      "DEGENERATE_BACKEND_REQUEST",
      5,
    ],
    ["a primary's health check", detach("x"), vote, "DEGENERATE_BACKEND_REQUEST", 0],
    ["one more vote", detach("x"), { ...vote, again: true }, "DEGENERATE_BACKEND_REQUEST", 8],
    ["pcp_attach_node", { kind: "attach", node: one }, order, "FAILBACK_REQUEST", 4],
    ["pcp_promote_node", { kind: "promote", node: one }, order, "PROMOTE_BACKEND_REQUEST", 4],
    ["a switchover", { kind: "switchover", node: one }, order, "DEGENERATE_BACKEND_REQUEST", 21],
  ])("%s comes back as what it was", (_, request, motion, name, flags) => {
    const call = callOf(request, motion);
    expect(call).toEqual({ name, flags, nodes: [1] } as never);
    if (call === undefined) return;
    const [back, ...more] = requestsOf(call.name, call.nodes, call.flags);
    expect(more).toEqual([]);
    expect(back?.kind).toBe(request.kind);
    if (back?.kind === "detach") expect(back.byOperator).toBe(motion.confirmed);
  });

  test("what is nobody else's business is not told", () => {
    const own: FailoverRequest[] = [
      { kind: "restore", node: one },
      { kind: "quarantine", nodes: [one], why: "" },
      { kind: "find", lost: undefined },
      { kind: "adopt", statuses: new Map(), primary: undefined },
    ];
    expect(own.map((request) => callOf(request, vote))).toEqual([
      undefined,
      undefined,
      undefined,
      undefined,
    ]);
  });
});

function detach(why: string): FailoverRequest {
  return { kind: "detach", nodes: [one], why };
}

const state = (primary: number | undefined, ...statuses: NodeStatus[]): ClusterState => ({
  version: 1,
  mode: "streaming_replication",
  primary: primary === undefined ? undefined : nodeId(primary),
  nodes: statuses.map((status, id) => ({
    ...{ id: nodeId(id), hostname: "h", port: 5432, status, serverRole: "unknown" as const },
    ...{ weight: 1, delay: 0, delayByTime: false, replicationState: "" },
    ...{ replicationSyncState: "", lastStatusChange: 0 },
  })),
});

describe("what another node carries out", () => {
  const call = (name: Call["name"], flags = 0): Call => ({ name, flags, nodes: [1] });
  test.each<[string, Call, ClusterState, boolean]>([
    ["a detach, not yet", call("DEGENERATE_BACKEND_REQUEST"), state(0, "up", "up"), false],
    ["a detach", call("DEGENERATE_BACKEND_REQUEST"), state(0, "up", "down"), true],
    ["an attach, not yet", call("FAILBACK_REQUEST"), state(0, "up", "down"), false],
    ["an attach", call("FAILBACK_REQUEST"), state(0, "up", "waiting"), true],
    ["a promotion, not yet", call("PROMOTE_BACKEND_REQUEST"), state(0, "up", "up"), false],
    ["a promotion", call("PROMOTE_BACKEND_REQUEST"), state(1, "down", "up"), true],
    ["a switchover", call("DEGENERATE_BACKEND_REQUEST", 21), state(1, "down", "up"), true],
    ["an attach of no node there is", call("FAILBACK_REQUEST"), state(0, "up"), false],
  ])("%s", (_, asked, heard, done) => {
    expect(isCarriedOut(asked, heard)).toBe(done);
  });
});

describe("how backends stand, as others hear it", () => {
  test("one in quarantine counts as waiting", () => {
    const view = viewOf(state(1, "quarantine", "up", "down", "waiting", "unused"), true);
    expect(view.status).toEqual({ statuses: [1, 2, 3, 1, 0], primary: 1 });
    expect(view.quarantined).toEqual([0]);
  });

  test("that there is no primary is said once it has been looked for", () => {
    expect(viewOf(state(undefined, "up"), false).status.primary).toBe(-2);
    expect(viewOf(state(undefined, "up"), true).status.primary).toBe(-1);
  });
});
