/** What watchdog_setup decides and writes; nothing is made. */
import { describe, expect, test } from "bun:test";
import { readChoice, withDelegateIp } from "../../cmd/watchdog_setup.ts";
import {
  type Guard,
  portsOf,
  shutdownAllOf,
  startAllOf,
  watchdogSettings,
  withoutClusters,
} from "../../cmd/watchdog_setup_files.ts";
import { parseConfFile } from "../../core/config/conf_file.ts";

const guards: readonly Guard[] = [0, 1, 2].map((id) => ({ id, ...portsOf(50000, id) }));
const guard = (id: number): Guard => guards[id] ?? { id, ...portsOf(50000, id) };

describe("the choice", () => {
  test("without a word three pgpools from port 50000 and PostgreSQL a thousand later", () => {
    expect(readChoice({}, {})).toEqual({
      count: 3,
      basePort: 50000,
      postgresPort: 51000,
      clusterCount: 2,
      mode: "s",
      delegateIp: undefined,
      noStop: false,
      debug: false,
      asUser: undefined,
    });
  });

  test("the command line wins over the environment, and moves PostgreSQL's ports along", () => {
    const env = { W_NUM_PGPOOL: "4", W_BASE_PORT: "41000", NUMCLUSTERS: "3", PGPOOLDEBUG: "true" };
    expect(readChoice({}, env)).toMatchObject({
      ...{ count: 4, basePort: 41000, postgresPort: 42000, clusterCount: 3, debug: true },
    });
    const values = { pgpools: "2", "base-port": "30000", nodes: "1", mode: "n" } as const;
    expect(readChoice(values, env)).toMatchObject({
      ...{ count: 2, basePort: 30000, postgresPort: 31000, clusterCount: 1, mode: "n" },
    });
    expect(readChoice({ "pg-port": "6000" }, env)).toMatchObject({ postgresPort: 6000 });
  });

  test("one pgpool is no cluster; nonsense is refused", () => {
    expect(readChoice({ pgpools: "1" }, {})).toBe("too few");
    expect(() => readChoice({ pgpools: "many" }, {})).toThrow('"many" is no number');
    expect(() => readChoice({ mode: "l" }, {})).toThrow('unknown mode "l"');
  });

  test.each([
    [["-vip"], ["-vip", "127.0.0.1"]],
    [
      ["-vip", "-d"],
      ["-vip", "127.0.0.1", "-d"],
    ],
    [
      ["-d", "-vip", "10.0.0.9"],
      ["-d", "-vip", "10.0.0.9"],
    ],
  ])("%p means %p", (given, meant) => {
    expect(withDelegateIp(given)).toEqual(meant);
  });
});

describe("the settings", () => {
  const read = (text: string) => {
    const { settings } = parseConfFile("pgpool.conf", () => text);
    return Object.fromEntries(settings.map(({ name, value }) => [name, value]));
  };

  test("are the same for all but the priority", () => {
    const [first, last] = [guard(0), guard(2)].map((each) =>
      read(watchdogSettings(guards, each, undefined)),
    );
    expect(first).toEqual({ ...last, wd_priority: "3" });
    expect(last).toMatchObject({
      wd_priority: "1",
      use_watchdog: "on",
      hostname1: "localhost",
      pgpool_port1: "50004",
      wd_port1: "50006",
      heartbeat_port2: "50011",
    });
    expect(Object.keys(last ?? {})).not.toContain("delegate_ip");
  });

  test("a delegate IP of the loopback network needs no privileges", () => {
    expect(read(watchdogSettings(guards, guard(1), "127.0.0.1"))).toMatchObject({
      delegate_ip: "127.0.0.1",
      if_up_cmd: "/bin/true $_IP_$",
    });
    expect(read(watchdogSettings(guards, guard(1), "10.0.0.9"))).not.toHaveProperty("if_up_cmd");
  });
});

describe("the scripts", () => {
  test("start the first, which has the clusters, first, and stop it last", () => {
    const order = (script: string) => [...script.matchAll(/^cd (pgpool\d)$/gm)].map(([, at]) => at);
    expect(order(startAllOf("/w", guards))).toEqual(["pgpool0", "pgpool1", "pgpool2"]);
    expect(order(shutdownAllOf("/w", guards))).toEqual(["pgpool2", "pgpool1", "pgpool0"]);
  });

  test("of the others leave the clusters alone, whatever the directory is called", () => {
    const dir = "/data1/w";
    const pgpool = `${dir}/bin/pgpool -D -n -f ${dir}/etc/pgpool.conf`;
    const script = `#! /bin/sh\ncd ${dir} || exit 1\npg_ctl -D ${dir}/data0 start\n${pgpool}\n`;
    expect(withoutClusters(script, dir)).toBe(`#! /bin/sh\ncd ${dir} || exit 1\n${pgpool}\n`);
  });
});
