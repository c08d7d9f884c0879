/**
 * Failover without scripts, carried out: what the primary says while it lives is remembered; when it
 * is lost the standbys are asked, one is promoted by pg_promote(), and the others are led to it by
 * ALTER SYSTEM. Whether and whom is decided in core/cluster/promotion.ts.
 */

import { BackendRefused } from "../../core/auth/client.ts";
import {
  type Conninfo,
  formatConninfo,
  parseConninfo,
  redirected,
} from "../../core/cluster/conninfo.ts";
import type { LostPrimary } from "../../core/cluster/failover.ts";
import { lsnOf } from "../../core/cluster/lsn.ts";
import {
  decidePromotion,
  type Fence,
  type OldPrimary,
  type PrimaryMemory,
  type StandbyReport,
} from "../../core/cluster/promotion.ts";
import { type ClusterState, isLive, type NodeId } from "../../core/cluster/state.ts";
import type { Config } from "../../core/config/schema.ts";
import type { Log } from "../../core/ports.ts";
import { type Backend, queryRows } from "../backend.ts";
import {
  type Asker,
  failingOf,
  type ProbeWorld,
  pause,
  reasonOf,
  withBackend,
} from "./connection.ts";

export type PromotionPorts = {
  readonly world: ProbeWorld;
  readonly state: () => ClusterState;
  readonly log: Log;
  /** The lost primary answers: it is to be attached again. */
  readonly giveBack: (node: NodeId) => void;
  /** Runs fence_command for the lost primary and its successor; true when it has succeeded. */
  readonly fence: (lost: NodeId, heir: NodeId) => Promise<boolean>;
};

/** How often the primary is asked what would have to be known of it, in milliseconds. */
const LEARN_MS = 2000;
/** One question; a server that needs longer is treated as silent. */
const QUESTION_MS = 3000;
/** Seconds that pg_promote() may take. */
const PROMOTE_SECONDS = 60;
/** What is expected to pass soon is looked at again so often, and so many times. */
const SOON_MS = 20;
const SOON_TRIES = 100;
/** How often the new primary is asked whether it is one, in milliseconds. */
const PROMOTED_MS = 5;

export class Promotion {
  readonly #ports: PromotionPorts;
  readonly #stop = new AbortController();
  #memory: PrimaryMemory | undefined;
  #timer: ReturnType<typeof setTimeout> | undefined;
  #learning = false;
  #learnAgain = false;
  /** Who was told to become the primary, and has not said that it has. */
  #told: NodeId | undefined;
  /** The lost primary that fence_command has ended, while it has no successor. */
  #fenced: NodeId | undefined;
  /** Standbys that may have to be led to the primary; and why that did not work so far. */
  readonly #astray = new Map<NodeId, Astray>();
  #said = "";
  #complaint = "";

  constructor(ports: PromotionPorts) {
    this.#ports = ports;
  }

  start(): void {
    void this.#learn();
  }

