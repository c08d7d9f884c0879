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
  readonly pgpool: Pgpool;
  /** The two ways to the same data. */
  readonly routes: readonly Route[];
};

export type Route = { readonly name: "direct" | "pgpool"; readonly port: number };

/** Environment for libpq programs and drivers: the same but for the port. */
export function routeEnv(route: Route): Record<string, string> {
  return {
    PGHOST: "127.0.0.1",
    PGPORT: String(route.port),
    PGUSER: superuser,
    PGPASSWORD: "unused",
    PGDATABASE: "test",
    PGCONNECT_TIMEOUT: "10",
    PGSSLMODE: "disable",
  };
}

export async function startTopology(scope: Scope, install?: PostgresInstall): Promise<Topology> {
  const primary = await Postgres.create(scope, { install });
  const standby = await primary.createStandby();
  await primary.sql("ALTER SYSTEM SET synchronous_commit = remote_apply", "postgres");
  await primary.sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "postgres");
  await primary.reload();
  await eventually(
    () => primary.value("SELECT sync_state FROM pg_stat_replication", "postgres"),
    (state) => state === "sync",
    { what: "the standby to be synchronous" },
  );
  const pgpool = await Pgpool.create(scope, {
    backends: [primary, standby],
    config: { num_init_children: 16 },
  });
  await pgpool.untilServing();
  await eventually(
    () => pgpool.show("pool_nodes"),
    (rows) =>
      rows.map(({ role, status }) => `${role} ${status}`).join() === "primary up,standby up",
    { deadlineMs: 30_000, what: "both nodes to be up" },
  );
  const routes = [
    { name: "direct", port: primary.port },
    { name: "pgpool", port: pgpool.port },
  ] as const;
  return { primary, standby, pgpool, routes };
}
