import { expect, test } from "bun:test";
import { SnapshotGate } from "../../proxy/snapshots.ts";

test("commits and snapshots exclude each other, in the order in which they came", () => {
  const gate = new SnapshotGate();
  const [first, snapshot, second] = [
    gate.enter("commit"),
    gate.enter("snapshot"),
    gate.enter("commit"),
  ];
  const states = () => [first, snapshot, second].map(({ state }) => state);
  expect(states()).toEqual(["inside", "waiting", "waiting"]);
  gate.leave(first);
  expect(states()).toEqual(["over", "inside", "waiting"]);
  gate.leave(snapshot);
  expect(states()).toEqual(["over", "over", "inside"]);
});

test("a commit that waits for the locks of another one is not waited for by that", () => {
  const gate = new SnapshotGate();
  const [first, snapshot, second] = [
    gate.enter("commit"),
    gate.enter("snapshot"),
    gate.enter("commit"),
  ];
  let turns = 0;
  second.onTurn = () => turns++;
  gate.tick();
  expect(turns).toBe(1);
  expect([first, snapshot, second].map(({ state }) => state)).toEqual([
    "inside",
    "waiting",
    "inside",
  ]);
  gate.leave(second);
  gate.tick();
  gate.leave(first);
  expect(snapshot.state).toBe("inside");
  gate.tick();
  const late = gate.enter("commit");
  gate.tick();
  expect([snapshot.state, late.state]).toEqual(["inside", "waiting"]);
});
