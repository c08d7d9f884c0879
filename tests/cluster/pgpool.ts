/**
 * A proxy under test, started as a user would start it: our compiled binary, the real Pgpool-II or
 * PgBouncer, from a configuration made of an object.
 */
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import {
  type CommandResult,
  eventually,
  findProgram,
  freePort,
  isExecutable,
  processTree,
  repositoryRoot,
  runCommand,
  type Scope,
  type ServerProcess,
} from "./machine.ts";
import { superuser } from "./postgres.ts";
import { type Login, RawClient, type Target } from "./raw_client.ts";

export type Program =
  | { readonly kind: "ours"; readonly path: string }
  | { readonly kind: "pgpool2"; readonly path: string };

/** The binary made by `npm run build`; undefined before the first build. */
export function ourBinary(): Program | undefined {
  const path = join(repositoryRoot, "dist/pgpool");
  return isExecutable(path) ? { kind: "ours", path } : undefined;
}

/** The original, where the package pgpool2 is installed. */
export function originalPgpool(): Program | undefined {
  const path = findProgram("pgpool");
  return path === undefined ? undefined : { kind: "pgpool2", path };
}

/**
 * What the cluster tests run: our binary or, with PGPOOL_PROGRAM=original in the environment, the
 * real Pgpool-II, to see what it does where the specification leaves a doubt.
 */
export function programUnderTest(): Program | undefined {
  const { PGPOOL_PROGRAM } = process.env;
  return PGPOOL_PROGRAM === "original" ? originalPgpool() : ourBinary();
}

/** The line of pcp.conf of the administrator whose password is `secret`. */
export const pcpAdmin = "admin:5ebe2294ecd0e0f08eab7690d2a6ee69";

export type Backend = { readonly host: string; readonly port: number; readonly weight?: number };
export type ConfigValue = string | number | boolean;

export type PgpoolOptions = {
  /** Default: `programUnderTest()`. */
  readonly program?: Program | undefined;
  readonly backends: readonly Backend[];
  /** Parameters over the harness's own. */
  readonly config?: Readonly<Record<string, ConfigValue>>;
  /** Lines of pool_hba.conf; giving them turns enable_pool_hba on. */
  readonly hba?: readonly string[];
  /** Lines of pool_passwd, such as `alice:TEXTsecret`. */
  readonly passwd?: readonly string[];
  readonly pcpUsers?: readonly string[];
  /** First line of the key file for AES entries. */
  readonly key?: string;
  readonly args?: readonly string[];
  readonly env?: Readonly<Record<string, string>>;
  /** Where it is reached; default 127.0.0.1. */
  readonly host?: string;
  /** Default: two free ones of this machine. A host in a namespace has all ports to itself. */
  readonly ports?: { readonly port: number; readonly pcpPort: number };
  /** Words before the program, such as those that run it in a network namespace. */
  readonly under?: readonly string[];
  /** Further files beside pgpool.conf, by name. */
  readonly files?: Readonly<Record<string, string>>;
  /** Environment and files only: do not start. */
  readonly startLater?: boolean;
};

export type ShowRow = Readonly<Record<string, string>>;

export class Pgpool {
  readonly host: string;
  readonly port: number;
  readonly pcpPort: number;
  /** Holds pgpool.conf and what belongs beside it, the log, the sockets and pgpool_status. */
  readonly dir: string;
  readonly program: Program;
  readonly #scope: Scope;
  readonly #options: PgpoolOptions;
  #process: ServerProcess | undefined;

  private constructor(scope: Scope, program: Program, options: PgpoolOptions, ports: number[]) {
    this.#scope = scope;
    this.#options = options;
    this.program = program;
    this.host = options.host ?? "127.0.0.1";
    [this.port = 0, this.pcpPort = 0] = ports;
    const name = options.host === undefined ? `${this.port}` : `${this.host}-${this.port}`;
    this.dir = scope.makeDir(`pgpool-${name}`);
  }

  /** Writes the files and, unless told otherwise, starts it and waits until it listens. */
  static async create(scope: Scope, options: PgpoolOptions): Promise<Pgpool> {
    const program = options.program ?? programUnderTest();
    if (program === undefined) throw new Error("dist/pgpool is missing: run npm run build first");
    const { port, pcpPort } = options.ports ?? {
      port: await freePort(),
      pcpPort: await freePort(),
    };
    const pgpool = new Pgpool(scope, program, options, [port, pcpPort]);
    pgpool.writeFiles();
    if (options.startLater !== true) await pgpool.start();
    return pgpool;
  }

  get configPath(): string {
    return join(this.dir, "pgpool.conf");
  }

  get tcp(): Target {
    return { host: this.host, port: this.port };
  }

  get socketPath(): string {
    return join(this.dir, `.s.PGSQL.${this.port}`);
  }

