import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { createLog, isLogged, isToldToClient, type LogSettings } from "../../core/log.ts";
import type { LogFields, LogSeverity, LogSource } from "../../core/ports.ts";
import { redactPasswords } from "../../core/redact.ts";
import { formatTimeMs } from "../../core/time.ts";

const AT = new Date(2026, 10, 22, 17, 25, 17, 180).getTime();
const child: LogSource = { processName: "CHILD", applicationName: "child", pid: 15175 };
const usual: LogSettings = {
  log_line_prefix: "%m: %a pid %p: ",
  log_min_messages: "warning",
  log_error_verbosity: "default",
  log_format: "text",
};

/** What is written, as one text. */
function written(
  settings: Partial<LogSettings>,
  source: LogSource,
  messages: readonly (readonly [LogSeverity, string, LogFields?])[],
): string {
  let out = "";
  const log = createLog(
    {
      settings: () => ({ ...usual, ...settings }),
      write: (lines) => {
        out += lines;
      },
      clock: () => AT,
    },
    source,
  );
  for (const [severity, message, fields] of messages) log.write(severity, message, fields);
  return out;
}
const line = (prefix: string, source: Partial<LogSource> = {}) =>
  written({ log_line_prefix: prefix }, { ...child, ...source }, [["LOG", ""]]).slice(0, -7);

describe("lines", () => {
  const refusal = {
    detail: "all backend nodes are down, pgpool requires at least one valid node",
    hint: "repair the backend nodes and restart pgpool",
    context: "line 1\nline 2",
  };

  test("of one message each have the prefix", () => {
    const message = "pgpool is not accepting any new connections";
    expect(written({}, child, [["FATAL", message, refusal]])).toBe(
      `2026-11-22 17:25:17.180: child pid 15175: FATAL:  pgpool is not accepting any new connections
2026-11-22 17:25:17.180: child pid 15175: DETAIL:  all backend nodes are down, pgpool requires at least one valid node
2026-11-22 17:25:17.180: child pid 15175: HINT:  repair the backend nodes and restart pgpool
2026-11-22 17:25:17.180: child pid 15175: CONTEXT:  line 1
\tline 2
`,
    );
  });

  test("beside the first are left out when terse", () => {
    const out = written({ log_error_verbosity: "terse", log_line_prefix: "" }, child, [
      ["LOG", "a\nb", refusal],
    ]);
    expect(out).toBe("LOG:  a\n\tb\n");
  });

  test("of every debug level say DEBUG", () => {
    const out = written({ log_min_messages: "debug5", log_line_prefix: "" }, child, [
      ["DEBUG5", "a"],
      ["DEBUG1", "b"],
    ]);
    expect(out).toBe("DEBUG:  a\nDEBUG:  b\n");
  });

  test("are numbered within their source, continuation lines included", () => {
    const out = written({ log_line_prefix: "%l " }, child, [
      ["LOG", "a", { detail: "b" }],
      ["LOG", "c"],
    ]);
    expect(out).toBe("1 LOG:  a\n2 DETAIL:  b\n3 LOG:  c\n");
  });

  test("have the application name as third word where scripts look for it", () => {
    const out = written({}, { ...child, applicationName: "psql" }, [
      ["LOG", "DB node id: 0 backend pid: 77 statement: SELECT 1"],
    ]);
    expect(out.split(" ").slice(2, 10).join(" ")).toBe("psql pid 15175: LOG:  DB node id:");
  });
});

describe("log_line_prefix", () => {
  const session = { user: "ann", database: "shop" };
  const cases: [string, Partial<LogSource>, string][] = [
    ["%t|", {}, "2026-11-22 17:25:17|"],
    ["%m|", {}, "2026-11-22 17:25:17.180|"],
    ["%u@%d ", session, "ann@shop "],
    ["%u@%d ", {}, "[No Connection]@[No Connection] "],
    ["%u@%d ", { user: "", database: "" }, "[unknown]@[unknown] "],
    ["%P %p ", {}, "CHILD 15175 "],
    ["100%% ", {}, "100% "],
    ["[%8u][%-8u]", session, "[     ann][ann     ]"],
    ["[%2u]", session, "[ann]"],
    ["%q%z%", {}, ""],
  ];
  test.each(cases)("%j of %j", (prefix, source, expected) =>
    expect(line(prefix, source)).toBe(expected),
  );

  test("is felt when it changes, as a reload does", () => {
    let prefix = "a ";
    let out = "";
    const log = createLog(
      {
        settings: () => ({ ...usual, log_line_prefix: prefix }),
        write: (lines) => {
          out += lines;
        },
        clock: () => AT,
      },
      child,
    );
    log.write("LOG", "x");
    prefix = "b ";
    log.as({ ...child, pid: 1 }).write("LOG", "y");
    expect(out).toBe("a LOG:  x\nb LOG:  y\n");
  });

  test("of any text renders without an error and keeps text without escapes", () => {
    fc.assert(
      fc.property(fc.string(), (prefix) => {
        const out = line(prefix);
        if (!prefix.includes("%")) expect(out).toBe(prefix);
      }),
    );
  });
});

