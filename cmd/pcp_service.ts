/** PCP joined to the server it administers: its sockets, and the desk behind which actions happen. */

import { randomBytes } from "node:crypto";
import { readFile } from "node:fs/promises";
import { EventHistory } from "../core/admin/events.ts";
import type { OrderResult } from "../core/cluster/control.ts";
import type { NodeId } from "../core/cluster/state.ts";
import type { Config } from "../core/config/schema.ts";
import { SALT_SIZE } from "../core/pcp/auth.ts";
import { PcpError } from "../core/pcp/frame.ts";
import type { PcpScope } from "../core/pcp/request.ts";
import type { Log, ProcessControl } from "../core/ports.ts";
import type { NodeProbe, PcpDesk } from "../pcp/desk.ts";
import { PcpServer, pcpAddresses } from "../pcp/server.ts";
import { adminView } from "../proxy/admin.ts";
import { failingOf, type ProbeWorld } from "../proxy/cluster/connection.ts";
import type { ControlPlane } from "../proxy/cluster/control_plane.ts";
import { askNode } from "../proxy/cluster/probes.ts";
import type { OnlineRecovery } from "../proxy/cluster/recovery.ts";
import type { Engine } from "../proxy/engine.ts";
import { openListeners } from "../proxy/listener.ts";
import type { Transport } from "../proxy/transport/conn.ts";
import { Lobby } from "./entrance.ts";
import type { Guard } from "./watchdog_service.ts";

/** Opened with the clients' doors, so that a port that is taken is found before anything is done. */
export type PcpDoors = {
  readonly lobby: Lobby;
  readonly close: () => Promise<void>;
};

export async function openPcpDoors(
  transport: Transport,
  config: Config,
  log: Log,
): Promise<PcpDoors> {
  const lobby = new Lobby();
  const addresses = pcpAddresses(config);
  const listeners =
    addresses.length === 0 ? [] : await openListeners(transport, addresses, lobby.enter, log);
  const close = async () => {
    lobby.close();
    await Promise.all(listeners.map((listener) => listener.close()));
  };
  return { lobby, close };
}

export type PcpParts = {
  readonly config: () => Config;
  readonly pcpFile: string;
  readonly engine: Engine;
  readonly cluster: ControlPlane;
  readonly recovery: OnlineRecovery;
  readonly process: ProcessControl;
  /** Undefined without a watchdog: what is for the whole cluster is for this node then. */
  readonly guard: Guard | undefined;
  /** How nodes are asked who they are. */
  readonly world: ProbeWorld;
  readonly log: Log;
};

/** Serves what comes through the doors. */
export function servePcp(doors: PcpDoors, parts: PcpParts): PcpServer {
  const log = parts.log.as({
    processName: "PCP CHILD",
    applicationName: "pcp_main",
    pid: process.pid,
  });
  const server = new PcpServer(
    {
      desk: deskOf(parts),
      passwords: () => readPasswords(parts.pcpFile),
      salt: () => randomBytes(SALT_SIZE),
      after: (delayMs, callback) => {
        const timer = setTimeout(callback, delayMs);
        return () => clearTimeout(timer);
      },
      loginLimitMs: () => parts.config().authentication_timeout * 1000,
    },
    { log, logsSessions: () => parts.config().log_pcp_processes },
  );
  doors.lobby.open((conn) => server.accept(conn));
  return server;
}

/** Read anew for each log-in, so that an edit counts at once. */
async function readPasswords(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (error) {
    const { code } = error as { readonly code?: string };
    const reason = code === "ENOENT" ? "No such file or directory" : String(code ?? error);
    throw new PcpError("failed to authenticate PCP user", {
      severity: "FATAL",
      detail: `could not open ${path}. reason: ${reason}`,
    });
  }
}

function deskOf(parts: PcpParts): PcpDesk {
  const { engine, cluster, recovery, process: own, guard, world, log } = parts;
  const history = new EventHistory(cluster.state);
  cluster.subscribe((state) => history.note(state, Date.now()));
  return {
    view: () => adminView(engine),
    events: () => history.events,
    probe: (node) => probe(world, node),
    busyWith: () => {
      const { ongoing } = cluster.state;
      return ongoing && `${ongoing} is in progress`;
    },
    attachNode: (node) => carriedOut(cluster.attachNode(node)),
    detachNode: (node, options) => carriedOut(cluster.detachNode(node, options)),
    promoteNode: (node, options) => carriedOut(cluster.promoteNode(node, options)),
    recoverNode: (node) => recovery.recover(node),
    stop: (mode, scope) => {
      const told = isForAll(scope) && guard?.command("SHUTDOWN_CLUSTER", { mode: mode.charAt(0) });
      void Promise.resolve(told).then(() => own.stop(mode));
    },
    reload: async (scope) => {
      if (isForAll(scope) && (await guard?.command("RELOAD_CONFIG_CLUSTER")) === false) {
        const detail = "failed to propagate reload config command through watchdog";
        throw new PcpError("PCP: error while processing reload config request", { detail });
      }
      own.reload();
    },
    rotateLog: async (scope) => {
      if (isForAll(scope)) await guard?.command("LOGROTATE_CLUSTER");
      if (own.rotateLog()) return;
      const detail = "logging_collector is disabled";
      throw new PcpError("process log rotation request failed", { detail });
    },
    invalidateCache: async () => {
      if (engine.queryCache === undefined) throw new PcpError("query cache is not enabled");
      engine.queryCache.clear("command");
      log.write("LOG", "all query cache in shared memory deleted");
    },
    watchdogInfo: async (id) => {
      const detail = "watchdog is not enabled";
      if (guard === undefined) {
        throw new PcpError("PCP: informing watchdog info failed", { detail });
      }
      return await guard.info(id);
    },
  };
}

const isForAll = (scope: PcpScope): boolean => scope === "cluster";

/**
 * Pgpool acknowledges a request when it is queued; we when it is done, which is what whoever asks
 * wants to know. But a failover may wait for a primary for minutes: then it is acknowledged as well.
 */
const ORDER_WAIT_MS = 10_000;

async function carriedOut(ordered: Promise<OrderResult>): Promise<void> {
  const { promise: waited, resolve } = Promise.withResolvers<undefined>();
  const timer = setTimeout(resolve, ORDER_WAIT_MS);
  const result = await Promise.race([ordered, waited]);
  clearTimeout(timer);
  if (result?.kind === "refused") throw new PcpError(result.why, { detail: result.detail });
}

/** An operator waits for the answer: a server that is silent for so long is told of as down. */
const PROBE_LIMIT_MS = 3_000;
async function probe(world: ProbeWorld, node: NodeId): Promise<NodeProbe> {
  try {
    const { inRecovery } = await askNode(world, node, AbortSignal.timeout(PROBE_LIMIT_MS));
    return { pgStatus: "up", serverRole: inRecovery ? "standby" : "primary" };
  } catch (error) {
    // Whoever turns us away is there.
    const pgStatus = failingOf(error) === "alive" ? "up" : "down";
    return { pgStatus, serverRole: "unknown" };
  }
}
