import { describe, expect, test } from "bun:test";
import { type ClusterState, nodeId } from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";
import type { BackendConfig } from "../../../core/config/schema.ts";
import type { Log } from "../../../core/ports.ts";
import { Controller } from "../../../proxy/cluster/controller.ts";

/** The backends of a pgpool.conf with these ports and weights. */
function backendsOf(...nodes: readonly { readonly port: number; readonly weight?: number }[]) {
  const lines = nodes.flatMap(({ port, weight }, id) => [
    `backend_hostname${id} = 'h${id}'`,
    `backend_port${id} = ${port}`,
    `backend_weight${id} = ${weight ?? 1}`,
  ]);
  const text = lines.join("\n");
  const { config } = loadConfig({
    file: "/etc/pgpool.conf",
    readFile: (path) => (path === "/etc/pgpool.conf" ? text : undefined),
    osHostname: "localhost",
  });
  return config.backends;
}

class Desk {
  readonly said: string[] = [];
  readonly written: string[] = [];
  readonly published: ClusterState[] = [];
  stored: string | undefined;
  failing = false;
  now = 1000;
  readonly controller: Controller;

  constructor(backends: readonly BackendConfig[], stored?: string) {
    this.stored = stored;
    const log: Log = {
      enabled: () => true,
      write: (severity, message) => void this.said.push(`${severity} ${message}`),
      as: () => log,
    };
    this.controller = new Controller({
      mode: "streaming_replication",
      backends,
      log,
      clock: () => this.now,
      store: {
        path: "/log/pgpool_status",
        read: () => {
          this.#mayFail();
          return this.stored === undefined ? undefined : new TextEncoder().encode(this.stored);
        },
        write: (text) => {
          this.#mayFail();
          this.stored = text;
          this.written.push(text);
        },
        remove: () => {
          this.#mayFail();
          this.stored = undefined;
        },
      },
    });
    this.controller.subscribe((state) => this.published.push(state));
  }

  #mayFail(): void {
    if (this.failing) throw new Error("disk full");
  }

  get statuses(): readonly string[] {
    return this.controller.state.nodes.map(({ status }) => status);
  }
}

const two = backendsOf({ port: 5001 }, { port: 5002 });

