import { describe, expect, test } from "bun:test";
import { loadConfig } from "../../core/config/load.ts";
import type { Config } from "../../core/config/schema.ts";
import { checkInterfaceCommands, interfaceCommand } from "../../watchdog/delegate_ip.ts";
import { heartbeatPlaces, heartbeatTargets, rulesOf } from "../../watchdog/settings.ts";

const configOf = (lines: readonly string[], nodeId = "1"): Config => {
  const files: { readonly [path: string]: string } = {
    "/c": lines.join("\n"),
    "/pgpool_node_id": nodeId,
  };
  return loadConfig({ file: "/c", readFile: (path) => files[path], osHostname: "here" }).config;
};

const host = { hostname: "here", system: "Linux" };
const nodes = [
  "use_watchdog = on",
  "port = 7000",
  ...[0, 1, 2].flatMap((id) => [
    `hostname${id} = 'h${id}'`,
    `wd_port${id} = ${9000 + id}`,
    `pgpool_port${id} = ${7000 + id}`,
    `heartbeat_hostname${id} = 'a${id} ; b${id}'`,
    `heartbeat_port${id} = ${9690 + id}`,
    `heartbeat_device${id} = ';eth${id}'`,
  ]),
];

describe("what the watchdog obeys", () => {
  test("this node is the one of pgpool_node_id, the others are remotes", () => {
    const { self, remotes, lease } = rulesOf(configOf(nodes), host);
    expect(self).toMatchObject({ id: 1, hostname: "h1", wdPort: 9001, pgpoolPort: 7001 });
    expect(self.nodeName).toBe("h1:7001 Linux here");
    expect(self.pgpoolVersion.length).toBeLessThanOrEqual(9);
    expect(remotes.map(({ id }) => id)).toEqual([0, 2]);
    expect(lease).toBeUndefined();
  });

  test("wd_leader_lease is obeyed, and told to others only when it is on", () => {
    expect(rulesOf(configOf(nodes), host).config.leaderLease).toBe(false);
    const { lease, config } = rulesOf(configOf([...nodes, "wd_leader_lease = on"]), host);
    expect(lease).toBeDefined();
    expect(config.leaderLease).toBe(true);
  });

  test("heartbeats go to every address of the others, the j-th by the j-th device", () => {
    expect(heartbeatTargets(configOf(nodes))).toEqual([
      { host: "a0", port: 9690, device: "" },
      { host: "b0", port: 9690, device: "eth0" },
      { host: "a2", port: 9692, device: "" },
      { host: "b2", port: 9692, device: "eth2" },
    ]);
  });

  test("heartbeats are received at our own port, on every address but where some are named", () => {
    expect(heartbeatPlaces(configOf(nodes))).toEqual({ hosts: [undefined], port: 9691 });
    const named = ["wd_heartbeat_listen_addresses = 'x, y'", "wd_heartbeat_listen_port = 5"];
    const places = heartbeatPlaces(configOf([...nodes, ...named]));
    expect(places).toEqual({ hosts: ["x", "y"], port: 5 });
  });

  test("a file of 4.1 describes itself, then the others", () => {
    const { self, remotes } = rulesOf(
      configOf([
        ...["use_watchdog = on", "port = 9999", "wd_hostname = 'b'", "wd_port = 9000"],
        ...["other_pgpool_hostname0 = 'a'", "other_pgpool_port0 = 9998", "other_wd_port0 = 9001"],
      ]),
      host,
    );
    expect(self).toMatchObject({ id: 1, hostname: "b", wdPort: 9000, pgpoolPort: 9999 });
    expect(remotes).toEqual([{ id: 0, hostname: "a", wdPort: 9001, pgpoolPort: 9998 }]);
  });
});

describe("commands of the delegate IP", () => {
  test.each([
    ["ip addr add $_IP_$/24 dev eth0", "/sbin/ip", ["addr", "add", "10.0.0.9/24", "dev", "eth0"]],
    ["/usr/bin/sudo  /sbin/ip", "/usr/bin/sudo", ["/sbin/ip"]],
    ["ip ; reboot", "/sbin/ip", [";", "reboot"]],
  ])("%s", (text, file, args) => {
    expect(interfaceCommand(text, "/sbin", "10.0.0.9")).toEqual({ file, args });
  });

  test("a program that is missing is found at the start, unless if_up_cmd has a path", () => {
    const lines = [...nodes, "delegate_ip = '10.0.0.9'", "if_down_cmd = '/bin/sh'"];
    const wanting = configOf([...lines, "if_up_cmd = 'no-such-program'", "arping_cmd = '/bin/sh'"]);
    expect(() => checkInterfaceCommands(wanting)).toThrow("if_up_cmd");
    const trusting = configOf([...lines, "if_up_cmd = '/no/such/program'"]);
    expect(() => checkInterfaceCommands(trusting)).not.toThrow();
  });
});
