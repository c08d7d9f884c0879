/**
 * Asking the servers who they are: which one is the primary, and how far the others are behind
 * (spec routing/delay-and-primary.md). A question is a short-lived connection as `sr_check_user`.
 */
import { parseConninfo } from "../../core/cluster/conninfo.ts";
import { lsnOf } from "../../core/cluster/lsn.ts";
import { judgePrimary, type PrimaryVerdict, type RoleAnswer } from "../../core/cluster/primary.ts";
import { type ClusterState, hasPrimary, isLive, type NodeId } from "../../core/cluster/state.ts";
import type { Config } from "../../core/config/schema.ts";
import { type Backend, queryRows } from "../backend.ts";
import { type Asker, type ProbeWorld, reasonOf, withBackend } from "./connection.ts";
import type { Controller } from "./controller.ts";
import { delaysByCommand } from "./delay_command.ts";

/** What one node said of itself in one round. */
export type NodeAnswer = RoleAnswer & {
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

/** Only asked of standbys, and only when false primaries are to be found out. */
const receiverSql = `SELECT status, conninfo FROM pg_catalog.pg_stat_wal_receiver`;

const srChecker = (config: Config): Asker => ({
  user: config.sr_check_user,
  password: config.sr_check_password,
  database: config.sr_check_database,
  applicationName: "pgpool",
  parameter: "sr_check_user",
});

/** Where connect_timeout allows longer. */
const QUESTION_MS_MAX = 10_000;
/** While a primary is searched: one standby that hangs must not keep the others from being heard. */
const SEARCH_MS_MAX = 3000;

export async function askNode(
  world: ProbeWorld,
  node: NodeId,
  signal: AbortSignal,
  limitMsMax = QUESTION_MS_MAX,
): Promise<NodeAnswer> {
  const config = world.config();
  // A server that accepts and then says nothing must not keep the check, nor the start, waiting.
  const limitMs = Math.min(world.addressOf(node).connectTimeoutMs || limitMsMax, limitMsMax);
  return await withBackend(world, node, srChecker(config), { limitMs, signal }, async (backend) => {
    const [row] = await queryRows(backend, positionSql);
    const inRecovery = row?.[0] === "t";
    const lsn = lsnOf(row?.[1]);
    if (inRecovery) {
      const streamsFrom = config.detach_false_primary ? await upstreamOf(backend) : undefined;
      return { node, inRecovery, lsn, standbys: new Map(), streamsFrom };
    }
    const rows = await queryRows(backend, standbySql);
    const standbys = new Map(
      rows.map(([name, state, syncState, lag]) => [
        name ?? "",
        { state: state ?? "", syncState: syncState ?? "", replayLagMicroseconds: Number(lag) },
      ]),
    );
    return { node, inRecovery, lsn, standbys };
  });
}

async function upstreamOf(backend: Backend): Promise<RoleAnswer["streamsFrom"]> {
  const [row] = await queryRows(backend, receiverSql);
  if (row?.[0] !== "streaming") return undefined;
  const conninfo = parseConninfo(row[1] ?? "");
  return { host: conninfo?.get("host") ?? "", port: Number(conninfo?.get("port") ?? 5432) };
}

/** Asks every live node at once; of one that does not answer `failed` is told why. */
async function askNodes(
  world: ProbeWorld,
  state: ClusterState,
  signal: AbortSignal,
  failed: (node: NodeId, reason: string) => void,
  limitMsMax?: number,
): Promise<readonly NodeAnswer[]> {
  const nodes = state.nodes.filter(isLive).map(({ id }) => id);
  const asked = nodes.map(async (node) => {
    try {
      return await askNode(world, node, signal, limitMsMax);
    } catch (error) {
      if (!signal.aborted) failed(node, reasonOf(error));
      return undefined;
    }
  });
  return (await Promise.all(asked)).filter((answer) => answer !== undefined);
}

/** Elsewhere positions in the WAL have nothing to do with each other, and many may take writes. */
const streams = ({ mode }: ClusterState): boolean => mode === "streaming_replication";

/** Who is the primary, by these answers; `ALWAYS_PRIMARY` decides without them. */
function judge(
  world: ProbeWorld,
  state: ClusterState,
  answers: readonly NodeAnswer[],
): PrimaryVerdict {
  const config = world.config();
  const { backends } = config;
  return judgePrimary(answers, {
    alwaysPrimary: state.nodes.find((node) => isLive(node) && backends[node.id]?.flag.alwaysPrimary)
      ?.id,
    detachFalsePrimary: config.detach_false_primary && streams(state),
    // By their ids alone an old primary that is attached as it was would take the role back.
    present: state.primary,
    placeOf: (node) => ({
      hostname: backends[node]?.hostname ?? "",
      port: backends[node]?.port ?? 0,
    }),
  });
}

/** What the check asks of whoever carries out transitions. */
export type StreamingCheckPorts = {
  readonly world: ProbeWorld;
  readonly controller: Controller;
  /** False while standbys are being led to a new primary, and while anything else is under way. */
  readonly mayJudge: () => boolean;
  /** A primary that is none, with detach_false_primary on. */
  readonly detachFalse: (node: NodeId) => void;
};

const noDelays: ReadonlyMap<NodeId, number> = new Map();

export class StreamingCheck {
  readonly #ports: StreamingCheckPorts;
  readonly #stop = new AbortController();
  readonly #failures = new Map<NodeId, string>();
  #timer: ReturnType<typeof setTimeout> | undefined;

  constructor(ports: StreamingCheckPorts) {
    this.#ports = ports;
  }

  start(): void {
    this.#schedule();
  }

  stop(): void {
    this.#stop.abort(new Error("stopping"));
    clearTimeout(this.#timer);
  }

  /** Asks every live node once and tells what they said; the primary found is not yet ours. */
  async findPrimary(): Promise<NodeId | undefined> {
    const { controller, world } = this.#ports;
    const { state } = controller;
    const answers = await this.#ask(state, SEARCH_MS_MAX);
    const { primary, invalid } = judge(world, state, answers);
    // Where a command measures, it does so in the rounds.
    const byCommand = world.config().replication_delay_source_cmd !== "";
    this.#report(answers, primary, byCommand ? noDelays : undefined);
    if (primary === undefined) return undefined;
    for (const { node, inRecovery } of answers) {
      const role = inRecovery ? "standby" : node === primary ? "primary" : undefined;
      if (role !== undefined) {
        world.log.write("LOG", `find_primary_node: ${role} node is ${node}`);
      } else if (invalid.includes(node)) {
        world.log.write("LOG", `find_primary_node: invalid node ${node}`);
      }
    }
    return primary;
  }

  async #ask(state: ClusterState, limitMsMax?: number): Promise<readonly NodeAnswer[]> {
    const failed = (node: NodeId, reason: string) => this.#noteFailure(node, reason);
    const answers = await askNodes(this.#ports.world, state, this.#stop.signal, failed, limitMsMax);
    for (const { node } of answers) this.#failures.delete(node);
    return answers;
  }

  /** Said once, until the node answers or fails for another reason. */
  #noteFailure(node: NodeId, reason: string): void {
    if (this.#failures.get(node) === reason) return;
    this.#failures.set(node, reason);
    const message = `could not ask DB node id: ${node} for its role`;
    this.#ports.world.log.write("WARNING", message, { detail: reason });
  }

  #schedule(): void {
    if (this.#stop.signal.aborted) return;
    const { sr_check_period: seconds } = this.#ports.world.config();
    const delayMs = seconds === 0 ? 30_000 : seconds * 1000;
    this.#periodSeconds = seconds;
    this.#timer = setTimeout(() => void this.#round(seconds > 0), delayMs);
  }

  /** A new period counts from now, not from when the old one is over. */
  reconfigured(): void {
    const { sr_check_period: seconds } = this.#ports.world.config();
    if (this.#timer === undefined || seconds === this.#periodSeconds) return;
    clearTimeout(this.#timer);
    this.#schedule();
  }
  #periodSeconds = 0;

  async #round(enabled: boolean): Promise<void> {
    this.#timer = undefined;
    const { controller, world, mayJudge } = this.#ports;
    if (enabled && hasPrimary(controller.state) && mayJudge()) {
      // First, since it may take its time, in which what the nodes say would grow old.
      const delays = await this.#delaysByCommand(controller.state.primary);
      const { state } = controller;
      const answers = await this.#ask(state);
      // What changed meanwhile makes these answers old.
      if (controller.state.ongoing === undefined && mayJudge()) {
        const { primary: found, invalid } = judge(world, state, answers);
        const primary = controller.state.primary ?? found;
        this.#report(answers, primary, delays);
        if (controller.state.primary === undefined && primary !== undefined) {
          controller.setPrimary(primary);
        }
        for (const node of invalid) this.#reportFalse(node);
      }
    }
    this.#schedule();
  }

  #reportFalse(node: NodeId): void {
    const { world, detachFalse } = this.#ports;
    world.log.write("LOG", `pgpool_worker_child: invalid node found ${node}`);
    detachFalse(node);
  }

  /** Microseconds by node when a command measures them, else undefined. */
  async #delaysByCommand(primary: NodeId | undefined) {
    const { controller, world } = this.#ports;
    const { config, log } = world;
    if (!streams(controller.state)) return undefined;
    return await delaysByCommand(config(), primary, log, this.#stop.signal);
  }

  /**
   * Roles and delays of one round, by bytes or by time as the thresholds ask (spec section 3), or as
   * the command said. A delay that is not known stays what it was.
   */
  #report(
    answers: readonly NodeAnswer[],
    primary: NodeId | undefined,
    commanded?: ReadonlyMap<NodeId, number>,
  ): void {
    const { controller, world } = this.#ports;
    const config = world.config();
    const chief = answers.find((answer) => answer.node === primary);
    const delayByTime = commanded !== undefined || config.delay_threshold_by_time > 0;
    for (const { node, inRecovery, lsn } of answers) {
      const serverRole = inRecovery ? "standby" : "primary";
      const row = node === primary || commanded ? undefined : this.#rowOf(chief, node);
      const behind = bytesBehind(chief?.lsn, lsn);
      const byTime = commanded === undefined ? row?.replayLagMicroseconds : commanded.get(node);
      const lags = node !== primary && streams(controller.state);
      const delay = !lags ? 0 : delayByTime ? byTime : behind;
      controller.report(node, {
        serverRole,
        replicationState: row?.state ?? "",
        replicationSyncState: row?.syncState ?? "",
        ...(delay === undefined ? {} : { delay, delayByTime }),
      });
      if (primary !== undefined && delay !== undefined && node !== primary) {
        this.#logDelay(node, primary, delay, delayByTime, commanded !== undefined);
      }
    }
    if (chief !== undefined) this.#reportDetached(chief);
  }

  /** A node that is down is not asked, but the primary knows whether it streams: auto_failback does too. */
  #reportDetached(chief: NodeAnswer): void {
    const { controller } = this.#ports;
    for (const { id, status } of controller.state.nodes) {
      if (status !== "down") continue;
      const row = this.#rowOf(chief, id);
      controller.report(id, {
        replicationState: row?.state ?? "",
        replicationSyncState: row?.syncState ?? "",
      });
    }
  }

  #rowOf(chief: NodeAnswer | undefined, node: NodeId): StandbyRow | undefined {
    const name = this.#ports.world.config().backends[node]?.application_name ?? "";
    return chief?.standbys.get(name);
  }

  #logDelay(
    node: NodeId,
    primary: NodeId,
    delay: number,
    byTime: boolean,
    byCommand: boolean,
  ): void {
    const { log, config: configOf } = this.#ports.world;
    const config = configOf();
    const limit = byTime ? config.delay_threshold_by_time * 1000 : config.delay_threshold;
    const over = limit > 0 && delay > limit;
    const wanted =
      (config.log_standby_delay === "always" && delay > 0) ||
      (config.log_standby_delay === "if_over_threshold" && over);
    if (!wanted) return;
    const seconds = (delay / 1e6).toFixed(byCommand ? 3 : 6);
    const much = byTime ? `${seconds} second(s)` : `${delay} bytes`;
    const message = `Replication of node: ${node} is behind ${much} from the primary server (node: ${primary})`;
    log.write("LOG", byCommand ? `${message} [external command]` : message);
  }
}

function bytesBehind(primary: bigint | undefined, standby: bigint | undefined): number | undefined {
  if (primary === undefined || standby === undefined) return undefined;
  return primary > standby ? Number(primary - standby) : 0;
}