describe("levels", () => {
  test("of the log put LOG between ERROR and FATAL", () => {
    const shown = (min: LogSettings["log_min_messages"]) =>
      (["DEBUG1", "INFO", "WARNING", "ERROR", "LOG", "FATAL"] as const).filter((severity) =>
        isLogged(severity, min),
      );
    expect(shown("warning")).toEqual(["WARNING", "ERROR", "LOG", "FATAL"]);
    expect(shown("error")).toEqual(["ERROR", "LOG", "FATAL"]);
    expect(shown("log")).toEqual(["LOG", "FATAL"]);
    expect(shown("fatal")).toEqual(["FATAL"]);
    expect(shown("debug1")).toHaveLength(6);
    expect(shown("debug2")).toHaveLength(6);
  });

  test("of clients put LOG below INFO, and INFO always goes", () => {
    const told = (min: LogSettings["log_min_messages"]) =>
      (["DEBUG1", "LOG", "INFO", "NOTICE", "FRONTEND_ERROR", "ERROR"] as const).filter((severity) =>
        isToldToClient(severity, min),
      );
    expect(told("notice")).toEqual(["INFO", "NOTICE", "FRONTEND_ERROR", "ERROR"]);
    expect(told("log")).toEqual(["LOG", "INFO", "NOTICE", "FRONTEND_ERROR", "ERROR"]);
    expect(told("panic")).toEqual(["INFO", "FRONTEND_ERROR"]);
  });

  test("below the setting write nothing", () => {
    expect(written({}, child, [["NOTICE", "x"]])).toBe("");
  });
});

test("JSON is one object a message", () => {
  const session = { ...child, applicationName: "psql", user: "ann", database: "shop" };
  const out = written({ log_format: "json" }, session, [["LOG", 'a\n"b"', { detail: "d" }]]);
  expect(out.indexOf("\n")).toBe(out.length - 1);
  expect(JSON.parse(out)).toEqual({
    time: new Date(AT).toISOString(),
    severity: "LOG",
    pid: 15175,
    process: "CHILD",
    application: "psql",
    user: "ann",
    database: "shop",
    message: 'a\n"b"',
    detail: "d",
  });
});

test("a time has its milliseconds in three digits, before 1970 too", () => {
  expect(formatTimeMs(AT - 173)).toEndWith(":17.007");
  expect(formatTimeMs(-1)).toEndWith(".999");
});

describe("redactPasswords", () => {
  const cases: [string, string][] = [
    ["ALTER ROLE ann PASSWORD 'x''y' LOGIN", "ALTER ROLE ann PASSWORD '*****' LOGIN"],
    [
      "create user ann with encrypted password E'x\\'y'",
      "create user ann with encrypted password '*****'",
    ],
    ["ALTER ROLE ann PASSWORD $q$it's$q$;", "ALTER ROLE ann PASSWORD '*****';"],
    ["ALTER ROLE ann PASSWORD /* new */ 'x'", "ALTER ROLE ann PASSWORD /* new */ '*****'"],
    ["ALTER ROLE ann PASSWORD 'never ended", "ALTER ROLE ann PASSWORD '*****'"],
    ["ALTER ROLE ann PASSWORD NULL", "ALTER ROLE ann PASSWORD NULL"],
    [
      "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'x')",
      "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password '*****')",
    ],
    [
      "CREATE SUBSCRIPTION s CONNECTION 'host=h password=x user=u' PUBLICATION p",
      "CREATE SUBSCRIPTION s CONNECTION 'host=h password=***** user=u' PUBLICATION p",
    ],
    [
      "SELECT dblink('host=h password = ''x y'' port=1', 'SELECT 1')",
      "SELECT dblink('host=h password = ***** port=1', 'SELECT 1')",
    ],
    [
      "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:x@h/d'",
      "CREATE SUBSCRIPTION s CONNECTION 'postgresql://u:*****@h/d'",
    ],
    [
      "SELECT password FROM users WHERE password = 'a'",
      "SELECT password FROM users WHERE password = 'a'",
    ],
    ["SELECT 'the password', 1", "SELECT 'the password', 1"],
  ];
  test.each(cases)("%s", (sql, expected) => expect(redactPasswords(sql)).toBe(expected));

  test("leaves nothing of a password whatever it is", () => {
    const password = fc.string({ minLength: 6 }).filter((text) => /^[^\\]*\w{6}[^\\]*$/.test(text));
    fc.assert(
      fc.property(password, (secret) => {
        const sql = `ALTER ROLE ann PASSWORD '${secret.replaceAll("'", "''")}'`;
        expect(redactPasswords(sql)).toBe("ALTER ROLE ann PASSWORD '*****'");
      }),
    );
  });
});

test("a source with settings of its own obeys them as long as it has some", () => {
  let out = "";
  const world = {
    settings: () => usual,
    write: (lines: string) => (out += lines),
    clock: () => AT,
  };
  let own: LogSettings | undefined;
  const log = createLog(world, child).as({ ...child, pid: 7 }, () => own);
  own = { ...usual, log_min_messages: "debug1", log_line_prefix: "%p " };
  log.write("DEBUG1", "heard");
  own = { ...usual, log_min_messages: "fatal" };
  expect(log.enabled("LOG")).toBe(false);
  log.write("LOG", "not heard");
  own = undefined;
  log.write("DEBUG1", "not heard");
  expect(out).toBe("7 DEBUG:  heard\n");
});
