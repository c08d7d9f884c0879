/**
 * The control plane in a world that is played: virtual time, servers that are killed, hang, come
 * back and flap, sessions that report and operators that order. The queue, the transitions, the
 * health checks and the promotion's decision are the real ones.
 */
import { describe, expect, test } from "bun:test";
import type { LostPrimary } from "../../../core/cluster/failover.ts";
import { judgePrimary } from "../../../core/cluster/primary.ts";
import { decidePromotion, type Fence } from "../../../core/cluster/promotion.ts";
import {
  type ClusterState,
  changeOf,
  isLive,
  type NodeId,
  nodeId,
} from "../../../core/cluster/state.ts";
import { loadConfig } from "../../../core/config/load.ts";
import type { Log } from "../../../core/ports.ts";
import { Controller } from "../../../proxy/cluster/controller.ts";
import { Failover } from "../../../proxy/cluster/failover.ts";
import { HealthChecks } from "../../../proxy/cluster/health_check.ts";
import { randomOf } from "../../random.ts";

/** How a lost primary is replaced; or the mode in which there is none. */
type Method = "command" | "promote" | "promote after fencing" | "native replication";
const isNative = (method: Method): boolean => method === "native replication";

/** What is due, in the order of time and then of asking. */
class VirtualTime {
  now = 1_000_000;
  #due: { at: number; wake: () => void }[] = [];

  after(ms: number, wake: () => void): () => void {
    const entry = { at: this.now + ms, wake };
    const place = this.#due.findIndex(({ at }) => at > entry.at);
    this.#due.splice(place < 0 ? this.#due.length : place, 0, entry);
    return () => {
      this.#due = this.#due.filter((each) => each !== entry);
    };
  }

  sleep(ms: number, signal?: AbortSignal): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.after(ms, done);
      function done() {
        cancel();
        signal?.removeEventListener("abort", done);
        resolve();
      }
      signal?.addEventListener("abort", done, { once: true });
    });
  }

  /** Everything up to that moment happens, each thing with all that follows at once from it. */
  async run(until: number): Promise<void> {
    await settled();
    for (;;) {
      const next = this.#due[0];
      if (next === undefined || next.at > until) break;
      this.#due.shift();
      this.now = Math.max(this.now, next.at);
      next.wake();
      await settled();
    }
    this.now = until;
  }
}

/** All promises that can go on have gone on. */
const settled = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

type Server = {
  life: "up" | "dead" | "hung";
  primary: boolean;
  /** Commits that it has. */
  has: number;
  timeline: number;
  follows: number;
};

class World {
  readonly time = new VirtualTime();
  readonly random: () => number;
  readonly servers: Server[];
  readonly log: string[] = [];
  readonly runs: string[] = [];
  readonly states: ClusterState[] = [];
  readonly controller: Controller;
  readonly failover: Failover;
  readonly health: HealthChecks;
  readonly method: Method;
  written = 0;
  /** Commits up to this one were acknowledged; each needs one standby. */
  acknowledged = 0;
  promotions = 0;
  shots = 0;
  #fenced: NodeId | undefined;

  constructor(seed: number, method: Method, count: number) {
    this.method = method;
    this.random = randomOf(seed);
    this.servers = Array.from({ length: count }, (_, id) => ({
      life: "up" as const,
      primary: id === 0,
      has: 0,
      timeline: 1,
      follows: 0,
    }));
    const config = configOf(count, method);
    const log: Log = {
      enabled: () => true,
      write: (_, message) => void this.log.push(message),
      as: () => log,
    };
    const clock = () => this.time.now;
    this.controller = new Controller({
      mode: isNative(method) ? "native_replication" : "streaming_replication",
      backends: config.backends,
      store: { path: "status", read: () => undefined, write() {}, remove() {} },
      log,
      clock,
    });
    this.failover = new Failover({
      controller: this.controller,
      rules: () => config,
      log,
      pid: 1,
      findPrimary: () => this.#findPrimary(),
      elect: (lost) => this.#elect(lost),
      run: (text) => this.#run(text),
      pause: (ms, signal) => this.time.sleep(ms, signal),
      clock,
      judge: async () => "proceed",
      follow: async () => {},
    });
    this.health = new HealthChecks({
      factsOf: (node) => this.#healthFacts(node),
      clock,
      after: (ms, wake) => this.time.after(ms, wake),
      log,
      attempt: (node, timeoutMs) => this.#attempt(node, timeoutMs),
      detach: (node, why) => void this.failover.request({ kind: "detach", nodes: [node], why }),
      attach: (node, restore) =>
        void this.failover.request({ kind: restore ? "restore" : "attach", node }),
    });
    let before = this.controller.state;
    this.controller.subscribe((state) => {
      this.states.push(state);
      const { joined, primary } = changeOf(before, state);
      before = state;
      if (primary !== undefined) this.#fenced = undefined;
      if (joined.length > 0) this.health.check(joined);
    });
  }

