/**
 * The server: reads its files, joins the parts and keeps them until a signal. Reads top to bottom
 * like the manual's chapter on start-up (spec config/commands.md section 1).
 */
import { execFileSync } from "node:child_process";
import { randomBytes } from "node:crypto";
import { lookup, reverse } from "node:dns/promises";
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { networkInterfaces } from "node:os";
import { parseHba } from "../core/auth/hba.ts";
import type { HbaQuestion, LocalInterface } from "../core/auth/hba_match.ts";
import { ScramKeyCache } from "../core/auth/key_cache.ts";
import { type Credential, openStoredPassword } from "../core/auth/password.ts";
import {
  derivePoolKey,
  keyFileWarning,
  keyTextOfFile,
  type PoolKey,
} from "../core/auth/pool_key.ts";
import { lookupPassword } from "../core/auth/pool_passwd.ts";
import { isLive, nodeId } from "../core/cluster/state.ts";
import type { ConfigMessage } from "../core/config/conf_file.ts";
import { type Loaded, loadConfig, reloadConfig } from "../core/config/load.ts";
import { directoryOf, resolvePath } from "../core/config/path.ts";
import type { Config } from "../core/config/schema.ts";
import { ConfigError, PgpoolError } from "../core/errors.ts";
import { createLog, isLogged, type LogSettings } from "../core/log.ts";
import type { Log, LogSeverity } from "../core/ports.ts";
import { redactPasswords } from "../core/redact.ts";
import { compatibleVersion } from "../core/version.ts";
import { adminAnswer } from "../proxy/admin.ts";
import type { BackendWorld } from "../proxy/backend.ts";
import { queryRows } from "../proxy/backend.ts";
import { type ProbeWorld, withServer } from "../proxy/cluster/connection.ts";
import { ControlPlane } from "../proxy/cluster/control_plane.ts";
import { OnlineRecovery } from "../proxy/cluster/recovery.ts";
import { Engine } from "../proxy/engine.ts";
import { openListeners } from "../proxy/listener.ts";
import type { LoginWorld } from "../proxy/session/startup.ts";
import { clientTlsOf, serverTlsOf, type TlsExtras } from "../proxy/tls.ts";
import type { Listener, Transport } from "../proxy/transport/conn.ts";
import { addressesOf, Lobby } from "./entrance.ts";
import { configSource } from "./load_config.ts";
import { loadParser } from "./load_parser.ts";
import { openLogDestination } from "./log_destination.ts";
import { openPcpDoors, type PcpDoors, servePcp } from "./pcp_service.ts";
import { removePidFile, writePidFile } from "./pid_file.ts";
import { ServerControl } from "./process_control.ts";
import { sharedResults, warnOfIdleCache } from "./shared_results.ts";
import { statusStore } from "./status_store.ts";
import { Guard } from "./watchdog_service.ts";

export type ServeOptions = {
  readonly configFile: string;
  readonly hbaFile: string;
  readonly pcpFile: string;
  /** Of AES entries in pool_passwd; it may be missing. */
  readonly keyFile: string | undefined;
  readonly discardStatus: boolean;
  readonly clearOidmaps: boolean;
  readonly debug: boolean;
  readonly foreground: boolean;
  /** Called when clients are served. */
  readonly onStarted?: () => void;
};

const defaultSocketDir = "/tmp";
/** As Pgpool-II's processes end that must not be started again. */
const FATAL_EXIT = 3;

/** Serves until a signal ends it; resolves to the exit code. Rejects when it cannot start. */
export async function serve(options: ServeOptions): Promise<number> {
  const server = new Server(options);
  return await server.run();
}

class Server {
  readonly #options: ServeOptions;
  readonly #confDir: string;
  readonly #passwords: PasswordFile;
  readonly #scramKeys = new ScramKeyCache({ blindingKey: randomBytes(32) });
  readonly #processSecret = randomBytes(32);
  #loaded: Loaded;