  stop(): void {
    this.#stop.abort(new Error("stopping"));
    clearTimeout(this.#timer);
  }

  /** One attempt. Undefined while it is not safe, or when it did not work; why is in the log. */
  async elect(lost: LostPrimary): Promise<NodeId | undefined> {
    for (let tries = 1; ; tries++) {
      const decision = decidePromotion(await this.#facts(lost));
      if (this.#stop.signal.aborted) return undefined;
      switch (decision.kind) {
        case "return":
          this.#ports.log.write("LOG", `the primary answers again: node ${lost.node}`);
          this.#fenced = undefined;
          this.#ports.giveBack(lost.node);
          return undefined;
        case "fence":
          if (!(await this.#ports.fence(lost.node, decision.node))) {
            this.#say(`fence_command did not succeed for node ${lost.node}`);
            return undefined;
          }
          this.#fenced = lost.node;
          continue; // the standbys are asked again: they may have received more meanwhile
        case "promote":
          this.#said = "";
          return await this.#promote(decision.node, decision.why);
        case "wait":
          if (decision.soon && tries < SOON_TRIES) {
            await pause(SOON_MS, this.#stop.signal);
            continue;
          }
          this.#say(decision.why);
          return undefined;
      }
    }
  }

  /** Once, until something else is to be said. */
  #say(why: string): void {
    if (this.#said === why) return;
    this.#said = why;
    this.#ports.log.write("WARNING", "no standby is promoted", { detail: why });
  }

  // ---------------------------------------------------------------- while the primary lives

  /** It is lost, and what was done about an earlier loss is past; or it is another one, which is asked at once. */
  primaryChanged(): void {
    this.#fenced = undefined;
    if (this.#ports.state().primary !== undefined) this.#told = undefined;
    if (this.#learning) this.#learnAgain = true;
    else if (this.#timer !== undefined) void this.#learn();
  }

  /** Nodes that are in use again: one may still follow a primary that is gone. */
  joined(nodes: readonly NodeId[]): void {
    for (const node of nodes) this.#astray.set(node, { when: "its source is down" });
  }

  async #learn(): Promise<void> {
    clearTimeout(this.#timer);
    this.#learning = true;
    this.#learnAgain = false;
    const { primary, ongoing } = this.#ports.state();
    if (this.#isWanted && primary !== undefined) {
      const learnt = await this.#ask(primary, memoryOf).catch((error) => {
        this.#complain(primary, reasonOf(error));
        return undefined;
      });
      // Of a primary that does not answer now we know what it said last.
      if (learnt !== undefined && this.#ports.state().primary === primary) this.#remember(learnt);
      if (ongoing === undefined) void this.#leadAstray(primary);
    }
    this.#learning = false;
    if (this.#stop.signal.aborted) return;
    if (this.#learnAgain) void this.#learn();
    else this.#timer = setTimeout(() => void this.#learn(), LEARN_MS);
  }

  get #isWanted(): boolean {
    const { failover_method: method } = this.#ports.world.config();
    return method === "promote" && this.#ports.state().mode === "streaming_replication";
  }

  /** Before it is needed, and once for each reason. */
  #complain(node: NodeId, reason: string): void {
    if (reason === this.#complaint || this.#stop.signal.aborted) return;
    this.#complaint = reason;
    const message = `node ${node} could not be asked what a promotion would have to know`;
    this.#ports.log.write("WARNING", message, { detail: reason });
  }

  /** Told when it changes: an operator can see what a promotion would go by. */
  #remember(learnt: PrimaryMemory): void {
    const { node, timeline, syncNames } = learnt;
    const before = this.#memory;
    this.#memory = learnt;
    this.#complaint = "";
    const same =
      before?.node === node && before.timeline === timeline && before.syncNames === syncNames;
    if (same) return;
    const promise = syncNames === "" ? "asynchronous" : `synchronous with ${syncNames}`;
    const detail = `timeline ${timeline}, ${promise}`;
    this.#ports.log.write("LOG", `if node ${node} is lost a standby will be promoted`, { detail });
  }

  // ---------------------------------------------------------------- when it is lost

  async #facts(lost: LostPrimary) {
    const state = this.#ports.state();
    const { backends, fence_command: fencing } = this.#ports.world.config();
    const fence: Fence = this.#fenced === lost.node ? "done" : fencing === "" ? "none" : "possible";
    const live = state.nodes.filter((node) => isLive(node) && node.id !== lost.node);
    const places = live.map(({ hostname, port }) => ({ hostname, port }));
    const [oldPrimary, told, ...answers] = await Promise.all([
      this.#look(lost.node),
      this.#lookAtTold(lost.node),
      ...live.map(({ id }) =>
        this.#ask(id, (backend) => reportOf(backend, places)).catch(() => undefined),
      ),
    ]);
    return {
      lost: lost.node,
      lostName: backends[lost.node]?.application_name ?? "",
      mayReturn: lost.mayReturn,
      oldPrimary,
      told,
      fence,
      memory: this.#memory?.node === lost.node ? this.#memory : undefined,
      standbys: answers.filter((answer): answer is StandbyReport => answer !== undefined),
      others: backends
        .filter(({ id, port }) => port !== 0 && id !== lost.node)
        .map(({ id, application_name: applicationName }) => ({ node: id, applicationName })),
    };
  }

  /** What is to be found where the primary was. */
  async #look(node: NodeId): Promise<OldPrimary> {
    try {
      const inRecovery = await this.#ask(node, async (backend) => {
        const [row] = await queryRows(backend, "SELECT pg_catalog.pg_is_in_recovery()");
        return row?.[0] === "t";
      });
      return { kind: inRecovery ? "standby" : "primary" };
    } catch (error) {
      if (failingOf(error) === "refused") return { kind: "refused" };
      return { kind: "unclear", why: reasonOf(error), lives: failingOf(error) === "alive" };
    }
  }

  async #lookAtTold(lost: NodeId) {
    if (this.#told === lost) this.#told = undefined; // it became the primary, and is the one that is lost
    const node = this.#told;
    return node === undefined ? undefined : { node, found: await this.#look(node) };
  }

  async #promote(node: NodeId, why: string): Promise<NodeId | undefined> {
    const { log, world } = this.#ports;
    log.write("LOG", `promoting node ${node}`, { detail: why });
    const others = this.#ports
      .state()
      .nodes.filter((each) => isLive(each) && each.id !== node)
      .map(({ id }) => id);
    try {
      // What the others' slots hold back must be held back before the first new WAL is written.
      const slots = await this.#slotsOf(others);
      const limitMs = (PROMOTE_SECONDS + 10) * 1000;
      const done = await this.#ask(
        node,
        async (backend) => {
          for (const slot of slots) await this.#makeSlot(backend, slot);
          this.#told = node;
          return await promoted(backend);
        },
        limitMs,
      );
      if (!done) {
        log.write("WARNING", `node ${node} did not become the primary in time`);
        return undefined;
      }
    } catch (error) {
      log.write("WARNING", `node ${node} could not be promoted`, { detail: reasonOf(error) });
      return undefined;
    }
    log.write("LOG", `node ${node} is promoted`);
    this.#told = undefined;
    this.#fenced = undefined;
    this.#astray.clear();
    if (world.config().follow_primary_command === "") {
      for (const other of others) this.#astray.set(other, { when: "at once" });
      void this.#leadAstray(node);
    }
    return node;
  }

  /** Without its slot a standby can follow for as long as wal_keep_size lasts: better than no primary. */
  async #makeSlot(backend: Backend, name: string): Promise<void> {
    try {
      await queryRows(
        backend,
        `SELECT pg_catalog.pg_create_physical_replication_slot(${literal(name)}, true)
         WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_replication_slots WHERE slot_name = ${literal(name)})`,
      );
    } catch (error) {
      if (!(error instanceof BackendRefused)) throw error;
      const message = `replication slot "${name}" could not be made on node ${backend.node}`;
      this.#ports.log.write("WARNING", message, { detail: reasonOf(error) });
    }
  }

  async #slotsOf(nodes: readonly NodeId[]): Promise<readonly string[]> {
    const names = await Promise.all(
      nodes.map((node) =>
        this.#ask(node, async (backend) => {
          const [row] = await queryRows(
            backend,
            "SELECT pg_catalog.current_setting('primary_slot_name')",
          );
          return row?.[0] ?? "";
        }).catch(() => ""),
      ),
    );
    return names.filter((name) => name !== "");
  }

  // ---------------------------------------------------------------- those who are to follow

  /** Who did not answer when it was to be led, or was not there then. */
  async #leadAstray(primary: NodeId): Promise<void> {
    const { state, world } = this.#ports;
    if (this.#leading || world.config().follow_primary_command !== "") return;
    this.#leading = true;
    const led = [...this.#astray.keys()].map(async (node) => {
      const status = state().nodes[node];
      if (node === primary || status === undefined || !isLive(status)) this.#astray.delete(node);
      else await this.#lead(node, primary);
    });
    await Promise.all(led);
    this.#leading = false;
  }
  #leading = false;

  /** The standby streams from `primary` from now on, with everything else that its conninfo said. */
  async #lead(node: NodeId, primary: NodeId): Promise<void> {
    const { log, world } = this.#ports;
    const target = world.config().backends[primary];
    const astray = this.#astray.get(node);
    if (target === undefined || astray === undefined) return;
    try {
      const led = await this.#ask(node, async (backend) => {
        const [row] = await queryRows(backend, followingSql);
        if (row?.[0] !== "t") return false; // a primary that is none is turned away by others
        const conninfo = parseConninfo(row[1] ?? "");
        if (conninfo === undefined) throw new Error("its primary_conninfo is not understood");
        if (astray.when === "its source is down" && !this.#isDown(conninfo)) return false;
        const text = formatConninfo(redirected(conninfo, target.hostname, target.port));
        await queryRows(backend, `ALTER SYSTEM SET primary_conninfo = ${literal(text)}`);
        if (row[2] !== "t") throw new Error("before PostgreSQL 13 it needs a restart to follow");
        await queryRows(backend, "SELECT pg_catalog.pg_reload_conf()");
        return true;
      });
      if (this.#astray.get(node) === astray) this.#astray.delete(node);
      if (led) log.write("LOG", `node ${node} follows node ${primary}`);
    } catch (error) {
      const said = reasonOf(error);
      if (said === astray.said || this.#stop.signal.aborted) return;
      this.#astray.set(node, { ...astray, said });
      const message = `node ${node} could not be led to the new primary ${primary}`;
      log.write("WARNING", message, { detail: said });
    }
  }

  /** It names a node of ours that is not in use. */
  #isDown(conninfo: Conninfo): boolean {
    const [host, port] = [conninfo.get("host"), conninfo.get("port") ?? "5432"];
    const named = this.#ports
      .state()
      .nodes.filter((node) => node.hostname === host && String(node.port) === port);
    return named.length > 0 && !named.some(isLive);
  }

  async #ask<T>(
    node: NodeId,
    ask: (backend: Backend) => Promise<T>,
    limitMs = QUESTION_MS,
  ): Promise<T> {
    const { world } = this.#ports;
    const limit = { limitMs, signal: this.#stop.signal };
    return await withBackend(world, node, promoter(world.config()), limit, ask);
  }
}

