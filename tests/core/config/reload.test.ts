import { describe, expect, test } from "bun:test";
import { reloadConfig } from "../../../core/config/load.ts";
import {
  rebase,
  resetParameter,
  SettingRefused,
  setParameter,
} from "../../../core/config/session.ts";
import { load, source } from "./files.ts";

const reload = (before: string, after: string | undefined, isDown = false) =>
  reloadConfig(load(before), source(after), () => isDown);

describe("a reload", () => {
  test("takes what may change and names it", () => {
    const { config, changed } = reload(
      "log_connections = off",
      "log_connections = on\nport = 2000",
    );
    expect(config.log_connections).toBe(true);
    expect(config.port).toBe(9999);
    expect(changed).toEqual(["log_connections"]);
  });

  test("keeps everything on a syntax error, with a warning", () => {
    const { config, messages, changed } = reload("", "log_connections = on\n;");
    expect(config.log_connections).toBe(false);
    expect(changed).toEqual([]);
    expect(messages).toEqual([
      {
        severity: "WARNING",
        message: 'syntax error in configuration file "/etc/pgpool.conf"',
        detail: "parse error at line 2 ';' token = 8",
        hint: undefined,
        context: 'line 2 of configuration file "/etc/pgpool.conf"',
      },
    ]);
  });

  test("passes over a line with a wrong value and takes the others", () => {
    const { config, messages } = reload("", "client_idle_limit = x\nlog_connections = on");
    expect(config.log_connections).toBe(true);
    expect(config.client_idle_limit).toBe(0);
    expect(messages.map(({ severity, message }) => [severity, message])).toEqual([
      ["WARNING", 'invalid value for parameter "client_idle_limit": "x"'],
    ]);
  });

  test("keeps values whose rule is broken, with a warning", () => {
    const text = "process_management_mode = dynamic max_spare_children = 50";
    const { config, messages } = reload("", text);
    expect(config.max_spare_children).toBe(50);
    expect(messages.map(({ message }) => message)).toContain(
      "invalid configuration, max_spare_children:50 can't be greater than num_init_children:32",
    );
  });

  test("keeps what the file no longer says", () => {
    expect(reload("log_connections = on", "").config.log_connections).toBe(true);
  });

  test("names restart parameters whose value is another, the last line being the one that counts", () => {
    const named = 'parameter "port" cannot be changed without restarting the server';
    const { config, messages } = reload("port = 1500", "port = 1500\nport = 2000");
    const context = 'invalid Context, value for parameter "port" cannot be changed';
    expect(config.port).toBe(1500);
    expect(messages).toEqual([
      { severity: "DEBUG2", message: context },
      { severity: "DEBUG2", message: context },
      { severity: "LOG", message: named },
    ]);
    const same = reload("port = 1500", "port = 2000\nport = 1500").messages;
    expect(same.map(({ message }) => message)).not.toContain(named);
  });

  test("of an unreadable file keeps everything", () => {
    expect(reload("log_connections = on", undefined).config.log_connections).toBe(true);
  });
});

describe("a reload of backends", () => {
  const one = "backend_hostname0 = 'a' backend_port0 = 5432 backend_weight0 = 1";

  test("adds a node in a slot that was unused", () => {
    const { config, added } = reload(one, `${one}\nbackend_hostname1 = 'b' backend_port1 = 5433`);
    expect(added).toEqual([1] as never);
    expect(config.backends.map(({ hostname }) => hostname)).toEqual(["a", "b"]);
  });

  test("never moves a node in use, and names what has to wait", () => {
    const { config, messages, changed } = reload(
      one,
      "backend_hostname0 = 'x' backend_port0 = 1111",
    );
    expect(config.backends[0]).toMatchObject({ hostname: "a", port: 5432 });
    expect(changed).toEqual([]);
    expect(messages).toEqual(
      ["backend_hostname0", "backend_port0"].map((name) => ({
        severity: "LOG",
        message: `parameter "${name}" cannot be changed without restarting the server`,
      })),
    );
  });

  test("moves a data directory only while its node is down", () => {
    const text = "backend_data_directory0 = '/d'";
    expect(reload(one, text, false).config.backends[0]?.data_directory).toBe("");
    expect(reload(one, text, true).config.backends[0]?.data_directory).toBe("/d");
  });

  test("changes a weight and says so", () => {
    const { config, messages } = reload(one, "backend_weight0 = 0.5");
    expect(config.backends[0]?.weight).toBe(0.5);
    expect(messages).toEqual([
      {
        severity: "LOG",
        message:
          "initializing pool configuration: backend weight for backend:0 changed from 1.000000 to 0.500000",
        detail: "This change will be effective from next client session",
      },
    ]);
  });

  test("removes nothing", () => {
    expect(reload(one, "").config.backends).toHaveLength(1);
  });
});

describe("a session's own settings", () => {
  const base = load("log_statement = off client_idle_limit = 10").config;

  test("change its configuration and no other", () => {
    const own = setParameter(base, "log_statement", "on");
    expect([own.log_statement, base.log_statement]).toEqual([true, false]);
    expect(setParameter(base, "client_idle_limit", "1min").client_idle_limit).toBe(60);
  });

  test("go back to the value of the file", () => {
    const own = setParameter(base, "client_idle_limit", "99");
    expect(resetParameter(own, base, "client_idle_limit")).toEqual(base);
  });

  test("outlive a reload, which changes the others", () => {
    const own = setParameter(base, "log_statement", "on");
    const reloaded = load("log_statement = off client_idle_limit = 20 log_connections = on").config;
    const after = rebase(own, base, reloaded);
    expect(after).toEqual({ ...reloaded, log_statement: true });
  });

  test.each([
    ["zork", "1", 'unrecognized configuration parameter "zork"'],
    ["port", "2000", 'invalid Context, value for parameter "port" cannot be changed'],
    [
      "log_connections",
      "on",
      'invalid Context, value for parameter "log_connections" cannot be changed',
    ],
    [
      "backend_weight0",
      "1",
      'invalid Context, value for parameter "backend_weight0" cannot be changed',
    ],
    ["backend_weight", "1", 'parameter "backend_weight" expects the index value'],
    ["client_idle_limit", "x", 'invalid value for parameter "client_idle_limit": "x"'],
    ["client_min_messages", "x", 'invalid value for parameter "client_min_messages": "x"'],
  ])("%s = %s is refused", (name, text, message) => {
    expect(() => setParameter(base, name, text)).toThrow(SettingRefused);
    expect(() => setParameter(base, name, text)).toThrow(message);
  });
});
