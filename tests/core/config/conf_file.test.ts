import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ConfigFileError, parseConfFile } from "../../../core/config/conf_file.ts";

const read = (text: string) =>
  parseConfFile("/etc/p.conf", () => text).settings.map(({ name, value }) => [name, value]);

describe("a file is a stream of settings", () => {
  const cases: [string, string, [string, string][]][] = [
    ["the equals sign is optional", "port 22050", [["port", "22050"]]],
    [
      "one line may hold several",
      "port = 22050 pcp_port = 22051",
      [
        ["port", "22050"],
        ["pcp_port", "22051"],
      ],
    ],
    [
      "lines may end as DOS does",
      "port = 1\r\nssl = on\r\n",
      [
        ["port", "1"],
        ["ssl", "on"],
      ],
    ],
    ["a comment ends a line", "port = 1 # not 'this'\n# nor that\n", [["port", "1"]]],
    ["a comment may end the file", "port = 1 #", [["port", "1"]]],
    ["a # within quotes is data", "a = 'x # y'", [["a", "x # y"]]],
    ["a backslash stays", "a = 'it\\'s'", [["a", "it\\'s"]]],
    [
      "the last possible quote of a line ends a string",
      "a = 'x\\' # 'b",
      [
        ["a", "x\\' # "],
        ["b", ""],
      ],
    ],
    ["a quote after two backslashes may go on", "a = 'x\\\\' y'", [["a", "x\\\\' y"]]],
    ["an empty string is a value", "a = ''", [["a", ""]]],
    [
      "a lone quote is a value of one character",
      "a = 'b\n",
      [
        ["a", "'"],
        ["b", "\n"],
      ],
    ],
    [
      "double quotes quote nothing",
      'x = "abc"\n',
      [
        ["x", '"'],
        ["abc", '"'],
      ],
    ],
    ["a star needs no quotes", "listen_addresses = *", [["listen_addresses", "*"]]],
    ["an unquoted word may have - . _ : /", "a = standby/log-1.x:y", [["a", "standby/log-1.x:y"]]],
    [
      "a unit belongs to its number",
      "a = 5min b = 0x10kB c = +3 d = 010",
      [
        ["a", "5min"],
        ["b", "0x10kB"],
        ["c", "+3"],
        ["d", "010"],
      ],
    ],
    [
      "a unit does not belong to a real",
      "a = 1.5h\n",
      [
        ["a", "1.5"],
        ["h", "\n"],
      ],
    ],
    ["a point alone is a real", "a = .", [["a", "."]]],
    ["a missing value is the line's end", "port =\n", [["port", "\n"]]],
    ["a missing value at the end is empty", "port =", [["port", ""]]],
    ["letters beyond ASCII make names", "größe = 1", [["größe", "1"]]],
    ["names keep their case", "PORT = 1", [["PORT", "1"]]],
    ["INCLUDE is a name like others", "INCLUDE 'zz'", [["INCLUDE", "zz"]]],
  ];
  test.each(cases)("%s", (_, text, expected) => expect(read(text)).toEqual(expected));
});

describe("a syntax error names the token", () => {
  const cases: [string, string][] = [
    ["port = 127.0.0.1\n", "parse error at line 1 '.0' token = 3"],
    ["port = /tmp/x\n", "parse error at line 1 'tmp/x' token = 5"],
    ["port = 2000;\n", "parse error at line 1 ';' token = 8"],
    ["a = 'it''s'\n", "parse error at line 1 ''s'' token = 4"],
    ["a = 1e1\n", "parse error at line 1 '1' token = 2"],
    [". = 1", "parse error at line 1 '.' token = 3"],
    ["a = 1..2\n", "parse error at line 1 '.2' token = 3"],
    ["=\n", "parse error at line 1 '=' token = 6"],
    ["\n\n2 3", "parse error at line 3 '2' token = 2"],
    ["a =\n= 1", "parse error at line 2 '=' token = 6"],
  ];
  test.each(cases)("%j", (text, detail) => {
    const error = errorOf(() => read(text));
    expect(error.message).toBe('syntax error in configuration file "/etc/p.conf"');
    expect(error.detail).toBe(detail);
  });
});

describe("include", () => {
  const files = (texts: Record<string, string>) => (path: string) => texts[path];

  test("puts another file's settings in its place, found beside the including file", () => {
    const { settings } = parseConfFile(
      "/etc/a.conf",
      files({
        "/etc/a.conf": "x = 1 include 'sub/b.conf' z = 3",
        "/etc/sub/b.conf": "\ny = 2 include = c",
        "/etc/sub/c": "w = 4",
      }),
    );
    expect(settings.map(({ name, file, line }) => `${name} ${file}:${line}`)).toEqual([
      "x /etc/a.conf:1",
      "y /etc/sub/b.conf:2",
      "w /etc/sub/c:1",
      "z /etc/a.conf:1",
    ]);
  });

  test("of a missing file warns and is an error of its line", () => {
    const error = errorOf(() =>
      parseConfFile("/etc/a.conf", files({ "/etc/a.conf": "\ninclude 'zz'" })),
    );
    expect(error.before[0]).toEqual({
      severity: "WARNING",
      message: 'could not open configuration file: "/etc/zz"',
      detail: "using default configuration parameter values",
    });
    expect(error.detail).toBe("parse error at line 2 ''zz'' token = 4");
  });

  test("of itself ends at a depth", () => {
    const error = errorOf(() => parseConfFile("/etc/a.conf", () => "include 'a.conf'"));
    expect(error.message).toBe(
      'could not open configuration file "a.conf": maximum nesting depth exceeded',
    );
  });
});

test("arbitrary text gives settings or a ConfigFileError, never another error", () => {
  const pieces = fc.constantFrom(
    "'",
    "\\",
    "\n",
    "=",
    "#",
    "0x",
    "1.5",
    "a",
    "port",
    " ",
    ";",
    "é",
    "\0",
  );
  const text = fc.oneof(
    fc.string(),
    fc.array(pieces).map((parts) => parts.join("")),
  );
  fc.assert(
    fc.property(text, (any) => {
      try {
        for (const [name] of read(any)) expect(name).not.toBe("");
      } catch (error) {
        expect(error).toBeInstanceOf(ConfigFileError);
      }
    }),
  );
});

test("what stands between quotes is read back letter for letter", () => {
  const body = fc.string().filter((any) => !/['\n]/.test(any) && !any.endsWith("\\"));
  fc.assert(
    fc.property(body, (any) => {
      expect(read(`a = '${any}'\nb = 'x'`)).toEqual([
        ["a", any],
        ["b", "x"],
      ]);
    }),
  );
});

function errorOf(run: () => unknown): ConfigFileError {
  try {
    run();
  } catch (error) {
    if (error instanceof ConfigFileError) return error;
    throw error;
  }
  throw new Error("nothing was thrown");
}
