/** Who runs in a bench: PostgreSQL itself, ours, PgBouncer in session mode, the real Pgpool-II. */
import {
  originalPgpool,
  ourBinary,
  Pgbouncer,
  Pgpool,
  type PgpoolOptions,
  type Postgres,
  type Program,
  pgbouncerProgram,
  type Scope,
  type ServerCertificate,
  serverCertificate,
} from "../cluster/harness.ts";

export const contenderNames = ["direct", "ours", "PgBouncer", "Pgpool-II"] as const;
export type ContenderName = (typeof contenderNames)[number];

export type Contender = {
  readonly name: ContenderName;
  readonly port: number;
  /** Root of the proxy's process tree; undefined for PostgreSQL itself. */
  readonly pid: number | undefined;
};

export type Setting = {
  readonly tls: boolean;
  readonly auth: "trust" | "scram-sha-256";
  /** How many clients at once each proxy must take. */
  readonly clients: number;
  /** Those that can answer from memory do. */
  readonly cache?: true;
};

/** Role and password of all benches; trusted or not is up to the setting. */
export const benchRole = { trust: "bench", "scram-sha-256": "bench_scram", password: "bench" };

/** Which of them this machine can run. */
export function installed(): ContenderName[] {
  const present: Record<ContenderName, boolean> = {
    direct: true,
    ours: ourBinary() !== undefined,
    PgBouncer: pgbouncerProgram() !== undefined,
    "Pgpool-II": originalPgpool() !== undefined,
  };
  return contenderNames.filter((name) => present[name]);
}

export async function startContender(
  scope: Scope,
  backend: Postgres,
  name: ContenderName,
  setting: Setting,
): Promise<Contender> {
  switch (name) {
    case "direct":
      return { name, port: backend.port, pid: undefined };
    case "ours":
      return startPgpool(scope, backend, name, ourBinary(), setting);
    case "Pgpool-II":
      return startPgpool(scope, backend, name, originalPgpool(), setting);
    case "PgBouncer": {
      const { port, pid } = await startBouncer(scope, backend, setting);
      return { name, port, pid };
    }
  }
}

async function startPgpool(
  scope: Scope,
  backend: Postgres,
  name: ContenderName,
  program: Program | undefined,
  setting: Setting,
): Promise<Contender> {
  const scram = setting.auth === "scram-sha-256";
  const options: PgpoolOptions = {
    program,
    backends: [backend],
    config: {
      load_balance_mode: true,
      num_init_children: setting.clients,
      max_pool: 1,
      sr_check_period: 10,
      ...(setting.tls ? tlsConfig(await serverCertificate(scope)) : {}),
      ...(setting.cache ? cacheConfig(scope) : {}),
    },
    ...(scram
      ? {
          hba: ["host all all 127.0.0.1/32 scram-sha-256"],
          passwd: [`${benchRole["scram-sha-256"]}:TEXT${benchRole.password}`],
        }
      : {}),
  };
  const pgpool = await Pgpool.create(scope, options);
  return { name, port: pgpool.port, pid: pgpool.pid };
}

/** Room for a result of a megabyte. */
const cacheConfig = (scope: Scope) => ({
  memory_cache_enabled: true,
  memqcache_cache_block_size: 4 * 2 ** 20,
  memqcache_maxcache: 2 * 2 ** 20,
  memqcache_oiddir: scope.makeDir("oiddir"),
});

const tlsConfig = (files: ServerCertificate) => ({
  ssl: true,
  ssl_key: files.key,
  ssl_cert: files.cert,
});

async function startBouncer(scope: Scope, backend: Postgres, setting: Setting): Promise<Pgbouncer> {
  const users = {
    [benchRole.trust]: "",
    [benchRole["scram-sha-256"]]: benchRole.password,
  };
  const files = setting.tls ? await serverCertificate(scope) : undefined;
  return Pgbouncer.create(scope, {
    backend,
    auth: setting.auth,
    users,
    settings:
      files === undefined
        ? {}
        : {
            client_tls_sslmode: "require",
            client_tls_key_file: files.key,
            client_tls_cert_file: files.cert,
          },
  });
}
