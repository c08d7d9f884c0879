import { describe, expect, test } from "bun:test";
import { type AdminCommand, answerAdmin, type PoolShowName } from "../../../core/admin/answer.ts";
import { encodeTable } from "../../../core/admin/table.ts";
import type { AdminView } from "../../../core/admin/view.ts";
import { cutBytes } from "../../../core/cut.ts";
import { decodeBackend } from "../../../core/wire/backend.ts";
import { FrameDecoder } from "../../../core/wire/frame.ts";
import { decodeText } from "../../../core/wire/text.ts";
import { AT, cluster, config, pool, view, waiting } from "./views.ts";

function tableFor(command: AdminCommand, changed: Partial<AdminView> = {}) {
  const answer = answerAdmin(command, { ...view, ...changed });
  if (answer.kind !== "table") throw new Error(`answered by ${answer.kind}`);
  return answer.table;
}
const show = (name: PoolShowName, changed: Partial<AdminView> = {}) =>
  tableFor({ kind: "pool_show", name }, changed);
/** Rows as psql -A prints them. */
const lines = (table: { rows: readonly (readonly string[])[] }) =>
  table.rows.map((row) => row.join("|"));

describe("SHOW pool_nodes", () => {
  test("has the columns of 4.3", () => {
    expect(show("pool_nodes").columns.join()).toBe(
      "node_id,hostname,port,status,pg_status,lb_weight,role,pg_role,select_cnt,load_balance_node,replication_delay,replication_state,replication_sync_state,last_status_change",
    );
  });

  test("has a row for each backend", () => {
    expect(lines(show("pool_nodes"))).toEqual([
      "0|127.0.0.1|25001|up|unknown|0.250000|primary|primary|71|false|0|||2026-11-22 17:16:31",
      "1|127.0.0.1|25002|up|unknown|0.750000|standby|standby|72|true|1500000|streaming|async|2026-11-22 17:16:31",
    ]);
  });

  const delayed = (delay: number) => ({
    cluster: {
      ...cluster,
      nodes: cluster.nodes.map((node) => ({ ...node, delay, delayByTime: true })),
    },
  });
  test.each([
    [1_500_000, "1.500000 second"],
    [1_999_999, "1.999999 second"],
    [2_000_000, "2.000000 seconds"],
    [0, "0.000000 second"],
  ])("shows %d µs as %s, and none for the primary", (delay, text) => {
    const shown = show("pool_nodes", delayed(delay)).rows.map((row) => row[10]);
    expect(shown).toEqual([String(delay), text]);
  });

  test("knows no role of a server that is down, or that nobody asks", () => {
    const down = {
      ...cluster,
      nodes: cluster.nodes.map((node) => ({ ...node, status: "down" as const })),
    };
    expect(show("pool_nodes", { cluster: down }).rows.map((row) => row[7])).toEqual([
      "unknown",
      "unknown",
    ]);
    const unasked = { config: { ...config, sr_check_period: 0 } };
    expect(show("pool_nodes", unasked).rows.map((row) => row[7])).toEqual(["unknown", "unknown"]);
  });

  test("says main and replica where nothing streams", () => {
    const raw = { cluster: { ...cluster, mode: "raw" as const, primary: undefined } };
    expect(show("pool_nodes", raw).rows.map((row) => [row[6], row[7]])).toEqual([
      ["main", "main"],
      ["replica", "replica"],
    ]);
  });
});

test("SHOW pool_route_stats counts by node and reason, and leaves out what never happened", () => {
  const table = show("pool_route_stats");
  expect(table.columns.join()).toBe("node_id,hostname,port,role,reason,count");
  expect(lines(table)).toEqual([
    "0|127.0.0.1|25001|primary|load_balanced|70",
    "0|127.0.0.1|25001|primary|write|15",
    "1|127.0.0.1|25002|standby|load_balanced|71",
  ]);
});

test("SHOW pool_backend_stats counts by node", () => {
  expect(lines(show("pool_backend_stats"))).toEqual([
    "0|127.0.0.1|25001|up|primary|71|9|1|5|34|495|0|0|13",
    "1|127.0.0.1|25002|up|standby|72|9|1|5|34|495|0|0|13",
  ]);
});

