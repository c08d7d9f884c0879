/**
 * Asking the servers who they are: which one is the primary, and how far the others are behind
 * (spec routing/delay-and-primary.md). A question is a short-lived connection as `sr_check_user`.
 */
import type { BackendSecret } from "../../core/auth/dialogue.ts";
import type { Credential } from "../../core/auth/password.ts";
import { md5HashOf } from "../../core/auth/password.ts";
import { type ClusterState, isLive, mainNode, type NodeId } from "../../core/cluster/state.ts";
import type { Config } from "../../core/config/schema.ts";
import { AuthenticationFailed } from "../../core/errors.ts";
import type { Log } from "../../core/ports.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import {
  type Backend,
  type BackendAddress,
  type BackendWorld,
  openBackend,
  queryRows,
} from "../backend.ts";
import type { Controller } from "./controller.ts";

export type ProbeWorld = {
  readonly config: () => Config;
  readonly backendWorld: () => BackendWorld;
  readonly addressOf: (node: NodeId) => BackendAddress;
  /** The user's entry of pool_passwd. */
  readonly credentialOf: (user: string) => Credential | undefined;
  readonly log: Log;
};

/** A connection of our own to one node, for questions. */
async function openProbe(world: ProbeWorld, node: NodeId, signal: AbortSignal): Promise<Backend> {
  const { sr_check_user: user, sr_check_database: database } = world.config();
  const parameters = new Map([
    ["application_name", "pgpool"],
    ["database", database],
    ["user", user],
  ]);
  const startup = encodeFrontend({ kind: "StartupMessage", major: 3, minor: 0, parameters });
  const secretFor = async () => secretOf(world, user);
  return await openBackend(
    world.backendWorld(),
    world.addressOf(node),
    { startup, user, secretFor },
    signal,
  );
}

/** `sr_check_password` when it is set, else the user's entry of pool_passwd. */
function secretOf(world: ProbeWorld, user: string): BackendSecret {
  const { sr_check_password } = world.config();
  if (sr_check_password !== "") {
    return { kind: "clear", password: new TextEncoder().encode(sr_check_password) };
  }
  const credential = world.credentialOf(user);
  if (credential?.kind === "clear") return credential;
  const hash = credential && md5HashOf(credential, user);
  if (hash !== undefined) return { kind: "md5", hash };
  throw new AuthenticationFailed("no password for sr_check_user", {
    detail: `user "${user}" has neither sr_check_password nor a usable entry in pool_passwd`,
  });
}

/** What one node said of itself in one round. */
export type NodeAnswer = {
  readonly node: NodeId;
  readonly inRecovery: boolean;
  /** Bytes; undefined when it could not be told. */
  readonly lsn: bigint | undefined;
  /** Of a primary: what pg_stat_replication says of each standby, by application name. */
  readonly standbys: ReadonlyMap<string, StandbyRow>;
};

export type StandbyRow = {
  readonly state: string;
  readonly syncState: string;
  readonly replayLagMicroseconds: number;
};

/** One question for both roles; the functions of the other role would raise an error and are not reached. */
const positionSql = `SELECT pg_catalog.pg_is_in_recovery(),
  CASE WHEN pg_catalog.pg_is_in_recovery() THEN pg_catalog.pg_last_wal_replay_lsn()
       ELSE pg_catalog.pg_current_wal_lsn() END`;
const standbySql = `SELECT application_name, state, sync_state,
  COALESCE((EXTRACT(EPOCH FROM replay_lag) * 1000000)::bigint, 0) FROM pg_catalog.pg_stat_replication`;