type Astray = {
  readonly when: "at once" | "its source is down";
  /** Why it could not be led, as it was last told. */
  readonly said?: string;
};

const followingSql = `SELECT pg_catalog.pg_is_in_recovery(),
  pg_catalog.current_setting('primary_conninfo'),
  pg_catalog.current_setting('server_version_num')::int >= 130000`;

/** A superuser, as recovery needs one too; else whoever checks replication. */
function promoter(config: Config): Asker {
  const recovers = config.recovery_user !== "";
  return {
    user: recovers ? config.recovery_user : config.sr_check_user,
    password: recovers ? config.recovery_password : config.sr_check_password,
    database: recovers ? config.recovery_database || "postgres" : config.sr_check_database,
    applicationName: "pgpool",
    parameter: recovers ? "recovery_user" : "sr_check_user",
  };
}

async function memoryOf(backend: Backend): Promise<PrimaryMemory | undefined> {
  const [row] = await queryRows(
    backend,
    `SELECT NOT pg_catalog.pg_is_in_recovery(),
       (SELECT system_identifier FROM pg_catalog.pg_control_system()),
       CASE WHEN NOT pg_catalog.pg_is_in_recovery()
         THEN substr(pg_catalog.pg_walfile_name(pg_catalog.pg_current_wal_lsn()), 1, 8) END,
       pg_catalog.current_setting('synchronous_standby_names')`,
  );
  if (row?.[0] !== "t") return undefined;
  const rows = await queryRows(
    backend,
    "SELECT application_name, sync_state FROM pg_catalog.pg_stat_replication",
  );
  return {
    node: backend.node,
    systemIdentifier: row[1] ?? "",
    timeline: Number.parseInt(row[2] ?? "0", 16),
    syncNames: row[3] ?? "",
    syncStates: new Map(rows.map(([name, state]) => [name ?? "", state ?? ""])),
  };
}

