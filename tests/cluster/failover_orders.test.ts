/**
 * What operators see and order, live: SHOW, commands, graceful orders, settings that are reloaded,
 * a pgpool_status that is broken, and a cluster that has no primary, or two.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { checked, pcp, primaryOf, script, statuses, untilStatuses } from "./failover_stage.ts";
import {
  eventually,
  Pgpool,
  Postgres,
  pcpAdmin,
  RawClient,
  Scope,
  type ShowRow,
  superuser,
  testNeeding,
} from "./harness.ts";

const pgTest = await testNeeding("postgres", "dist/pgpool");

let scope: Scope;
let primary: Postgres;
let standby: Postgres;
let pgpool: Pgpool;
let failback: ReturnType<typeof script>;

const pcpUsers = [pcpAdmin];
const login = { user: superuser, database: "test" };

beforeAll(async () => {
  scope = new Scope();
  primary = await Postgres.create(scope);
  standby = await primary.createStandby();
  failback = script(scope, "failback");
  const words = "d=%d h=%h p=%p m=%m H=%H r=%r M=%M P=%P N=%N S=%S pct=%%";
  const failback_command = `${failback.path} ${words}`;
  const config = { ...checked(2), failback_command, recovery_timeout: 2 };
  pgpool = await Pgpool.create(scope, { backends: [primary, standby], config, pcpUsers });
  await pgpool.untilServing();
}, 300_000);
afterAll(() => scope.close());

/** One node's row, when it is as wanted. */
async function untilShown(name: string, node: number, wanted: ShowRow): Promise<ShowRow> {
  const rows = await eventually(
    () => pgpool.show(name),
    (found) => Object.entries(wanted).every(([column, value]) => found[node]?.[column] === value),
    { deadlineMs: 20_000, what: `node ${node} in ${name} to be ${JSON.stringify(wanted)}` },
  );
  return rows[node] ?? {};
}

const time = /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$/;
const real = /^\d+\.\d{6}$/;

describe("SHOW", () => {
  pgTest("pool_nodes tells what each server says of itself", async () => {
    await untilShown("pool_nodes", 0, { pg_status: "up", pg_role: "primary", role: "primary" });
    const row = await untilShown("pool_nodes", 1, {
      pg_status: "up",
      pg_role: "standby",
      role: "standby",
      replication_state: "streaming",
      replication_sync_state: "async",
      replication_delay: "0",
    });
    expect(row).toMatchObject({ node_id: "1", hostname: "127.0.0.1", lb_weight: "0.500000" });
    expect(row).toMatchObject({ last_status_change: expect.stringMatching(time) });
  });

  pgTest("pool_health_check_stats adds up", async () => {
    const [row = {}] = await eventually(
      () => pgpool.show("pool_health_check_stats"),
      ([{ success_count } = {}]) => Number(success_count) >= 2,
    );
    expect(Object.keys(row)).toEqual([
      ...["node_id", "hostname", "port", "status", "role", "last_status_change", "total_count"],
      ...["success_count", "fail_count", "skip_count", "retry_count", "average_retry_count"],
      ...["max_retry_count", "max_duration", "min_duration", "average_duration"],
      ...["last_health_check", "last_successful_health_check", "last_skip_health_check"],
      "last_failed_health_check",
    ]);
    expect(row).toMatchObject({
      fail_count: "0",
      skip_count: "0",
      retry_count: "0",
      average_retry_count: "0.000000",
      average_duration: expect.stringMatching(real),
      last_health_check: expect.stringMatching(time),
      last_successful_health_check: expect.stringMatching(time),
      last_skip_health_check: "",
      last_failed_health_check: "",
    });
    const { max_duration, min_duration } = row;
    expect(Number(max_duration)).toBeGreaterThanOrEqual(Number(min_duration));
  });

  pgTest("pool_backend_stats counts what each node was sent, and its errors", async () => {
    const before = await pgpool.show("pool_backend_stats");
    const client = await RawClient.login(pgpool.tcp, login);
    await client.rows("CREATE TABLE counted (a int)");
    await client.rows("INSERT INTO counted VALUES (1)");
    await client.rows("UPDATE counted SET a = 2");
    await client.rows("DELETE FROM counted");
    await client.query("INSERT INTO counted VALUES (1 / 0)");
    await client.terminate();
    const after = await pgpool.show("pool_backend_stats");
    const grown = (node: number, column: string) =>
      Number(after[node]?.[column]) - Number(before[node]?.[column]);
    const columns = ["insert_cnt", "update_cnt", "delete_cnt", "ddl_cnt", "error_cnt"];
    expect(columns.map((column) => grown(0, column))).toEqual([2, 1, 1, 1, 1]);
    expect(columns.map((column) => grown(1, column))).toEqual([0, 0, 0, 0, 0]);
  });
});