export async function askNode(
  world: ProbeWorld,
  node: NodeId,
  signal: AbortSignal,
): Promise<NodeAnswer> {
  // A server that accepts and then says nothing must not keep the check, nor the start, waiting.
  const limit = AbortSignal.any([
    signal,
    AbortSignal.timeout(world.addressOf(node).connectTimeoutMs),
  ]);
  const backend = await openProbe(world, node, limit);
  const giveUp = () => backend.conn.destroy();
  limit.addEventListener("abort", giveUp, { once: true });
  try {
    const [row] = await queryRows(backend, positionSql);
    const inRecovery = row?.[0] === "t";
    const rows = inRecovery ? [] : await queryRows(backend, standbySql);
    const standbys = new Map(
      rows.map(([name, state, syncState, lag]) => [
        name ?? "",
        { state: state ?? "", syncState: syncState ?? "", replayLagMicroseconds: Number(lag) },
      ]),
    );
    return { node, inRecovery, lsn: lsnOf(row?.[1]), standbys };
  } finally {
    limit.removeEventListener("abort", giveUp);
    backend.close();
  }
}

/** "X/Y" in bytes. */
export function lsnOf(text: string | undefined): bigint | undefined {
  const match = /^([0-9A-F]+)\/([0-9A-F]+)$/i.exec(text ?? "");
  if (match === null) return undefined;
  return (BigInt(`0x${match[1]}`) << 32n) + BigInt(`0x${match[2]}`);
}

/** Asks every live node at once; of one that does not answer `failed` is told why. */
async function askNodes(
  world: ProbeWorld,
  state: ClusterState,
  signal: AbortSignal,
  failed: (node: NodeId, reason: string) => void,
): Promise<readonly NodeAnswer[]> {
  const nodes = state.nodes.filter(isLive).map(({ id }) => id);
  const asked = nodes.map(async (node) => {
    try {
      return await askNode(world, node, signal);
    } catch (error) {
      const { message, detail } = error as { readonly message?: string; readonly detail?: string };
      if (!signal.aborted) failed(node, detail ?? message ?? String(error));
      return undefined;
    }
  });
  return (await Promise.all(asked)).filter((answer) => answer !== undefined);
}

/** The highest node that is no standby (spec section 6); `ALWAYS_PRIMARY` decides without asking. */
export function primaryOf(
  answers: readonly NodeAnswer[],
  alwaysPrimary: NodeId | undefined,
): NodeId | undefined {
  return alwaysPrimary ?? answers.findLast((answer) => !answer.inRecovery)?.node;
}

export class StreamingCheck {
  readonly #world: ProbeWorld;
  readonly #controller: Controller;
  readonly #stop = new AbortController();
  #timer: ReturnType<typeof setTimeout> | undefined;
  #searching = false;

  constructor(world: ProbeWorld, controller: Controller) {
    this.#world = world;
    this.#controller = controller;
  }

