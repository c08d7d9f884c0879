/**
 * Online recovery where pgpool replicates, at one of three pgpools: all of them hold their clients for the
 * second stage, and when they let them go on each of them writes to the node that has joined.
 */
import { expect } from "bun:test";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { contentsOf } from "./contents.ts";
import { Load, script, statuses } from "./failover_stage.ts";
import {
  eventually,
  freePort,
  Postgres,
  RawClient,
  runCommand,
  Scope,
  superuser,
  testNeeding,
} from "./harness.ts";
import { WatchdogCluster, type WatchdogNode } from "./watchdog_cluster.ts";

const recoveryTest = await testNeeding("dist/pgpool", "postgres (system)");

/** Where the server of the node that joins is to be, and what holds the second stage up. */
type Joining = {
  readonly port: number;
  readonly data: string;
  readonly gate: Gate;
  /** Stops that server, if it runs, and removes its data. */
  readonly discard: () => Promise<void>;
};

/** A script waits while it is shut, and may be turned back when it opens. */
class Gate {
  readonly #shut: string;
  readonly #reached: string;
  readonly #closed: string;

  constructor(dir: string) {
    this.#shut = join(dir, "shut");
    this.#reached = join(dir, "reached");
    this.#closed = join(dir, "closed");
  }

  get script(): string {
    // Who sees that it is gone may undo what it has decided by.
    const wait = `touch ${this.#reached}; while [ -e ${this.#shut} ]; do sleep 0.1; done`;
    return `${wait}; [ ! -e ${this.#closed} ]; may_go=$?; rm ${this.#reached}; [ $may_go = 0 ] || exit 1`;
  }

