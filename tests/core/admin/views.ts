/** A view of two streaming nodes and two client places, to be changed by a test where it matters. */
import type { AdminView, PoolView, ProcessView } from "../../../core/admin/view.ts";
import { type BackendNode, type ClusterState, nodeId } from "../../../core/cluster/state.ts";
import { REASON_INDEX } from "../../../core/routing/reasons.ts";
import { load } from "../config/files.ts";

export const AT = new Date(2026, 10, 22, 17, 16, 31).getTime();

export const config = load(`
  backend_hostname0 = '127.0.0.1' backend_port0 = 25001 backend_weight0 = 1
  backend_hostname1 = '127.0.0.1' backend_port1 = 25002 backend_weight1 = 3
  backend_data_directory0 = '/d0' backend_data_directory1 = '/d1'
  backend_flag1 = 'ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER'
  max_pool = 2
  sr_check_password = 'secret'
  health_check_password1 = 'secret'
`).config;

const node = (id: number, change: Partial<BackendNode>): BackendNode => ({
  id: nodeId(id),
  hostname: "127.0.0.1",
  port: 25001 + id,
  status: "up",
  serverRole: "unknown",
  weight: 0.25,
  delay: 0,
  delayByTime: false,
  replicationState: "",
  replicationSyncState: "",
  lastStatusChange: AT,
  ...change,
});

export const cluster: ClusterState = {
  version: 1,
  mode: "streaming_replication",
  primary: nodeId(0),
  nodes: [
    node(0, { serverRole: "primary" }),
    node(1, {
      serverRole: "standby",
      weight: 0.75,
      delay: 1_500_000,
      replicationState: "streaming",
      replicationSyncState: "async",
    }),
  ],
};

export const pool: PoolView = {
  database: "app",
  user: "ann",
  openedAt: AT + 3000,
  clientConnectedAt: AT + 4000,
  clientDisconnectedAt: undefined,
  clientIdleSeconds: 7,
  secondsToDisconnect: undefined,
  majorVersion: 3,
  minorVersion: 0,
  useCount: 2,
  connected: true,
  loadBalanceNode: nodeId(1),
  clientHost: "10.0.0.1",
  clientPort: "4711",
  backends: [
    { pid: 901, statement: "BEGIN" },
    { pid: 902, statement: "SELECT 1" },
  ],
};

export const busy: ProcessView = {
  pid: 500,
  startedAt: AT,
  clientCount: 3,
  status: "Idle in transaction",
  secondsToRestart: undefined,
  pools: [undefined, pool],
};

export const waiting: ProcessView = {
  pid: 501,
  startedAt: AT,
  clientCount: 1,
  status: "Wait for connection",
  secondsToRestart: 65,
  pools: [],
};

export const view: AdminView = {
  config,
  base: config,
  cluster,
  loadBalanceNode: nodeId(1),
  version: "4.3.5 (tamahomeboshi)",
  startedAt: AT,
  node: (id) => ({
    counters: {
      select: 71 + id,
      insert: 9,
      update: 1,
      delete: 5,
      ddl: 34,
      other: 495,
      panic: 0,
      fatal: 0,
      error: 13,
    },
    reasons: { [REASON_INDEX.load_balanced]: 70 + id, [REASON_INDEX.write]: id === 0 ? 15 : 0 },
    pgStatus: "unknown",
    healthCheck: undefined,
  }),
  processes: () => [busy, waiting],
  cache: () => undefined,
  deleteCached: () => false,
};
