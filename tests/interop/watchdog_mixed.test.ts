/**
 * Clusters of three in which real Pgpool-II 4.3.5 nodes and ours guard each other: whoever leads, the
 * others join, vote, take over what was decided, and go on when a node leaves or dies.
 */
import { expect } from "bun:test";
import { script, untilStatuses } from "../cluster/failover_stage.ts";
import { originalPgpool, ourBinary, Postgres, Scope, testNeeding } from "../cluster/harness.ts";
import { WatchdogCluster, type WatchdogNode } from "../cluster/watchdog_cluster.ts";

const mixedTest = await testNeeding("postgres", "dist/pgpool", "pgpool2");

const [real, ours] = [originalPgpool(), ourBinary()];
/** What nodes 0 and 1 run, and node 2; how the first leader ends, and how the other of its kind. */
const plays = [
  ["two real ones and ours: ours follows and votes, then leads them", real, ours, "stop", "kill"],
  ["one real and two of ours: it follows and votes, then leads them", ours, real, "kill", "stop"],
] as const;
/** What the node that is left sees of one that ended so. */
const seen = { stop: "SHUTDOWN", kill: "LOST" } as const;

for (const [title, most, single, firstEnds, secondEnds] of plays) {
  mixedTest(
    title,
    async () => {
      await using scope = new Scope();
      const primary = await Postgres.create(scope);
      const standby = await primary.createStandby();
      const failover = script(scope, "failover");
      const cluster = await WatchdogCluster.create(scope, {
        programs: [most, most, single],
        backends: [primary, standby],
        config: { wd_authkey: "one for all" },
        configOf: (id) => ({ failover_command: `${failover.path} node=${id} backend=%d` }),
      });
      const last = cluster.node(2);

      const untilSeen = async (wanted: string) => {
        for (const { pgpool } of cluster.nodes) await untilStatuses(pgpool, wanted, 60_000);
      };
      /** The standby fails, is detached for all, once, by the leader, and attached through `by`. */
      const loseAndRegain = async (leader: WatchdogNode, by: WatchdogNode) => {
        const before = failover.calls();
        await standby.stop("immediate");
        await untilSeen("up down");
        expect(failover.calls()).toBe(`${before}node=${leader.id} backend=1\n`);
        await standby.start();
        const order = await by.pgpool.pcp(["attach_node", "-n", "1"]);
        expect(order).toMatchObject({ code: 0 });
        await untilSeen("up up");
      };

      await cluster.telling(async () => {
        await cluster.start([0, 1]);
        const first = await cluster.untilAgreed([0, 1]);
        const second = cluster.node(1 - first.id);
        await cluster.start([2]);
        expect((await cluster.untilAgreed()).id).toBe(first.id);
        // It compares the others' settings with its own, and reads them without complaint.
        expect(first.pgpool.log()).not.toContain("unable to parse");
        await untilSeen("up up");
        await loseAndRegain(first, last);

        await first.pgpool[firstEnds]();
        await cluster.untilAgreed([second.id, 2]);
        await second.pgpool[secondEnds]();
        await last.untilState("LEADER without quorum");
        const ends = [seen[firstEnds], seen[secondEnds]];
        await last.untilView([...(first.id === 0 ? ends : ends.toReversed()), "LEADER"].join(" "));

        // The others come back, to the one that was left.
        await cluster.start([0]);
        await last.untilView(/^STANDBY /);
        await cluster.start([1]);
        expect((await cluster.untilAgreed()).id).toBe(2);
        await untilSeen("up up");
        await loseAndRegain(last, first);

        await last.pgpool.stop();
        await cluster.untilAgreed([0, 1]);
      });
    },
    240_000,
  );
}