describe("orders", () => {
  pgTest(
    "a node that is detached is still looked at, and attached with failback_command",
    async () => {
      expect(await pcp(pgpool, "detach_node", "1")).toMatchObject({ stderr: "" });
      await untilShown("pool_nodes", 1, {
        status: "down",
        pg_status: "up",
        pg_role: "unknown",
        replication_state: "streaming",
      });
      const [, row = {}] = await eventually(
        () => pgpool.show("pool_health_check_stats"),
        ([, { skip_count } = {}]) => Number(skip_count) > 0,
        { what: "a health check to pass the node over" },
      );
      expect(row).toMatchObject({ last_skip_health_check: expect.stringMatching(time) });
      expect(await pcp(pgpool, "attach_node", "1")).toMatchObject({ stderr: "" });
      const host = "127.0.0.1";
      expect(failback.calls()).toBe(
        `d=1 h=${host} p=${standby.port} m=0 H=${host} r=${primary.port} M=0 P=0 N=${host} S=${primary.port} pct=%\n`,
      );
    },
  );

  pgTest("given gracefully wait for clients to leave, and newcomers wait for them", async () => {
    const client = await RawClient.login(pgpool.tcp, login);
    await client.rows("SELECT 1");
    expect(await pcp(pgpool, "detach_node", "1", "-g")).toMatchObject({
      stderr: expect.stringContaining("clients did not leave in time"),
    });
    expect(await statuses(pgpool)).toBe("up up");
    const order = pcp(pgpool, "detach_node", "1", "-g");
    await client.rows("SELECT 2"); // it is served while it is waited for
    await client.terminate();
    expect(await order).toMatchObject({ stderr: "" });
    expect(await statuses(pgpool)).toBe("up down");
    expect(await pcp(pgpool, "attach_node", "1")).toMatchObject({ stderr: "" });
  });

  pgTest("a new health_check_period counts at once, for one node alone too", async () => {
    pgpool.reload({ health_check_period1: 0 });
    await untilShown("pool_nodes", 1, { pg_status: "unknown" });
    const totals = async () => {
      const rows = await pgpool.show("pool_health_check_stats");
      return rows.map(({ total_count }) => Number(total_count));
    };
    const [first = 0, still] = await totals();
    const more = await eventually(totals, ([total = 0]) => total >= first + 2);
    expect(more[1]).toBe(still);
    pgpool.reload({ health_check_period1: 1 }); // a line that is gone changes nothing
    await untilShown("pool_nodes", 1, { pg_status: "up" });
  });

  pgTest("a full disk does not make pgpool_status forget", async () => {
    symlinkSync("/dev/full", join(pgpool.dir, "pgpool_status.new"));
    expect(await pcp(pgpool, "detach_node", "1")).toMatchObject({ stderr: "" });
    await pgpool.logged(/could not write status file .*\n.*no space left on device/i);
    await eventually(
      () => pgpool.status(),
      (text) => text === "up\ndown\n",
      { what: "pgpool_status to be written after all" },
    );
    expect(await pcp(pgpool, "attach_node", "1")).toMatchObject({ stderr: "" });
  });

  pgTest("a second primary is shown as such, and changes nothing by itself", async () => {
    await standby.promote();
    await untilShown("pool_nodes", 1, { pg_role: "primary", role: "standby", status: "up" });
    expect(await primaryOf(pgpool)).toBe(0);
    await pgpool.sql("INSERT INTO counted VALUES (7)");
    expect(await primary.value("SELECT count(*) FROM counted WHERE a = 7")).toBe("1");
  });
});

