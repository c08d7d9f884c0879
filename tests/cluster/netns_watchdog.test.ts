/**
 * Three pgpools on three hosts, each in a network namespace, with one PostgreSQL behind them and a
 * client that knows the delegate IP only. Whatever befalls hosts and links, the delegate IP ends on one
 * node that serves, and a client that connects to it again can write.
 */
import { afterAll, beforeAll, expect } from "bun:test";
import {
  eventually,
  missing,
  Postgres,
  RawClient,
  Scope,
  superuser,
  TestNetwork,
  testNeeding,
} from "./harness.ts";
import { WatchdogCluster, type WatchdogNode } from "./watchdog_cluster.ts";

const needed = ["dist/pgpool", "postgres", "network namespaces"] as const;
const netTest = await testNeeding(...needed);
const isPossible = (await missing(...needed)).length === 0;

let scope: Scope;
let network: TestNetwork;
let postgres: Postgres;
let cluster: WatchdogCluster;
let written = 0;
/** Of pgpools, so far. */
let starts = 3;

const everybody = [0, 1, 2] as const;
/** Of heartbeats. What cuts a pgpool off from its server as well is no failure of the server. */
const soonMissed = { wd_heartbeat_deadtime: 10, health_check_period: 0 };
const others = (leader: WatchdogNode) => everybody.filter((id) => id !== leader.id);

beforeAll(async () => {
  scope = new Scope();
  if (!isPossible) return;
  network = await TestNetwork.create(scope, 3);
  postgres = await Postgres.create(scope, {
    settings: { listen_addresses: `127.0.0.1,${network.gateway}` },
    hba: ["host all all 0.0.0.0/0 trust"],
  });
  await postgres.sql("CREATE TABLE written (n int)");
  cluster = await WatchdogCluster.create(scope, {
    network,
    backends: [{ host: network.gateway, port: postgres.port }],
    config: { ...soonMissed, wd_monitoring_interfaces_list: "any" },
  });
  await cluster.telling(async () => {
    await cluster.start();
    await untilServing(everybody);
  });
}, 300_000);
afterAll(() => scope.close());

/** One write by a client of the delegate IP, which must be let in, served and answered soon. */
async function write(): Promise<void> {
  const target = { host: network.delegateIp, port: cluster.node(0).pgpool.port };
  const login = async () => {
    const client = await RawClient.login(target, { user: superuser, database: "test" }, 2000);
    try {
      await client.rows(`INSERT INTO written VALUES (${written})`);
      written++;
    } finally {
      client.destroy();
    }
  };
  // The system would go on dialling an address that nobody has for minutes.
  const tooLate = new Promise<never>((_, reject) => {
    setTimeout(() => reject(new Error(`no write through ${network.delegateIp} in 3 s`)), 3000);
  });
  await Promise.race([login(), tooLate]);
}

/** Waits until these agree on a leader, which alone has the delegate IP, and a client can write there. */
async function untilServing(ids: readonly number[], deadlineMs = 60_000): Promise<WatchdogNode> {
  const leader = await cluster.untilAgreed(ids, deadlineMs);
  await eventually(
    () => network.holdersOf(network.delegateIp),
    (holders) => holders.length === 1 && ids.includes(holders[0] ?? -1),
    { deadlineMs, what: "one host to have the delegate IP" },
  );
  await eventually(write, () => true, { deadlineMs, what: "a write" });
  return leader;
}

/** A node looks at the others' heartbeats once it has heard them all; until then it takes half a minute. */
async function untilWatched(): Promise<void> {
  const begun = () =>
    cluster.nodes.map(({ pgpool }) => pgpool.log().match(/lifecheck started/g)?.length ?? 0);
  await eventually(begun, (counts) => counts.reduce((sum, count) => sum + count, 0) >= starts, {
    deadlineMs: 60_000,
    what: "every node to watch the others",
  });
}

/** What a test did to the network is undone before the next, also when it failed. */
function faultTest(title: string, body: (leader: WatchdogNode) => Promise<void>): void {
  netTest(
    title,
    async () => {
      const leader = await untilServing(everybody);
      await untilWatched();
      try {
        await body(leader);
      } finally {
        await network.setBridge("up");
        for (const id of everybody) await network.setInterface(id, "up");
        await network.rejoin(...everybody);
        await network.unfilter();
        for (const { pgpool } of cluster.nodes) {
          pgpool.signalAll("SIGCONT");
          if (pgpool.end === undefined) continue;
          pgpool.launch();
          starts++;
        }
      }
      await untilServing(everybody);
    },
    180_000,
  );
}

