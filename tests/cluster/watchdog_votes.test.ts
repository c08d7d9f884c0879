/**
 * What three of our nodes do about backends: they vote, one of them acts, all agree; and what only one
 * of them sees, or what they see without a quorum, is a quarantine.
 */
import { afterAll, beforeAll, expect } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { connect, createServer, type Server, type Socket } from "node:net";
import { join } from "node:path";
import { script, statuses } from "./failover_stage.ts";
import { eventually, freePort, Postgres, Scope, superuser, testNeeding } from "./harness.ts";
import { WatchdogCluster } from "./watchdog_cluster.ts";

const pgTest = await testNeeding("postgres", "dist/pgpool");

/** A way to a server that can be cut, for one node alone. */
class Way {
  readonly port: number;
  readonly #to: number;
  readonly #sockets = new Set<Socket>();
  #server: Server | undefined;

  private constructor(port: number, to: number) {
    this.port = port;
    this.#to = to;
  }

  static async open(scope: Scope, to: number): Promise<Way> {
    const way = new Way(await freePort(), to);
    await way.open();
    scope.defer(() => way.cut());
    return way;
  }

  async open(): Promise<void> {
    const server = createServer((near) => {
      const far = connect(this.#to, "127.0.0.1");
      for (const socket of [near, far]) {
        this.#sockets.add(socket);
        socket.on("error", () => {}); // the other end hears of it by "close"
        socket.once("close", () => {
          this.#sockets.delete(socket);
          near.destroy();
          far.destroy();
        });
      }
      near.pipe(far).pipe(near);
    });
    this.#server = server;
    await new Promise<void>((resolve) => server.listen(this.port, "127.0.0.1", resolve));
  }

  cut(): void {
    this.#server?.close();
    for (const socket of this.#sockets) socket.destroy();
  }
}

let scope: Scope;
let cluster: WatchdogCluster;
let primary: Postgres;
let standby: Postgres;
let way: Way;
let failover: ReturnType<typeof script>;
let failback: ReturnType<typeof script>;

beforeAll(async () => {
  scope = new Scope();
  primary = await Postgres.create(scope);
  standby = await primary.createStandby();
  way = await Way.open(scope, standby.port);
  failover = script(scope, "failover");
  failback = script(scope, "failback");
  cluster = await WatchdogCluster.create(scope, {
    backends: [primary, standby],
    config: {
      wd_lifecheck_method: "query",
      wd_lifecheck_user: superuser,
      wd_interval: 2,
      wd_life_point: 4,
      trusted_servers: "one,two",
    },
    configOf: (id) => ({
      trusted_server_command: `test -e ${scope.dir}/reaches-%h-${id}`,
      failover_command: `${failover.path} node=${id} backend=%d`,
      failback_command: `${failback.path} node=${id} backend=%d`,
      ...(id === 2 ? { backend_port1: way.port } : {}),
    }),
  });
  for (const id of [0, 1, 2]) writeFileSync(trusted(id), "");
  await cluster.telling(() => cluster.start());
}, 300_000);
afterAll(() => scope.close());

const claim = (title: string, body: () => Promise<void>) =>
  pgTest(title, () => cluster.telling(body), 150_000);

/** Node `id` reaches its trusted server `two`, while this file is there. */
const trusted = (id: number) => join(scope.dir, `reaches-two-${id}`);

const untilSeen = (id: number, wanted: string) =>
  eventually(
    () => statuses(cluster.pgpool(id)),
    (found) => found === wanted,
    { deadlineMs: 60_000, what: `node ${id} to see the backends ${wanted}` },
  );

claim("what one node alone cannot reach is left out by that one alone", async () => {
  await cluster.untilAgreed();
  way.cut();
  await untilSeen(2, "up quarantine");
  expect(await statuses(cluster.pgpool(0))).toBe("up up");
  expect(await statuses(cluster.pgpool(1))).toBe("up up");
  const { stdout } = await cluster.pgpool(2).pcp(["node_info", "-n", "1"]);
  expect(stdout).toContain(" quarantine ");
  await way.open();
  await untilSeen(2, "up up");
  expect(failover.calls()).toBe("");
});

claim("what most of them cannot reach is detached for all, once, by the leader", async () => {
  const { id: leader } = await cluster.untilAgreed();
  await standby.stop("immediate");
  for (const id of [0, 1, 2]) await untilSeen(id, "up down");
  expect(failover.calls()).toBe(`node=${leader} backend=1\n`);
});

claim("an operator's word at any node is done by the leader and seen by all", async () => {
  const { id: leader } = await cluster.untilAgreed();
  const asked = (leader + 1) % 3;
  await standby.start();
  const order = (...words: string[]) => cluster.pgpool(asked).pcp(words);
  expect(await order("attach_node", "-n", "1")).toMatchObject({ code: 0, stderr: "" });
  for (const id of [0, 1, 2]) await untilSeen(id, "up up");
  expect(failback.calls()).toBe(`node=${leader} backend=1\n`);
  expect(await order("detach_node", "-n", "1")).toMatchObject({ code: 0, stderr: "" });
  for (const id of [0, 1, 2]) await untilSeen(id, "up down");
  expect(failover.calls()).toBe(`node=${leader} backend=1\n`.repeat(2));
  expect(await order("attach_node", "-n", "1")).toMatchObject({ code: 0, stderr: "" });
  for (const id of [0, 1, 2]) await untilSeen(id, "up up");
});

claim("without a quorum nothing is detached; when there is one again, it is decided", async () => {
  const { id: leader } = await cluster.untilAgreed();
  const before = failover.calls();
  const others = [0, 1, 2].filter((id) => id !== leader);
  for (const id of others) await cluster.pgpool(id).kill();
  const seen = cluster.nodes.map(({ id }) => (id === leader ? "LEADER" : "LOST"));
  await cluster.node(leader).untilView(seen.join(" "));
  await standby.stop("immediate");
  await untilSeen(leader, "up quarantine");
  expect(failover.calls()).toBe(before);
  await cluster.start(others);
  for (const id of [0, 1, 2]) await untilSeen(id, "up down");
  expect(failover.calls()).toBe(`${before}node=${leader} backend=1\n`);
});

claim(
  "a node that answers no queries is lost, and one that reaches no trusted server leaves",
  async () => {
    const { id: leader } = await cluster.untilAgreed();
    const still = (leader + 1) % 3;
    for (const { pgpool } of cluster.nodes) await pgpool.logged(/lifecheck started/, 60_000);
    // It may have lost others before.
    const times = (words: RegExp) => cluster.pgpool(leader).log().match(words)?.length ?? 0;
    const signs = [/unable to connect to node/g, /REPORTED BY LIFECHECK/g];
    const before = signs.map(times);
    cluster.pgpool(still).signal("SIGSTOP");
    await eventually(
      () => signs.map(times),
      (now) => now.every((count, i) => count > (before[i] ?? 0)),
      { deadlineMs: 60_000, what: "the life check to report a node" },
    );
    cluster.pgpool(still).signal("SIGCONT");
    expect((await cluster.untilAgreed()).id).toBe(leader);
    rmSync(trusted(leader));
    const end = await eventually(() => cluster.pgpool(leader).end, Boolean, { deadlineMs: 30_000 });
    expect(end).toBe("exit 3");
    await cluster.untilAgreed([0, 1, 2].filter((id) => id !== leader));
  },
);