/**
 * The timeline is the newest that the standby has got to. The control file learns of it only with the
 * next restartpoint, minutes later, and a walreceiver that has ended says nothing; but what it
 * received lies in files whose names begin with the timeline. (A history file would prove nothing: it
 * is fetched also by a standby that cannot follow.)
 */
const reportSql = `SELECT pg_catalog.pg_is_in_recovery(),
  (SELECT system_identifier FROM pg_catalog.pg_control_system()),
  GREATEST((SELECT received_tli FROM pg_catalog.pg_stat_wal_receiver),
    (SELECT timeline_id FROM pg_catalog.pg_control_checkpoint()),
    (SELECT min_recovery_end_timeline FROM pg_catalog.pg_control_recovery()),
    (SELECT max(('x' || substr(name, 1, 8))::bit(32)::int)
      FROM pg_catalog.pg_ls_waldir() WHERE name ~ '^[0-9A-F]{24}$')),
  GREATEST(pg_catalog.pg_last_wal_receive_lsn(), pg_catalog.pg_last_wal_replay_lsn()),
  pg_catalog.has_function_privilege('pg_catalog.pg_promote(boolean, integer)', 'execute'),
  (SELECT conninfo FROM pg_catalog.pg_stat_wal_receiver WHERE status = 'streaming')`;

async function reportOf(
  backend: Backend,
  places: readonly { readonly hostname: string; readonly port: number }[],
): Promise<StandbyReport | undefined> {
  const [row] = await queryRows(backend, reportSql);
  const lsn = lsnOf(row?.[3]);
  if (row?.[0] !== "t" || lsn === undefined) return undefined;
  const source = row[5] === undefined ? undefined : parseConninfo(row[5]);
  const fromUs = places.some(
    ({ hostname, port }) => source?.get("host") === hostname && source.get("port") === String(port),
  );
  return {
    node: backend.node,
    systemIdentifier: row[1] ?? "",
    timeline: Number(row[2] ?? 0),
    lsn,
    streaming: source !== undefined && !fromUs,
    mayPromote: row[4] === "t",
  };
}

/** pg_promote() itself would look ten times a second whether it is done. False when it takes too long. */
async function promoted(backend: Backend): Promise<boolean> {
  const end = performance.now() + PROMOTE_SECONDS * 1000;
  await queryRows(backend, "SELECT pg_catalog.pg_promote(false)");
  for (;;) {
    const [row] = await queryRows(backend, "SELECT pg_catalog.pg_is_in_recovery()");
    if (row?.[0] === "f") return true;
    if (performance.now() >= end) return false;
    await new Promise((resolve) => setTimeout(resolve, PROMOTED_MS));
  }
}

/** A string constant, whatever standard_conforming_strings is. */
const literal = (text: string): string =>
  ` E'${text.replaceAll("\\", "\\\\").replaceAll("'", "''")}'`;
