/** PgBouncer beside us, for comparison. */
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { findProgram, freePort, type Scope, type ServerProcess } from "./machine.ts";
import type { Backend } from "./pgpool.ts";
import { RawClient, type Target } from "./raw_client.ts";

export const pgbouncerProgram = (): string | undefined => findProgram("pgbouncer");

export type PgbouncerOptions = {
  readonly backend: Backend;
  readonly poolMode?: "session" | "transaction";
  readonly settings?: Readonly<Record<string, string | number>>;
  /** `trust` lets everybody in; `scram-sha-256` asks for the passwords of `users`. */
  readonly auth?: "trust" | "scram-sha-256";
  readonly users?: Readonly<Record<string, string>>;
};

export class Pgbouncer {
  readonly host = "127.0.0.1";
  readonly port: number;
  readonly #process: ServerProcess;

  private constructor(port: number, started: ServerProcess) {
    this.port = port;
    this.#process = started;
  }

  static async create(scope: Scope, options: PgbouncerOptions): Promise<Pgbouncer> {
    const program = pgbouncerProgram();
    if (program === undefined) throw new Error("pgbouncer is not installed");
    const port = await freePort();
    const dir = scope.makeDir(`pgbouncer-${port}`);
    writeFileSync(join(dir, "users.txt"), renderUsers(options.users ?? { postgres: "" }));
    writeFileSync(join(dir, "pgbouncer.ini"), renderIni(options, dir, port));
    const started = scope.start({
      name: `PgBouncer on ${port}`,
      argv: [program, join(dir, "pgbouncer.ini")],
      cwd: dir,
      owner: scope.owner,
      logPath: join(dir, "stdout.log"),
    });
    const bouncer = new Pgbouncer(port, started);
    await started.untilReady(async () => {
      (await RawClient.connect(bouncer.tcp)).destroy();
      return true;
    });
    return bouncer;
  }

  get tcp(): Target {
    return { host: this.host, port: this.port };
  }

  get pid(): number {
    return this.#process.pid;
  }

  async stop(): Promise<string> {
    return this.#process.stop("SIGQUIT");
  }
}

function renderUsers(users: Readonly<Record<string, string>>): string {
  const quote = (text: string) => `"${text.replaceAll('"', '""')}"`;
  return Object.entries(users)
    .map(([user, password]) => `${quote(user)} ${quote(password)}\n`)
    .join("");
}

function renderIni(options: PgbouncerOptions, dir: string, port: number): string {
  const { backend } = options;
  const settings = {
    listen_addr: "127.0.0.1",
    listen_port: port,
    unix_socket_dir: "",
    auth_type: options.auth ?? "trust",
    auth_file: join(dir, "users.txt"),
    pool_mode: options.poolMode ?? "session",
    max_client_conn: 2000,
    default_pool_size: 1000,
    ignore_startup_parameters: "extra_float_digits,options",
    // One line a connection would weigh on the comparison; ours is quiet by default too.
    log_connections: 0,
    log_disconnections: 0,
    logfile: join(dir, "pgbouncer.log"),
    ...options.settings,
  };
  const lines = Object.entries(settings).map(([name, value]) => `${name} = ${value}`);
  const target = `* = host=${backend.host} port=${backend.port}`;
  return ["[databases]", target, "[pgbouncer]", ...lines, ""].join("\n");
}
