import { describe, expect, test } from "bun:test";
import type { Motion, OrderResult, Verdict } from "../../../core/cluster/control.ts";
import type { FailoverRequest } from "../../../core/cluster/failover.ts";
import { type NodeId, nodeId } from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";
import type { Log } from "../../../core/ports.ts";
import { Controller } from "../../../proxy/cluster/controller.ts";
import { Failover } from "../../../proxy/cluster/failover.ts";

/** Every promise that can go on has gone on. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** A queue over three nodes whose commands end, and whose searches succeed, when the test says so. */
class Desk {
  readonly said: string[] = [];
  readonly runs: { readonly text: string; end(): void }[] = [];
  readonly pauses: (() => void)[] = [];
  primary: number | undefined = 0;
  searches = 0;
  now = 0;
  verdict: Verdict = "proceed";
  readonly motions: Motion[] = [];
  readonly controller: Controller;
  readonly failover: Failover;

  constructor(changes: Readonly<Record<string, string>> = {}) {
    const lines = [0, 1, 2].map(
      (id) => `backend_hostname${id}='h${id}'\nbackend_port${id}=${5000 + id}`,
    );
    for (const [name, value] of Object.entries(changes)) lines.push(`${name} = '${value}'`);
    const readFile = (path: string) => (path === "/c" ? lines.join("\n") : undefined);
    const { config } = loadConfig({ file: "/c", readFile, osHostname: "localhost" });
    const log: Log = {
      enabled: () => true,
      write: (_, message) => void this.said.push(message),
      as: () => log,
    };
    const clock = () => this.now;
    const store = { path: "s", read: () => undefined, write() {}, remove() {} };
    const { backends } = config;
    this.controller = new Controller({
      mode: "streaming_replication",
      backends,
      store,
      log,
      clock,
    });
    this.controller.setPrimary(nodeId(0));
    this.failover = new Failover({
      controller: this.controller,
      rules: () => config,
      log,
      pid: 9,
      clock,
      findPrimary: async () => {
        this.searches++;
        return this.primary === undefined ? undefined : nodeId(this.primary);
      },
      elect: async () => undefined,
      run: (text) => new Promise((end) => void this.runs.push({ text, end })),
      pause: (_, signal) =>
        new Promise((resolve) => {
          this.pauses.push(resolve);
          signal.addEventListener("abort", () => resolve(), { once: true });
        }),
      judge: async (_, motion) => {
        this.motions.push(motion);
        return this.verdict;
      },
      follow: async (begins) => void this.said.push(begins ? "follow begins" : "follow ends"),
    });
  }

  detach(...nodes: number[]): Promise<OrderResult> {
    return this.failover.request(detachOf(...nodes));
  }

  get statuses(): string {
    return this.controller.state.nodes.map(({ status }) => status).join(" ");
  }

  async endRun(): Promise<void> {
    await settled();
    this.runs.shift()?.end();
    await settled();
  }
}

const detachOf = (...nodes: number[]): FailoverRequest => ({
  kind: "detach",
  nodes: nodes.map((id): NodeId => nodeId(id)),
  why: "",
});

