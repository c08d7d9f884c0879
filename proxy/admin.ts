/**
 * SHOW pool_nodes and its kin, and PGPOOL SHOW, SET and RESET: what core/admin answers, filled with
 * this engine's slots, sets and counters (spec config/show.md).
 */
import {
  type AdminCommand,
  answerAdmin,
  encodeAnswer,
  isPoolShowName,
} from "../core/admin/answer.ts";
import type { AdminView, NodeView, PoolView, ProcessView } from "../core/admin/view.ts";
import type { NodeId } from "../core/cluster/state.ts";
import type { StatementFacts } from "../core/sql/facts.ts";
import { compatibleVersion } from "../core/version.ts";
import type { Engine } from "./engine.ts";
import type { BackendSet } from "./pool.ts";
import type { Runner } from "./runner.ts";
import type { Slot } from "./slots.ts";

/** Everything but the ReadyForQuery. A setting that the client changed is its runner's from now on. */
export function adminAnswer(engine: Engine, runner: Runner, facts: StatementFacts): Uint8Array {
  const answer = answerAdmin(commandOf(facts), adminView(engine, runner));
  if (answer.kind === "done") runner.configure(answer.config);
  if (answer.kind === "error") runner.logFrontendError(answer.error);
  return encodeAnswer(answer);
}

function commandOf({ statement }: StatementFacts): AdminCommand {
  if (statement.kind === "pgpool" && statement.command.kind !== "explain_route") {
    return statement.command;
  }
  if (statement.kind === "show" && isPoolShowName(statement.name)) {
    return { kind: "pool_show", name: statement.name };
  }
  throw new Error(`routing left a ${statement.kind} statement to pgpool`);
}

/** As one session sees it, or without one. */
export function adminView(engine: Engine, runner?: Runner): AdminView {
  return {
    config: runner?.config ?? engine.config,
    base: engine.config,
    cluster: engine.state,
    loadBalanceNode: runner?.router?.loadBalanceNode,
    version: compatibleVersion,
    startedAt: engine.startedAt,
    node: (id) => nodeViewOf(engine, id),
    processes: () => engine.slots.all.map((slot) => processOf(engine, slot)),
    cache: () => engine.queryCache?.view(),
    deleteCached: (query) => {
      const database = runner?.request?.database;
      return database !== undefined && engine.queryCache?.deleteText(database, query) === true;
    },
  };
}

function nodeViewOf(engine: Engine, id: NodeId): NodeView {
  const { stats, answers } = engine.control.healthOf(id);
  const pgStatus = answers === undefined ? "unknown" : answers ? "up" : "down";
  const { counters } = engine;
  return {
    counters: counters.of(id),
    reasons: counters.reasonsOf(id),
    pgStatus,
    healthCheck: stats,
  };
}

function processOf(engine: Engine, slot: Slot): ProcessView {
  const runner = engine.runnerAt(slot);
  const pools = Array.from({ length: engine.pool.placesPerSlot }, (_, id) => {
    const set = engine.pool.at(slot.index, id);
    return set && poolOf(engine, set, runner?.set === set ? runner : undefined);
  });
  return {
    pid: slot.pid,
    startedAt: slot.startedAt,
    clientCount: slot.clientCount,
    status: runner?.activity ?? "Wait for connection",
    secondsToRestart: runner === undefined ? secondsToRestart(engine, slot) : undefined,
    pools,
  };
}

function secondsToRestart(engine: Engine, slot: Slot): number | undefined {
  const lifeSeconds = engine.config.child_life_time;
  if (lifeSeconds === 0 || slot.lastUsedAt === 0) return undefined;
  return Math.max(0, lifeSeconds - Math.floor((engine.clock() - slot.lastUsedAt) / 1000));
}

function poolOf(engine: Engine, set: BackendSet, runner: Runner | undefined): PoolView {
  const { identity } = set;
  const idleSeconds =
    runner === undefined || runner.activity === "Execute command"
      ? 0
      : Math.floor((engine.clock() - runner.lastHeardAt) / 1000);
  const limit = runner?.config.client_idle_limit ?? 0;
  const peer = runner?.peer;
  return {
    database: identity.database,
    user: identity.user,
    openedAt: set.openedAt,
    clientConnectedAt: set.takenAt,
    clientDisconnectedAt: set.releasedAt === 0 ? undefined : set.releasedAt,
    clientIdleSeconds: idleSeconds,
    secondsToDisconnect: limit > 0 && runner ? Math.max(0, limit - idleSeconds) : undefined,
    majorVersion: identity.major,
    minorVersion: identity.minor,
    useCount: set.useCount,
    connected: runner !== undefined,
    loadBalanceNode: runner?.router?.loadBalanceNode,
    clientHost: peer === undefined ? "" : peer.kind === "tcp" ? peer.host : "[local]",
    clientPort: peer?.kind === "tcp" ? String(peer.port) : "",
    backends: set.backends.map(
      (backend) =>
        backend && {
          pid: backend.processId,
          statement: runner?.statementOn(backend.node) ?? "",
        },
    ),
  };
}