  async start(): Promise<void> {
    const searched = this.failover.search();
    await this.time.run(this.time.now + 1000);
    await searched;
    this.health.check(this.controller.state.nodes.map(({ id }) => id));
    this.#write();
  }

  /** A client that writes ten times a second, and standbys that receive it. */
  #write(): void {
    const chief = this.controller.state.primary;
    const server = chief === undefined ? undefined : this.servers[chief];
    if (server?.life === "up" && server.primary) {
      this.written++;
      server.has = this.written;
      const receivers = this.servers.filter(
        (each) => each.life === "up" && !each.primary && each.follows === chief,
      );
      for (const each of receivers) if (this.random() < 0.9) each.has = this.written;
      if (receivers.some((each) => each.has === this.written)) this.acknowledged = this.written;
    }
    this.time.after(100, () => this.#write());
  }

  #server(node: NodeId): Server {
    const server = this.servers[node];
    if (server === undefined) throw new Error(`no server ${node}`);
    return server;
  }

  async #attempt(node: NodeId, timeoutMs: number) {
    await this.time.sleep(5 + this.random() * 20);
    const { life } = this.#server(node);
    if (life === "up") return { kind: "answered" } as const;
    if (life === "dead") return { kind: "failed", why: "refused", timedOut: false } as const;
    await this.time.sleep(timeoutMs);
    return { kind: "failed", why: "too slow", timedOut: true } as const;
  }

  #healthFacts(node: NodeId) {
    const { status } = this.controller.state.nodes[node] ?? { status: "unused" };
    const server = this.#server(node);
    const chief = this.controller.state.primary;
    return {
      node,
      settings: {
        health_check_period: 1,
        health_check_timeout: 3,
        health_check_max_retries: 1,
        health_check_retry_delay: 1,
      },
      status,
      allowToFailover: true,
      streamsAgain:
        !isNative(this.method) &&
        server.life === "up" &&
        !server.primary &&
        server.follows === chief,
      autoFailbackIntervalMs: 0,
    };
  }

  async #findPrimary(): Promise<NodeId | undefined> {
    if (isNative(this.method)) throw new Error("there is no primary to look for");
    const { state } = this.controller;
    await this.time.sleep(5 + this.random() * 50);
    const answers = state.nodes
      .filter((node) => isLive(node) && this.#server(node.id).life === "up")
      .map(({ id }) => ({ node: id, inRecovery: !this.#server(id).primary }));
    return judgePrimary(answers, {
      alwaysPrimary: undefined,
      detachFalsePrimary: false,
      present: state.primary,
      placeOf: () => ({ hostname: "", port: 0 }),
    }).primary;
  }

  async #elect(lost: LostPrimary): Promise<NodeId | undefined> {
    await this.time.sleep(10 + this.random() * 40);
    const others = this.servers.flatMap((server, id) => (id === lost.node ? [] : [{ server, id }]));
    const live = others.filter(({ id }) => {
      const node = this.controller.state.nodes[id];
      return node !== undefined && isLive(node);
    });
    const old = this.#server(lost.node);
    const decision = decidePromotion({
      lost: lost.node,
      lostName: `s${lost.node}`,
      mayReturn: lost.mayReturn,
      fence: this.#fenceOf(lost.node),
      oldPrimary:
        old.life === "dead"
          ? { kind: "refused" }
          : old.life === "hung"
            ? { kind: "unclear", why: "silent", lives: false }
            : { kind: old.primary ? "primary" : "standby" },
      memory: {
        node: lost.node,
        systemIdentifier: "1",
        timeline: old.timeline,
        syncNames: `ANY 1 (${this.servers.map((_, id) => `s${id}`)})`,
        syncStates: new Map(),
      },
      standbys: live
        .filter(({ server }) => server.life === "up" && !server.primary)
        .map(({ server, id }) => ({
          node: nodeId(id),
          systemIdentifier: "1",
          timeline: server.timeline,
          lsn: BigInt(server.has),
          streaming: false,
          mayPromote: true,
        })),
      others: others.map(({ id }) => ({ node: nodeId(id), applicationName: `s${id}` })),
    });
    if (decision.kind === "return") {
      void this.failover.request({ kind: "attach", node: lost.node }, { confirmed: true });
    }
    if (decision.kind === "fence" && (await this.#fence(old))) {
      this.#fenced = lost.node;
      return await this.#elect(lost);
    }
    return decision.kind === "promote" ? await this.#promote(decision.node) : undefined;
  }

  #fenceOf(lost: NodeId): Fence {
    if (this.method !== "promote after fencing") return "none";
    return this.#fenced === lost ? "done" : "possible";
  }

  /** Sometimes it fails; else the old primary is off when it ends, and may be switched on later. */
  async #fence(old: Server): Promise<boolean> {
    await this.time.sleep(50 + this.random() * 1000);
    if (this.random() < 0.3) return false;
    this.shots++;
    old.life = "dead";
    return true;
  }

  /** The promise of failover_method = promote: nobody beside a primary, nothing acknowledged lost. */
  async #promote(node: NodeId): Promise<NodeId | undefined> {
    const rivals = this.servers.filter((server) => server.primary && server.life !== "dead");
    expect(rivals).toEqual([]);
    const heir = this.#server(node);
    if (heir.life !== "up") return undefined;
    expect(heir.has).toBeGreaterThanOrEqual(this.acknowledged);
    this.promotions++;
    this.#succeed(node);
    await this.time.sleep(100);
    return node;
  }

  #succeed(node: number): void {
    const heir = this.#server(nodeId(node));
    for (const server of this.servers) {
      if (server.primary && server.life === "dead") server.primary = false; // rewound before it returns
      server.follows = node;
    }
    heir.primary = true;
    heir.timeline++;
    this.written = heir.has;
    for (const server of this.servers) {
      server.timeline = heir.timeline;
      server.has = Math.min(server.has, heir.has);
    }
  }

  /** A failover_command that promotes the new main node when the primary is dead. */
  async #run(text: string): Promise<void> {
    this.runs.push(text);
    await this.time.sleep(this.random() * 300);
    const [, lost, main, primary] = /^(\d+) (-?\d+) (-?\d+)$/.exec(text)?.map(Number) ?? [];
    if (lost === undefined || lost !== primary || main === undefined || main < 0) return;
    const old = this.#server(nodeId(lost));
    if (old.life === "dead" && this.#server(nodeId(main)).life === "up") this.#succeed(main);
  }

  /** One thing that happens to the world, or is asked of the control plane. */
  act(): string {
    const id = Math.floor(this.random() * this.servers.length);
    const server = this.#server(nodeId(id));
    const request = (name: string, asked: Parameters<Failover["request"]>[0]) => {
      void this.failover.request(asked, { confirmed: true });
      return `${name} ${id}`;
    };
    const node = nodeId(id);
    const draw = this.random();
    if (draw < 0.25) {
      server.life = "dead";
      return `kill ${id}`;
    }
    if (draw < 0.35) {
      server.life = server.life === "up" ? "hung" : server.life;
      return `hang ${id}`;
    }
    if (draw < 0.6) {
      server.life = "up";
      return `heal ${id}`;
    }
    if (draw < 0.7)
      return request("detach", { kind: "detach", nodes: [node], why: "", byOperator: true });
    if (draw < 0.8) return request("attach", { kind: "attach", node });
    if (draw < 0.9) {
      for (let i = 0; i < 5; i++) request("suspect", { kind: "detach", nodes: [node], why: "x" });
      return `sessions suspect ${id}`;
    }
    return "nothing";
  }

  /**
   * Everything works again, also what a fencing that was under way has switched off since; a node that
   * does not come back by itself is attached by an operator.
   */
  async heal(): Promise<void> {
    for (let round = 0; round < 20; round++) {
      if (round < 3) for (const server of this.servers) server.life = "up";
      for (const { id, status } of this.controller.state.nodes) {
        if (status === "down")
          void this.failover.request({ kind: "attach", node: id }, { confirmed: true });
      }
      await this.time.run(this.time.now + 20_000);
    }
  }
}

