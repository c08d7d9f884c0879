/**
 * The watchdog joined to the server that it guards: where it listens, what it obeys, how backends are
 * voted on, and how what the leader says of them is taken over.
 */

import { execFile } from "node:child_process";
import { randomInt } from "node:crypto";
import { readFileSync } from "node:fs";
import { hostname, type as systemName } from "node:os";
import type { Council, Motion, Quiet, Verdict } from "../core/cluster/control.ts";
import type { FailoverRequest } from "../core/cluster/failover.ts";
import { RecoveryFailed } from "../core/cluster/recovery.ts";
import { type ClusterState, nodeId, STATUS_NUMBERS } from "../core/cluster/state.ts";
import type { Config } from "../core/config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import type { Log, ProcessControl } from "../core/ports.ts";
import type { ControlPlane } from "../proxy/cluster/control_plane.ts";
import type { Engine } from "../proxy/engine.ts";
import { attachAfterQuorum, syncBackends } from "../watchdog/backends.ts";
import {
  type BackendStatus,
  type FailoverFunction,
  type FailoverResult,
  NO_SECRETS,
} from "../watchdog/bodies.ts";
import { requesterAction } from "../watchdog/consensus.ts";
import { checkInterfaceCommands } from "../watchdog/delegate_ip.ts";
import { Heartbeats } from "../watchdog/heartbeats.ts";
import { checkMonitored } from "../watchdog/interfaces.ts";
import { type IpcCommand, ipcSocketPath, jsonText, nodeListBody } from "../watchdog/ipc.ts";
import { LifeCheck } from "../watchdog/life.ts";
import type { LifecheckNode } from "../watchdog/lifecheck.ts";
import type { WatchdogTls } from "../watchdog/links.ts";
import type { Notice, WatchdogRules } from "../watchdog/node.ts";
import { recoveryDoubt } from "../watchdog/recovery.ts";
import {
  type Call,
  callOf,
  isCarriedOut,
  kindOf,
  requestsOf,
  verdictText,
  viewOf,
} from "../watchdog/requests.ts";
import { heartbeatPlaces, heartbeatTargets, listOf, rulesOf } from "../watchdog/settings.ts";
import { hasPlace } from "../watchdog/states.ts";
import { WatchdogService } from "../watchdog/watchdog.ts";

export type GuardOptions = {
  readonly config: () => Config;
  /** Of a file named in the configuration. */
  readonly pathOf: (name: string) => string;
  /** Whether that pgpool answers wd_lifecheck_query. Never rejects. */
  readonly query: (node: LifecheckNode) => Promise<boolean>;
  readonly log: Log;
};

/** What it guards; made after it, since they ask it. */
export type Guarded = {
  readonly engine: Engine;
  readonly cluster: ControlPlane;
  readonly process: ProcessControl;
  /** This node can be none of the cluster any more. */
  readonly giveUp: () => void;
};

/** A cluster that is choosing its leader is asked again so often, a second apart. */
const RETRIES = 10;
const RETRY_MS = 1000;
/** So long what another pgpool does is waited for, before it is said to be done. */
const ELSEWHERE_MS = 10_000;
const NOT_TOLD = "node recovery failed, failed to send start recovery packet";

export class Guard implements Council {
  readonly #options: GuardOptions;
  readonly #service: WatchdogService;
  readonly #log: Log;
  #guarded: Guarded | undefined;
  #rulesFor: { readonly config: Config; readonly rules: WatchdogRules } | undefined;
  #heartbeats: Heartbeats | undefined;
  #life: LifeCheck | undefined;
  /** Our clients are held, since another pgpool recovers a backend. */
  #recovery: { readonly quiet: Promise<Quiet>; readonly over: AbortController } | undefined;
  /** The same question, asked by many sessions at once, is one vote. */
  readonly #asking = new Map<string, Promise<Verdict>>();
  #syncing: Promise<void> | undefined;
  #syncAgain = false;
  /** How often the leader was asked for the backends, and which of these questions led to something. */
  #takeOvers = 0;
  #tookOver = 0;
  readonly #onSynced: (() => void)[] = [];
  #told = "";
  #isMoving = false;
  #isSearched = false;
  #isStopped = false;

