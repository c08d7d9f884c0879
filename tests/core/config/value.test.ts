import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { formatWithUnit, parseInteger } from "../../../core/config/number.ts";
import type { NumberRow, Unit } from "../../../core/config/param.ts";
import { rowOf } from "../../../core/config/params.ts";
import { formatValue, parseValue } from "../../../core/config/value.ts";
import { errorOf } from "./files.ts";

function row(name: string) {
  const found = rowOf(name);
  if (found === undefined) throw new Error(`no row ${name}`);
  return found;
}
const value = (name: string, text: string) => parseValue(name, row(name), text).value;

describe("numbers", () => {
  const cases: [string, string, number][] = [
    ["port", " 0x2000 ", 8192],
    ["port", "010000", 4096],
    ["port", "1e4", 10000],
    ["port", "9999.5", 10000],
    ["port", "10000.5", 10000],
    ["port", "+5000", 5000],
    ["unix_socket_permissions", "0700", 448],
    ["authentication_timeout", "5min", 300],
    ["authentication_timeout", " 5 min ", 300],
    ["authentication_timeout", "1.5h", 5400],
    ["authentication_timeout", "1.0001h", 3600],
    ["authentication_timeout", "1d", 86400],
    ["authentication_timeout", "1500ms", 2],
    ["authentication_timeout", "2500ms", 2],
    ["connect_timeout", "1s", 1000],
    ["log_rotation_age", "1d", 1440],
    ["log_rotation_size", "10MB", 10240],
    ["log_rotation_size", "1B", 0],
    ["memqcache_total_size", "64MB", 67108864],
    ["delay_threshold", "1kB", 1024],
    ["client_idle_limit_in_recovery", "-1", -1],
    ["track_table_mutation_ttl_factor", "2.5", 2.5],
  ];
  test.each(cases)("%s = '%s' is %d", (name, text, expected) =>
    expect(value(name, text)).toBe(expected),
  );
});

describe("a wrong value is refused in Pgpool's words", () => {
  const time = 'Valid units for this parameter are "us", "ms", "s", "min", "h", and "d".';
  const size = 'Valid units for this parameter are "B", "kB", "MB", "GB", and "TB".';
  const cases: [string, string, string, string | undefined][] = [
    ["port", "1", '1 is outside the valid range for parameter "port" (1024 .. 65535)', undefined],
    ["port", "abc", 'invalid value for parameter "port": "abc"', undefined],
    ["port", "", 'invalid value for parameter "port": ""', undefined],
    ["port", "08", 'invalid value for parameter "port": "08"', undefined],
    ["port", "99ms", 'invalid value for parameter "port": "99ms"', undefined],
    [
      "authentication_timeout",
      "5MIN",
      'invalid value for parameter "authentication_timeout": "5MIN"',
      time,
    ],
    ["delay_threshold", "1kb", 'invalid value for parameter "delay_threshold": "1kb"', size],
    [
      "max_pool",
      "99999999999",
      'invalid value for parameter "max_pool": "99999999999"',
      "Value exceeds allowed range.",
    ],
    [
      "max_pool",
      "1e999",
      'invalid value for parameter "max_pool": "1e999"',
      "Value exceeds allowed range.",
    ],
    [
      "memqcache_total_size",
      "-1",
      '-1 is outside the valid range for parameter "memqcache_total_size" (0 .. 9223372036854775807)',
      undefined,
    ],
    [
      "log_rotation_size",
      "1TB",
      '1073741824 is outside the valid range for parameter "log_rotation_size" (0 .. 2097151)',
      undefined,
    ],
    [
      "backend_weight",
      "-1",
      '-1.000000 is outside the valid range for parameter "backend_weight" (0.000000 .. 100000000.000000)',
      undefined,
    ],
    [
      "log_min_messages",
      "zz",
      'invalid value for parameter "log_min_messages": "zz"',
      "Available values: debug5, debug4, debug3, debug2, debug1, info, notice, warning, error, log, fatal, panic.",
    ],
    [
      "check_temp_table",
      "zz",
      'invalid value for parameter "check_temp_table": "zz"',
      "Available values: catalog, trace, none, on, off.",
    ],
    [
      "backend_clustering_mode",
      "zz",
      'invalid value for parameter "backend_clustering_mode": "zz"',
      "Available values: streaming_replication, native_replication, logical_replication, raw, snapshot_isolation.",
    ],
  ];
  test.each(cases)("%s = '%s'", (name, text, message, hint) => {
    const error = errorOf(() => value(name, text));
    expect([error.message, error.hint]).toEqual([message, hint]);
  });

  test("log_destination has texts of its own", () => {
    const unknown = errorOf(() => value("log_destination", "stderr,x"));
    expect(unknown.message).toBe('invalid configuration for "log_destination"');
    expect(unknown.detail).toBe("unknown destination :x");
    expect(errorOf(() => value("log_destination", "")).message).toBe(
      'invalid value "" for log_destination',
    );
  });
});