function configOf(count: number, method: Method) {
  const lines = Array.from({ length: count }, (_, id) => [
    `backend_hostname${id} = 'h${id}'`,
    `backend_port${id} = ${5000 + id}`,
  ]).flat();
  const word = isNative(method) ? "command" : method.split(" ")[0];
  lines.push(`failover_method = '${word}'`, "search_primary_node_timeout = 30");
  if (!method.startsWith("promote")) lines.push("failover_command = '%d %m %P'");
  const readFile = (path: string) => (path === "/c" ? lines.join("\n") : undefined);
  return loadConfig({ file: "/c", readFile, osHostname: "localhost" }).config;
}

/** Transitions in the log: they never overlap, and what begins ends. */
function transitions(log: readonly string[]): { readonly begun: number; readonly open: string[] } {
  const open: string[] = [];
  let begun = 0;
  for (const line of log) {
    const start =
      /^=== Starting (degeneration|fail back)\. (?:shutdown|reconnect) host (.*) ===$/.exec(line);
    if (start !== null) {
      expect(open).toEqual([]);
      begun++;
      open.push(`${start[1]} ${start[2]}`);
    }
    const end = /^=== (Failover|Failback) done\. (?:shutdown|reconnect) host (.*) ===$/.exec(line);
    if (end !== null) {
      expect(open).toEqual([`${end[1] === "Failover" ? "degeneration" : "fail back"} ${end[2]}`]);
      open.pop();
    }
  }
  return { begun, open };
}

