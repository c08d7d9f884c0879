import { describe, expect, test } from "bun:test";
import { answerAdmin, encodeAnswer } from "../../../core/admin/answer.ts";
import { SHOW_ALL_ORDER, STATUS_ORDER } from "../../../core/admin/order.ts";
import type { AdminView } from "../../../core/admin/view.ts";
import { paramNames, rowOf } from "../../../core/config/params.ts";
import { setParameter } from "../../../core/config/session.ts";
import { pgpoolCommandOf } from "../../../core/sql/pgpool_command.ts";
import { decodeBackend, errorField } from "../../../core/wire/backend.ts";
import { FrameDecoder } from "../../../core/wire/frame.ts";
import { load } from "../config/files.ts";
import { config, view } from "./views.ts";

function run(sql: string, changed: Partial<AdminView> = {}) {
  const command = pgpoolCommandOf(sql);
  if (command === undefined || command.kind === "explain_route") throw new Error(sql);
  return answerAdmin(command, { ...view, ...changed });
}
function rows(sql: string, changed: Partial<AdminView> = {}) {
  const answer = run(sql, changed);
  if (answer.kind !== "table") throw new Error(JSON.stringify(answer));
  return answer.table.rows;
}
const decoded = (bytes: Uint8Array) =>
  [...new FrameDecoder({ bodySizeMax: 4096 }).push(bytes)].map((frame) => decodeBackend(frame));

describe("PGPOOL SHOW name", () => {
  test.each([
    ["port", "9999"],
    ["authentication_timeout", "1min"],
    ["load_balance_mode", "on"],
    ["memqcache_total_size", "64MB"],
    ["unix_socket_permissions", "0777"],
    ["log_file_mode", "384"],
    ["reset_query_list", "ABORT;DISCARD ALL"],
    ["sr_check_password", "*****"],
    ["backend_port1", "25002"],
    ["backend_port7", "0"],
    ["backend_weight1", "3"],
    ["backend_flag0", "ALLOW_TO_FAILOVER"],
    ["backend_flag1", "DISALLOW_TO_FAILOVER|ALWAYS_PRIMARY"],
    ["health_check_password1", "*****"],
    ["health_check_period1", "0"],
    ["logdir", "/tmp"],
    ["replication_mode", "off"],
  ])("%s is %s", (name, value) => {
    const answer = run(`PGPOOL SHOW ${name}`);
    expect(answer).toEqual({ kind: "table", table: { columns: [name], rows: [[value]] } });
  });

  test("prints a list as it was written", () => {
    const { config } = load("listen_addresses = ' a , b'");
    expect(rows("PGPOOL SHOW listen_addresses", { config })).toEqual([[" a , b"]]);
  });

  test.each([
    ["zork", 'config variable "zork" not found', undefined],
    ["port0", 'config variable "port0" not found', undefined],
    [
      "backend_portx",
      'invalid index value for parameter "backend_portx" ',
      "index part contains the invalid non digit character",
    ],
    [
      "backend_port128",
      'invalid index 128 for configuration parameter "backend_port"',
      "allowed index is between 0 and 127",
    ],
  ])("%s is an error", (name, message, detail) => {
    const answer = run(`PGPOOL SHOW ${name}`);
    expect(answer.kind === "error" && [answer.error.message, answer.error.detail]).toEqual([
      message,
      detail,
    ]);
  });

  test("of a per-node name gives the value without index, then each", () => {
    expect(rows("PGPOOL SHOW health_check_period").map(([item, value]) => [item, value])).toEqual([
      ["health_check_period", "0"],
      ["health_check_period0", "0"],
      ["health_check_period1", "0"],
    ]);
    expect(rows("PGPOOL SHOW backend_port").map(([item]) => item)).toEqual([
      "backend_port0",
      "backend_port1",
    ]);
  });
});