  constructor(options: ServeOptions) {
    this.#options = options;
    this.#confDir = directoryOf(options.configFile);
    this.#loaded = loadConfig(configSource(options.configFile));
    this.#passwords = new PasswordFile(() => this.#path(this.#config.pool_passwd));
  }

  get #config(): Config {
    return this.#loaded.config;
  }

  #path(name: string): string {
    return name === "" ? "" : resolvePath(this.#confDir, name);
  }

  async run(): Promise<number> {
    const config = this.#config;
    const destination = openLogDestination({
      settings: () => this.#config,
      directory: this.#confDir,
      clock: Date.now,
    });
    const logOptions = {
      settings: () => this.#logSettings(),
      write: (lines: string, severity: LogSeverity) => destination.write(lines, severity),
      clock: Date.now,
    };
    const source = { processName: "MAIN", applicationName: "main", pid: process.pid };
    const log = createLog(logOptions, source);
    destination.announce(log);
    writeMessages(log, this.#loaded.messages);
    surviveInternalErrors(log);
    const pidFile = this.#path(config.pid_file_name);
    writePidFile(pidFile);
    try {
      return await this.#serve(log, () => destination.rotate());
    } catch (error) {
      if (!(error instanceof PgpoolError)) throw error;
      log.write("FATAL", error.message, { detail: error.detail, hint: error.hint });
      return FATAL_EXIT;
    } finally {
      removePidFile(pidFile);
      await destination.close();
    }
  }

  #logSettings(): LogSettings {
    const config = this.#config;
    const wantsDebug = this.#options.debug && !isLogged("DEBUG1", config.log_min_messages);
    return wantsDebug ? { ...config, log_min_messages: "debug1" } : config;
  }

  async #serve(log: Log, rotateLog: () => boolean): Promise<number> {
    const config = this.#config;
    warnOfIdleCache(config, log);
    this.#passwords.open(log, this.#options.keyFile);
    const transport = await transportOf(config);
    // Before anything else is written or asked: a server that has this port must not be disturbed.
    const lobby = new Lobby();
    const addresses = addressesOf(config);
    const doors: Listener[] = [];
    const openDoors = async () => {
      if (doors.length > 0) return;
      doors.push(...(await openListeners(transport, addresses, lobby.enter, log)));
    };
    const shut = () => Promise.all(doors.splice(0).map((listener) => listener.close()));
    const closeDoors = async () => {
      lobby.close();
      await shut();
    };
    await openDoors();
    // Until a watchdog has its place clients are turned away, so that they try another pgpool.
    if (config.use_watchdog) await shut();
    try {
      const pcpDoors = await openPcpDoors(transport, config, log);
      try {
        const entrance = { transport, lobby, openDoors, closeDoors, pcpDoors, rotateLog };
        return await this.#join(log, entrance);
      } finally {
        await pcpDoors.close(); // the last to close: a stop may be made a harder one through it
      }
    } catch (error) {
      await closeDoors();
      throw error;
    }
  }

  /** Makes the parts known to each other, and serves until a stop. */
  async #join(log: Log, entrance: Entrance): Promise<number> {
    const { transport, lobby, openDoors, closeDoors, rotateLog } = entrance;
    const config = this.#config;
    const login = this.#loginWorld(log);
    const backendWorld = this.#backendWorld(transport);
    const parser = await loadParser();

    const world: ProbeWorld = {
      config: () => this.#config,
      backendWorld: () => engine.backendWorld,
      addressOf: (node) => engine.addressOf(node),
      credentialOf: (user) => this.#passwords.credentialOf(user),
      poolKey: () => this.#passwords.key,
      log,
    };
    const guard = config.use_watchdog ? this.#guard(world, log) : undefined;
    const cluster = new ControlPlane({
      world,
      council: guard,
      store: statusStore(this.#path(`${config.work_dir}/pgpool_status`)),
      log,
      clock: Date.now,
      pid: process.pid,
      downRequests: () => readText(this.#path(`${config.work_dir}/backend_down_request`)),
      quiesce: (timeoutMs) => engine.quiesce(timeoutMs),
    });
    cluster.recall(this.#options.discardStatus);
    const engine: Engine = new Engine({
      config,
      state: cluster.state,
      parser,
      login,
      backendWorld,
      control: cluster,
      answer: (runner, facts) => adminAnswer(engine, runner, facts),
      log,
      clock: Date.now,
      steadyClock: () => performance.now(),
      ...sharedResults(config, this.#options.clearOidmaps, log),
      random: Math.random,
      pid: process.pid,
      redact: redactPasswords,
    });
    cluster.subscribe((state) => engine.publish(state));

    const recovery = new OnlineRecovery({
      world,
      control: cluster,
      log,
      clock: () => performance.now(),
      quiesce: (timeoutMs) => guard?.quiesce(timeoutMs) ?? engine.quiesce(timeoutMs),
    });
    let left: Promise<void> | undefined;
    const control = new ServerControl({
      log,
      closeDoors: async () => {
        left ??= guard?.stop();
        recovery.stop();
        cluster.stop();
        await closeDoors();
      },
      untilEmpty: () => engine.untilEmpty(),
      endClients: () => engine.terminateAll(),
      reload: () => this.#reload(log, transport, engine, cluster),
      rotateLog,
    });
    control.obeySignals(); // from here on: the search for the primary may take its time
    const pcp = servePcp(entrance.pcpDoors, {
      config: () => this.#config,
      pcpFile: this.#options.pcpFile,
      engine,
      cluster,
      recovery,
      process: control,
      guard,
      world,
      log,
    });
    let isGivenUp = false;
    const giveUp = () => {
      isGivenUp = true;
      control.stop("fast");
    };
    try {
      await guard?.open({ engine, cluster, process: control, giveUp });
      if (guard !== undefined) this.#options.onStarted?.();
      await guard?.joined();
      if (!control.stopping) {
        await openDoors();
        await cluster.start();
        guard?.searched();
      }
    } catch (error) {
      await guard?.stop();
      throw error;
    }
    if (!control.stopping) {
      lobby.open((conn) => engine.accept(conn));
      log.write("LOG", `pgpool-II successfully started. version ${compatibleVersion}`);
      if (guard === undefined) this.#options.onStarted?.();
    }
    try {
      await control.stopped;
    } finally {
      await left;
      await guard?.stop();
    }
    pcp.close();
    log.write("LOG", "Pgpool-II system is shutdown");
    return isGivenUp ? FATAL_EXIT : 0;
  }

  #guard(world: ProbeWorld, log: Log): Guard {
    return new Guard({
      config: () => this.#config,
      pathOf: (name) => this.#path(name),
      log,
      query: async ({ hostname, pgpoolPort }) => {
        const { wd_interval, wd_lifecheck_query, ...config } = this.#config;
        const limitMs = (Math.floor(wd_interval / 2) + 1) * 1000;
        const address = { id: nodeId(0), hostname, port: pgpoolPort, connectTimeoutMs: limitMs };
        const asker = {
          user: config.wd_lifecheck_user || "nobody",
          password: config.wd_lifecheck_password,
          database: config.wd_lifecheck_dbname,
          applicationName: "lifecheck_ping",
          parameter: "wd_lifecheck_user",
        };
        const limit = { limitMs, signal: new AbortController().signal };
        try {
          await withServer(world, address, asker, limit, (server) =>
            queryRows(server, wd_lifecheck_query),
          );
          return true;
        } catch {
          return false; // whatever it was, it did not serve us
        }
      },
    });
  }

  #reload(log: Log, transport: Transport, engine: Engine, cluster: ControlPlane): void {
    log.write("LOG", "reload config files.");
    const isDown = (id: number) => {
      const node = cluster.state.nodes[id];
      return node !== undefined && !isLive(node);
    };
    const before = this.#loaded;
    const reloaded = reloadConfig(before, configSource(this.#options.configFile), isDown);
    writeMessages(log, reloaded.messages);
    this.#loaded = reloaded;
    let login: LoginWorld;
    let backendWorld: BackendWorld;
    try {
      login = this.#loginWorld(log);
      backendWorld = this.#backendWorld(transport);
    } catch (error) {
      this.#loaded = before; // all of it or nothing
      throw error;
    }
    this.#passwords.open(log, this.#options.keyFile);
    this.#scramKeys.clear();
    cluster.reconfigured();
    const previous = engine.login;
    // A file with a mistake in it must not lock anybody out or let anybody in: the old rules stay.
    const hba = login.hba === "broken" ? previous.hba : login.hba;
    const tls = login.tls ?? previous.tls;
    engine.reconfigure(this.#config, { ...login, hba, tls }, backendWorld);
  }

  #loginWorld(log: Log): LoginWorld {
    const config = this.#config;
    return {
      tls: serverTlsFor(config, (name) => this.#path(name), log),
      hba: config.enable_pool_hba ? this.#hbaRules(log) : undefined,
      allowClearText: config.allow_clear_text_frontend_auth,
      interfaces: localInterfaces(),
      resolve: resolveHostQuestion,
      credentialOf: (user) => this.#passwords.credentialOf(user),
      scramKeys: this.#scramKeys,
      processSecret: this.#processSecret,
    };
  }

  #hbaRules(log: Log): LoginWorld["hba"] {
    const path = this.#options.hbaFile;
    const text = readText(path);
    if (text === undefined) {
      log.write("WARNING", `could not open configuration file "${path}"`);
      return "broken";
    }
    const file = parseHba(text, { path, readFile: readInclude, tlsEnabled: this.#config.ssl });
    for (const { message, context, hint, fatal } of file.messages) {
      log.write(fatal ? "WARNING" : "LOG", message, { context, hint });
    }
    return file.ok ? file.rules : "broken";
  }

  #backendWorld(transport: Transport): BackendWorld {
    return {
      transport,
      tls: clientTlsFor(this.#config, (name) => this.#path(name)),
      scramKeys: this.#scramKeys,
      defaultSocketDir,
    };
  }
}

type Entrance = {
  readonly transport: Transport;
  readonly lobby: Lobby;
  readonly openDoors: () => Promise<void>;
  readonly closeDoors: () => Promise<void>;
  readonly pcpDoors: PcpDoors;
  readonly rotateLog: () => boolean;
};

/** A mistake of ours ends what it was made in; the other clients are still served. */
function surviveInternalErrors(log: Log): void {
  const tell = (error: unknown) => {
    const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
    log.write("ERROR", "internal error", { detail: stack });
  };
  process.on("uncaughtException", tell);
  process.on("unhandledRejection", tell);
}

/** pool_passwd, read again when it has changed on the disk: edits are seen by the next log-in. */
class PasswordFile {
  readonly #pathOf: () => string;
  #key: PoolKey | undefined;
  #content: Uint8Array = new Uint8Array(0);
  #version = "";

  constructor(pathOf: () => string) {
    this.#pathOf = pathOf;
  }

  open(log: Log, keyFile: string | undefined): void {
    this.#key = keyFile === undefined ? undefined : readPoolKey(keyFile, log);
    const path = this.#pathOf();
    if (path === "" || existsSync(path)) return;
    try {
      writeFileSync(path, "", { flag: "wx", mode: 0o600 });
    } catch (error) {
      log.write("WARNING", `could not create pool_passwd "${path}"`, { detail: reasonOf(error) });
    }
  }

  /** Undefined when there is no key file. */
  get key(): PoolKey | undefined {
    return this.#key;
  }

  credentialOf(user: string): Credential | undefined {
    const stored = lookupPassword(this.#read(), user);
    return stored && openStoredPassword(stored, this.#key);
  }

  #read(): Uint8Array {
    const path = this.#pathOf();
    if (path === "") return new Uint8Array(0);
    try {
      const { mtimeMs, size, ino } = statSync(path);
      const version = `${path} ${mtimeMs} ${size} ${ino}`;
      if (version !== this.#version) {
        this.#content = readFileSync(path);
        this.#version = version;
      }
      return this.#content;
    } catch {
      return new Uint8Array(0); // no file, no entries
    }
  }
}

function readPoolKey(path: string, log: Log): PoolKey | undefined {
  try {
    const stat = statSync(path);
    const warning = keyFileWarning(path, { isPlainFile: stat.isFile(), mode: stat.mode });
    if (warning !== undefined) log.write("WARNING", warning.message);
    if (warning?.usable === false) return undefined;
    const text = keyTextOfFile(readFileSync(path));
    return text && derivePoolKey(text);
  } catch {
    return undefined; // no key file: AES entries cannot be opened, and say so when they are used
  }
}

async function transportOf(config: Config): Promise<Transport> {
  const useBun = config.transport === "bun" && typeof Bun !== "undefined";
  if (useBun) return (await import("../proxy/transport/bun.ts")).bunTransport;
  return (await import("../proxy/transport/node.ts")).nodeTransport;
}

function serverTlsFor(config: Config, pathOf: (name: string) => string, log: Log) {
  if (!config.ssl) return undefined;
  try {
    return serverTlsOf(config, reader(pathOf), tlsExtras(config, pathOf));
  } catch (error) {
    log.write("WARNING", "could not initialise TLS for clients: SSL requests are refused", {
      detail: reasonOf(error),
    });
    return undefined;
  }
}

function clientTlsFor(config: Config, pathOf: (name: string) => string) {
  if (!config.ssl) return undefined;
  try {
    return clientTlsOf(config, reader(pathOf), tlsExtras(config, pathOf));
  } catch (error) {
    throw new ConfigError("could not initialise TLS for backends", { detail: reasonOf(error) });
  }
}

const reader =
  (pathOf: (name: string) => string) =>
  (name: string): string =>
    readFileSync(pathOf(name), "utf8");

function tlsExtras(config: Config, pathOf: (name: string) => string): TlsExtras {
  const directory = pathOf(config.ssl_ca_cert_dir);
  const caDirectory =
    directory === ""
      ? undefined
      : readdirSync(directory).map((name) => readFileSync(`${directory}/${name}`, "utf8"));
  return { caDirectory, passphrase: passphraseOf(config) };
}

/** What ssl_passphrase_command prints; `%p` in it is the prompt, `%%` a percent sign. */
function passphraseOf({ ssl_passphrase_command }: Config): string | undefined {
  if (ssl_passphrase_command === "") return undefined;
  const prompt = "Enter PEM pass phrase:";
  const command = ssl_passphrase_command.replace(/%(.)/g, (whole, letter) =>
    letter === "p" ? prompt : letter === "%" ? "%" : whole,
  );
  return execFileSync("/bin/sh", ["-c", command], { encoding: "utf8" }).replace(/\r?\n$/, "");
}

function localInterfaces(): readonly LocalInterface[] {
  return Object.values(networkInterfaces()).flatMap((list) =>
    (list ?? []).map(({ address, netmask }) => ({ address, netmask })),
  );
}

/** A question that fails has no answer, and a rule without an answer does not match. */
async function resolveHostQuestion(question: HbaQuestion): Promise<readonly string[]> {
  try {
    if (question.kind === "reverse_lookup") return await reverse(question.address);
    return (await lookup(question.name, { all: true })).map(({ address }) => address);
  } catch {
    return [];
  }
}

function readText(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return undefined; // the reader of the file says that it is missing
  }
}

function readInclude(path: string): { readonly text: string } | { readonly reason: string } {
  try {
    return { text: readFileSync(path, "utf8") };
  } catch (error) {
    return { reason: reasonOf(error) };
  }
}

function writeMessages(log: Log, messages: readonly ConfigMessage[]): void {
  for (const { severity, message, detail, hint } of messages) {
    log.write(severity, message, { detail, hint });
  }
}

function reasonOf(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