  /** The primary is searched at once and then every second until it is found or the time is up. */
  async start(): Promise<void> {
    if (!this.#streams()) return;
    await this.search();
    this.#schedule();
  }

  stop(): void {
    this.#stop.abort(new Error("stopping"));
    clearTimeout(this.#timer);
  }

  /** First round awaited; further ones go on behind the caller's back. */
  async search(): Promise<void> {
    if (this.#searching || !this.#streams()) return;
    this.#searching = true;
    const { log } = this.#world;
    log.write("LOG", "find_primary_node_repeatedly: waiting for finding a primary node");
    if (mainNode(this.#controller.state) === undefined) {
      const message =
        "find_primary_node_repeatedly: all of the backends are down. Giving up finding primary node";
      log.write("LOG", message);
      this.#searching = false;
      return;
    }
    if (await this.#findOnce()) this.#searching = false;
    else void this.#searchOn(Date.now());
  }

  async #searchOn(since: number): Promise<void> {
    const signal = this.#stop.signal;
    for (;;) {
      await pause(1000, signal);
      if (signal.aborted) return;
      const { search_primary_node_timeout: seconds } = this.#world.config();
      if (seconds > 0 && Date.now() - since > seconds * 1000) {
        this.#world.log.write("LOG", "failed to find primary node", {
          detail: `find_primary_node_repeatedly: expired after ${seconds} seconds`,
        });
        break;
      }
      if (await this.#findOnce()) break;
    }
    this.#searching = false;
  }

  async #findOnce(): Promise<boolean> {
    const { state } = this.#controller;
    const always = this.#alwaysPrimary(state);
    const answers = await this.#ask(state);
    const primary = primaryOf(answers, always);
    this.#report(answers, primary);
    if (primary === undefined) return false;
    for (const { node, inRecovery } of answers) {
      const role = inRecovery ? "standby" : "primary";
      this.#world.log.write("LOG", `find_primary_node: ${role} node is ${node}`);
    }
    this.#controller.setPrimary(primary);
    return true;
  }

  async #ask(state: ClusterState): Promise<readonly NodeAnswer[]> {
    const failed = (node: NodeId, reason: string) => this.#noteFailure(node, reason);
    const answers = await askNodes(this.#world, state, this.#stop.signal, failed);
    for (const { node } of answers) this.#failures.delete(node);
    return answers;
  }

  /** Said once, until the node answers or fails for another reason. */
  #noteFailure(node: NodeId, reason: string): void {
    if (this.#failures.get(node) === reason) return;
    this.#failures.set(node, reason);
    const message = `could not ask DB node id: ${node} for its role`;
    this.#world.log.write("WARNING", message, { detail: reason });
  }
  readonly #failures = new Map<NodeId, string>();

  #schedule(): void {
    if (this.#stop.signal.aborted) return;
    const { sr_check_period: seconds } = this.#world.config();
    const delayMs = seconds === 0 ? 30_000 : seconds * 1000;
    this.#timer = setTimeout(() => void this.#round(seconds > 0), delayMs);
  }

  async #round(enabled: boolean): Promise<void> {
    if (enabled && !this.#searching) {
      const { state } = this.#controller;
      const answers = await this.#ask(state);
      const primary = state.primary ?? primaryOf(answers, this.#alwaysPrimary(state));
      this.#report(answers, primary);
      if (state.primary === undefined && primary !== undefined)
        this.#controller.setPrimary(primary);
    }
    this.#schedule();
  }

  /** Roles and delays of one round, by bytes or by time as the thresholds ask (spec section 3). */
  #report(answers: readonly NodeAnswer[], primary: NodeId | undefined): void {
    const config = this.#world.config();
    const chief = answers.find((answer) => answer.node === primary);
    const delayByTime = config.delay_threshold_by_time > 0;
    for (const { node, inRecovery, lsn } of answers) {
      const serverRole = inRecovery ? "standby" : "primary";
      const name = config.backends[node]?.application_name ?? "";
      const row = node === primary ? undefined : chief?.standbys.get(name);
      const behind = bytesBehind(chief?.lsn, lsn);
      const delay = node === primary ? 0 : delayByTime ? row?.replayLagMicroseconds : behind;
      this.#controller.report(node, {
        serverRole,
        delayByTime,
        replicationState: row?.state ?? "",
        replicationSyncState: row?.syncState ?? "",
        ...(delay === undefined ? {} : { delay }),
      });
      if (primary !== undefined && delay !== undefined && node !== primary) {
        this.#logDelay(node, primary, delay, delayByTime);
      }
    }
  }

  #logDelay(node: NodeId, primary: NodeId, delay: number, byTime: boolean): void {
    const config = this.#world.config();
    const limit = byTime ? config.delay_threshold_by_time * 1000 : config.delay_threshold;
    const over = limit > 0 && delay > limit;
    const wanted =
      (config.log_standby_delay === "always" && delay > 0) ||
      (config.log_standby_delay === "if_over_threshold" && over);
    if (!wanted) return;
    const much = byTime ? `${(delay / 1e6).toFixed(6)} second(s)` : `${delay} bytes`;
    const message = `Replication of node: ${node} is behind ${much} from the primary server (node: ${primary})`;
    this.#world.log.write("LOG", message);
  }

  #alwaysPrimary(state: ClusterState): NodeId | undefined {
    const { backends } = this.#world.config();
    return state.nodes.find((node) => isLive(node) && backends[node.id]?.flag.alwaysPrimary)?.id;
  }

  #streams(): boolean {
    const { mode } = this.#controller.state;
    return mode === "streaming_replication" || mode === "logical_replication";
  }
}

function bytesBehind(primary: bigint | undefined, standby: bigint | undefined): number | undefined {
  if (primary === undefined || standby === undefined) return undefined;
  return primary > standby ? Number(primary - standby) : 0;
}

function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done, { once: true });
  });
}
