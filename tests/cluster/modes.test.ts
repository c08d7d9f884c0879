/** What the modes have in common and what not: roles, who serves, with two servers that know nothing of each other. */
import { expect } from "bun:test";
import { pcp, primaryOf, untilStatuses } from "./failover_stage.ts";
import {
  eventually,
  Pgpool,
  Postgres,
  pcpAdmin,
  Scope,
  superuser,
  testNeeding,
} from "./harness.ts";
import { withReplicas } from "./replicated_stage.ts";

const modesTest = await testNeeding("dist/pgpool", "postgres");
const login = { user: superuser, database: "test" };

type Row = {
  readonly mode: string;
  readonly roles: readonly [string, string];
  /** Nodes to which a session has a connection. */
  readonly connects: readonly number[];
};

const pair = ["main", "replica"] as const;
const rows: readonly Row[] = [
  { mode: "native_replication", roles: pair, connects: [0, 1] },
  { mode: "snapshot_isolation", roles: pair, connects: [0, 1] },
  { mode: "slony", roles: pair, connects: [0, 1] },
  { mode: "raw", roles: pair, connects: [0] },
  { mode: "logical_replication", roles: ["primary", "standby"], connects: [0, 1] },
];

modesTest(
  "every mode serves, and names its nodes as Pgpool-II does",
  async () => {
    await using scope = new Scope();
    const settings = { default_transaction_isolation: "repeatable read" };
    const nodes = [
      await Postgres.create(scope, { settings }),
      await Postgres.create(scope, { settings }),
    ];
    for (const { mode, roles, connects } of rows) {
      const pgpool = await Pgpool.create(scope, {
        backends: nodes,
        config: { backend_clustering_mode: mode, health_check_period: 1 },
        pcpUsers: [pcpAdmin],
      });
      await pgpool.untilServing();
      const shown = await pgpool.show("pool_nodes");
      const seen = {
        mode,
        roles: shown.map(({ role }) => role),
        serverRoles: shown.map(({ pg_role: role }) => role),
        connects: shown.flatMap(({ status }, id) => (status === "up" ? [id] : [])),
      };
      expect<unknown>(seen).toEqual({ mode, roles, serverRoles: roles, connects });
      expect(
        shown.map(({ replication_state: state, replication_delay: delay }) => [state, delay]),
      ).toEqual([
        ["", "0"],
        ["", "0"],
      ]);
      // A server that does not answer it in three seconds is told to be down.
      await eventually(
        async () => (await pgpool.pcp(["node-info"])).stdout.trimEnd().split("\n"),
        (lines) =>
          lines.length === roles.length &&
          lines.every(
            (line, id) => line.split(" ").slice(5, 8).join(" ") === `up ${roles[id]} ${roles[id]}`,
          ),
        { what: "the roles that pcp tells" },
      );
      await pgpool.stop();
    }
  },
  120_000,
);

/** Rows of `t` at the server itself. */
const marksOn = async (node: Postgres | undefined): Promise<string> => {
  const rows = (await node?.sql("SELECT mark FROM t ORDER BY mark")) ?? [];
  return rows.map(({ mark }) => mark).join(" ");
};

/** Each server has a table of its own making, which says which server it is. */
async function mark(nodes: readonly Postgres[]): Promise<void> {
  for (const [id, node] of nodes.entries()) {
    await node.sql(`CREATE TABLE t (mark text); INSERT INTO t VALUES ('node${id}')`);
  }
}

modesTest(
  "slony: writes go to the main node, reads are balanced, and the next node succeeds it",
  async () => {
    const config = { backend_clustering_mode: "slony", backend_weight0: 0 };
    await withReplicas(2, config, async ({ pgpool, nodes: [n0, n1] }) => {
      if (n0 === undefined || n1 === undefined) return;
      await mark([n0, n1]);
      const client = await pgpool.loginWhole(login, 30_000);
      const read = "SELECT mark FROM t WHERE mark LIKE 'node%'";
      expect(await client.rows(read)).toEqual([{ mark: "node1" }]);
      await client.rows("INSERT INTO t VALUES ('a')");
      await client.rows("BEGIN");
      await client.rows("INSERT INTO t VALUES ('b')");
      expect(await client.rows(read)).toEqual([{ mark: "node0" }]);
      await client.rows("COMMIT");
      expect([await marksOn(n0), await marksOn(n1)]).toEqual(["a b node0", "node1"]);

      await n0.stop("fast");
      await untilStatuses(pgpool, "down up");
      expect((await pgpool.show("pool_nodes")).map(({ role }) => role)).toEqual([
        "replica",
        "main",
      ]);
      await client.rows("INSERT INTO t VALUES ('c')");
      expect(await marksOn(n1)).toBe("c node1");
    });
  },
  120_000,
);

modesTest(
  "logical replication: ALWAYS_PRIMARY is the primary while it lives, and again when it is attached",
  async () => {
    const config = {
      backend_clustering_mode: "logical_replication",
      backend_flag1: "ALLOW_TO_FAILOVER|ALWAYS_PRIMARY",
      backend_weight1: 0,
      sr_check_period: 1,
    };
    await withReplicas(2, config, async ({ pgpool, nodes: [n0, n1] }) => {
      if (n0 === undefined || n1 === undefined) return;
      await mark([n0, n1]);
      expect(await primaryOf(pgpool)).toBe(1);
      const client = await pgpool.loginWhole(login, 30_000);
      const read = "SELECT mark FROM t WHERE mark LIKE 'node%'";
      expect(await client.rows(read)).toEqual([{ mark: "node0" }]);
      await client.rows("INSERT INTO t VALUES ('a')");
      expect([await marksOn(n0), await marksOn(n1)]).toEqual(["node0", "a node1"]);

      await n1.kill();
      await untilStatuses(pgpool, "up down");
      // Every server of this mode calls itself a primary: the one that is left takes the writes.
      await client.rows("INSERT INTO t VALUES ('b')");
      expect(await primaryOf(pgpool)).toBe(0);
      expect(await marksOn(n0)).toBe("b node0");

      await n1.start();
      expect(await pcp(pgpool, "attach-node", "1")).toMatchObject({ code: 0, stderr: "" });
      await untilStatuses(pgpool, "up up");
      expect(await primaryOf(pgpool)).toBe(1);
      await pgpool.sql("INSERT INTO t VALUES ('c')");
      expect([await marksOn(n0), await marksOn(n1)]).toEqual(["b node0", "a c node1"]);
    });
  },
  120_000,
);