  shut(): void {
    writeFileSync(this.#shut, "");
  }

  open(): void {
    rmSync(this.#shut, { force: true });
  }

  async untilReached(): Promise<void> {
    const what = "the second stage to begin";
    await eventually(() => existsSync(this.#reached), Boolean, { deadlineMs: 30_000, what });
  }

  /** Resolves when whoever waits has gone away, with nothing done. */
  async turnBack(): Promise<void> {
    writeFileSync(this.#closed, "");
    this.open();
    await eventually(() => !existsSync(this.#reached), Boolean, { what: "the script to end" });
    rmSync(this.#closed);
    this.shut();
  }
}

/** Scripts for `source` that copy it in the second stage: whatever is written then would be missing. */
async function prepare(scope: Scope, source: Postgres): Promise<Joining> {
  const port = await freePort();
  const dir = scope.makeDir("joining");
  const data = join(dir, "data");
  const gate = new Gate(dir);
  const { bin } = source.install;
  scope.giveToOwner(dir);
  const put = (name: string, lines: readonly string[]) => {
    const path = join(source.dataDir, name);
    writeFileSync(path, ["#!/bin/sh", ...lines, ""].join("\n"), { mode: 0o755 });
    scope.giveToOwner(path);
  };
  put("stage2", [
    gate.script,
    `${bin}/pg_basebackup -h ${source.socketDir} -p "$4" -U ${superuser} -D "$3" -c fast || exit 1`,
    `echo "port = $6" >> "$3/postgresql.conf"`,
  ]);
  const log = join(dir, "log");
  put("pgpool_remote_start", [
    `exec ${bin}/pg_ctl -D "$2" -w -l ${log} start < /dev/null > /dev/null 2>&1`,
  ]);
  const discard = async () => {
    const stop = [`${bin}/pg_ctl`, "-D", data, "-m", "immediate", "stop"] as const;
    if (existsSync(join(data, "postmaster.pid"))) await runCommand(stop, { owner: scope.owner });
    rmSync(data, { recursive: true, force: true });
  };
  scope.defer(discard);
  return { port, data, gate, discard };
}

const login = { user: superuser, database: "test" };

async function contentsAt(port: number): Promise<readonly string[]> {
  return await RawClient.session({ host: "127.0.0.1", port }, login, contentsOf);
}

const untilAll = (nodes: readonly WatchdogNode[], wanted: string) =>
  eventually(
    () => Promise.all(nodes.map(({ pgpool }) => statuses(pgpool))),
    (seen) => seen.every((each) => each === wanted),
    { deadlineMs: 60_000, what: `all to see the backends ${wanted}` },
  );

for (const fate of ["stands still", "dies"] as const) {
  recoveryTest(
    `no client of any of them writes while a node is copied, and all write to it afterwards, though their leader ${fate}`,
    async () => {
      await using scope = new Scope();
      const source = await Postgres.create(scope);
      const { port, data, gate, discard } = await prepare(scope, source);
      const attaching = new Gate(scope.makeDir("attaching"));
      attaching.shut();
      const cluster = await WatchdogCluster.create(scope, {
        backends: [source, { host: "127.0.0.1", port }],
        config: {
          backend_clustering_mode: "native_replication",
          backend_data_directory0: source.dataDir,
          backend_data_directory1: data,
          recovery_user: superuser,
          recovery_2nd_stage_command: "stage2",
          recovery_timeout: 30,
          client_idle_limit_in_recovery: -1,
          wd_lifecheck_method: "external",
          failback_command: script(scope, "failback", attaching.script).path,
        },
        configOf: (id) => ({ wd_priority: 3 - id }),
      });
      await source.sql("CREATE TABLE acked (id int)");
      await cluster.telling(async () => {
        await cluster.start();
        const { id: leader } = await cluster.untilAgreed();
        await untilAll(cluster.nodes, "up down");
        const loads = cluster.nodes.map(({ pgpool }) => new Load(pgpool, 2));
        try {
          for (const load of loads) await load.untilAcked(20);
          const writeOn = async (ids: readonly number[]) => {
            for (const id of ids) await loads[id]?.untilAcked(loads[id].acked.length + 20);
          };

          // Whoever recovers dies: the others have nobody to wait for.
          // It is the next to lead: of the third nobody would believe what it has missed.
          const [asker = -1, third = -1] = [0, 1, 2].filter((id) => id !== leader);
          const recover = () => cluster.pgpool(asker).pcp(["recovery_node", "-n", "1"]);
          gate.shut();
          const broken = recover();
          await gate.untilReached();
          if (fate === "dies") {
            // Those who wait at one that is to stop have nobody to wait for.
            expect(await cluster.pgpool(third).stop("smart")).toBe("exit 0");
            await cluster.start([third]);
            await cluster.untilAgreed();
          }
          await cluster.pgpool(asker).kill();
          await writeOn([leader, third]);
          await broken;
          await gate.turnBack();

          await cluster.start([asker]);
          await cluster.untilAgreed();
          await writeOn([asker]);
          if (fate === "stands still") {
            // One that is out of sight meanwhile may have let its clients in.
            const doubtful = recover();
            await gate.untilReached();
            await cluster.inform(asker, third, "DEAD");
            gate.open();
            expect((await doubtful).stderr).toContain("another pgpool was lost meanwhile");
            await discard();
            gate.shut();
            await cluster.untilAgreed();
            await writeOn([0, 1, 2]);
            await cluster.pgpool(third).kill();
            await cluster.node(asker).untilView(/LOST/);
          }
          const recovering = recover();
          await gate.untilReached();
          if (fate === "stands still") {
            // One that begins only now hears of it before it lets anybody in.
            const before = loads[third]?.acked.length;
            await cluster.start([third]);
            await cluster.pgpool(third).logged(/recovers a backend.*successfully started/s);
            await cluster.untilAgreed();
            expect(loads[third]?.acked.length).toBe(before);
          }
          const held = await source.value("SELECT count(*) FROM acked");
          // New clients wait, at each of them.
          const waiting = Promise.allSettled(
            cluster.nodes.map(async ({ pgpool }) => {
              const client = await RawClient.login(pgpool.tcp, login, 60_000);
              client.destroy();
            }),
          );
          const late = cluster.pgpool(third);
          const ends = () =>
            late.log().split("another node's recovery of a backend is over").length;
          const endsBefore = ends();
          gate.open();
          // All have been asked for the last time whether they hold their clients.
          await attaching.untilReached();
          late.signal("SIGSTOP");
          attaching.open();
          expect(await recovering).toMatchObject({ code: 0, stderr: "" });
          // It hears of the end, and its leader does not say yet what has joined.
          if (fate === "dies") await cluster.pgpool(leader).kill();
          else cluster.pgpool(leader).signal("SIGSTOP");
          late.signal("SIGCONT");
          await eventually(ends, (count) => count > endsBefore, { what: "it to hear of the end" });
          if (fate === "dies") {
            await untilAll(
              [asker, third].map((id) => cluster.node(id)),
              "up up",
            );
            await writeOn([asker, third]);
            await cluster.start([leader]);
          } else {
            expect((await late.pcp(["node_info", "-n", "1"])).stdout).toContain(" down ");
            cluster.pgpool(leader).signal("SIGCONT");
          }
          expect(Number(held)).toBeGreaterThan(0);
          const met = (await waiting).map(({ status }) => status);
          if (fate === "stands still") expect(met).toEqual(Array(3).fill("fulfilled"));
          await untilAll(cluster.nodes, "up up");
          await writeOn([0, 1, 2]);
        } finally {
          gate.open();
          attaching.open();
          for (const load of loads) await load.stop();
        }
        expect(await contentsAt(port)).toEqual(await contentsAt(source.port));
      });
    },
    120_000,
  );
}
