/**
 * Three of our nodes whose life check is somebody else's program, which speaks by `pgpool watchdog
 * inform`; and what the three do while one of them leads standbys to a new primary.
 */
import { afterAll, beforeAll, expect } from "bun:test";
import { rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { script, untilStatuses } from "./failover_stage.ts";
import { eventually, Postgres, Scope, testNeeding } from "./harness.ts";
import { WatchdogCluster } from "./watchdog_cluster.ts";

const pgTest = await testNeeding("postgres", "dist/pgpool");

let scope: Scope;
let cluster: WatchdogCluster;
/** Each run of follow_primary_command, while this file is there, waits for its end. */
let gate: string;
let follow: ReturnType<typeof script>;

beforeAll(async () => {
  scope = new Scope();
  const primary = await Postgres.create(scope);
  const standbys = [await primary.createStandby(), await primary.createStandby()];
  gate = join(scope.dir, "gate");
  const busy = join(scope.dir, "busy");
  follow = script(
    scope,
    "follow",
    `mkdir ${busy} || echo "two at once" >> ${scope.dir}/follow.calls
while [ -e ${gate} ]; do sleep 0.05; done
rmdir ${busy}`,
  );
  cluster = await WatchdogCluster.create(scope, {
    backends: [primary, ...standbys],
    config: { wd_lifecheck_method: "external", wd_authkey: "a key" },
    configOf: (id) => ({ follow_primary_command: `${follow.path} node=${id} backend=%d` }),
  });
  await cluster.telling(() => cluster.start());
}, 300_000);
afterAll(() => scope.close());

const claim = (title: string, body: () => Promise<void>) =>
  pgTest(title, () => cluster.telling(body), 120_000);

const others = (id: number) => [0, 1, 2].filter((each) => each !== id);

claim("who is said to be dead is lost, and who is said to be alive is found", async () => {
  const { id: leader } = await cluster.untilAgreed();
  const still = (leader + 1) % 3;
  cluster.pgpool(still).signal("SIGSTOP");
  await cluster.inform(leader, still, "DEAD");
  const seen = (word: string) =>
    [0, 1, 2].map((id) => (id === leader ? "LEADER" : id === still ? word : "STANDBY")).join(" ");
  await cluster.node(leader).untilView(seen("LOST"));
  await cluster.pgpool(leader).logged(/REPORTED BY LIFECHECK/);
  await cluster.inform(leader, still, "ALIVE");
  await cluster.node(leader).untilView(seen("LOADING"));
  cluster.pgpool(still).signal("SIGCONT");
  expect((await cluster.untilAgreed()).id).toBe(leader);
});

claim("a leader that is said to be dead has a successor, and follows it", async () => {
  const { id: first } = await cluster.untilAgreed();
  cluster.pgpool(first).signal("SIGSTOP");
  for (const id of others(first)) await cluster.inform(id, first, "DEAD");
  const { id: second } = await cluster.untilAgreed(others(first));
  cluster.pgpool(first).signal("SIGCONT");
  expect((await cluster.untilAgreed()).id).toBe(second);
});

claim(
  "a node that is well comes back by itself, and one that is told of its own death ends",
  async () => {
    const { id: leader } = await cluster.untilAgreed();
    const [one = -1] = others(leader);
    await cluster.inform(leader, one, "DEAD");
    await cluster.pgpool(leader).logged(/became reachable again/);
    expect((await cluster.untilAgreed()).id).toBe(leader);
    await cluster.inform(one, one, "DEAD");
    const end = await eventually(() => cluster.pgpool(one).end, Boolean, { deadlineMs: 30_000 });
    expect(end).toBe("exit 3");
    await cluster.start([one]);
  },
);

claim(
  "standbys are led to a new primary by the leader, one after the other, while the others hold off",
  async () => {
    const { id: leader } = await cluster.untilAgreed();
    const [one = -1, other = -1] = others(leader);
    const order = async (at: number, ...words: string[]) =>
      expect(await cluster.pgpool(at).pcp(words)).toMatchObject({ code: 0, stderr: "" });
    const heard = (id: number, operation: string) =>
      cluster.pgpool(id).logged(new RegExp(`follow primary looking\\[${operation}\\]`));
    writeFileSync(gate, "");
    try {
      await order(one, "promote_node", "-n", "1");
      await eventually(() => follow.calls(), Boolean, { what: "the command to begin" });
      for (const id of [one, other]) await heard(id, "acquire");
      await order(other, "attach_node", "-n", "2");
      await untilStatuses(cluster.pgpool(leader), "down up up");
      await order(other, "promote_node", "-n", "2");
      await untilStatuses(cluster.pgpool(one), "down down up");
      // Who comes meanwhile holds off too.
      expect(await cluster.pgpool(one).stop()).toBe("exit 0");
      await cluster.start([one]);
      await heard(one, "acquire");
    } finally {
      rmSync(gate, { force: true });
    }
    for (const id of [one, other]) await heard(id, "release");
    const calls = () => follow.calls().trimEnd().split("\n");
    await eventually(calls, ({ length }) => length >= 4, { what: "both to be over" });
    const run = (backend: number) => `node=${leader} backend=${backend}`;
    expect(calls()).toEqual([run(0), run(2), run(0), run(1)]);
  },
);