  get pid(): number {
    if (this.#process === undefined) throw new Error("pgpool was never started");
    return this.#process.pid;
  }

  get started(): boolean {
    return this.#process !== undefined;
  }

  /** Undefined while it runs, else how it ended, such as "exit 0". */
  get end(): string | undefined {
    return this.#process?.end;
  }

  /** Environment for libpq programs that go through this proxy. */
  get env(): Record<string, string> {
    return { PGHOST: this.host, PGPORT: String(this.port), PGUSER: superuser, PGDATABASE: "test" };
  }

  /** Writes all files anew, with `changes` over the parameters: for reload and restart. */
  writeFiles(changes: Readonly<Record<string, ConfigValue>> = {}): void {
    const { hba, passwd, pcpUsers, key, config } = this.#options;
    const write = (name: string, lines: readonly string[] = [], mode = 0o644) =>
      writeFileSync(join(this.dir, name), lines.map((line) => `${line}\n`).join(""), { mode });
    write("pgpool.conf", renderConfig({ ...this.#defaults(), ...config, ...changes }));
    write("pool_hba.conf", hba ?? ["local all all trust", "host all all 127.0.0.1/32 trust"]);
    write("pool_passwd", passwd, 0o600);
    write("pcp.conf", pcpUsers, 0o600);
    if (key !== undefined) write(".pgpoolkey", [key], 0o600);
    for (const [name, text] of Object.entries(this.#options.files ?? {})) write(name, [text]);
  }

  #defaults(): Record<string, ConfigValue> {
    const original = this.program.kind === "pgpool2";
    const defaults: Record<string, ConfigValue> = {
      backend_clustering_mode: "streaming_replication",
      listen_addresses: this.host,
      port: this.port,
      pcp_port: this.pcpPort,
      pcp_listen_addresses: this.host,
      pcp_socket_dir: this.dir,
      // Named differently before 4.4, which is what Debian has.
      [original ? "socket_dir" : "unix_socket_directories"]: this.dir,
      [original ? "logdir" : "work_dir"]: this.dir,
      pid_file_name: join(this.dir, "pgpool.pid"),
      pool_passwd: "pool_passwd",
      enable_pool_hba: this.#options.hba !== undefined,
      sr_check_user: superuser,
      sr_check_database: "postgres",
      sr_check_period: 1,
      health_check_period: 0,
      failover_on_backend_error: false,
    };
    const { use_watchdog: watched } = this.#options.config ?? {};
    if (watched === true) Object.assign(defaults, { wd_ipc_socket_dir: this.dir });
    for (const [i, { host, port, weight }] of this.#options.backends.entries()) {
      defaults[`backend_hostname${i}`] = host;
      defaults[`backend_port${i}`] = port;
      defaults[`backend_weight${i}`] = weight ?? 1;
      defaults[`backend_flag${i}`] = "DISALLOW_TO_FAILOVER";
    }
    return defaults;
  }

  /** The command line, for tests that start the program by themselves. */
  get argv(): [string, ...string[]] {
    const file = (name: string) => join(this.dir, name);
    const words = [
      ...(this.#options.under ?? []),
      this.program.path,
      ...["-n", "-f", this.configPath, "-F", file("pcp.conf"), "-a", file("pool_hba.conf")],
      ...(this.#options.key === undefined ? [] : ["-k", file(".pgpoolkey")]),
      ...(this.#options.args ?? []),
    ];
    return words as [string, ...string[]];
  }

  /** Starts in the foreground and waits for the port; an early end is an error with its log. */
  async start(): Promise<void> {
    await this.launch().untilReady(async () => {
      const client = await RawClient.connect(this.tcp);
      client.destroy();
      return true;
    });
  }

  /** Starts and waits for nothing. */
  launch(): ServerProcess {
    const started = this.#scope.start({
      name: `${this.program.kind} on ${this.host}:${this.port}`,
      argv: this.argv,
      logPath: join(this.dir, "pgpool.log"),
      env: this.#options.env,
    });
    this.#process = started;
    return started;
  }

  /** Waits until a client can run a query, and not just connect. */
  async untilServing(database = "test"): Promise<void> {
    await eventually(() => this.sql("SELECT 1", database), undefined, {
      deadlineMs: 30_000,
      what: "a query through pgpool",
    });
  }

  /** Signals as `pgpool -m MODE stop` does and waits for the end: "exit 0" when all is well. */
  async stop(mode: "smart" | "fast" | "immediate" = "fast"): Promise<string> {
    const signals = { smart: "SIGTERM", fast: "SIGINT", immediate: "SIGQUIT" } as const;
    return (await this.#process?.stop(signals[mode])) ?? "never started";
  }

  /** SIGKILL to it and to all its children, as when its host loses power. */
  async kill(): Promise<void> {
    this.signalAll("SIGKILL");
    await this.#process?.stop("SIGKILL");
  }

  /** To every process of the original; ours is one. */
  signalAll(signal: NodeJS.Signals): void {
    if (this.#process?.running !== true) return;
    if (signal === "SIGKILL" || signal === "SIGSTOP") this.signal("SIGSTOP"); // it starts no more
    for (const pid of processTree(this.#process.pid)) {
      try {
        process.kill(pid, signal);
      } catch {
        // it has ended meanwhile
      }
    }
  }

  signal(signal: NodeJS.Signals): void {
    this.#process?.signal(signal);
  }

  /** Rewrites pgpool.conf and asks for a reload; wait for its effect with `eventually`. */
  reload(changes: Readonly<Record<string, ConfigValue>> = {}): void {
    this.writeFiles(changes);
    this.signal("SIGHUP");
  }

  log(): string {
    return this.#process?.log() ?? "";
  }

  /** Waits until the log says so, in what was written since the latest start; returns the match. */
  async logged(pattern: RegExp, deadlineMs = 10_000): Promise<RegExpExecArray> {
    const found = await eventually(
      () => pattern.exec(this.#process?.ownLog() ?? ""),
      (match) => match !== null,
      { deadlineMs, what: `${pattern} in the log` },
    );
    if (found === null) throw new Error("unreachable: eventually returned what it refuses");
    return found;
  }

  status(): string {
    const path = join(this.dir, "pgpool_status");
    return existsSync(path) ? readFileSync(path, "utf8") : "";
  }

  /**
   * A session that has a connection to each node. Log-ins wait but half a second for a standby, which
   * a busy machine may take longer for: whoever comes in without one reads elsewhere from then on.
   */
  async loginWhole(login: Login, deadlineMs?: number): Promise<RawClient> {
    const attempt = async () => {
      const before = this.#leftOut();
      const client = await RawClient.login(this.tcp, login, deadlineMs);
      const after = this.#leftOut();
      if (after.now === 0 && after.times === before.times) return client;
      await client.terminate();
      return undefined;
    };
    const found = await eventually(
      () => attempt().catch((error: Error) => error),
      (result) => result !== undefined,
      { what: "a session with all nodes" },
    );
    if (found instanceof RawClient) return found;
    throw found;
  }

  /** How often log-ins have begun to pass over a node, and how many they pass over now. */
  #leftOut(): { readonly times: number; readonly now: number } {
    const log = this.#process?.ownLog() ?? "";
    const doubtful = new Map<string, boolean>();
    let times = 0;
    for (const [, node = "", verb] of log.matchAll(
      /DB node (\d+) \(\S+\) (keeps log-ins waiting|is used by log-ins again)/g,
    )) {
      const begins = verb === "keeps log-ins waiting";
      if (begins) times++;
      doubtful.set(node, begins);
    }
    return { times, now: [...doubtful.values()].filter(Boolean).length };
  }

  /** One connection, the statements of `text` as one simple query, the rows as text. */
  sql(text: string, database = "test", user = superuser): Promise<Record<string, string | null>[]> {
    return RawClient.session(this.tcp, { user, database }, (client) => client.rows(text));
  }

  /**
   * `pcp(["detach-node", "-n", "1"])`, as the first of `pcpUsers`, whose password is `secret`. By our
   * program, which speaks to the original too.
   */
  pcp(words: readonly string[]): Promise<CommandResult> {
    const [entry = ""] = this.#options.pcpUsers ?? [];
    const passFile = join(this.dir, "pcppass");
    writeFileSync(passFile, "*:*:*:secret\n", { mode: 0o600 });
    const user = entry.split(":")[0] ?? "";
    const where = ["-h", this.host, "-p", String(this.pcpPort), "-U", user];
    const env = { PCPPASSFILE: passFile };
    const { path } = ourBinary() ?? this.program;
    return runCommand([path, "pcp", ...words, ...where], { env });
  }

  /** `show("pool_nodes")`: one record a row. SHOW answers in text and never with NULL. */
  async show(name: string, database = "test"): Promise<ShowRow[]> {
    const rows = await this.sql(`SHOW ${name}`, database);
    return rows.map((row) =>
      Object.fromEntries(Object.entries(row).map(([column, value]) => [column, value ?? ""])),
    );
  }
}

function renderConfig(config: Readonly<Record<string, ConfigValue>>): string[] {
  return Object.entries(config).map(([name, value]) => {
    if (typeof value === "boolean") return `${name} = ${value ? "on" : "off"}`;
    if (typeof value === "number") return `${name} = ${value}`;
    // Backslashes are the value's own: the file's grammar knows no escape but that of a quote.
    return `${name} = '${value.replaceAll("'", "\\'")}'`;
  });
}
