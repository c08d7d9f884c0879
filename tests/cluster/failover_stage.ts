/**
 * What the tests of the control plane share: servers whose pgpool may detach them, scripts that note
 * how they were called, orders by PCP, and clients that count what was acknowledged.
 */
import { appendFileSync, chmodSync, existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  eventually,
  mustRun,
  type Pgpool,
  type PgpoolOptions,
  Pgpool as PgpoolProgram,
  Postgres,
  type PostgresOptions,
  pause,
  pcpAdmin,
  RawClient,
  Scope,
  superuser,
  type Target,
  tail,
} from "./harness.ts";

export type Config = NonNullable<PgpoolOptions["config"]>;

/** Health checks each second, and each of so many servers may be detached. */
export function checked(servers: number): Config {
  const perServer = Array.from({ length: servers }, (_, id) => ({
    [`backend_flag${id}`]: "ALLOW_TO_FAILOVER",
    [`backend_application_name${id}`]: `server${id}`,
  }));
  return Object.assign(
    {
      health_check_period: 1,
      health_check_user: superuser,
      // A killed server refuses at once; a test of one that hangs sets its own limit, for that one.
      health_check_timeout: 30,
      failover_on_backend_error: true,
      sr_check_period: 1,
      search_primary_node_timeout: 20,
    },
    ...perServer,
  );
}

/** A standby that is led to another primary comes by TCP. */
const trustingAll = [
  "local all all trust",
  "host all all 127.0.0.1/32 trust",
  "host replication all 127.0.0.1/32 trust",
];

export type Team = {
  readonly nodes: readonly Postgres[];
  readonly pgpool: Pgpool;
  readonly scope: Scope;
};

export async function withTeam(
  standbys: number,
  config: Config,
  body: (team: Team) => Promise<void>,
  options: PostgresOptions = {},
): Promise<void> {
  await using scope = new Scope();
  const primary = await Postgres.create(scope, { hba: trustingAll, ...options });
  const nodes = [primary];
  for (let i = 0; i < standbys; i++) nodes.push(await primary.createStandby());
  await withPgpool(scope, nodes, config, body);
}

/** Runs `body` with a pgpool in front of these servers, which may be detached. */
export async function withPgpool(
  scope: Scope,
  nodes: readonly Postgres[],
  config: Config,
  body: (team: Team) => Promise<void>,
): Promise<void> {
  const pgpool = await PgpoolProgram.create(scope, {
    backends: nodes,
    config: { ...checked(nodes.length), ...config },
    pcpUsers: [pcpAdmin],
  });
  await pgpool.untilServing();
  await telling([pgpool, ...nodes], () => body({ nodes, pgpool, scope }));
}

/** Runs `body`; when it fails, the ends of these logs say why. */
export async function telling<T>(
  logs: readonly { log(): string }[],
  body: () => Promise<T>,
): Promise<T> {
  try {
    return await body();
  } catch (error) {
    const ends = logs.map((each) => tail(each.log(), 60)).join("\n----\n");
    throw new Error(`${error}\nthe logs end so:\n${ends}`, { cause: error });
  }
}

/** `up up down`, by node. */
export async function statuses(pgpool: Pgpool): Promise<string> {
  const rows = await pgpool.show("pool_nodes");
  return rows.map(({ status }) => (status === "waiting" ? "up" : status)).join(" ");
}

export const untilStatuses = (pgpool: Pgpool, wanted: string, deadlineMs = 20_000) =>
  eventually(
    () => statuses(pgpool),
    (found) => found === wanted,
    { deadlineMs, what: `the nodes to be ${wanted}` },
  );

/** A script that notes how it was called, in `<dir>/<name>.calls`, and does `body`. */
export function script(scope: Scope, name: string, body = ""): { path: string; calls(): string } {
  const path = join(scope.dir, name);
  const notes = `${path}.calls`;
  writeFileSync(path, `#!/bin/sh\necho "$*" >> '${notes}'\n${body}\n`);
  chmodSync(path, 0o755);
  return { path, calls: () => (existsSync(notes) ? readFileSync(notes, "utf8") : "") };
}

