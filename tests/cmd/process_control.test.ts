/** Stops that grow harder, a reload that fails: `ServerControl` over a server of promises. */
import { describe, expect, test } from "bun:test";
import { ServerControl } from "../../cmd/process_control.ts";
import type { Log, StopMode } from "../../core/ports.ts";

function stage() {
  const said: string[] = [];
  const log: Log = {
    enabled: () => true,
    write: (severity, message, fields) =>
      void said.push(`${severity} ${message}${fields?.detail ? ` (${fields.detail})` : ""}`),
    as: () => log,
  };
  const did: string[] = [];
  let empty: () => void = () => undefined;
  const emptied = new Promise<void>((resolve) => {
    empty = resolve;
  });
  const control = new ServerControl({
    log,
    closeDoors: async () => void did.push("closed"),
    untilEmpty: () => {
      did.push("waits");
      return emptied;
    },
    endClients: () => void did.push("ended"),
    reload: () => {
      throw new Error("no such file");
    },
    rotateLog: () => false,
  });
  let stopped = false;
  void control.stopped.then(() => {
    stopped = true;
  });
  const settle = async () => {
    for (let turns = 0; turns < 10; turns++) await Promise.resolve();
    return stopped;
  };
  return { control, did, said, empty, settle };
}

describe("a stop", () => {
  const cases: [string, StopMode[], string[], boolean][] = [
    ["smart waits", ["smart"], ["closed", "waits"], false],
    ["smart asked again changes nothing", ["smart", "smart"], ["closed", "waits"], false],
    ["fast ends the clients and waits for them", ["fast"], ["closed", "ended", "waits"], false],
    ["immediate waits for nobody", ["immediate"], ["closed", "ended"], true],
    ["smart becomes fast", ["smart", "fast"], ["closed", "waits", "ended", "waits"], false],
    [
      "fast asked again is immediate",
      ["fast", "fast"],
      ["closed", "ended", "waits", "ended"],
      true,
    ],
    ["fast never becomes smart", ["fast", "smart"], ["closed", "ended", "waits"], false],
    ["smart becomes immediate", ["smart", "immediate"], ["closed", "waits", "ended"], true],
  ];
  test.each(cases)("%s", async (_, modes, deeds, over) => {
    const { control, did, empty, settle } = stage();
    expect(control.stopping).toBe(false);
    for (const mode of modes) {
      control.stop(mode);
      await settle();
    }
    expect(control.stopping).toBe(true);
    expect(did).toEqual(deeds);
    expect(await settle()).toBe(over);
    empty();
    expect(await settle()).toBe(true);
  });

  test("names its signal, each time that it grows harder", () => {
    const { control, said } = stage();
    control.stop("smart");
    control.stop("smart");
    control.stop("fast");
    expect(said).toEqual([
      "LOG exit handler called (signal: 15)",
      "LOG shutting down by signal 15",
      "LOG terminating all child processes",
      "LOG exit handler called (signal: 2)",
      "LOG shutting down by signal 2",
    ]);
  });

  test("fails when the sockets cannot be closed", async () => {
    const { control } = stage();
    const broken = new ServerControl({
      log: { enabled: () => false, write: () => undefined, as: () => broken as never },
      closeDoors: () => Promise.reject(new Error("stuck")),
      untilEmpty: () => Promise.resolve(),
      endClients: () => undefined,
      reload: () => undefined,
      rotateLog: () => true,
    });
    broken.stop("fast");
    await expect(broken.stopped).rejects.toThrow("stuck");
    expect(control.rotateLog()).toBe(false);
  });
});

test("a reload that fails is a warning", () => {
  const { control, said } = stage();
  control.reload();
  expect(said).toEqual(["WARNING reload failed (no such file)"]);
});
