/**
 * pgpool_status goes from our server to the real Pgpool-II and back, and each takes it for its own.
 */
import { expect } from "bun:test";
import { copyFileSync } from "node:fs";
import { join } from "node:path";
import {
  eventually,
  originalPgpool,
  ourBinary,
  Pgpool,
  Postgres,
  pcpAdmin,
  Scope,
  testNeeding,
} from "../cluster/harness.ts";

const interopTest = await testNeeding("pgpool2", "postgres", "dist/pgpool");

const options = {
  pcpUsers: [pcpAdmin],
  config: {
    num_init_children: 4,
    backend_flag0: "ALLOW_TO_FAILOVER",
    backend_flag1: "ALLOW_TO_FAILOVER",
  },
  startLater: true,
};

interopTest(
  "who is down stays down when the other program takes over, and comes back by its order",
  async () => {
    await using scope = new Scope();
    const primary = await Postgres.create(scope);
    const backends = [primary, await primary.createStandby()];
    const ours = await Pgpool.create(scope, { ...options, program: ourBinary(), backends });
    const original = await Pgpool.create(scope, {
      ...options,
      program: originalPgpool(),
      backends,
    });
    const order = (to: Pgpool, command: string) => to.pcp([command, "-n", "1"]);

    await ours.start();
    await untilNodes(ours, "up up");
    expect(await order(ours, "detach_node")).toMatchObject({ code: 0, stderr: "" });
    await handOver(ours, original);
    await untilNodes(original, "up down");
    expect(original.log()).toContain("reading status file: 1 th backend is set to down status");

    expect(await order(original, "attach_node")).toMatchObject({ code: 0, stderr: "" });
    await untilNodes(original, "up up");
    await handOver(original, ours);
    await untilNodes(ours, "up up");
    await handOver(ours, original);
    await untilNodes(original, "up up");
    expect(await order(original, "detach_node")).toMatchObject({ code: 0, stderr: "" });
    await untilNodes(original, "up down");
    await handOver(original, ours);
    await untilNodes(ours, "up down");
    expect(ours.log()).toContain("reading status file: 1 th backend is set to down status");
  },
  120_000,
);

/** One program ends, the other starts with its file. */
async function handOver(from: Pgpool, to: Pgpool): Promise<void> {
  await from.stop();
  copyFileSync(join(from.dir, "pgpool_status"), join(to.dir, "pgpool_status"));
  await to.start();
}

const untilNodes = (pgpool: Pgpool, wanted: string) =>
  eventually(
    () => pgpool.show("pool_nodes"),
    (rows) => rows.map(({ status }) => (status === "waiting" ? "up" : status)).join(" ") === wanted,
    { deadlineMs: 30_000, what: `the nodes to be ${wanted}` },
  );
