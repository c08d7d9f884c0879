/**
 * The cluster that clients are compared on: a primary and a standby that has always applied what
 * was committed (synchronous, remote_apply), so that an answer does not depend on where a SELECT
 * went, and must therefore be the same through pgpool as straight from the primary.
 */
import {
  eventually,
  Pgpool,
  Postgres,
  type PostgresInstall,
  type Scope,
  superuser,
} from "../cluster/harness.ts";

export type Topology = {
  readonly primary: Postgres;
  readonly standby: Postgres;
  /** Straight to the primary: what the others must equal. */
  readonly direct: Route;
  /**
   * Through a pgpool that reads where it may from the primary, and through one that reads where it
   * may from the standby: the weights leave nothing to chance.
   */
  readonly proxied: readonly (Route & { readonly pgpool: Pgpool })[];
};

export type Route = { readonly name: string; readonly port: number };

/** Environment for libpq programs and drivers: the same but for the port. */
export function routeEnv(route: Route): Record<string, string> {
  return {
    PGHOST: "127.0.0.1",
    PGPORT: String(route.port),
    PGUSER: superuser,
    PGPASSWORD: "unused",
    PGDATABASE: "test",
    PGCONNECT_TIMEOUT: "60",
    PGSSLMODE: "disable",
  };
}

const sleepers = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";

/** How many sessions are in `pg_sleep`, on both servers. */
export async function sleeping({ primary, standby }: Topology): Promise<number> {
  const counts = await Promise.all([primary, standby].map((server) => server.value(sleepers)));
  return counts.reduce((sum, count) => sum + Number(count), 0);
}

export async function untilAsleep(topology: Topology): Promise<void> {
  await eventually(
    () => sleeping(topology),
    (count) => count > 0,
    { what: "a backend to sleep" },
  );
}

export async function startTopology(scope: Scope, install?: PostgresInstall): Promise<Topology> {
  const primary = await Postgres.create(scope, { install });
  const standby = await primary.createSynchronousStandby();
  const proxied = [
    await startRoute(scope, "reading from the primary", [primary, standby], [1, 0]),
    await startRoute(scope, "reading from the standby", [primary, standby], [0, 1]),
  ];
  return { primary, standby, direct: { name: "direct", port: primary.port }, proxied };
}

async function startRoute(
  scope: Scope,
  name: string,
  nodes: readonly Postgres[],
  weights: readonly number[],
): Promise<Topology["proxied"][number]> {
  const pgpool = await Pgpool.create(scope, {
    backends: nodes.map(({ host, port }, i) => ({ host, port, weight: weights[i] ?? 0 })),
    config: { num_init_children: 16 },
  });
  await pgpool.untilServing();
  await eventually(
    () => pgpool.show("pool_nodes"),
    (rows) =>
      rows.map(({ role, status }) => `${role} ${status}`).join() === "primary up,standby up",
    { deadlineMs: 30_000, what: "both nodes to be up" },
  );
  return { name, port: pgpool.port, pgpool };
}