describe("Controller", () => {
  test("begins with every node waiting, which counts as up in the file", () => {
    const desk = new Desk(two);
    desk.controller.recall(false);
    expect(desk.statuses).toEqual(["waiting", "waiting"]);
    expect(desk.stored).toBe("up\nup\n");
    expect(desk.said).toEqual(["LOG Backend status file /log/pgpool_status does not exist"]);
  });

  test("takes over what the file says", () => {
    const desk = new Desk(two, "down\nup\n");
    desk.controller.recall(false);
    expect(desk.statuses).toEqual(["down", "up"]);
    expect(desk.said).toEqual([
      "LOG reading status file: 0 th backend is set to down status",
      "LOG reading status file: 1 th backend is set to up status",
    ]);
  });

  test("does not believe a file in which no node is up", () => {
    const desk = new Desk(two, "down\ndown\n");
    desk.controller.recall(false);
    expect(desk.statuses).toEqual(["waiting", "waiting"]);
  });

  test("discards the file when told to", () => {
    const desk = new Desk(two, "down\nup\n");
    desk.controller.recall(true);
    expect(desk.statuses).toEqual(["waiting", "waiting"]);
    expect(desk.said).toEqual(["LOG Backend status file /log/pgpool_status discarded"]);
    expect(desk.stored).toBe("up\nup\n");
  });

  test("warns of lines that say nothing", () => {
    const desk = new Desk(two, "up\n???\n");
    desk.controller.recall(false);
    expect(desk.said[0]).toBe("WARNING invalid data in status file, ignoring...");
  });

  test("the first connection makes a waiting node up, once, and says so to the file", () => {
    const desk = new Desk(two);
    desk.now = 5000;
    desk.controller.connected(nodeId(1));
    desk.controller.connected(nodeId(1));
    expect(desk.statuses).toEqual(["waiting", "up"]);
    expect(desk.controller.state.nodes[1]?.lastStatusChange).toBe(5000);
    expect([desk.published.length, desk.written.length]).toEqual([1, 1]);
  });

  test("a connection does not bring back a node that is down", () => {
    const desk = new Desk(two, "down\nup\n");
    desk.controller.recall(false);
    desk.controller.connected(nodeId(0));
    expect(desk.statuses).toEqual(["down", "up"]);
  });

  test("several changes are one snapshot, and what is not named stays", () => {
    const desk = new Desk(two);
    desk.controller.setPrimary(nodeId(0));
    desk.controller.report(nodeId(0), { replicationState: "streaming", delay: 7 });
    const { version } = desk.controller.state;
    desk.controller.change({
      statuses: new Map([[nodeId(0), "down"]]),
      primary: { is: undefined },
      ongoing: { is: "failover" },
    });
    const { state } = desk.controller;
    expect(desk.statuses).toEqual(["down", "waiting"]);
    expect(state).toMatchObject({ version: version + 1, ongoing: "failover" });
    expect(state.primary).toBeUndefined();
    expect(state.nodes[0]).toMatchObject({ replicationState: "", delay: 0 });
    desk.controller.change({ ongoing: { is: undefined } });
    expect(desk.controller.state.ongoing).toBeUndefined();
    expect(desk.statuses).toEqual(["down", "waiting"]);
  });

  test("with every node down the file keeps the last useful state", () => {
    const desk = new Desk(two);
    for (const id of [0, 1]) {
      desk.controller.change({ statuses: new Map([[nodeId(id), "down"]]) });
      desk.controller.record();
    }
    expect(desk.stored).toBe("down\nup\n");
    expect(desk.said.at(-1)).toStartWith("WARNING All the DB nodes are in down status");
  });

  test("a file that cannot be written is a warning, and is written when it can be", () => {
    const desk = new Desk(two);
    desk.failing = true;
    desk.controller.connected(nodeId(0));
    expect(desk.statuses).toEqual(["up", "waiting"]);
    const warning = "WARNING could not write status file /log/pgpool_status";
    expect(desk.said).toEqual([warning]);
    desk.controller.report(nodeId(0), { serverRole: "primary" });
    expect(desk.said).toEqual([warning]);
    desk.failing = false;
    desk.controller.report(nodeId(0), { serverRole: "primary" });
    expect(desk.written).toEqual(["up\nup\n"]);
    desk.controller.report(nodeId(1), { serverRole: "standby" });
    expect(desk.written).toHaveLength(1);
  });

  test("a file that cannot be read or removed is a warning, and all nodes are tried", () => {
    for (const [discard, verb] of [
      [false, "read"],
      [true, "remove"],
    ] as const) {
      const desk = new Desk(two, "down\nup\n");
      desk.failing = true;
      desk.controller.recall(discard);
      expect(desk.statuses).toEqual(["waiting", "waiting"]);
      expect(desk.said[0]).toBe(`WARNING could not ${verb} status file /log/pgpool_status`);
    }
  });

  test("publishes only what is new, each with a higher version", () => {
    const desk = new Desk(two);
    const { controller, published } = desk;
    controller.report(nodeId(1), { serverRole: "standby", delay: 5 });
    controller.report(nodeId(1), { serverRole: "standby", delay: 5 });
    controller.setPrimary(nodeId(0));
    controller.setPrimary(nodeId(0));
    controller.report(nodeId(9), { delay: 1 });
    expect(published.map(({ version }) => version)).toEqual([2, 3]);
    expect(published.at(-1)).toBe(controller.state);
    expect(desk.written).toEqual([]);
  });

  test("a reload changes weights, and adds nodes that are down until attached", () => {
    const desk = new Desk(two);
    desk.controller.connected(nodeId(0));
    desk.controller.reconfigure(
      backendsOf({ port: 5001, weight: 3 }, { port: 5002, weight: 1 }, { port: 5003, weight: 4 }),
    );
    expect(desk.statuses).toEqual(["up", "waiting", "down"]);
    expect(desk.controller.state.nodes.map(({ weight }) => weight)).toEqual([3 / 8, 1 / 8, 1 / 2]);
    expect(desk.stored).toBe("up\nup\ndown\n");
  });
});
