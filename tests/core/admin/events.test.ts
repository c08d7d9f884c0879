import { expect, test } from "bun:test";
import { EventHistory, eventsBetween } from "../../../core/admin/events.ts";
import { nodeId, withNode, withPrimary } from "../../../core/cluster/state.ts";
import { AT, cluster } from "./views.ts";

const one = nodeId(1);

test("statuses and the primary make events, and nothing else does", () => {
  const lagging = withNode(cluster, one, { delay: 9 }, AT);
  expect(eventsBetween(cluster, lagging, AT)).toEqual([]);
  const down = withPrimary(withNode(cluster, one, { status: "down" }, AT), one);
  expect(eventsBetween(cluster, down, AT)).toEqual([
    { at: AT, node: one, text: "node 1 (127.0.0.1:25002) is down, was up" },
    { at: AT, node: one, text: "node 1 (127.0.0.1:25002) is the primary" },
  ]);
  const lost = withPrimary(cluster, undefined);
  expect(eventsBetween(cluster, lost, AT).map(({ text }) => text)).toEqual(["no primary"]);
});

test("a node that is new in a reloaded file is told of", () => {
  const smaller = { ...cluster, nodes: cluster.nodes.slice(0, 1) };
  expect(eventsBetween(smaller, cluster, AT).map(({ text }) => text)).toEqual([
    "node 1 (127.0.0.1:25002) is up",
  ]);
});

test("the last fifty are kept", () => {
  const history = new EventHistory(cluster);
  for (let at = 0; at < 120; at++) {
    const status = at % 2 === 0 ? "down" : "up";
    history.note(withNode(cluster, one, { status }, at), at);
  }
  expect(history.events.length).toBe(50);
  expect(history.events.at(-1)?.at).toBe(119);
  expect(history.events[0]?.at).toBe(70);
});
