/**
 * Standbys that lag, live: thresholds by bytes and by time, a command in place of SQL, what becomes
 * of reads then; and what needs a start of its own, or knows a node by more than its weight.
 */
import { afterAll, afterEach, beforeAll, describe, expect, test } from "bun:test";
import { chmodSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { eventually, parse, type RawClient, Scope, sync } from "./harness.ts";
import { LoadBalanceStage, readT } from "./load_balance_stage.ts";

const objects = [
  "CREATE TABLE t (i int); INSERT INTO t VALUES (1)",
  "CREATE TABLE ballast (i int)",
];

let scope: Scope;
let stage: LoadBalanceStage;
beforeAll(async () => {
  scope = new Scope();
  stage = await LoadBalanceStage.create(scope, objects);
}, 300_000);
afterAll(() => scope.close());

/** Some hundred kilobytes of WAL that a paused standby does not replay. */
const writeBallast = () =>
  stage.nodes[0].sql("INSERT INTO ballast SELECT generate_series(1, 2000)");

async function pause(node: 1 | 2): Promise<void> {
  const standby = stage.nodes[node];
  await standby.sql("SELECT pg_wal_replay_pause()");
  await eventually(
    () => standby.value("SELECT pg_get_wal_replay_pause_state()"),
    (state) => state === "paused",
    { what: "the replay to pause" },
  );
}

async function resumeAll(): Promise<void> {
  for (const standby of stage.nodes.slice(1)) await standby.sql("SELECT pg_wal_replay_resume()");
  await stage.caughtUp();
}

/** Bytes, as the last check has found them. */
async function untilDelays(holds: (first: number, second: number) => boolean): Promise<void> {
  await eventually(
    async () => [Number(await stage.delayOf(1)), Number(await stage.delayOf(2))] as const,
    ([first, second]) => holds(first, second),
    { what: "the delays" },
  );
}

async function untilReadAt(client: RawClient, node: number, sql = readT): Promise<void> {
  await eventually(
    () => stage.where(client, sql),
    (at) => at === node,
    { what: `reads at node ${node}` },
  );
}

describe("a standby whose replay is paused", () => {
  afterEach(resumeAll);

  test("is not read beyond delay_threshold, and is read again when it has caught up", async () => {
    await stage.reload({ delay_threshold: 1000 });
    await untilDelays((first, second) => first === 0 && second === 0);
    await stage.session(async (running) => {
      expect(await stage.where(running)).toBe(1);
      await pause(1);
      await writeBallast();
      await untilReadAt(running, 0);
      await untilDelays((first, second) => first > 1000 && second === 0);
      expect(await stage.where(running, "SHOW port")).toBe(0);
      expect(await stage.session((fresh) => stage.where(fresh))).toBe(0);
      await stage.pgpool.logged(
        /Replication of node: 1 is behind \d+ bytes from the primary server/,
      );
      await resumeAll();
      await untilReadAt(running, 1);
    });
  }, 300_000);

  test("gives way to one that lags less with prefer_lower_delay_standby, for good", async () => {
    const weights = { backend_weight1: 100_000_000, backend_weight2: 1 };
    await stage.reload(weights);
    await stage.session(async (running) => {
      expect(await stage.where(running)).toBe(1);
      await pause(1);
      await writeBallast();
      await untilDelays((first, second) => first > 1000 && second === 0);
      await stage.reload({ ...weights, delay_threshold: 1000, prefer_lower_delay_standby: true });
      expect(await stage.where(running)).toBe(2);
      expect(await stage.session((fresh) => stage.where(fresh))).toBe(2);
      await resumeAll();
      await untilDelays((first) => first === 0);
      expect(await stage.where(running)).toBe(2);
      expect(await stage.session((fresh) => stage.where(fresh))).toBe(1);
    });
  }, 300_000);

  test("is not read beyond delay_threshold_by_time", async () => {
    await stage.reload({ delay_threshold_by_time: 100 });
    await stage.session(async (running) => {
      expect(await stage.where(running)).toBe(1);
      await pause(1);
      // The lag is measured where WAL is on its way: it must go on being written.
      await eventually(
        async () => {
          await stage.nodes[0].sql("INSERT INTO ballast VALUES (1)");
          return await stage.where(running);
        },
        (node) => node === 0,
        { what: "reads at the primary", deadlineMs: 20_000 },
      );
      expect(await stage.delayOf(1)).toMatch(/^\d+\.\d{6} seconds?$/);
      await resumeAll();
      await untilReadAt(running, 1);
    });
  }, 300_000);

  test("a threshold that is reloaded counts at once, a threshold of 0 never", async () => {
    await stage.reload();
    await stage.session(async (running) => {
      await pause(1);
      await writeBallast();
      await untilDelays((first) => first > 1000);
      expect(await stage.where(running)).toBe(1);
      await stage.reload({ delay_threshold: 1000 });
      expect(await stage.where(running)).toBe(0);
      await stage.reload({ delay_threshold: "1GB" });
      expect(await stage.where(running)).toBe(1);
    });
  }, 300_000);
});

describe("log_standby_delay", () => {
  const rows: readonly [setting: string, delay_threshold: number, told: boolean][] = [
    ["always", 0, true],
    ["if_over_threshold", 0, false],
    ["if_over_threshold", 1000, true],
    ["none", 1000, false],
  ];
  test.each(rows)(
    "%s with delay_threshold = %d: %p",
    async (setting, delay_threshold, told) => {
      await untilDelays((first) => first === 0); // what was measured before is forgotten
      await pause(1);
      try {
        await stage.reload({ log_standby_delay: setting, delay_threshold });
        const before = stage.pgpool.log().length;
        // The check is seen to have been there twice.
        for (let i = 0; i < 2; i++) {
          const known = Number(await stage.delayOf(1));
          await writeBallast();
          await untilDelays((first) => first > known + 1000);
        }
        const said = stage.pgpool.log().slice(before);
        const line =
          /Replication of node: 1 is behind \d+ bytes from the primary server \(node: 0\)/;
        expect(line.test(said)).toBe(told);
      } finally {
        await resumeAll();
      }
    },
    300_000,
  );
});

test("sr_check_period: 0 is no check, and a new one counts at once", async () => {
  await stage.reload();
  await untilDelays((first) => first === 0);
  // With 0 the check looks only every half minute whether it is wanted again.
  await stage.reload({ sr_check_period: 0 });
  await pause(1);
  try {
    const known = await stage.delayOf(1);
    await writeBallast();
    expect(await stage.delayOf(1)).toBe(known);
    await stage.reload({ sr_check_period: 1 });
    await untilDelays((first) => first > 1000);
  } finally {
    await resumeAll();
  }
}, 300_000);

describe("replication_delay_source_cmd", () => {
  test("measures in place of SQL: reads follow what it prints", async () => {
    const script = join(stage.pgpool.dir, "delays.sh");
    const says = (delays: string) => {
      writeFileSync(script, `#!/bin/sh\necho "$@" > ${script}.args\necho ${delays}\n`);
      chmodSync(script, 0o755);
    };
    says("0 0");
    await stage.reload({ replication_delay_source_cmd: script, delay_threshold_by_time: 500 });
    await stage.session(async (running) => {
      expect(await stage.where(running)).toBe(1);
      says("750.5 0");
      await untilReadAt(running, 0);
      expect(await stage.delayOf(1)).toBe("0.750500 second");
      await stage.pgpool.logged(
        /Replication of node: 1 is behind 0\.75[01] second\(s\) from the primary server \(node: 0\) \[external command\]/,
      );
      says("-1 0"); // believed to be down: what was known stays
      await stage.pgpool.logged(/LOG: .*believes the node is down for node 1/);
      expect(await stage.where(running)).toBe(0);
      says("0 0");
      await untilReadAt(running, 1);
    });
    const [, first, second] = stage.nodes;
    await eventually(
      () => Bun.file(`${script}.args`).text(), // written anew each second
      (args) => args === `${first.host}:${first.port} ${second.host}:${second.port}\n`,
      { what: "the addresses of both standbys" },
    );
  }, 300_000);

  test("that hangs is ended with all it has started, and nothing else suffers", async () => {
    await stage.reload({
      replication_delay_source_cmd: "sleep 3600 & sleep 3600 #",
      replication_delay_source_timeout: 1,
    });
    await stage.pgpool.logged(/ERROR: .*replication delay command timed out after 1 seconds/);
    expect(await stage.session((client) => stage.where(client))).toBe(1);
    await stage.reload({ replication_delay_source_timeout: 10 });
  }, 300_000);
});

describe("settings of the start", () => {
  test("load_balance_mode = off: everything goes to the primary, and nothing to the others", async () => {
    await using own = new Scope();
    const pgpool = await stage.another(own, { load_balance_mode: false });
    await stage.session(
      async (client) => {
        expect(await stage.where(client)).toBe(0);
        expect(await stage.where(client, "SHOW port")).toBe(0);
        await client.rows("SET work_mem TO '5MB'");
        pgpool.reload({ load_balance_mode: true });
        await pgpool.logged(/reload config files/);
        expect(await stage.where(client)).toBe(0);
      },
      {},
      pgpool,
    );
    expect(await pgpool.sql("PGPOOL SHOW load_balance_mode")).toEqual([
      { load_balance_mode: "off" },
    ]);
  });

  test("ALWAYS_PRIMARY: a node is the primary whatever it says of itself", async () => {
    await using own = new Scope();
    const pgpool = await stage.another(own, { backend_flag2: "ALWAYS_PRIMARY" });
    const roles = (await pgpool.show("pool_nodes")).map(({ role }) => role);
    expect(roles).toEqual(["standby", "standby", "primary"]);
    await stage.session(
      async (client) => {
        const { errors } = await client.query("INSERT INTO t VALUES (2)");
        expect(errors[0]?.C).toBe("25006"); // node 2 is a standby all the same
        expect(await stage.where(client, `${readT} FOR SHARE`)).toBe("25006");
        expect(await stage.where(client)).toBe(1);
      },
      {},
      pgpool,
    );
  });
});

describe("pg_terminate_backend", () => {
  test.each([0, 1, 2])(
    "ends the session's connection on node %i, wherever that is",
    async (node) => {
      await stage.reload({ backend_weight1: 0, [`backend_weight${node}`]: 1 });
      const victim = await stage.client({ app: `victim${node}` });
      expect(await stage.where(victim)).toBe(node);
      const server = stage.nodes[node];
      const victims = `SELECT pid FROM pg_stat_activity WHERE application_name = 'victim${node}'`;
      const pid = await server?.value(victims);
      await stage.reload();
      await stage.session(async (client) => {
        const result = await client.query(`SELECT pg_terminate_backend(${pid})`);
        expect(result.rows).toEqual([["t"]]);
      });
      await eventually(
        async () => (await server?.sql(victims))?.length,
        (count) => count === 0,
      );
      victim.destroy();
      // The node itself is as well as before.
      const rows = await stage.pgpool.show("pool_nodes");
      expect(rows.map(({ status }) => status)).toEqual(["up", "up", "up"]);
    },
  );

  test("of a process that is not ours goes to the primary as any writing function", async () => {
    await stage.reload();
    const pid = await stage.nodes[1].value(
      "SELECT pid FROM pg_stat_activity WHERE backend_type = 'checkpointer'",
    );
    await stage.session(async (client) => {
      const { notices, rows } = await client.query(`SELECT pg_terminate_backend(${pid})`);
      expect(rows).toEqual([["f"]]);
      expect(notices[0]?.M).toStartWith(`PID ${pid} is not a PostgreSQL`);
    });
  });
});

test("SQL's EXECUTE of what a Parse prepared follows a write to the primary and comes back", async () => {
  await stage.reload();
  await stage.session(async (client) => {
    client.send(parse("reader", readT), sync);
    await client.until("Z");
    const seen = [await stage.where(client, "EXECUTE reader")];
    await client.rows("BEGIN");
    await client.rows("INSERT INTO ballast VALUES (1)");
    seen.push(await stage.where(client, "EXECUTE reader"));
    await client.rows("COMMIT");
    seen.push(await stage.where(client, "EXECUTE reader"));
    expect(seen).toEqual([1, 0, 1]);
    await client.rows("DEALLOCATE reader");
    expect((await client.query("EXECUTE reader")).errors[0]?.C).toBe("26000");
  });
});