  /** @throws ConfigError for what cannot work */
  constructor(options: GuardOptions) {
    this.#options = options;
    const config = options.config();
    this.#log = options.log.as({
      processName: "WATCHDOG",
      applicationName: "watchdog",
      pid: process.pid,
    });
    checkInterfaceCommands(config);
    checkMonitored(config.wd_monitoring_interfaces_list);
    const rules = this.#rules();
    if (rules.remotes.length === 0) {
      throw new ConfigError(
        "invalid watchdog configuration. other pgpools setting is not defined",
        {
          detail:
            "a watchdog's cluster has two nodes at least: set hostname1, wd_port1, pgpool_port1",
        },
      );
    }
    if (config.wd_lifecheck_method === "heartbeat" && heartbeatTargets(config).length === 0) {
      throw new ConfigError("invalid life-check configuration. no heartbeat interfaces defined", {
        detail: "set heartbeat_hostname0, heartbeat_port0 and those of the other nodes",
      });
    }
    const port = config.wd_listen_port || rules.self.wdPort;
    const host = config.wd_listen_address;
    this.#service = new WatchdogService({
      rules: () => this.#rules(),
      escalation: options.config,
      listen: { host: host === "" || host === "*" ? undefined : host, port },
      tls: tlsOf(config, options.pathOf),
      ipcPath: ipcSocketPath(config.wd_ipc_socket_dir, rules.self.wdPort),
      monitored: config.wd_monitoring_interfaces_list,
      desk: {
        notify: (notice) => this.#notice(notice),
        failover: (decided) => this.#decided(decided.name, decided.nodes, decided.flags),
        stopPgpool: (mode) => this.#guarded?.process.stop(mode),
        reload: () => this.#guarded?.process.reload(),
        rotateLog: () => void this.#guarded?.process.rotateLog(),
        enterRecovery: () => this.#enterRecovery(),
        leaveRecovery: () => void this.#leaveRecovery(),
        // Those who wait for a place do nothing yet.
        clientCount: () => this.#guarded?.engine.slots.busyCount ?? 0,
        escalated: () => {
          // Others may have written while this node was not asked.
          if (!this.#options.config().clear_memqcache_on_escalation) return;
          this.#guarded?.engine.queryCache?.clear("command");
        },
        giveUp: () => this.#guarded?.giveUp(),
      },
      log: this.#log,
      now: () => performance.now(),
      sharedKey: randomInt(1, 2 ** 31),
    });
  }

  /** A reload gives another configuration, and with it other rules. */
  #rules(): WatchdogRules {
    const config = this.#options.config();
    if (this.#rulesFor?.config !== config) {
      const host = { hostname: hostname(), system: systemName() };
      this.#rulesFor = { config, rules: rulesOf(config, host) };
    }
    return this.#rulesFor.rules;
  }

  /** The sockets listen and the first words are said. Rejects with ConfigError when a port is taken. */
  async open(guarded: Guarded): Promise<void> {
    this.#guarded = guarded;
    this.#showBackends(guarded.cluster.state);
    guarded.cluster.subscribe((state) => this.#stateChanged(state));
    this.#log.write("LOG", "waiting for watchdog to initialize");
    await listening(this.#rules().self.wdPort, "wd_port", () => this.#service.start());
  }

  /** Resolves when this node leads, or follows and has taken over what the leader says; or when it never will. */
  async joined(): Promise<void> {
    if ((await this.#service.untilJoined()) === "over") return;
    this.#log.write("LOG", "watchdog process is initialized");
    await this.#synced();
    await this.#startLifeCheck();
  }

  /** The primary has been looked for: that there is none is a fact from now on. */
  searched(): void {
    this.#isSearched = true;
    if (this.#guarded !== undefined) this.#showBackends(this.#guarded.cluster.state);
  }

  async stop(): Promise<void> {
    // Nobody would say any more that the others' recovery is over.
    this.#isStopped = true;
    const { engine } = this.#guarded ?? {};
    if (engine?.slots.isShut === true) engine.turnAway();
    this.#life?.stop();
    this.#heartbeats?.stop();
    await this.#service.stop();
  }

  // ---------------------------------------------------------------- what PCP asks

  /** JSON of one node, or with a negative id of all. */
  async info(id: number): Promise<string> {
    const answer = await this.#service.ask({ kind: "node_list", node: id });
    return answer.kind === "node_list" ? jsonText(nodeListBody(answer.list)) : "";
  }

  /** Whether the other nodes were told. */
  async command(name: string, args: { readonly [name: string]: string } = {}): Promise<boolean> {
    const pairs = Object.entries(args).map(([arg, value]) => ({ name: arg, value }));
    const command = { ...NO_SECRETS, name, args: pairs };
    return (await this.#service.ask({ kind: "cluster_command", command })).kind === "ok";
  }

  // ---------------------------------------------------------------- what online recovery asks

  /**
   * Clients of all pgpools wait until it is released; empty: all others have left. Rejects when another
   * node could not be told, or its clients did not leave.
   */
  async quiesce(timeoutMs: number): Promise<Quiet> {
    const { engine } = this.#guarded ?? {};
    if (engine === undefined) throw new RecoveryFailed(NOT_TOLD);
    const over = new AbortController();
    const own = engine.quiesce(timeoutMs, over.signal);
    const others = await this.#announce("START_RECOVERY");
    if (!others) over.abort();
    const quiet = await own;
    const release = () => {
      void this.#announce("END_RECOVERY");
      void this.#letIn(quiet);
    };
    if (others) return { empty: quiet.empty, doubt: () => this.#recoveryDoubt(), release };
    release();
    throw new RecoveryFailed(NOT_TOLD);
  }

  async #recoveryDoubt(): Promise<string | undefined> {
    if (await this.#announce("CONFIRM_RECOVERY")) return undefined;
    const name = recoveryDoubt(this.#service.node) ?? "another pgpool";
    return `clients of "${name}" may have written what the recovered backend does not have`;
  }

  async #announce(name: "START_RECOVERY" | "CONFIRM_RECOVERY" | "END_RECOVERY"): Promise<boolean> {
    const flags = name === "START_RECOVERY" ? randomInt(1, 2 ** 31) : 0;
    const call = { ...NO_SECRETS, name, flags, nodes: [] };
    return (await this.#service.ask({ kind: "recovery", call })).kind === "ok";
  }

  #enterRecovery(): void {
    const { engine } = this.#guarded ?? {};
    if (engine === undefined || this.#recovery !== undefined) return;
    const over = new AbortController();
    const { recovery_timeout: seconds } = this.#options.config();
    this.#recovery = { quiet: engine.quiesce(seconds * 1000, over.signal), over };
  }

  async #leaveRecovery(): Promise<void> {
    const recovery = this.#recovery;
    if (recovery === undefined) return;
    this.#recovery = undefined;
    recovery.over.abort();
    await this.#letIn(await recovery.quiet);
  }

  /** A client that came in before it is known what has joined meanwhile would write past it. */
  async #letIn(quiet: Quiet): Promise<void> {
    const { recovery_timeout: seconds } = this.#options.config();
    const isLearned = await this.#learnBackends(seconds * 1000);
    if (this.#isStopped) return; // and so is this pgpool
    if (!isLearned) {
      this.#log.write("WARNING", "no leader has said which backends are attached", {
        detail: `clients waited for that for recovery_timeout (${seconds} seconds), and are let in`,
      });
    }
    quiet.release();
  }

  // ---------------------------------------------------------------- what the control plane asks

  get isLeader(): boolean {
    if (!this.#service.isTrueLeader) return false;
    return this.#service.node.quorum >= 0 || !this.#rules().failoverWhenQuorumExists;
  }

  get isFollowing(): boolean {
    return this.#service.node.followLock.holder === "leader";
  }

  async follow(begins: boolean): Promise<void> {
    const LockingOperation = begins ? "acquire" : "release";
    await this.command("APPLY_LOCK_ON_STANDBY", { StandbyLockType: "1", LockingOperation });
    await this.#service.followLock(begins);
  }

  async judge(request: FailoverRequest, motion: Motion): Promise<Verdict> {
    const call = callOf(request, motion);
    if (call === undefined) return "proceed";
    const key = JSON.stringify(call);
    const asked = this.#asking.get(key);
    if (asked !== undefined) return await asked;
    const asking = this.#judge(call, motion).finally(() => this.#asking.delete(key));
    this.#asking.set(key, asking);
    return await asking;
  }

  async #judge(call: Call, motion: Motion): Promise<Verdict> {
    for (let tries = 0; ; tries++) {
      const result = await this.#vote(call);
      const action = requesterAction(call.name, result);
      if (action === "retry" && tries < RETRIES) {
        await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
        continue;
      }
      if (action !== "do_it")
        this.#log.write("LOG", verdictText(call, result, motion, process.pid));
      switch (action) {
        case "do_it":
          return "proceed";
        case "quarantine":
          return "quarantine";
        case "wait":
          if (result !== "WILL_BE_DONE") return "open";
          if (await this.#untilCarriedOut(call)) return "done_elsewhere";
          // A node that is about to join must not be believed to have joined.
          if (call.name !== "FAILBACK_REQUEST") return "done_elsewhere";
          this.#log.write("WARNING", "the leader has not attached the node in time");
          return "cancelled";
        case "retry":
        case "cancelled":
        case "refused":
          return "cancelled";
      }
    }
  }

  async #vote(call: Call): Promise<FailoverResult> {
    const command: IpcCommand = { kind: "failover", call: { ...NO_SECRETS, ...call } };
    const answer = await this.#service.ask(command);
    if (answer.kind === "failover_result") return answer.result;
    // It has not joined yet, or its leader was lost before it could answer.
    return "TRANSITION";
  }

  // ---------------------------------------------------------------- what the watchdog says

  #notice(notice: Notice): void {
    const guarded = this.#guarded;
    if (guarded === undefined) return;
    const { cluster } = guarded;
    switch (notice) {
      case "state_changed":
      case "sync_backends":
        this.#sync();
        return;
      case "quorum_changed": {
        if (!this.#service.isTrueLeader) return;
        const { quorum, backends } = this.#service.node;
        for (const id of attachAfterQuorum(quorum, backends.quarantined).nodes) {
          void cluster.carryOut({ kind: "restore", node: nodeId(id) });
        }
        return;
      }
      case "revote_quarantined":
        void cluster.voteAgain();
    }
  }

  /** Another node's request, on which the cluster has decided. */
  #decided(name: FailoverFunction, nodes: readonly number[], flags: number): void {
    const guarded = this.#guarded;
    if (guarded === undefined) return;
    for (const request of requestsOf(name, nodes, flags)) void guarded.cluster.carryOut(request);
  }

  // ---------------------------------------------------------------- backends

  #stateChanged(state: ClusterState): void {
    this.#showBackends(state);
    const isMoving = state.ongoing !== undefined;
    if (isMoving !== this.#isMoving) {
      this.#isMoving = isMoving;
      if (isMoving) this.#indicate(true);
    }
    const told = JSON.stringify([state.nodes.map(({ status }) => kindOf(status)), state.primary]);
    if (isMoving || told === this.#told) return;
    this.#told = told;
    this.#indicate(false);
  }

  #showBackends(state: ClusterState): void {
    this.#service.showBackends(viewOf(state, this.#isSearched));
  }

  /** The leader tells the others that the backends are about to change, or have changed. */
  #indicate(begins: boolean): void {
    if (this.#service.isTrueLeader) void this.#service.ask({ kind: "failover_indication", begins });
  }

  /** Takes over what the leader says; what is asked meanwhile is asked once more afterwards. */
  #sync(): void {
    if (this.#syncing !== undefined) {
      this.#syncAgain = true;
      return;
    }
    this.#syncing = this.#takeOver().then(() => {
      this.#syncing = undefined;
      for (const synced of this.#onSynced.splice(0)) synced();
      if (!this.#syncAgain) return;
      this.#syncAgain = false;
      this.#sync();
    });
  }

  /** Asks until a leader has said it, or is this node itself; false when the time is up. */
  async #learnBackends(limitMs: number): Promise<boolean> {
    const end = performance.now() + limitMs;
    const asked = this.#takeOvers;
    for (;;) {
      this.#sync();
      await this.#synced();
      if (this.#tookOver > asked) return true;
      if (this.#isStopped || performance.now() >= end) return false;
      // A leader that was lost has no successor yet.
      await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
    }
  }

  /** Resolves when nothing is to be asked any more. */
  async #synced(): Promise<void> {
    while (this.#syncing !== undefined) await this.#syncing;
  }

  async #takeOver(): Promise<void> {
    const guarded = this.#guarded;
    if (guarded === undefined) return;
    const { cluster } = guarded;
    const number = ++this.#takeOvers;
    const request = { ...NO_SECRETS, type: "BackendStatus" };
    const answer = await this.#service.ask({ kind: "leader_data", request });
    if (this.#service.isTrueLeader) this.#tookOver = number; // what it knows is what counts
    if (answer.kind !== "backend_status") return;
    const { state } = cluster;
    this.#log.write("LOG", "syncing the backend states from the LEADER watchdog node");
    this.#sayWhatDiffers(state, answer.status);
    const own = {
      statuses: state.nodes.map(({ status }) => STATUS_NUMBERS[status]),
      quarantined: [],
      primary: state.primary ?? -1,
    };
    const isStreaming = state.mode === "streaming_replication";
    const sync = syncBackends(own, answer.status, isStreaming);
    const statuses = new Map(sync.statuses.map((status, id) => [nodeId(id), status]));
    const primary = sync.primary < 0 ? undefined : nodeId(sync.primary);
    await cluster.carryOut({ kind: "adopt", statuses, primary });
    this.#tookOver = number;
  }

  #sayWhatDiffers(state: ClusterState, told: BackendStatus): void {
    for (const [id, status] of told.statuses.entries()) {
      const node = state.nodes[id];
      if (node === undefined || status === 0) continue;
      const isDown = STATUS_NUMBERS[node.status] === STATUS_NUMBERS.down;
      if (isDown === (status === STATUS_NUMBERS.down)) continue;
      const word = isDown ? "UP" : "DOWN";
      const message = `backend:${id} is ${word} on cluster leader "${told.nodeName}"`;
      this.#log.write("LOG", message);
    }
    const primary = state.primary ?? -1;
    if (told.primary === primary || told.primary < 0) return;
    const message = `primary node:${told.primary} on leader watchdog node "${told.nodeName}" is different from local primary node:${primary}`;
    this.#log.write("LOG", message);
  }

  /** True when the leader has done it, and it has been taken over; false when the time is up. */
  async #untilCarriedOut(call: Call): Promise<boolean> {
    const { cluster } = this.#guarded ?? {};
    const isDone = () => cluster === undefined || isCarriedOut(call, cluster.state);
    // Nothing is as bad as clients that write past a node which is about to be attached.
    const { recovery_timeout: seconds } = this.#options.config();
    const limitMs = call.name === "FAILBACK_REQUEST" ? seconds * 1000 : 0;
    const { promise: late, resolve } = Promise.withResolvers<"late">();
    const timer = setTimeout(() => resolve("late"), Math.max(ELSEWHERE_MS, limitMs));
    while (!isDone() && (await Promise.race([this.#nextSync(), late])) !== "late");
    clearTimeout(timer);
    return isDone();
  }

  async #nextSync(): Promise<void> {
    const { promise, resolve } = Promise.withResolvers<void>();
    this.#onSynced.push(resolve);
    await promise;
  }

  // ---------------------------------------------------------------- life check

  async #startLifeCheck(): Promise<void> {
    const { config, query, log } = this.#options;
    const settings = config();
    const { self, remotes } = this.#rules();
    const lifeLog = log.as({
      processName: "LIFECHECK",
      applicationName: "lifecheck",
      pid: process.pid,
    });
    const life = new LifeCheck({
      method: settings.wd_lifecheck_method,
      intervalMs: Math.max(1, settings.wd_interval) * 1000,
      deadMs: settings.wd_heartbeat_deadtime * 1000,
      lifePoints: settings.wd_life_point,
      nodes: remotes,
      query,
      trustedServers: listOf(settings.trusted_servers, ","),
      reach: (server) => reach(config(), server),
      inRecovery: () => this.#service.node.inRecovery,
      isSigned: () => config().wd_authkey !== "",
      isPlaced: (id) => {
        const { state } = this.#service.node.remotes.find((remote) => remote.id === id) ?? {};
        return state !== undefined && hasPlace(state);
      },
      report: ({ node, alive, text }) => {
        lifeLog.write("LOG", `informing the node status change to watchdog`, {
          detail: `node id :${node} status = "NODE ${alive ? "ALIVE" : "DEAD"}" message:"${text}"`,
        });
        this.#service.happen({ kind: "lifecheck", node, alive });
      },
      started: () => {
        const command = { kind: "node_status", node: self.id, text: "" } as const;
        void this.#service.ask({ ...command, status: "LIFECHECK STARTED" });
      },
      cutOff: () => this.#service.happen({ kind: "lifecheck", node: self.id, alive: false }),
      now: () => performance.now(),
      log: lifeLog,
    });
    this.#life = life;
    if (settings.wd_lifecheck_method === "heartbeat") {
      const heartbeats = new Heartbeats({
        places: heartbeatPlaces(settings),
        targets: heartbeatTargets(settings),
        from: { host: self.hostname, pgpoolPort: settings.port },
        everyMs: settings.wd_heartbeat_keepalive * 1000,
        key: () => config().wd_authkey,
        hear: (beat, address) => life.hear(beat, address),
        now: () => performance.timeOrigin + performance.now(),
        complain: (message, detail) => lifeLog.write("WARNING", message, { detail }),
      });
      this.#heartbeats = heartbeats;
      const { port } = heartbeatPlaces(settings);
      await listening(port, "heartbeat_port", () => heartbeats.start());
    }
    life.start();
  }
}

// ------------------------------------------------------------------ files and commands

/** @throws ConfigError naming the parameter at fault */
function tlsOf(config: Config, pathOf: (name: string) => string): WatchdogTls | undefined {
  if (!config.wd_ssl) return undefined;
  const read = (name: "wd_ssl_cert" | "wd_ssl_key" | "wd_ssl_ca_cert") => {
    if (config[name] === "") throw new ConfigError(`wd_ssl is on, and ${name} is not set`);
    try {
      return readFileSync(pathOf(config[name]), "utf8");
    } catch (error) {
      const detail = error instanceof Error ? error.message : String(error);
      throw new ConfigError(`could not read ${name}`, { detail });
    }
  };
  return { cert: read("wd_ssl_cert"), key: read("wd_ssl_key"), ca: read("wd_ssl_ca_cert") };
}

async function listening(port: number, name: string, open: () => Promise<void>): Promise<void> {
  try {
    await open();
  } catch (error) {
    const detail = error instanceof Error ? error.message : String(error);
    throw new ConfigError(`failed to open the socket of ${name} (${port})`, { detail });
  }
}

const REACH_LIMIT_MS = 10_000;

/** trusted_server_command; its ping is that of ping_path first. */
function reach(config: Config, server: string): Promise<boolean> {
  const command = config.trusted_server_command.replace(/%(.)/g, (whole, letter) =>
    letter === "h" ? server : letter === "%" ? "%" : whole,
  );
  const { PATH = "/usr/bin:/bin" } = process.env;
  const path = `${config.ping_path}:${PATH}`;
  return new Promise((resolve) => {
    execFile(
      "/bin/sh",
      ["-c", command],
      { env: { ...process.env, PATH: path }, timeout: REACH_LIMIT_MS },
      (error) => resolve(error === null),
    );
  });
}