faultTest("a leader whose cable is cut", async (leader) => {
  await network.isolate(leader.id);
  const next = await untilServing(others(leader));
  expect(next.id).not.toBe(leader.id);
});

faultTest(
  "a standby that is alone keeps off the address, and the others serve on",
  async (leader) => {
    const [alone = -1, ...rest] = others(leader);
    await network.isolate(alone);
    await cluster.node(alone).untilState("LEADER without quorum");
    const still = await untilServing([leader.id, ...rest]);
    expect(still.id).toBe(leader.id);
  },
);

faultTest("a link that carries nothing one way", async (leader) => {
  const [deaf = -1, other = -1] = others(leader);
  await network.cutOneWay(leader.id, deaf);
  // It gives its leader up.
  await cluster.node(deaf).untilState(/^(?!STANDBY$)/, 90_000);
  // It may not become a second leader while the third still follows the first.
  await eventually(write, () => true, { deadlineMs: 60_000, what: "a write" });
  const seen: number[] = [];
  await eventually(
    async () => seen.push((await network.holdersOf(network.delegateIp)).length),
    () => seen.at(-1) !== 0,
  );
  expect(Math.max(...seen)).toBe(1);
  await eventually(
    () => cluster.node(other).state(),
    (state) => state !== "-",
  );
});

faultTest("a third of all packets lost", async () => {
  for (const id of everybody) await network.lose(id, 30);
  const until = written + 5;
  await eventually(write, () => written >= until, { deadlineMs: 90_000, what: "five writes" });
});

faultTest("the bridge down and up again", async (leader) => {
  await network.setBridge("down");
  // Whoever is alone is not the majority, and takes the address off.
  await eventually(
    () => network.holdersOf(network.delegateIp),
    (holders) => holders.length === 0,
    { deadlineMs: 60_000, what: `node ${leader.id} to take the address off` },
  );
});

faultTest("a leader whose monitored interface goes down", async (leader) => {
  const { id, pgpool } = leader;
  const ends = () => eventually(() => pgpool.end, Boolean, { deadlineMs: 30_000 });
  await network.setInterface(id, "down");
  expect(await ends()).toBe("exit 3");
  expect(await network.holdersOf(network.delegateIp)).not.toContain(id);
  await untilServing(others(leader));
  // It comes back with the interface, and not before.
  pgpool.launch();
  expect(await ends()).toBe("exit 3");
  expect(pgpool.log()).toContain("initializing watchdog failed. no monitored interface is up");
});

faultTest("a leader that stands still for longer than it may", async (leader) => {
  leader.pgpool.signalAll("SIGSTOP");
  await cluster.untilAgreed(others(leader));
  await eventually(write, () => true, { deadlineMs: 60_000, what: "a write at its successor" });
  leader.pgpool.signalAll("SIGCONT");
});

faultTest("a leader that is killed", async (leader) => {
  await leader.pgpool.kill();
  // The address is still on the host, as nobody was left to take it off.
  await network.forget(leader.id);
  await untilServing(others(leader));
});

netTest(
  "with wd_leader_lease at no time two hosts have the address",
  async () => {
    await using own = new Scope();
    const net = await TestNetwork.create(own, 3);
    const leased = await WatchdogCluster.create(own, {
      network: net,
      backends: [{ host: net.gateway, port: postgres.port }],
      config: { ...soonMissed, wd_leader_lease: true },
    });
    await leased.start();
    const leader = await leased.untilAgreed();
    const held = () => net.holdersOf(net.delegateIp);
    await eventually(held, (holders) => holders.length === 1, { deadlineMs: 60_000 });
    await net.isolate(leader.id);
    const seen = new Set<string>();
    await eventually(
      async () => {
        const holders = await held();
        seen.add(holders.join());
        return holders;
      },
      ([holder]) => holder !== undefined && holder !== leader.id,
      { deadlineMs: 90_000, what: "another host to have the address" },
    );
    // First the old one, then nobody, then the new one.
    expect([...seen].map((holders) => holders.split(",").filter(Boolean).length)).toEqual([
      1, 0, 1,
    ]);
  },
  180_000,
);