describe("the queue of transitions", () => {
  test("carries out one after the other, in the order they were asked", async () => {
    const desk = new Desk({ failover_command: "%d" });
    const both = [desk.detach(1), desk.detach(2)];
    await settled();
    expect(desk.statuses).toBe("waiting down waiting");
    expect(desk.controller.state.ongoing).toBe("failover");
    await desk.endRun();
    expect(desk.statuses).toBe("waiting down down");
    await desk.endRun();
    expect(await Promise.all(both)).toEqual([{ kind: "done" }, { kind: "done" }]);
    expect(desk.controller.state.ongoing).toBeUndefined();
  });

  test("what a hundred sessions ask is done once, and all of them are answered", async () => {
    const desk = new Desk({ failover_command: "%d" });
    const first = desk.detach(1);
    await settled();
    const many = Array.from({ length: 100 }, () => desk.detach(2));
    await settled();
    await desk.endRun();
    await desk.endRun();
    expect(desk.runs).toEqual([]);
    await first;
    expect(new Set((await Promise.all(many)).map(({ kind }) => kind))).toEqual(new Set(["done"]));
    expect(desk.said.filter((line) => line.startsWith("=== Starting"))).toHaveLength(2);
  });

  test("holds ten; what is beyond is refused", async () => {
    const desk = new Desk({ failover_command: "%d" });
    void desk.detach(1);
    await settled();
    const pairs = [0, 1, 2].flatMap((a) =>
      [0, 1, 2].flatMap((b) => [0, 1, 2].map((c) => [a, b, c])),
    );
    const results = pairs.slice(0, 12).map((nodes) => desk.detach(...nodes));
    await settled();
    const last = await Promise.race([results[11], settled().then(() => undefined)]);
    expect(last).toEqual({ kind: "refused", why: "too many failover requests are waiting" });
    expect(desk.failover.busy).toBe(true);
  });

  test("a search for the primary gives way to what is asked, and goes on afterwards", async () => {
    const desk = new Desk();
    desk.primary = undefined;
    const lost = desk.detach(0);
    await settled();
    expect(desk.searches).toBe(1);
    const other = desk.detach(2);
    await settled();
    expect((await lost).kind).toBe("done");
    await settled();
    expect(desk.statuses).toBe("down waiting down");
    desk.now += 6000; // too long for the second one to wait
    desk.pauses.at(-1)?.();
    expect((await other).kind).toBe("done");
    await settled();
    expect(desk.failover.busy).toBe(true);
    desk.primary = 1;
    desk.pauses.at(-1)?.();
    await settled();
    expect(desk.controller.state.primary).toBe(nodeId(1));
    expect(desk.failover.busy).toBe(false);
  });

  test("a long search keeps nobody waiting, and standbys follow who is found in the end", async () => {
    const desk = new Desk({ follow_primary_command: "%d" });
    desk.primary = undefined;
    const lost = desk.detach(0);
    await settled();
    expect(desk.controller.state.ongoing).toBe("failover");
    desk.now += 6000;
    desk.pauses.at(-1)?.();
    expect(await lost).toEqual({ kind: "done" });
    await settled();
    expect(desk.controller.state.ongoing).toBeUndefined();
    expect(desk.failover.busy).toBe(true);
    desk.primary = 1;
    desk.pauses.at(-1)?.();
    await settled();
    expect(desk.statuses).toBe("down waiting down");
    expect(desk.said).toContain("failover: set new primary node: 1");
    expect(desk.failover.following).toBe(true);
  });

  test("where there never was a primary an order waits for none", async () => {
    const desk = new Desk();
    desk.primary = undefined;
    desk.controller.setPrimary(undefined);
    expect(await desk.detach(1)).toEqual({ kind: "done" });
    expect(desk.statuses).toBe("waiting down waiting");
    expect(desk.failover.busy).toBe(true); // the search goes on
  });

  test("the last node may come back to be the primary, where we watch over it", async () => {
    for (const [method, busy] of [
      ["command", false],
      ["promote", true],
    ] as const) {
      const desk = new Desk({ failover_method: method });
      desk.primary = undefined;
      const all = [desk.detach(1, 2), desk.detach(0)];
      await settled();
      expect(desk.statuses).toBe("down down down");
      expect(desk.failover.busy).toBe(busy);
      desk.now += 6000;
      desk.pauses.at(-1)?.();
      await Promise.all(all);
      await settled();
      desk.primary = 0;
      const request = { kind: "attach", node: nodeId(0), asBefore: true } as const;
      expect(await desk.failover.request(request)).toEqual({ kind: "done" });
      expect(desk.statuses).toBe("waiting down down");
      expect(desk.controller.state.primary).toBe(nodeId(0));
    }
  });

  test("a search ends with its time", async () => {
    const desk = new Desk({ search_primary_node_timeout: "10" });
    desk.primary = undefined;
    const lost = desk.detach(0);
    await settled();
    desk.now += 10_000;
    desk.pauses.at(-1)?.();
    expect(await lost).toEqual({ kind: "done" });
    await settled();
    expect(desk.said).toContain("failed to find primary node");
    expect(desk.failover.busy).toBe(false);
  });

  test("while it is held nothing begins, but what the holder attaches", async () => {
    const desk = new Desk();
    await desk.detach(1);
    const hold = await desk.failover.hold();
    const waiting = desk.detach(2);
    await settled();
    expect(desk.statuses).toBe("waiting down waiting");
    expect(await hold.attach(nodeId(1))).toEqual({ kind: "done" });
    expect(desk.statuses).toBe("waiting waiting waiting");
    hold.release();
    hold.release();
    expect(await waiting).toEqual({ kind: "done" });
    expect(desk.statuses).toBe("waiting waiting down");
  });

  test("the vote decides, also on an operator's word, which it is told of", async () => {
    const desk = new Desk();
    desk.verdict = "open";
    expect((await desk.detach(1)).kind).toBe("refused");
    desk.verdict = "done_elsewhere";
    expect(await desk.failover.request(detachOf(2), { confirmed: true })).toEqual({ kind: "done" });
    expect(desk.statuses).toBe("waiting waiting waiting");
    desk.verdict = "quarantine";
    expect((await desk.detach(1)).kind).toBe("done");
    expect(desk.statuses).toBe("waiting quarantine waiting");
    expect(desk.motions.map(({ confirmed }) => confirmed)).toEqual([false, true, false]);
    desk.verdict = "cancelled";
    await desk.failover.request(detachOf(2), { decided: true });
    expect(desk.statuses).toBe("waiting quarantine down");
  });

  test("a backend in quarantine that is voted on again stays so, or is detached", async () => {
    const desk = new Desk();
    desk.verdict = "quarantine";
    await desk.detach(1);
    const said = desk.said.length;
    expect((await desk.failover.request(detachOf(1), { again: true })).kind).toBe("refused");
    expect(desk.said.length).toBe(said);
    desk.verdict = "proceed";
    await desk.failover.request(detachOf(1), { again: true });
    expect(desk.statuses).toBe("waiting down waiting");
  });

  test("what the leader says of the nodes is taken over without a command, and ends quarantine", async () => {
    const desk = new Desk({ failover_command: "fail %d", failback_command: "back %d" });
    desk.verdict = "quarantine";
    await desk.detach(0);
    expect(desk.controller.state.quarantinedPrimary).toBe(nodeId(0));
    const told = (...statuses: ("waiting" | "down")[]) =>
      new Map(statuses.map((status, id) => [nodeId(id), status] as const));
    const adopt = (statuses: ReturnType<typeof told>, primary: number) =>
      desk.failover.request({ kind: "adopt", statuses, primary: nodeId(primary) });
    await adopt(told("waiting", "waiting", "down"), 1);
    expect(desk.statuses).toBe("waiting waiting down");
    expect(desk.controller.state.primary).toBe(nodeId(1));
    expect(desk.controller.state.quarantinedPrimary).toBeUndefined();
    expect((await adopt(told("waiting", "waiting", "down"), 1)).kind).toBe("refused");
    expect(desk.runs).toEqual([]);
    expect(desk.searches).toBe(0);
  });

  test("follow_primary_command runs behind, node by node, and nobody doubts the primary meanwhile", async () => {
    const desk = new Desk({ follow_primary_command: "%d" });
    desk.primary = 1;
    expect(await desk.detach(0)).toEqual({ kind: "done" });
    await settled();
    expect(desk.statuses).toBe("down waiting down");
    expect([desk.failover.busy, desk.failover.following]).toEqual([false, true]);
    const before = desk.searches;
    expect(await desk.failover.request({ kind: "attach", node: nodeId(2) })).toEqual({
      kind: "done",
    });
    expect(desk.searches).toBe(before);
    await settled();
    expect(desk.runs.map(({ text }) => text)).toEqual(["0"]);
    await desk.endRun();
    expect(desk.runs.map(({ text }) => text)).toEqual(["2"]);
    await desk.endRun();
    expect(desk.failover.following).toBe(false);
  });
});
