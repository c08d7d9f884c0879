import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { loadConfig } from "../../../core/config/load.ts";
import { chapters, paramNames, params } from "../../../core/config/params.ts";
import { sampleText } from "../../../core/config/sample.ts";
import { ConfigError } from "../../../core/errors.ts";
import { errorOf, FILE, load, source } from "./files.ts";
import { knownNames } from "./known_names.ts";

describe("parameters", () => {
  test("each one of Pgpool-II 4.1 to 4.8 is known", () => {
    const unknown = knownNames.filter((name) => {
      try {
        const said = load(`${name} = 1`).messages.map((line) => line.message);
        return said.some((text) => text.startsWith("unrecognized"));
      } catch {
        return false; // known, since 1 was judged as its value
      }
    });
    expect(unknown).toEqual([]);
    expect(knownNames).toHaveLength(211);
  });

  test("each one stands in one chapter", () => {
    const inChapters = chapters.flatMap(({ rows }) => Object.keys(rows));
    expect(inChapters.sort()).toEqual([...paramNames].sort());
  });

  test("each one has a description of one line without a full stop", () => {
    const bad = paramNames.filter((name) => !/^[^\n]{5,95}[^\n.]$/.test(params[name].brief));
    expect(bad).toEqual([]);
  });
});

describe("the sample file", () => {
  test("gives the defaults as it is", () => {
    expect(load(sampleText()).config).toEqual(load("").config);
  });

  test("gives the defaults with its scalar lines uncommented", () => {
    const lines = sampleText()
      .split("\n")
      .filter((line) => /^#[a-z]\w* = /.test(line) && !/^#(?:\w+0|wd_listen_port) =/.test(line))
      .map((line) => line.slice(1));
    expect(lines.length).toBeGreaterThan(150);
    const { config, messages } = load(lines.join("\n"));
    const { listsAsWritten: _, ...values } = config;
    const { listsAsWritten: __, ...defaults } = load("").config;
    expect(values).toEqual(defaults);
    expect(messages).toEqual([]);
  });

  test("has lines for nodes that are right", () => {
    const lines = sampleText().matchAll(/^#(\w+0 = .*)$/gm);
    const { config, messages } = load([...lines].map(([, line]) => line).join("\n"));
    expect(messages.filter((line) => line.severity === "INFO")).toEqual([]);
    expect(config.backends[0]?.port).toBe(5432);
  });
});

describe("a file", () => {
  test("that is missing gives the defaults and a warning", () => {
    const { config, messages } = load(undefined);
    expect(config.port).toBe(9999);
    expect(messages).toEqual([
      {
        severity: "WARNING",
        message: 'could not open configuration file: "/etc/pgpool.conf"',
        detail: "using default configuration parameter values",
      },
    ]);
  });

  test("sets the last of several values, but each must be right", () => {
    expect(load("port = 2000\nport = 3000").config.port).toBe(3000);
    expect(errorOf(() => load("port = 1\nport = 3000")).message).toStartWith("1 is outside");
  });

  test("with an unknown name says so for those who want to know", () => {
    expect(load("zork = 1\nPORT = 2").messages).toEqual([
      {
        severity: "INFO",
        message: 'unrecognized configuration parameter "zork"',
        context: 'line 1 of configuration file "/etc/pgpool.conf"',
      },
      {
        severity: "INFO",
        message: 'unrecognized configuration parameter "PORT"',
        context: 'line 2 of configuration file "/etc/pgpool.conf"',
      },
    ]);
  });

  test("with a wrong value is an error that knows its place", () => {
    const error = errorOf(() => load("ssl = on\nport = abc"));
    expect(error).toMatchObject({ file: FILE, line: 2, parameter: "port", severity: "FATAL" });
  });

  test("that sets what is built is not warned about", () => {
    expect(load("failover_method = promote\nunix_socket_group = 'x'").messages).toEqual([]);
  });

  test("that sets what is not built yet is warned about once a parameter", () => {
    const { messages } = load("log_hostname = on\nlog_hostname = on\nmax_pool = 5");
    expect(messages).toEqual([
      {
        severity: "WARNING",
        message: 'parameter "log_hostname" is accepted, but has no effect in this version',
      },
    ]);
  });
});

describe("per-node names", () => {
  const wrong: [string, string, string | undefined][] = [
    ["backend_port = 1", 'parameter "backend_port" expects the index value', undefined],
    [
      "backend_port0_x = 1",
      'invalid index value for parameter "backend_port0_x" ',
      "index part contains the invalid non digit character",
    ],
    [
      "health_check_periodx = 1",
      'invalid index value for parameter "health_check_periodx" ',
      "index part contains the invalid non digit character",
    ],
    [
      "backend_port128 = 5432",
      '128 index outside the valid range for parameter "backend_port128" (0 .. 127)',
      undefined,
    ],
    [
      "heartbeat_port256 = 5432",
      '256 index outside the valid range for parameter "heartbeat_port256" (0 .. 255)',
      undefined,
    ],
    [
      "backend_flag0 = 'A'",
      'invalid configuration for key "backend_flag0"',
      "unknown backend flag:A",
    ],
    [
      "backend_flag0 = 'ALLOW_TO_FAILOVER|DISALLOW_TO_FAILOVER'",
      'invalid configuration for key "backend_flag0"',
      "cannot set ALLOW_TO_FAILOVER and DISALLOW_TO_FAILOVER at the same time",
    ],
  ];
  test.each(wrong)("%s", (line, message, detail) => {
    const error = errorOf(() => load(line));
    expect([error.message, error.detail]).toEqual([message, detail]);
  });

  test("may leave gaps, which are unused slots", () => {
    const { backends } = load(
      "backend_port0 = 5432 backend_weight0 = 1\nbackend_port2 = 5433 backend_weight2 = 3",
    ).config;
    expect(backends.map(({ id, port, weightFraction }) => [id, port, weightFraction])).toEqual([
      [0, 5432, 0.25],
      [1, 0, 0],
      [2, 5433, 0.75],
    ] as never);
  });

  test("of health checks fall back on the name without index, in either order", () => {
    for (const text of [
      "health_check_period1 = 1min health_check_period = 5s",
      "health_check_period = 5 health_check_period1 = 60",
    ]) {
      const { config } = load(`backend_port0 = 5432 backend_port1 = 5433\n${text}`);
      expect(config.backends.map((node) => node.health_check_period)).toEqual([5, 60]);
      expect(config.health_check_period).toBe(5);
    }
  });

  test("count as the same whatever zeros lead the index", () => {
    expect(load("backend_port00 = 5432 backend_port0 = 5433").config.backends).toHaveLength(1);
  });

  test("flags are read, those of 4.1 too", () => {
    const flags = (text: string) => load(`backend_port0 = 5432\n${text}`).config.backends[0]?.flag;
    expect(flags("")).toEqual({ allowToFailover: true, alwaysPrimary: false });
    expect(flags("backend_flag0 = ALWAYS_PRIMARY")).toEqual({
      allowToFailover: true,
      alwaysPrimary: true,
    });
    expect(flags("backend_flag0 = 'DISALLOW_TO_FAILOVER|ALWAYS_MASTER'")).toEqual({
      allowToFailover: false,
      alwaysPrimary: true,
    });
  });

  test("an empty host is the default socket directory, and the log says so", () => {
    const { config, messages } = load("backend_port0 = 5432");
    expect(config.backends[0]?.hostname).toBe("/run/postgresql");
    expect(messages).toEqual([
      {
        severity: "LOG",
        message: "initializing pool configuration",
        detail:
          "empty backend_hostname0, use PostgreSQL's default unix socket path (/run/postgresql)",
      },
    ]);
  });
});

describe("redirect lists", () => {
  const list = (text: string) =>
    load(`database_redirect_preference_list = '${text}'`).config.redirects.database;

  test("give a pattern, a node and a share", () => {
    expect(list("postgres:primary, test[0-9]+ : 1 (0.3),x:standby(2), nothing")).toEqual([
      { pattern: /^postgres$/is, node: "primary", ratio: 1 },
      { pattern: /^test[0-9]+$/is, node: 1, ratio: 0.3 },
      { pattern: /^x$/is, node: "standby", ratio: 1 },
    ] as never);
  });

  test.each([
    ["a:b", 'wrong redirect db node spec: "b"'],
    ["a:128", 'wrong redirect db node spec: "128"'],
    ["(:0", 'wrong redirect dbname regular expression: "("'],
  ])("%s is refused", (text, detail) => {
    const error = errorOf(() => list(text));
    expect(error.message).toBe('invalid configuration for key "database_redirect_preference_list"');
    expect(error.detail).toBe(detail);
  });
});

describe("what must hold between parameters", () => {
  const NODE_ID = "/etc/pgpool_node_id";
  const cases: [string, Record<string, string>, string, string | undefined][] = [
    [
      "use_watchdog = on",
      {},
      "Pgpool node id file /etc/pgpool_node_id does not exist",
      "If watchdog is enable, pgpool_node_id file is required",
    ],
    ["use_watchdog = on", { [NODE_ID]: "\n" }, "pgpool_node_id file is empty", undefined],
    ["use_watchdog = on", { [NODE_ID]: "1a" }, "pgpool_node_id is not a numeric value", undefined],
    [
      "use_watchdog = on",
      { [NODE_ID]: "128" },
      'Invalid pgpool node id "128", must be between 0 and 127',
      undefined,
    ],
    [
      "use_watchdog = on wd_port0 = 9000",
      { [NODE_ID]: "1\n" },
      "invalid watchdog configuration",
      "no watchdog configuration for local pgpool node, pgpool node id: 1 ",
    ],
    [
      "heartbeat_port0 = 9694 heartbeat_port1 = 9694",
      {},
      "invalid watchdog configuration",
      "heartbeat_hostname1 is not defined",
    ],
    [
      "recovery_1st_stage_command = 'x' backend_port0 = 5432",
      {},
      "invalid configuration, recovery_1st_stage_command and recovery_2nd_stage_command requires backend_data_directory to be set",
      undefined,
    ],
    [
      "replication_mode = on failover_when_quorum_exists = on",
      {},
      "invalid configuration, failover_when_quorum_exists is not allowed in native replication mode",
      undefined,
    ],
    [
      "process_management_mode = dynamic min_spare_children = 6 max_spare_children = 5",
      {},
      "invalid configuration, max_spare_children:5 must be greater than min_spare_children:6",
      undefined,
    ],
    [
      "process_management_mode = dynamic max_spare_children = 33",
      {},
      "invalid configuration, max_spare_children:33 can't be greater than num_init_children:32",
      undefined,
    ],
  ];
  test.each(cases)("%s %j", (text, others, message, detail) => {
    const error = errorOf(() => load(text, others));
    expect([error.message, error.detail]).toEqual([message, detail]);
  });
});

test("arbitrary lines give a Config or a ConfigError, never another error", () => {
  const name = fc.oneof(fc.constantFrom(...knownNames, ...paramNames), fc.string());
  const value = fc.oneof(fc.string(), fc.nat(70000).map(String), fc.constantFrom("on", "1min"));
  const line = fc.tuple(name, value).map(([key, text]) => `${key} = '${text}'`);
  fc.assert(
    fc.property(fc.array(line), (lines) => {
      try {
        expect(loadConfig(source(lines.join("\n"))).config.port).toBeNumber();
      } catch (error) {
        expect(error).toBeInstanceOf(ConfigError);
      }
    }),
    { numRuns: 500 },
  );
});