describe("booleans", () => {
  test.each(["on", "ON", "true", "t", "tr", "yes", "y", "1"])("%s is on", (text) =>
    expect(value("ssl", text)).toBe(true),
  );
  test.each(["off", "of", "False", "f", "no", "n", "0"])("%s is off", (text) =>
    expect(value("ssl", text)).toBe(false),
  );
  test.each(["perhaps", "o", "", "2", "onn"])("'%s' counts as on, with a warning", (text) => {
    const parsed = parseValue("ssl", row("ssl"), text);
    expect(parsed.value).toBe(true);
    expect(parsed.warnings).toHaveLength(1);
  });
});

describe("words and lists", () => {
  const cases: [string, string, unknown][] = [
    ["syslog_facility", "local3", "LOCAL3"],
    ["log_min_messages", "DEBUG", "debug2"],
    ["check_temp_table", "on", "catalog"],
    ["check_temp_table", "off", "none"],
    ["relcache_query_target", "master", "primary"],
    ["backend_clustering_mode", "slony", "slony"],
    ["listen_addresses", " a , b,,", ["a", "b"]],
    ["reset_query_list", "ABORT; DISCARD ALL", ["ABORT", "DISCARD ALL"]],
    ["log_destination", "stderr, syslog", ["stderr", "syslog"]],
    ["primary_routing_query_pattern_list", "SELECT 'a\\;b\\';x.*", ["SELECT 'a\\;b'", "x.*"]],
  ];
  test.each(cases)("%s = '%s'", (name, text, expected) =>
    expect(value(name, text)).toEqual(expected as never),
  );

  test("a bad pattern is left out with a warning", () => {
    const parsed = parseValue("write_function_list", row("write_function_list"), "(,nextval");
    expect(parsed.value).toEqual(["nextval"]);
    expect(parsed.warnings.map((warning) => warning.message)).toEqual([
      'unable to add regex pattern for "write_function_list", invalid pattern: "^($"',
    ]);
  });
});

describe("SHOW prints", () => {
  const cases: [string, boolean | number | string | readonly string[], string][] = [
    ["ssl", true, "on"],
    ["authentication_timeout", 300, "5min"],
    ["authentication_timeout", 61, "61s"],
    ["authentication_timeout", 86400, "1d"],
    ["authentication_timeout", 0, "0"],
    ["client_idle_limit_in_recovery", -1, "-1"],
    ["memqcache_total_size", 67108864, "64MB"],
    ["log_rotation_size", 10240, "10MB"],
    ["log_rotation_age", 1440, "1d"],
    ["unix_socket_permissions", 0o777, "0777"],
    ["log_file_mode", 0o600, "384"],
    ["connect_timeout", 10000, "10000"],
    ["track_table_mutation_ttl_factor", 5, "5"],
    ["track_table_mutation_ttl_factor", 2.25, "2.25"],
    ["reset_query_list", ["ABORT", "DISCARD ALL"], "ABORT;DISCARD ALL"],
    ["sr_check_password", "secret", "*****"],
    ["pool_passwd", "pool_passwd", "*****"],
  ];
  test.each(cases)("%s %p as %s", (name, held, text) =>
    expect(formatValue(row(name), held)).toBe(text),
  );
});

test("a number printed with its unit is read back as the same number", () => {
  const unit = fc.constantFrom<Unit>("B", "kB", "ms", "s", "min");
  fc.assert(
    fc.property(unit, fc.integer({ min: 0, max: 2 ** 31 - 1 }), (unit, number) => {
      const row: NumberRow = {
        type: "int",
        initial: 0,
        min: 0,
        unit,
        context: "reload",
        brief: "",
      };
      expect(parseInteger(formatWithUnit(number, unit), row)).toEqual({ ok: true, value: number });
    }),
  );
});