/** `pgpool pcp COMMAND -n NODE …` as the administrator. */
export const pcp = (to: Pgpool, command: string, node: string, ...options: readonly string[]) =>
  to.pcp([command, "-n", node, ...options]);

/** Clients that insert numbers, each once, and note what was acknowledged. */
export class Load {
  readonly acked: number[] = [];
  /** Why clients began anew. */
  readonly failures: string[] = [];
  readonly #ackedAt: number[] = [];
  readonly #target: Target;
  readonly #user: string;
  readonly #clients: Promise<void>[];
  #next = 1;
  #stopping = false;

  /** `tcp` is pgpool's; the table `acked` is in the database `test`. */
  constructor({ tcp }: { readonly tcp: Target }, clients: number, user = superuser) {
    this.#target = tcp;
    this.#user = user;
    this.#clients = Array.from({ length: clients }, () => this.#run());
  }

  async #run(): Promise<void> {
    while (!this.#stopping) {
      let client: RawClient | undefined;
      try {
        const login = { user: this.#user, database: "test" };
        client = await RawClient.login(this.#target, login, 60_000);
        while (!this.#stopping) {
          const id = this.#next++;
          await client.rows(`INSERT INTO acked VALUES (${id})`);
          this.acked.push(id);
          this.#ackedAt.push(performance.now());
        }
        await client.terminate();
      } catch (error) {
        this.failures.push(error instanceof Error ? error.message : String(error));
        // Refused, cut off or on a server that may not write: the next try has a number of its own.
        await pause(20);
      } finally {
        client?.destroy();
      }
    }
  }

  async untilAcked(count: number): Promise<void> {
    await eventually(
      () => this.acked.length,
      (acked) => acked >= count,
      { deadlineMs: 30_000, what: `${count} acknowledged inserts` },
    );
  }

  async firstAckAfter(at: number, deadlineMs: number): Promise<number> {
    const found = await eventually(
      () => this.#ackedAt.find((ackedAt) => ackedAt > at + 50),
      (ackedAt) => ackedAt !== undefined,
      { deadlineMs, what: "an acknowledged insert after the kill" },
    );
    return found ?? 0;
  }

  async stop(): Promise<void> {
    this.#stopping = true;
    await Promise.all(this.#clients);
  }
}

/** A server that is down, and was a primary, is started as a standby of `source`, by pg_rewind. */
export async function rejoin(
  server: Postgres,
  source: Postgres,
  name: string,
  scope: Scope,
): Promise<void> {
  const place = `host=${source.host} port=${source.port} user=${superuser}`;
  await source.sql("CHECKPOINT"); // pg_rewind goes by the timeline of the last one
  const rewind = [server.program("pg_rewind"), "-D", server.dataDir] as const;
  await mustRun([...rewind, "--source-server", `${place} dbname=postgres`], { owner: scope.owner });
  // The files of settings came along.
  server.configure({});
  const line = `primary_conninfo = '${place} application_name=${name}'\n`;
  appendFileSync(join(server.dataDir, "postgresql.auto.conf"), line);
  const signal = join(server.dataDir, "standby.signal");
  writeFileSync(signal, "");
  scope.giveToOwner(signal);
  await server.start();
}

/** The node that `pgpool` takes for the primary now. */
export async function primaryOf(pgpool: Pgpool): Promise<number | undefined> {
  const rows = await pgpool.show("pool_nodes");
  const id = rows.findIndex(({ role, status }) => role === "primary" && status !== "down");
  return id < 0 ? undefined : id;
}

/** Every node that may be promoted is synchronous to whoever is the primary. */
export async function makeSynchronous(nodes: readonly Postgres[]): Promise<void> {
  const names = nodes.map((_, id) => `server${id}`).join(", ");
  for (const node of nodes) {
    await node.sql(`ALTER SYSTEM SET synchronous_standby_names = 'ANY 1 (${names})'`);
    await node.reload();
  }
  await eventually(
    () => nodes[0]?.sql("SELECT FROM pg_stat_replication WHERE sync_state = 'quorum'"),
    (rows) => rows?.length === nodes.length - 1,
    { what: "every standby to be synchronous" },
  );
}
