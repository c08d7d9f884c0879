/**
 * The control plane with real servers: nodes that are killed, hang, flap and come back, commands
 * that misbehave, and a primary that is replaced.
 */
import { describe, expect } from "bun:test";
import { mkdirSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import { checked, Load, pcp, script, statuses, untilStatuses, withTeam } from "./failover_stage.ts";
import {
  eventually,
  Pgpool as PgpoolProgram,
  Postgres,
  RawClient,
  Scope,
  superuser,
  testNeeding,
} from "./harness.ts";

const pgTest = await testNeeding("postgres", "dist/pgpool");

describe("a standby", () => {
  pgTest(
    "that is killed is detached, and comes back when it streams again",
    async () => {
      await withTeam(1, { auto_failback: true, auto_failback_interval: 0 }, async (team) => {
        const { nodes, pgpool } = team;
        await nodes[1]?.kill();
        await untilStatuses(pgpool, "up down");
        expect(pgpool.status()).toBe("up\ndown\n");
        expect(pgpool.log()).toMatch(
          /=== Starting degeneration. shutdown host 127.0.0.1\(\d+\) ===/,
        );
        await nodes[1]?.start();
        await untilStatuses(pgpool, "up up");
        expect(pgpool.log()).toContain("request auto failback, node id:1");
        await pgpool.logged(/=== Failback done. reconnect host 127.0.0.1\(\d+\) ===/);
        const [, stats = {}] = await pgpool.show("pool_health_check_stats");
        const { success_count, last_failed_health_check } = stats;
        expect(Number(success_count)).toBeGreaterThan(0);
        expect(last_failed_health_check).not.toBe("");
      });
    },
    60_000,
  );
});

describe("the primary", () => {
  pgTest(
    "that is killed is replaced by what failover_command promotes",
    async () => {
      await using own = new Scope();
      own.giveToOwner(own.dir);
      const command = script(own, "failover");
      const config = { failover_command: `${command.path} d=%d m=%m H=%H r=%r P=%P` };
      await withTeam(1, config, async ({ nodes, pgpool }) => {
        const [primary, standby] = nodes;
        await primary?.kill();
        await eventually(
          () => command.calls(),
          (calls) => calls !== "",
          { what: "the command" },
        );
        expect(command.calls()).toBe(`d=0 m=1 H=127.0.0.1 r=${standby?.port} P=0\n`);
        await standby?.promote();
        await pgpool.logged(/failover: set new primary node: 1/, 20_000);
        await eventually(() => pgpool.sql("CREATE TABLE t (a int)"), undefined, {
          deadlineMs: 10_000,
          what: "a write on the new primary",
        });
        expect(await statuses(pgpool)).toBe("down up");
      });
    },
    60_000,
  );
});

describe("failover_method = promote", () => {
  pgTest(
    "after kill -9 of the primary under load every acknowledged insert is there once",
    async () => {
      const config = { failover_method: "promote" };
      await withTeam(2, config, async ({ nodes, pgpool }) => {
        const [primary, ...standbys] = nodes;
        if (primary === undefined) throw new Error("no primary");
        await primary.sql("CREATE TABLE acked (id int)");
        for (const node of nodes) {
          await node.sql("ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (server1, server2)'");
          await node.reload();
        }
        await eventually(
          () => primary.sql("SELECT FROM pg_stat_replication WHERE sync_state = 'quorum'"),
          (rows) => rows.length === 2,
          { what: "both standbys to be synchronous" },
        );
        const load = new Load(pgpool, 8);
        await load.untilAcked(200);
        await pgpool.logged(/synchronous with ANY 1 \(server1, server2\)/);
        const killedAt = performance.now();
        await primary.kill();
        const ackedAt = await load.firstAckAfter(killedAt, 20_000);
        await load.untilAcked(load.acked.length + 200);
        await load.stop();
        console.log(`first write ${Math.round(ackedAt - killedAt)} ms after kill -9`);
        const heir = standbys.find(({ port }) =>
          pgpool
            .log()
            .includes(`node ${nodes.findIndex((node) => node.port === port)} is promoted`),
        );
        const rows = (await heir?.sql("SELECT id FROM acked")) ?? [];
        const found = rows.map(({ id }) => Number(id));
        expect(new Set(found).size).toBe(found.length);
        const there = new Set(found);
        expect(load.acked.filter((id) => !there.has(id))).toEqual([]);
        expect(ackedAt - killedAt).toBeLessThan(20_000); // by the refusal, not by the check's time limit
        expect(await statuses(pgpool)).toBe("down up up");
        const other = standbys.find((node) => node !== heir);
        await eventually(
          () => other?.value("SELECT count(*) FROM acked"),
          (count) => count === String(found.length),
          { deadlineMs: 20_000, what: "the other standby to follow the new primary" },
        );
      });
    },
    90_000,
  );
});

describe("a server that hangs", () => {
  pgTest(
    "as a standby is detached by the time limit of its check, and delays no log-in",
    async () => {
      await withTeam(1, { health_check_timeout1: 2 }, async ({ nodes, pgpool }) => {
        nodes[1]?.suspend();
        try {
          await untilStatuses(pgpool, "up down");
          expect(pgpool.log()).toContain("health check failed on node 1 (timeout:1)");
          const startedAt = performance.now();
          await pgpool.sql("SELECT 1");
          expect(performance.now() - startedAt).toBeLessThan(10_000); // connect_timeout
        } finally {
          nodes[1]?.continue();
        }
      });
    },
    60_000,
  );

  pgTest(
    "as the primary is not replaced, for it is not certain that it is gone; it returns by itself",
    async () => {
      const config = { failover_method: "promote", health_check_timeout0: 2 };
      await withTeam(1, config, async ({ nodes, pgpool }) => {
        const [primary, standby] = nodes;
        primary?.suspend();
        try {
          await pgpool.logged(/no standby is promoted/, 20_000);
          expect(pgpool.log()).toContain("it is not certain that node 0 is gone");
          expect(await standby?.isInRecovery()).toBe(true);
          expect(await statuses(pgpool)).toBe("down up");
        } finally {
          primary?.continue();
        }
        await untilStatuses(pgpool, "up up");
        await pgpool.logged(/the primary answers again: node 0/);
        await eventually(() => pgpool.sql("CREATE TABLE back (a int)"), undefined, {
          deadlineMs: 10_000,
          what: "a write on the primary",
        });
      });
    },
    60_000,
  );
});

describe("a backend that is none", () => {
  const strange: readonly [string, () => Promise<{ host: string; port: number; close(): void }>][] =
    [
      ["that accepts and never answers", silentPort],
      [
        "whose name nobody knows",
        async () => ({ host: "no.such.host.invalid", port: 5432, close() {} }),
      ],
    ];
  for (const [title, place] of strange) {
    pgTest(
      `${title} is detached, and the others serve`,
      async () => {
        await using scope = new Scope();
        const primary = await Postgres.create(scope);
        const other = await place();
        try {
          const pgpool = await PgpoolProgram.create(scope, {
            backends: [primary, other],
            config: { ...checked(2), health_check_timeout1: 1, connect_timeout1: "1s" },
          });
          await pgpool.untilServing();
          await untilStatuses(pgpool, "up down");
          expect(pgpool.log()).not.toContain("internal error");
        } finally {
          other.close();
        }
      },
      60_000,
    );
  }
});

describe("commands", () => {
  const misbehaving: readonly [string, string, RegExp][] = [
    ["fails", "exit 3", /a command exited with 3/],
    ["prints without end", "yes verbose | head -c 3000000", /more than 65536 bytes of output/],
    ["is ended by a signal", "kill -9 $$", /a command (was ended by SIGKILL|exited with 137)/],
  ];
  pgTest(
    "that fail, print megabytes or are missing are logged, and the failover goes on",
    async () => {
      await using own = new Scope();
      own.giveToOwner(own.dir);
      await withTeam(1, { auto_failback: true, auto_failback_interval: 0 }, async (team) => {
        const { nodes, pgpool } = team;
        const lose = async (command: string, sign: RegExp) => {
          pgpool.reload({ failover_command: command });
          await eventually(
            () => pgpool.sql("PGPOOL SHOW failover_command"),
            ([row]) => Object.values(row ?? {})[0] === command,
            { what: "the reload" },
          );
          await nodes[1]?.kill();
          await pgpool.logged(sign, 20_000);
          await untilStatuses(pgpool, "up down");
          await nodes[1]?.start();
          await untilStatuses(pgpool, "up up");
        };
        for (const [name, body, sign] of misbehaving) {
          const command = script(own, name.replaceAll(" ", "_"), body);
          await lose(command.path, sign);
          expect(command.calls()).not.toBe("");
        }
        await lose("/no/such/command", /a command exited with 127/);
        expect(pgpool.log().length).toBeLessThan(1_000_000);
      });
    },
    90_000,
  );

  pgTest(
    "that hang hold up the next transition and nothing else",
    async () => {
      await using own = new Scope();
      own.giveToOwner(own.dir);
      const gate = join(own.dir, "gate");
      const command = script(own, "hang", `while [ ! -e '${gate}' ]; do sleep 0.1; done`);
      await withTeam(2, { failover_command: command.path }, async ({ nodes, pgpool }) => {
        await nodes[1]?.kill();
        await eventually(
          () => command.calls(),
          (calls) => calls !== "",
          { what: "the command" },
        );
        await pgpool.sql("CREATE TABLE meanwhile (a int)");
        expect(await statuses(pgpool)).toBe("up down up");
        await nodes[2]?.kill();
        await pgpool.logged(/received degenerate backend request for node_id: 2/);
        await pgpool.sql("SELECT 1");
        expect(pgpool.log()).not.toMatch(/=== Failover done/);
        writeFileSync(gate, "");
        await untilStatuses(pgpool, "up down down");
        await eventually(
          () => command.calls().split("\n").length - 1,
          (calls) => calls === 2,
          { what: "one call for each lost node" },
        );
      });
    },
    60_000,
  );

  pgTest(
    "follow_primary_command runs for each node that is down, and what it attaches comes back",
    async () => {
      await using own = new Scope();
      own.giveToOwner(own.dir);
      const follow = script(own, "follow");
      const config = {
        failover_method: "promote",
        follow_primary_command: `${follow.path} d=%d m=%m P=%P`,
      };
      await withTeam(2, config, async ({ nodes, pgpool }) => {
        const [primary, ...standbys] = nodes;
        // The one with more of the WAL would be the heir, whoever it is.
        if (primary !== undefined) for (const node of standbys) await node.catchUpWith(primary);
        await primary?.kill();
        await pgpool.logged(/=== Follow primary command for node 2 ended ===/, 20_000);
        expect(follow.calls()).toBe("d=0 m=1 P=0\nd=2 m=1 P=0\n");
        expect(await statuses(pgpool)).toBe("down up down");
        expect(pgpool.status()).toBe("down\nup\ndown\n");
      });
    },
    60_000,
  );
});

describe("signs of failure", () => {
  pgTest(
    "pg_terminate_backend is none, and the shutdown of a standby is one",
    async () => {
      const config = { failover_on_backend_shutdown: true, health_check_period: 0 };
      await withTeam(1, config, async ({ nodes, pgpool }) => {
        const client = await RawClient.login(pgpool.tcp, { user: superuser, database: "test" });
        await client.rows("SELECT 1");
        for (const node of nodes) {
          await node.sql(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'test' AND pid <> pg_backend_pid()",
          );
        }
        await client.closed().catch(() => {});
        client.destroy();
        await pgpool.sql("SELECT 1");
        expect(await statuses(pgpool)).toBe("up up");
        expect(pgpool.log()).not.toContain("degeneration");
        const idle = await RawClient.login(pgpool.tcp, { user: superuser, database: "test" });
        await nodes[1]?.stop("fast");
        await untilStatuses(pgpool, "up down");
        idle.destroy();
      });
    },
    60_000,
  );

  pgTest(
    "a false primary is detached, when that is wanted",
    async () => {
      await withTeam(2, { detach_false_primary: true }, async ({ nodes, pgpool }) => {
        for (const [i, node] of nodes.entries()) {
          if (i === 0) continue;
          const source = `host=127.0.0.1 port=${nodes[0]?.port} user=${superuser}`;
          await node.sql(
            `ALTER SYSTEM SET primary_conninfo = '${source} application_name=server${i}'`,
          );
          await node.reload();
        }
        await eventually(
          () => nodes[0]?.sql("SELECT FROM pg_stat_replication WHERE client_addr IS NOT NULL"),
          (rows) => rows?.length === 2,
          { what: "both standbys to stream" },
        );
        await nodes[1]?.promote();
        await pgpool.logged(/pgpool_worker_child: invalid node found 1/, 20_000);
        await untilStatuses(pgpool, "up down up");
      });
    },
    60_000,
  );

  pgTest(
    "health_check_test believes its file, and a status file that cannot be written stops nobody",
    async () => {
      await withTeam(1, { health_check_test: true }, async ({ pgpool }) => {
        const draft = join(pgpool.dir, "pgpool_status.new");
        mkdirSync(join(draft, "in the way"), { recursive: true });
        writeFileSync(join(pgpool.dir, "backend_down_request"), "1\tdown\n");
        await untilStatuses(pgpool, "up down");
        await pgpool.logged(/could not write status file/);
        await pgpool.sql("SELECT 1");
      });
    },
    60_000,
  );
});

describe("a standby that flaps", () => {
  pgTest(
    "comes and goes without a wrong state, and stays in the end",
    async () => {
      const config = { auto_failback: true, auto_failback_interval: 0 };
      await withTeam(1, config, async ({ nodes, pgpool }) => {
        for (let i = 0; i < 4; i++) {
          await nodes[1]?.kill();
          await untilStatuses(pgpool, "up down");
          await nodes[1]?.start();
          if (i % 2 === 1) await untilStatuses(pgpool, "up up");
        }
        await untilStatuses(pgpool, "up up");
        await pgpool.sql("CREATE TABLE steady (a int)");
        const count = (what: RegExp) => pgpool.log().match(what)?.length ?? 0;
        await eventually(
          () =>
            count(/=== Starting (degeneration|fail back)/g) -
            count(/=== (Failover|Failback) done/g),
          (open) => open === 0,
          { what: "each transition to be done" },
        );
      });
    },
    90_000,
  );
});

describe("an operator's orders", () => {
  const { FAILOVERS = "8" } = process.env;
  pgTest(
    `detach and attach a standby ${FAILOVERS} times under load, and no client notices (FAILOVERS=n)`,
    async () => {
      await withTeam(1, {}, async ({ nodes, pgpool }) => {
        await nodes[0]?.sql("CREATE TABLE acked (id int)");
        const load = new Load(pgpool, 6);
        await load.untilAcked(50);
        for (let i = 0; i < Number(FAILOVERS); i++) {
          expect(await pcp(pgpool, "detach_node", "1")).toMatchObject({ code: 0, stderr: "" });
          expect(await statuses(pgpool)).toBe("up down");
          expect(await pcp(pgpool, "attach_node", "1")).toMatchObject({ code: 0, stderr: "" });
          expect(await statuses(pgpool)).toBe("up up");
        }
        await load.untilAcked(load.acked.length + 50);
        await load.stop();
        expect(load.failures).toEqual([]);
        expect(await nodes[0]?.value("SELECT count(*) FROM acked")).toBe(String(load.acked.length));
      });
    },
    30_000 + Number(FAILOVERS) * 2000,
  );

  pgTest(
    "promote a standby over the primary's head, which leaves the others to follow",
    async () => {
      await withTeam(1, {}, async ({ pgpool }) => {
        expect(await pcp(pgpool, "promote_node", "1")).toMatchObject({ code: 0 });
        expect(await statuses(pgpool)).toBe("down up");
        expect(pgpool.status()).toBe("down\nup\n");
        await pgpool.logged(/=== Promotion done. promoted host 127.0.0.1\(\d+\) ===/);
        const { stderr } = await pcp(pgpool, "detach_node", "0");
        expect(stderr).toContain("is not valid for failover");
      });
    },
    60_000,
  );
});

/** A listener that takes connections and says nothing. */
async function silentPort() {
  const sockets: Socket[] = [];
  const server = createServer((socket) => void sockets.push(socket));
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  const port = typeof address === "object" && address !== null ? address.port : 0;
  const close = () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  };
  return { host: "127.0.0.1", port, close };
}