describe("SHOW pool_health_check_stats", () => {
  test("is zero and empty while nothing is checked", () => {
    expect(lines(show("pool_health_check_stats"))[0]).toBe(
      "0|127.0.0.1|25001|up|primary|2026-11-22 17:16:31|0|0|0|0|0|0.000000|0|0|0|0.000000||||",
    );
  });

  test("averages over the checks that were not skipped", () => {
    const healthCheck = {
      ...{ total: 5, success: 3, fail: 1, skip: 1, retry: 2, maxRetry: 2 },
      ...{ totalDurationMs: 30, maxDurationMs: 12, minDurationMs: 4 },
      ...{ lastCheck: AT, lastSuccess: AT, lastSkip: undefined, lastFail: undefined },
    };
    const node = () => ({ ...view.node(cluster.nodes[0]?.id as never), healthCheck });
    expect(lines(show("pool_health_check_stats", { node }))[1]).toBe(
      "1|127.0.0.1|25002|up|standby|2026-11-22 17:16:31|5|3|1|1|2|0.500000|2|12|4|7.500000|2026-11-22 17:16:31|2026-11-22 17:16:31||",
    );
  });
});

test("SHOW pool_processes has a row for each client place", () => {
  const table = show("pool_processes");
  expect(table.columns.join()).toBe(
    "pool_pid,start_time,client_connection_count,database,username,backend_connection_time,pool_counter,status",
  );
  expect(lines(table)).toEqual([
    "500|2026-11-22 17:16:31|3|app|ann|2026-11-22 17:16:34|2|Idle in transaction",
    "501|2026-11-22 17:16:31 (1:05 before process restarting)|1|||||Wait for connection",
  ]);
});

describe("SHOW pool_pools", () => {
  test("has a row for each place, pool and backend, used or not", () => {
    const table = show("pool_pools");
    expect(table.columns).toHaveLength(21);
    expect(lines(table)).toEqual([
      "500|2026-11-22 17:16:31|3|0|0||||||0|0|0|0|0|0|Idle in transaction|0|||",
      "500|2026-11-22 17:16:31|3|0|1||||||0|0|0|0|0|0|Idle in transaction|0|||",
      "500|2026-11-22 17:16:31|3|1|0|app|ann|2026-11-22 17:16:34|2026-11-22 17:16:35||7|3|0|2|901|1|Idle in transaction|0|10.0.0.1|4711|BEGIN",
      "500|2026-11-22 17:16:31|3|1|1|app|ann|2026-11-22 17:16:34|2026-11-22 17:16:35||7|3|0|2|902|1|Idle in transaction|1|10.0.0.1|4711|SELECT 1",
      ...["0|0", "0|1", "1|0", "1|1"].map(
        (place) =>
          `501|2026-11-22 17:16:31 (1:05 before process restarting)|1|${place}||||||0|0|0|0|0|0|Wait for connection|0|||`,
      ),
    ]);
  });

  test("says when an idle client will be sent away", () => {
    const soon = { ...pool, secondsToDisconnect: 8 };
    const table = show("pool_pools", { processes: () => [{ ...waiting, pools: [soon] }] });
    expect(table.rows[0]?.[10]).toBe("7 (0:08 before client disconnected)");
  });

  test("forgets the client once it has left, and balances nothing", () => {
    const left = { ...pool, connected: false };
    const table = show("pool_pools", { processes: () => [{ ...waiting, pools: [left] }] });
    expect(table.rows[1]?.slice(15)).toEqual(["0", "Wait for connection", "0", "", "", "SELECT 1"]);
  });

  test("shows no password of another client's statement", () => {
    const statement = "ALTER ROLE ann PASSWORD 'hunter2'";
    const told = { ...pool, backends: [{ pid: 1, statement }] };
    const table = show("pool_pools", { processes: () => [{ ...waiting, pools: [told] }] });
    expect(table.rows[0]?.[20]).toBe("ALTER ROLE ann PASSWORD '*****'");
  });

  test("cuts a statement at 1023 bytes, between characters", () => {
    const long = { ...pool, backends: [{ pid: 1, statement: "é".repeat(600) }] };
    const table = show("pool_pools", { processes: () => [{ ...waiting, pools: [long] }] });
    expect(table.rows[0]?.[20]).toBe("é".repeat(511));
    expect(cutBytes("a", 63)).toBe("a");
  });
});