describe("PGPOOL SHOW group", () => {
  test("goes through the nodes one by one", () => {
    expect(rows("PGPOOL SHOW backend").map(([item]) => item)).toEqual(
      [0, 1].flatMap((index) =>
        ["hostname", "port", "weight", "data_directory", "application_name", "flag"].map(
          (part) => `backend_${part}${index}`,
        ),
      ),
    );
  });

  test("of health_check begins with the values for all nodes", () => {
    const items = rows("PGPOOL SHOW health_check").map(([item]) => item);
    expect(items.slice(0, 9)).toEqual([
      "health_check_period",
      "health_check_timeout",
      "health_check_user",
      "health_check_password",
      "health_check_database",
      "health_check_max_retries",
      "health_check_retry_delay",
      "connect_timeout",
      "health_check_period0",
    ]);
  });

  test("without nodes is empty", () => {
    expect(rows("PGPOOL SHOW watchdog")).toEqual([]);
    expect(rows("PGPOOL SHOW heartbeat")).toEqual([]);
  });
});

describe("PGPOOL SHOW ALL", () => {
  const all = rows("PGPOOL SHOW ALL");

  test("has every parameter once, ours last, and no password", () => {
    const names = all.map(([item]) => item);
    expect(new Set(names).size).toBe(names.length);
    const missing = paramNames.filter(
      (name) => rowOf(name)?.perNode === undefined && !names.includes(name),
    );
    expect(missing).toEqual([]);
    expect(names.slice(-10).sort()).toEqual([
      ...["failover_method", "fence_command", "log_format", "pcp_node_info_layout", "transport"],
      ...["wd_leader_lease", "wd_ssl", "wd_ssl_ca_cert", "wd_ssl_cert", "wd_ssl_key"],
    ]);
    expect(all.flat().join(" ")).not.toContain("secret");
  });

  test("names nothing that does not exist", () => {
    const unknown = SHOW_ALL_ORDER.filter((name) => rowOf(name) === undefined);
    expect(unknown).toEqual(["replication_mode"]);
    expect(SHOW_ALL_ORDER).toHaveLength(170);
    const strangers = STATUS_ORDER.filter((name) => rowOf(name) === undefined);
    expect(strangers).toEqual([
      "watchdog",
      "heartbeats",
      "memqcache_cache_oiddir",
      "memqcache_stats_start_time",
      "memqcache_no_cache_hits",
      "memqcache_cache_hits",
      "backends",
    ]);
  });
});

describe("PGPOOL SET and RESET", () => {
  const own = setParameter(config, "client_idle_limit", "99");

  test("SET changes the session's configuration", () => {
    const answer = run("PGPOOL SET client_idle_limit TO 30");
    expect(answer.kind === "done" && [answer.tag, answer.config.client_idle_limit]).toEqual([
      "SET",
      30,
    ]);
  });

  test.each([
    ["PGPOOL RESET client_idle_limit", "SET"],
    ["PGPOOL SET client_idle_limit TO DEFAULT", "SET"],
    ["PGPOOL RESET ALL", "RESET"],
  ])("%s goes back, and answers %s", (sql, tag) => {
    const answer = run(sql, { config: own });
    expect(answer).toEqual({ kind: "done", tag, config, notice: undefined } as never);
  });

  test("a mistake is an ERROR XX000 of the client", () => {
    const answer = run("PGPOOL SET port = 1");
    const [message] = decoded(encodeAnswer(answer));
    expect(
      message?.kind === "ErrorResponse" && ["S", "C", "M"].map((code) => errorField(message, code)),
    ).toEqual(["ERROR", "XX000", 'invalid Context, value for parameter "port" cannot be changed']);
  });

  test.each([
    [true, 'query cache deleted. query: "SELECT 1"'],
    [false, 'query cache does not exist for query: "SELECT 1"'],
  ])("SET CACHE DELETE tells whether it found one: %p", (found, notice) => {
    const sql = "PGPOOL SET CACHE DELETE 'SELECT 1'";
    const messages = decoded(encodeAnswer(run(sql, { deleteCached: () => found })));
    expect(messages.map((message) => message.kind)).toEqual(["NoticeResponse", "CommandComplete"]);
    expect(messages[0]?.kind === "NoticeResponse" && errorField(messages[0], "M")).toBe(notice);
    const deaf = setParameter(config, "client_min_messages", "error");
    const silent = decoded(encodeAnswer(run(sql, { config: deaf })));
    expect(silent).toEqual([{ kind: "CommandComplete", tag: "SET" }]);
  });
});
