import { expect, test } from "bun:test";
import { nodeId } from "../../../core/cluster/state.ts";
import { lsnOf, StandbyProgress } from "../../../proxy/cache/standby_progress.ts";

const standby = nodeId(1);

function stage() {
  const time = { now: 0 };
  return { time, progress: new StandbyProgress(() => time.now) };
}

test("a standby shows a change when it has replayed a position asked for after it", () => {
  const { time, progress } = stage();
  expect(progress.next(standby, 5)).toBe("position");
  progress.notePosition(5, 100n);
  expect(progress.next(standby, 5)).toBe("replayed");
  progress.noteReplayed(standby, 99n);
  expect(progress.shows(standby, 5, 0)).toBe(false);
  time.now += 100;
  expect(progress.next(standby, 5)).toBe("replayed");
  progress.noteReplayed(standby, 100n);
  expect(progress.shows(standby, 5, 0)).toBe(true);
  expect(progress.shows(standby, 6, 0)).toBe(false);
});

test("nothing is asked again at once", () => {
  const { progress } = stage();
  expect([1, 2].map(() => progress.next(standby, 5))).toEqual(["position", "nothing"]);
});

test("a connection that was opened later learns it anew: the server may have been started again", () => {
  const { progress } = stage();
  progress.notePosition(5, 100n);
  progress.noteReplayed(standby, 200n);
  const since = progress.serial;
  expect(progress.shows(standby, 5, since)).toBe(false);
  progress.noteReplayed(standby, 200n);
  expect(progress.shows(standby, 5, since)).toBe(true);
});

test("one that lags behind is found to have come as far as an earlier position", () => {
  const { progress } = stage();
  for (let version = 1; version <= 10; version++)
    progress.notePosition(version, BigInt(version * 10));
  progress.noteReplayed(standby, 45n);
  expect([4, 5].map((version) => progress.shows(standby, version, 0))).toEqual([true, false]);
});

test("positions are read as PostgreSQL writes them", () => {
  expect(lsnOf("16/B374D848")).toBe(0x16_b374d848n);
  for (const text of [null, undefined, "", "1", "g/1", "1/2/3"])
    expect(lsnOf(text)).toBeUndefined();
});
