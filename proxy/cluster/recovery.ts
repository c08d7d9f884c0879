/**
 * Online recovery carried out: scripts on the database host build a node anew from a live one and
 * start it, then it is attached (spec wire/recovery.md).
 */
import { BackendRefused } from "../../core/auth/client.ts";
import type { ClusterControl, Hold, Quiet } from "../../core/cluster/control.ts";
import { lsnOf } from "../../core/cluster/lsn.ts";
import {
  bytesLacking,
  callSql,
  type History,
  type HostCommand,
  historySql,
  planRecovery,
  programSql,
  RecoveryFailed,
  type RecoveryPlan,
  remoteStartCommand,
  stageCommand,
} from "../../core/cluster/recovery.ts";
import { type BackendNode, isLive, type NodeId } from "../../core/cluster/state.ts";
import type { Clock, Log } from "../../core/ports.ts";
import { decodeBackend, errorField } from "../../core/wire/backend.ts";
import { frameOf } from "../../core/wire/frame.ts";
import { type Backend, queryRows } from "../backend.ts";
import { type Asker, type ProbeWorld, pause, reasonOf, withBackend } from "./connection.ts";

export type RecoveryOptions = {
  readonly world: ProbeWorld;
  readonly control: ClusterControl;
  readonly log: Log;
  readonly clock: Clock;
  /** New clients wait until it is released; `empty`: all others have left within that time. */
  readonly quiesce: (timeoutMs: number) => Promise<Quiet>;
};

/** What Pgpool gives a server to come up before it looks at recovery_timeout: 4 tries, 3 s apart. */
const FIRST_TRIES_MS = 12_000;
const TRY_EVERY_MS = 1000;
const TRY_LIMIT_MS = 3000;

const UNDEFINED_FUNCTION = "42883";

export class OnlineRecovery {
  readonly #options: RecoveryOptions;
  readonly #stop = new AbortController();
  #running = false;

  constructor(options: RecoveryOptions) {
    this.#options = options;
  }

  /** Ends a recovery that is under way: nothing more is begun, scripts are not killed. */
  stop(): void {
    this.#stop.abort(new Error("pgpool is stopping"));
  }

