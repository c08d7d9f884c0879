/** Servers that only pgpool keeps the same: what the tests of the replication modes share. */
import { type Config, type Team, withPgpool } from "./failover_stage.ts";
import { Postgres, Scope } from "./harness.ts";

/** One value, as each node has it. */
export const valuesOn = (nodes: readonly Postgres[], sql: string): Promise<(string | null)[]> =>
  Promise.all(nodes.map((node) => node.value(sql)));

/** As `withTeam`, with servers of which none knows of another. */
export async function withReplicas(
  count: number,
  config: Config,
  body: (team: Team) => Promise<void>,
  settings: Readonly<Record<string, string | number>> = {},
): Promise<void> {
  await using scope = new Scope();
  const nodes = await Promise.all(
    Array.from({ length: count }, () => Postgres.create(scope, { settings })),
  );
  const mode = { backend_clustering_mode: "native_replication" };
  await withPgpool(scope, nodes, { ...mode, ...config }, body);
}