describe("orders that cannot be", () => {
  const orders: readonly [string, string, string][] = [
    ["detach_node", "7", "node id: 7 is out of range"],
    ["attach_node", "7", "node id: 7 is out of range"],
    ["promote_node", "7", "node id 7 is not valid"],
    ["attach_node", "0", "there was nothing to do"],
  ];
  pgTest("are refused with an error, and change nothing", async () => {
    const before = await statuses(pgpool);
    for (const [command, node, why] of orders) {
      const { stderr } = await pcp(pgpool, command, node);
      expect([command, stderr]).toEqual([command, expect.stringContaining(why)]);
    }
    expect(await statuses(pgpool)).toBe(before);
  });
});

describe("pgpool_status", () => {
  const broken: readonly [string, (path: string) => void, RegExp, string][] = [
    ["is a folder", (path) => mkdirSync(path), /could not read status file/, "up up"],
    [
      "holds something else",
      (path) => writeFileSync(path, Buffer.alloc(100_000, 0xfe)),
      /invalid data in status file/,
      "up up",
    ],
    [
      "is empty",
      (path) => writeFileSync(path, ""),
      /find_primary_node: primary node is 0/,
      "up up",
    ],
    ["is cut off", (path) => writeFileSync(path, "up\ndo"), /invalid data in/, "up unused"],
  ];
  pgTest(
    "that is broken keeps nobody from starting",
    async () => {
      await using own = new Scope();
      const config = { ...checked(2), health_check_period: 0 };
      const starting = await Pgpool.create(own, {
        backends: [primary, standby],
        config,
        startLater: true,
      });
      const path = join(starting.dir, "pgpool_status");
      for (const [what, make, sign, wanted] of broken) {
        rmSync(path, { recursive: true, force: true });
        make(path);
        await starting.start();
        await starting.untilServing();
        expect([what, await statuses(starting)]).toEqual([what, wanted]);
        await starting.logged(sign);
        await starting.kill();
      }
    },
    60_000,
  );
});

describe("without a primary", () => {
  pgTest(
    "reads are served, writes get the server's error, and who is promoted is found",
    async () => {
      await using own = new Scope();
      const source = await Postgres.create(own);
      const one = await source.createStandby();
      const two = await source.createStandby();
      const config = { ...checked(2), search_primary_node_timeout: 60 };
      const leaderless = await Pgpool.create(own, { backends: [one, two], config, pcpUsers });
      await leaderless.untilServing();
      expect(await leaderless.sql("SELECT 1 AS a")).toEqual([{ a: "1" }]);
      const client = await RawClient.login(leaderless.tcp, login);
      const { errors } = await client.query("CREATE TABLE t (a int)");
      expect(errors[0]).toMatchObject({ C: "25006" });
      expect(await primaryOf(leaderless)).toBeUndefined();
      // Operators are heard while it searches.
      expect(await pcp(leaderless, "detach_node", "0")).toMatchObject({ stderr: "" });
      expect(await pcp(leaderless, "attach_node", "0")).toMatchObject({ stderr: "" });
      await untilStatuses(leaderless, "up up");
      await two.promote();
      await leaderless.logged(/find_primary_node: primary node is 1/);
      await eventually(() => leaderless.sql("CREATE TABLE t (a int)"));
      expect(await primaryOf(leaderless)).toBe(1);
      client.destroy();

      // A second one, of the lower id, does not take the role when it is attached.
      expect(await pcp(leaderless, "detach_node", "0")).toMatchObject({ stderr: "" });
      await one.promote();
      expect(await pcp(leaderless, "attach_node", "0")).toMatchObject({ stderr: "" });
      await leaderless.logged(/=== Failback done[\s\S]*=== Failback done/);
      expect(await primaryOf(leaderless)).toBe(1);
    },
    60_000,
  );
});
