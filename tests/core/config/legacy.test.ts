import { describe, expect, test } from "bun:test";
import { RENAMED } from "../../../core/config/legacy.ts";
import { paramNames } from "../../../core/config/params.ts";
import { errorOf, load } from "./files.ts";

const config = (text: string) => load(text).config;

describe("names of earlier releases", () => {
  test("all lead to a parameter of today", () => {
    const targets: readonly string[] = Object.values(RENAMED).map(({ to }) => to);
    expect(targets.filter((name) => !(paramNames as readonly string[]).includes(name))).toEqual([]);
  });

  test("set the parameter of today, with a warning", () => {
    const { config, messages } = load(
      "socket_dir = '/a' delegate_IP = '' follow_master_command = 'f'",
    );
    expect(config.unix_socket_directories).toEqual(["/a"]);
    expect(config.follow_primary_command).toBe("f");
    expect(messages.map((line) => line.message)).toContain("delegate_IP is changed to delegate_ip");
  });

  test("yield to the modern name, wherever it stands", () => {
    expect(config("work_dir = '/new'\nlogdir = '/old'").work_dir).toBe("/new");
    expect(config("logdir = '/old'\nwork_dir = '/new'").work_dir).toBe("/new");
  });
});

describe("the clustering mode", () => {
  const cases: [string, string][] = [
    ["", "streaming_replication"],
    ["replication_mode = on", "native_replication"],
    ["master_slave_mode = on", "streaming_replication"],
    ["master_slave_mode = on master_slave_sub_mode = logical", "logical_replication"],
    ["master_slave_mode = on master_slave_sub_mode = 'slony'", "slony"],
    ["replication_mode = off master_slave_mode = off", "raw"],
    ["master_slave_sub_mode = stream", "raw"],
    ["replication_mode = off backend_clustering_mode = native_replication", "native_replication"],
    ["black_function_list = 'f'", "raw"],
    ["logdir = '/tmp'", "streaming_replication"],
  ];
  test.each(cases)("of '%s' is %s", (text, mode) =>
    expect(config(text).backend_clustering_mode).toBe(mode as never),
  );

  test("of both switches is refused", () => {
    expect(errorOf(() => load("replication_mode = on master_slave_mode = on")).message).toBe(
      "invalid configuration, replication_mode and master_slave_mode cannot both be on",
    );
  });

  test("of native replication by its old switch leaves the quorum out unless asked for", () => {
    expect(config("replication_mode = on").failover_when_quorum_exists).toBe(false);
    expect(config("").failover_when_quorum_exists).toBe(true);
  });
});

describe("a watchdog of 4.1", () => {
  const own = `
    use_watchdog = on
    port = 9998
    wd_hostname = 'b'
    wd_port = 9001
    wd_heartbeat_port = 9695
    other_pgpool_hostname0 = 'c'
    other_pgpool_port0 = 9997
    other_wd_port0 = 9002
    other_pgpool_hostname1 = 'a'
    other_wd_port1 = 9000
    heartbeat_destination0 = 'c'
    heartbeat_destination_port0 = 9696
    heartbeat_device0 = 'eth0'
    heartbeat_destination1 = '10.0.0.9'
  `;

  test("is ranked by host and port where no id is given, alike on every host", () => {
    const { pgpoolNodeId, watchdogNodes } = config(own);
    expect(pgpoolNodeId).toBe(1);
    expect(watchdogNodes).toEqual([
      { id: 0, hostname: "a", wd_port: 9000, pgpool_port: 0 },
      { id: 1, hostname: "b", wd_port: 9001, pgpool_port: 9998 },
      { id: 2, hostname: "c", wd_port: 9002, pgpool_port: 9997 },
    ]);
  });

  test("takes its id from the file where there is one", () => {
    const { config } = load(own, { "/etc/pgpool_node_id": "0\n" });
    expect(config.pgpoolNodeId).toBe(0);
    expect(config.watchdogNodes.map(({ hostname }) => hostname)).toEqual(["b", "c", "a"]);
  });

  test("sends heartbeats to each destination", () => {
    expect(config(own).heartbeats).toEqual([
      { id: 0, hostname: "", port: 0, device: "" },
      { id: 1, hostname: "*", port: 9695, device: "eth0" },
      { id: 2, hostname: "c", port: 9696, device: "eth0" },
      { id: 3, hostname: "10.0.0.9", port: 9694, device: "" },
    ]);
  });

  test("yields to modern names, with a warning", () => {
    const { config, messages } = load(
      `${own}\nhostname0 = 'x' wd_port0 = 9000 pgpool_port0 = 9999`,
      {
        "/etc/pgpool_node_id": "0",
      },
    );
    expect(config.watchdogNodes.map(({ hostname }) => hostname)).toEqual(["x"]);
    expect(messages.map((line) => line.message).join()).toContain(
      "ignoring watchdog parameters of Pgpool-II 4.1",
    );
  });

  test("is passed over while the watchdog is off", () => {
    const { config, messages } = load("wd_port = 9000 other_wd_port0 = 9001");
    expect(config.watchdogNodes).toEqual([]);
    expect(messages).toEqual([]);
  });
});