  /** Resolves when the node is in use again; rejects with `RecoveryFailed`, and the node stays down. */
  async recover(node: NodeId): Promise<void> {
    if (this.#running) {
      const message = "pgpool-II is already processing another recovery request.";
      throw new RecoveryFailed(message, undefined, "FATAL");
    }
    const plan = planRecovery(this.#options.control.state, node);
    this.#running = true;
    try {
      this.#options.log.write("LOG", `starting recovering node ${node}`, {
        detail: `from node ${plan.source}`,
      });
      await (plan.stopsClients ? this.#recoverQuietly(plan) : this.#recoverStreaming(plan));
      this.#options.log.write("LOG", "recovery done", { detail: `node ${node}` });
    } catch (error) {
      this.#options.log.write("WARNING", `recovery of node ${node} failed`, {
        detail: reasonOf(error),
      });
      throw error;
    } finally {
      this.#running = false;
    }
  }

  async #recoverStreaming(plan: RecoveryPlan): Promise<void> {
    const { control, world } = this.#options;
    const config = world.config();
    await this.#onSource(plan, async (source) => {
      await this.#stage(source, plan, "1st stage", config.recovery_1st_stage_command);
      await this.#startServer(source, plan);
    });
    await this.#untilServing(plan);
    // It took its time. What was copied from a primary that is no longer one is no standby.
    if (planRecovery(control.state, plan.node).source !== plan.source) {
      const detail = `node ${plan.source}, from which it was copied, is not the primary any more`;
      throw new RecoveryFailed("process recovery request failed", detail);
    }
    const result = await control.attachNode(plan.node);
    if (result.kind === "refused") throw new RecoveryFailed(result.why, result.detail);
  }

  /**
   * Replication modes: the last writes are carried over while nobody writes. Clients leave first:
   * while they are waited for a node may still be lost, and no session has to wait for its end.
   */
  async #recoverQuietly(plan: RecoveryPlan): Promise<void> {
    const { control, world, log, quiesce } = this.#options;
    const config = world.config();
    const { recovery_timeout: seconds } = config;
    let hold: Hold | undefined;
    let quiet: Quiet | undefined;
    let end: History | undefined;
    try {
      await this.#onSource(plan, async (source) => {
        await queryRows(source, "CHECKPOINT");
        await this.#stage(source, plan, "1st stage", config.recovery_1st_stage_command);
        log.write("LOG", "waiting for clients to leave, before the 2nd stage", {
          detail: `for up to recovery_timeout (${seconds} seconds); new ones wait meanwhile`,
        });
        quiet = await quiesce(seconds * 1000);
        if (!quiet.empty) {
          const message =
            "node recovery failed, waiting connection closed in the other pgpools timeout";
          throw new RecoveryFailed(message);
        }
        hold = await control.hold();
        requireLive(control.state.nodes[plan.source]);
        await queryRows(source, "CHECKPOINT");
        end = await this.#historyOf(source);
        await this.#stage(source, plan, "2nd stage", config.recovery_2nd_stage_command);
        await this.#startServer(source, plan);
      });
      await this.#untilServing(plan, end);
      const doubt = await quiet?.doubt();
      if (doubt !== undefined) {
        throw new RecoveryFailed("node recovery failed, another pgpool was lost meanwhile", doubt);
      }
      const result = await hold?.attach(plan.node);
      if (result?.kind === "refused") throw new RecoveryFailed(result.why, result.detail);
    } finally {
      hold?.release();
      quiet?.release();
    }
  }

  async #onSource(plan: RecoveryPlan, work: (source: Backend) => Promise<void>): Promise<void> {
    const asker = this.#asker(this.#options.world.config().recovery_database);
    let reached = false;
    try {
      // A base backup takes what it takes.
      const limit = { limitMs: 0, signal: this.#stop.signal };
      await withBackend(this.#options.world, plan.source, asker, limit, async (source) => {
        reached = true;
        await queryRows(source, "SET statement_timeout TO 0");
        await work(source);
      });
    } catch (error) {
      if (reached) throw error;
      this.#options.log.write("WARNING", "could not connect for recovery", {
        detail: reasonOf(error),
      });
      throw new RecoveryFailed(
        `node recovery failed, unable to connect to main node: ${plan.source} `,
        reasonOf(error),
      );
    }
  }

  async #stage(source: Backend, plan: RecoveryPlan, stage: string, script: string): Promise<void> {
    if (script === "") return;
    const { log, world } = this.#options;
    log.write("LOG", `executing recovery`, { detail: `starting recovery command: "${script}"` });
    try {
      await this.#run(source, stageCommand(world.config(), plan, script));
    } catch (error) {
      log.write("WARNING", `the script of the ${stage} failed`, { detail: reasonOf(error) });
      const message = `executing recovery, execution of command failed at "${stage}"`;
      throw new RecoveryFailed(message, `command:"${script}"`);
    }
    log.write("LOG", "executing recovery", { detail: `finishing recovery command: "${script}"` });
  }

  async #startServer(source: Backend, plan: RecoveryPlan): Promise<void> {
    try {
      await this.#run(source, remoteStartCommand(this.#options.world.config(), plan));
    } catch (error) {
      throw new RecoveryFailed(`executing remote start failed with error: "${reasonOf(error)}"`);
    }
  }

  /** By the function that drop-in installations have; where there is none, without. */
  async #run(source: Backend, command: HostCommand): Promise<void> {
    try {
      await queryRows(source, callSql(command));
    } catch (error) {
      if (codeOf(error) !== UNDEFINED_FUNCTION) throw error;
      const [[directory = ""] = []] = await queryRows(source, "SHOW data_directory");
      await queryRows(source, programSql(command, directory));
    }
  }

  /** Undefined when it may not be asked for: then nobody can tell whether the copy is complete. */
  async #historyOf(backend: Backend): Promise<History | undefined> {
    try {
      const [row] = await queryRows(backend, historySql);
      const [standby, system = "", timeline, lsn, branches = ""] = row ?? [];
      return { inRecovery: standby === "t", system, timeline, lsn: lsnOf(lsn), branches };
    } catch (error) {
      if (!(error instanceof BackendRefused)) throw error;
      const message = `could not ask DB node id: ${backend.node} where its WAL ends`;
      this.#options.log.write("WARNING", message, { detail: reasonOf(error) });
      return undefined;
    }
  }

  /**
   * A connection to either database ends the wait. Where nothing will stream to the node, it must
   * have come out of its recovery too, with all that its source had at `end`.
   */
  async #untilServing({ node, stopsClients }: RecoveryPlan, end?: History): Promise<void> {
    const { world, clock } = this.#options;
    const { recovery_timeout, recovery_user, backends } = world.config();
    const until = clock() + FIRST_TRIES_MS + recovery_timeout * 1000;
    const signal = this.#stop.signal;
    let isUp = false;
    for (;;) {
      for (const database of ["postgres", "template1"]) {
        let copy: History | undefined;
        try {
          const limit = { limitMs: TRY_LIMIT_MS, signal };
          copy = await withBackend(world, node, this.#asker(database), limit, async (backend) =>
            stopsClients ? await this.#historyOf(backend) : undefined,
          );
        } catch {
          signal.throwIfAborted(); // else it is not there yet
          continue;
        }
        isUp = true;
        if (copy?.inRecovery === true) break;
        if (stopsClients) this.#requireComplete(node, end, copy);
        return;
      }
      if (clock() >= until) break;
      await pause(TRY_EVERY_MS, signal);
    }
    if (isUp) {
      const detail = `after ${recovery_timeout} seconds the server of node ${node} is still in recovery: is all of the WAL in the archive?`;
      throw new RecoveryFailed("recovered node takes no writes", detail);
    }
    const host = backends[node]?.hostname ?? "";
    throw new RecoveryFailed(
      "recovery is checking if postmaster is started",
      `postmaster on hostname:"${host}" database:"template1" user:"${recovery_user}" failed to start in ${recovery_timeout} second`,
    );
  }

  #requireComplete(node: NodeId, end: History | undefined, copy: History | undefined): void {
    const lacking = end && copy && bytesLacking(end, copy);
    if (lacking === undefined) {
      const message = `whether node ${node} has all that was written cannot be told by its WAL`;
      this.#options.log.write("LOG", message);
    } else if (lacking > 0n) {
      const detail = `the last ${lacking} bytes of WAL were not replayed: see recovery_2nd_stage_command`;
      throw new RecoveryFailed(`node ${node} does not have all that was written`, detail);
    }
  }

  #asker(database: string): Asker {
    const { recovery_user: user, recovery_password: password } = this.#options.world.config();
    return {
      user,
      password,
      database,
      applicationName: "pgpool_recovery",
      parameter: "recovery_user",
    };
  }
}

/** Who was detached meanwhile lacks what was written since. */
function requireLive(source: BackendNode | undefined): void {
  if (source !== undefined && isLive(source)) return;
  const detail = `node ${source?.id}, from which it was copied, was detached meanwhile`;
  throw new RecoveryFailed("process recovery request failed", detail);
}

function codeOf(error: unknown): string | undefined {
  if (!(error instanceof BackendRefused)) return undefined;
  const message = decodeBackend(frameOf(error.response));
  return message.kind === "ErrorResponse" ? errorField(message, "C") : undefined;
}