test("SHOW pool_version and SHOW pool_cache are one row", () => {
  expect(lines(show("pool_version"))).toEqual(["4.3.5 (tamahomeboshi)"]);
  expect(lines(show("pool_cache"))).toEqual(["0|0|0.00|0|0|0|0|0|0"]);
  const cache = () => ({
    ...{ hits: 1, selects: 2, hashEntries: 3, usedHashEntries: 4, entries: 5 },
    ...{
      usedSize: 6,
      freeSize: 7,
      fragmentSize: 8,
      added: 9,
      evicted: 10,
      expired: 11,
      forgotten: {},
    },
  });
  expect(lines(show("pool_cache", { cache }))).toEqual(["1|2|0.33|3|4|5|6|7|8"]);
});

describe("SHOW pool_status", () => {
  const values = new Map(show("pool_status").rows.map(([item, value]) => [item, value]));

  test.each([
    ["backend_clustering_mode", "1"],
    ["listen_addresses", "localhost"],
    ["unix_socket_permissions", "0777"],
    ["ssl", "0"],
    ["load_balance_mode", "1"],
    ["reset_query_list", "ABORT;DISCARD ALL"],
    ["log_min_messages", "19"],
    ["log_error_verbosity", "1"],
    ["syslog_facility", "LOCAL0"],
    ["authentication_timeout", "60"],
    ["disable_load_balance_on_write", "2"],
    ["check_temp_table", "1"],
    ["database_redirect_preference_list", "(null)"],
    ["memqcache_total_size", "67108864"],
    ["memqcache_cache_oiddir", "/var/log/pgpool/oiddir"],
    ["memqcache_stats_start_time", "Sun Nov 22 17:16:31 2026"],
    ["backend_weight1", "0.750000"],
    ["backend_status0", "up"],
    ["standby_delay1", "1500000"],
    ["backend_flag0", "ALLOW_TO_FAILOVER"],
  ])("%s is %s", (item, value) => expect(values.get(item)).toBe(value));

  test("begins and ends as ever, and names no data directory but the backends'", () => {
    const names = [...values.keys()];
    expect(names[0]).toBe("backend_clustering_mode");
    expect(names.at(-1)).toBe("backend_application_name1");
    expect(names.filter((name) => name?.includes("backend_data"))).toEqual([
      "backend_data_directory0",
      "backend_data_directory1",
    ]);
  });

  test("gives every item a description that fits, and no password away", () => {
    const rows = show("pool_status").rows;
    expect(rows.filter(([, , text]) => text === "" || (text ?? "").length > 79)).toEqual([]);
    expect(rows.flat().join(" ")).not.toContain("secret");
  });
});

test("a table goes over the wire as Pgpool sends one", () => {
  const bytes = encodeTable({
    columns: ["a", "b"],
    rows: [
      ["1", ""],
      ["é", "x"],
    ],
  });
  const messages = [...new FrameDecoder({ bodySizeMax: 4096 }).push(bytes)].map(decodeBackend);
  const common = { tableId: 0, typeId: 0, typeSize: -1, typeModifier: 0, format: 0 };
  expect(
    messages.map((message) =>
      message.kind === "DataRow"
        ? message.values.map((value) => value && decodeText(value))
        : message,
    ),
  ).toEqual([
    {
      kind: "RowDescription",
      fields: [
        { name: "a", columnNumber: 0, ...common },
        { name: "b", columnNumber: 1, ...common },
      ],
    },
    ["1", ""],
    ["é", "x"],
    { kind: "CommandComplete", tag: "SELECT 2" },
  ] as never);
});
