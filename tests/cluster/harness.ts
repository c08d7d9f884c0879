/**
 * The test cluster in one import. `await using scope = new Scope()` (or `withCluster`) and then
 * `Postgres.create`, `Pgpool.create`: everything made in a scope is gone at its end.
 */
import { test } from "bun:test";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { findProgram, isExecutable, patient, runCommand, Scope } from "./machine.ts";
import { canMakeNetworks } from "./netns.ts";
import { pgbouncerProgram } from "./pgbouncer.ts";
import { originalPgpool, ourBinary, Pgpool, type PgpoolOptions } from "./pgpool.ts";
import {
  findContainerPostgres,
  findPostgres,
  Postgres,
  type PostgresInstall,
  type PostgresOptions,
} from "./postgres.ts";

export * from "./certificate.ts";
export * from "./ledger.ts";
export * from "./machine.ts";
export * from "./messages.ts";
export * from "./mock_postgres.ts";
export * from "./netns.ts";
export * from "./pgbouncer.ts";
export * from "./pgpool.ts";
export * from "./postgres.ts";
export * from "./raw_client.ts";
export * from "./raw_peer.ts";

export type ClusterOptions = {
  /** Streaming standbys beside the primary; default 0. */
  readonly standbys?: number;
  readonly postgres?: PostgresOptions;
  /** What to start in front; the backends are filled in. */
  readonly pgpool?: Omit<PgpoolOptions, "backends">;
};

export type Cluster = {
  readonly scope: Scope;
  readonly primary: Postgres;
  readonly standbys: readonly Postgres[];
  /** Primary first: the index is the node number. */
  readonly nodes: readonly Postgres[];
  readonly pgpool: Pgpool;
};

/** Starts a primary, its standbys and a pgpool in front of them, ready for queries. */
export async function startCluster(scope: Scope, options: ClusterOptions = {}): Promise<Cluster> {
  const primary = await Postgres.create(scope, options.postgres);
  const standbys: Postgres[] = [];
  for (let i = options.standbys ?? 0; i > 0; i--) standbys.push(await primary.createStandby());
  const nodes = [primary, ...standbys];
  const pgpool = await Pgpool.create(scope, { ...options.pgpool, backends: nodes });
  if (options.pgpool?.startLater !== true) await pgpool.untilServing();
  return { scope, primary, standbys, nodes, pgpool };
}

/** Runs `body` in a new cluster and takes it down again, also when `body` throws. */
export async function withCluster<T>(
  options: ClusterOptions,
  body: (cluster: Cluster) => Promise<T>,
): Promise<T> {
  await using scope = new Scope();
  return await body(await startCluster(scope, options));
}

const needs = {
  postgres: async () => (await findPostgres()) !== undefined,
  "postgres (system)": async () => (await findPostgres("system")) !== undefined,
  "postgres (embedded)": async () => (await findPostgres("embedded")) !== undefined,
  "dist/pgpool": async () => ourBinary() !== undefined,
  "container engine with the image of tests/cluster/postgres_image": async () =>
    (await findContainerPostgres()) !== undefined,
  pgpool2: async () => originalPgpool() !== undefined,
  "postgresql-15-pgpool2": async () => await hasExtension("pgpool_recovery"),
  "network namespaces": async () => canMakeNetworks(),
  pgbouncer: async () => pgbouncerProgram() !== undefined,
  psql: () => runs("psql", "--version"),
  pgbench: () => runs("pgbench", "--version"),
  shellcheck: () => runs("shellcheck", "--version"),
  openssl: () => runs("openssl", "version"),
  ip: async () => findProgram("ip") !== undefined,
  ping: async () => findProgram("ping") !== undefined,
  psycopg: async () => (await findPython("psycopg")) !== undefined,
  psycopg2: async () => (await findPython("psycopg2")) !== undefined,
} as const satisfies Record<string, () => Promise<boolean>>;

export type Need = keyof typeof needs;

/** Whether the system's PostgreSQL has the extension's files. */
async function hasExtension(name: string): Promise<boolean> {
  const install = await findPostgres("system");
  if (install === undefined) return false;
  const { stdout } = await runCommand([join(install.bin, "pg_config"), "--sharedir"]);
  return existsSync(join(stdout.trim(), "extension", `${name}.control`));
}

/** Debian's psql is a wrapper that may be there without the program behind it. */
async function runs(name: string, argument: string): Promise<boolean> {
  const program = findProgram(name);
  return program !== undefined && (await runCommand([program, argument])).code === 0;
}

/** An interpreter that has the module; Debian's own may be hidden behind another on PATH. */
export async function findPython(module: string): Promise<string | undefined> {
  for (const python of [findProgram("python3"), "/usr/bin/python3"]) {
    if (python === undefined || !isExecutable(python)) continue;
    if ((await runCommand([python, "-c", `import ${module}`])).code === 0) return python;
  }
  return undefined;
}

/** What of `wanted` this machine does not have. */
export async function missing(...wanted: Need[]): Promise<Need[]> {
  const found = await Promise.all(wanted.map((need) => needs[need]()));
  return wanted.filter((_, i) => found[i] === false);
}

/**
 * A `test` for what needs more than Node and npm: where something is missing each test is skipped
 * and its title says why. Used at the top of a file: `const psqlTest = await testNeeding("psql")`.
 */
export async function testNeeding(
  ...wanted: Need[]
): Promise<(title: string, body: () => Promise<void>, timeoutMs?: number) => void> {
  const absent = await missing(...wanted);
  if (absent.length === 0)
    return (title, body, timeoutMs) => test(title, body, timeoutMs && patient(timeoutMs));
  return (title, body) => test.skip(`${title} [not installed: ${absent.join(", ")}]`, body);
}

/** Each major of PostgreSQL on this machine: the cluster tests run on all of them. */
export async function everyPostgres(): Promise<PostgresInstall[]> {
  const found = [await findPostgres("system"), await findPostgres("embedded")];
  return found.filter((install) => install !== undefined);
}