async function play(seed: number, method: Method): Promise<World> {
  const count = 2 + (seed % 3);
  const world = new World(seed, method, count);
  await world.start();
  const acts: string[] = [];
  try {
    expect(world.controller.state.primary).toBe(isNative(method) ? undefined : nodeId(0));
    for (let i = 0; i < 40; i++) {
      acts.push(world.act());
      await world.time.run(world.time.now + Math.floor(world.random() * 8000));
    }
    await world.heal();
    judge(world);
  } catch (error) {
    const story = `seed ${seed}, method ${method}: ${acts.join(", ")}\n${world.log.slice(-40).join("\n")}`;
    throw new Error(`${error}\n${story}`, { cause: error });
  } finally {
    world.health.stop();
    world.failover.stop();
  }
  return world;
}

function judge(world: World): void {
  const { state } = world.controller;
  const { begun, open } = transitions(world.log);
  expect(open).toEqual([]);
  expect(world.failover.busy).toBe(false);
  expect(state.ongoing).toBeUndefined();
  expect(state.nodes.filter((node) => !isLive(node)).map(({ id }) => id)).toEqual([]);
  if (isNative(world.method))
    expect(world.states.filter(({ primary }) => primary !== undefined)).toEqual([]);
  else expect(world.servers[state.primary ?? -1]?.primary).toBe(true);
  if (!world.method.startsWith("promote")) {
    const losses = world.log.filter((line) => line.startsWith("=== Starting degeneration")).length;
    expect(world.runs).toHaveLength(losses); // each was carried out once
  }
  expect(begun).toBeGreaterThan(0);
  let version = 0;
  for (const each of world.states) {
    expect(each.version).toBeGreaterThan(version);
    version = each.version;
    const chief = each.primary === undefined ? undefined : each.nodes[each.primary];
    if (chief !== undefined) expect(isLive(chief)).toBe(true);
  }
}

describe("whatever happens to the servers, the control plane ends in order", () => {
  const { SIM_RUNS, SIM_SEED } = process.env;
  const runs = Number(SIM_RUNS ?? 25);
  // The gate asks the same questions each time; for others: SIM_SEED=$RANDOM SIM_RUNS=1000 bun test …
  const first = Number(SIM_SEED ?? 20_261_122);
  const methods = ["command", "promote", "promote after fencing", "native replication"] as const;
  for (const method of methods) {
    test(`${isNative(method) ? "in" : "with failover_method ="} ${method} (SIM_SEED=${first} SIM_RUNS=${runs})`, async () => {
      let promotions = 0;
      let losses = 0;
      let shots = 0;
      for (let i = 0; i < runs; i++) {
        const world = await play(first + i, method);
        promotions += world.promotions;
        shots += world.shots;
        losses += world.log.filter((line) => line.startsWith("=== Starting")).length;
      }
      expect(losses).toBeGreaterThan(runs);
      if (method.startsWith("promote") && runs >= 20) expect(promotions).toBeGreaterThan(0);
      if (method === "promote after fencing" && runs >= 20) expect(shots).toBeGreaterThan(0);
    }, 120_000);
  }
});
