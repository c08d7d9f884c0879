import { afterEach, beforeEach, describe, expect, test } from "bun:test";
import {
  chmodSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { runCommand } from "../../cmd/options.ts";
import { makeEncCommand, makeMd5Command, type PasswordWorld } from "../../cmd/password.ts";
import { readPairs } from "../../cmd/password_file.ts";
import { encodeText } from "../../core/wire/text.ts";
import { aesVectors, keyFileVectors, md5EntryVectors, md5Vectors } from "../core/auth/vectors.ts";

let dir = "";
beforeEach(() => {
  dir = mkdtempSync(join(tmpdir(), "pgpool-password-"));
});
afterEach(() => rmSync(dir, { recursive: true }));

const file = (name: string, content: string | Uint8Array, mode = 0o600): string => {
  const path = join(dir, name);
  writeFileSync(path, content, { mode });
  return path;
};
const contentOf = (name: string) => readFileSync(join(dir, name), "utf8");
/** A configuration whose entries go to `entries` beside it. */
const conf = () => file("pgpool.conf", "pool_passwd = 'entries'\n");

/** What one call says; `typed` are the answers at the terminal, none when there is no terminal. */
async function call(
  tool: "pg_md5" | "pg_enc",
  args: readonly string[],
  options: { readonly typed?: readonly string[]; readonly env?: Record<string, string> } = {},
) {
  const asked: string[] = [];
  const answers = [...(options.typed ?? [])];
  const world: PasswordWorld = {
    account: () => ({ name: "root", home: dir }),
    env: options.env ?? {},
    prompt: {
      possible: options.typed !== undefined,
      ask: async (question) => {
        asked.push(question);
        return answers.shift() ?? "";
      },
    },
    configDir: dir,
  };
  let out = "";
  let err = "";
  const invocation = {
    program: tool,
    out: (text: string) => {
      out += text;
    },
    err: (text: string) => {
      err += text;
    },
  };
  const exitCode =
    tool === "pg_md5"
      ? await runCommand(makeMd5Command(world), args, invocation)
      : await runCommand(makeEncCommand(world), args, invocation);
  return { out, err, exitCode, asked };
}

const silent = { out: "", err: "", exitCode: 0 };

describe("pg_md5", () => {
  test.each([...md5Vectors])("prints pcp.conf's form of %p", async (password, hex) => {
    expect(await call("pg_md5", ["--", password])).toMatchObject({ ...silent, out: `${hex}\n` });
    const typed = await call("pg_md5", ["-p"], { typed: [password] });
    expect(typed).toMatchObject({ ...silent, out: `${hex}\n`, asked: ["password: "] });
  });

  test.each([...md5EntryVectors])("-m writes the entry of %p", async (user, password, line) => {
    const args = ["-m", "-f", conf(), "-u", user, password];
    expect(await call("pg_md5", args)).toMatchObject(silent);
    expect(contentOf("entries")).toBe(`${line}\n`);
  });

  test("-m without -u is for who runs it, found by the password database", async () => {
    conf();
    expect(await call("pg_md5", ["-m", "nouser"])).toMatchObject(silent);
    expect(contentOf("entries")).toBe("root:md561091533de3b3950d284f4ff4bd24a43\n");
  });

  test("-i prints a hash for each line, and what is wrong with the others", async () => {
    const pairs = file(
      "pairs",
      `u1:p1\n\nnopassword\nu2:pass:with:colon\n:nouser\nz:\nlong:${"p".repeat(129)}\nu4: sp `,
    );
    const { out, exitCode } = await call("pg_md5", ["-i", pairs]);
    expect(exitCode).toBe(0);
    expect(out.split("\n")).toEqual([
      `trying to read username:password pairs from file ${pairs}`,
      "LINE#01: USER: <u1>",
      "ec6ef230f1828039ee794566b9c58adc",
      "LINE#02: BLANK LINE",
      "LINE#03: Invalid username:password pair",
      "LINE#04: USER: <u2>",
      "0e50365d3c092191d68e0852e3c6cf6a",
      "LINE#05: USER: <>",
      "9d191e65f34700d9bda864979f2b4e4f",
      "LINE#06: Invalid username:password pair",
      "LINE#07: input exceeds maximum password length 128",
      "LINE#08: USER: <u4>",
      "a2b39967455293a8da778adcd2d63f75",
      "",
    ]);
  });

  test("-m -i writes every entry, an empty user being who runs it", async () => {
    const pairs = file("pairs", "u1:p1\nu2:pass:with:colon\n:nouser\nu4: sp \n");
    const { out } = await call("pg_md5", ["-m", "-f", conf(), "-i", pairs]);
    expect(out).toContain("LINE#01: USER: <u1>\nLINE#02: USER: <u2>\n");
    const expected = md5EntryVectors.slice(1).map(([, , line]) => line);
    expect(contentOf("entries").trimEnd().split("\n").sort()).toEqual([...expected].sort());
  });

  const usage = "pg_md5 - MD5 passwords";
  const refusals: [string, string[], { out?: string; err?: string; exitCode: number }][] = [
    ["-p without terminal", ["-p"], { err: "stdin is not tty\n", exitCode: 1 }],
    ["no argument", [], { out: "", err: expect.stringContaining(usage), exitCode: 1 }],
    ["--help", ["--help"], { out: expect.stringContaining(usage), err: "", exitCode: 0 }],
    [
      "an unknown option",
      ["-Z"],
      { out: expect.stringContaining(usage), err: "pg_md5: invalid option -- 'Z'\n", exitCode: 0 },
    ],
    [
      "a password that is too long",
      ["p".repeat(129)],
      {
        err: expect.stringMatching(
          /^Error: Input exceeds maximum password length!\n\npg_md5 - MD5/,
        ),
        exitCode: 1,
      },
    ],
    [
      "a user that is too long",
      ["-m", "-u", "u".repeat(129), "x"],
      { err: "Error: input exceeds maximum username length!\n\n", exitCode: 1 },
    ],
    [
      "a user with a line break",
      ["-m", "-u", "a\nb:TEXTx", "x"],
      { err: "a user name must not contain line breaks\n", exitCode: 1 },
    ],
    [
      "a missing input file",
      ["-i", "nofile"],
      {
        out: "trying to read username:password pairs from file nofile\n",
        err: 'failed to open input_file "nofile" (No such file or directory)\n',
        exitCode: 1,
      },
    ],
    [
      "a missing configuration",
      ["-m", "-f", "none.conf", "-u", "u", "x"],
      {
        err: expect.stringMatching(
          /^WARNING: pid \d+: could not open configuration file: "none.conf"\nUnable to get configuration. Exiting...\n$/,
        ),
        exitCode: 1,
      },
    ],
  ];
  test.each(refusals)("answers %s", async (_, args, expected) => {
    expect(await call("pg_md5", args)).toMatchObject(expected as object);
  });

  test("takes 128 bytes, counted as bytes", async () => {
    expect((await call("pg_md5", ["ä".repeat(64)])).exitCode).toBe(0);
    expect((await call("pg_md5", ["ä".repeat(65)])).exitCode).toBe(1);
    const cut = await call("pg_md5", ["-p"], { typed: ["p".repeat(200)] });
    expect(cut.out).toBe("7fd834dfe30ca2bc4916d3d687d3921a\n");
  });
});

describe("pg_enc", () => {
  const printed = (stored: string) => `\n${stored.slice(3)}\npool_passwd string: ${stored}\n`;

  test.each([...aesVectors])("-K %p %p", async (key, password, stored) => {
    const args = ["-K", key, "--", password];
    expect(await call("pg_enc", args)).toMatchObject({ ...silent, out: printed(stored) });
  });

  test.each([...keyFileVectors])("-k with %s", async (_, content, stored) => {
    const path = file("key", content);
    const out = `trying to read key from file ${path}\n${printed(stored)}`;
    expect(await call("pg_enc", ["-k", path, "secret"])).toMatchObject({ ...silent, out });
  });

  const stored = "AESQ0/w7p1fhQTNejYCU1Hs7A==";
  test("the key is looked for in the prompt, the argument, -k, the environment and at home", async () => {
    const home = file(".pgpoolkey", "filekey\n");
    const env = { PGPOOLKEYFILE: file("envkey", "filekey\n") };
    const other = file("other", "otherkey\n");
    const read = (path: string) => `trying to read key from file ${path}\n${printed(stored)}`;
    expect((await call("pg_enc", ["secret"])).out).toBe(read(home));
    expect((await call("pg_enc", ["secret"], { env })).out).toBe(read(env.PGPOOLKEYFILE));
    const byFile = await call("pg_enc", ["-k", env.PGPOOLKEYFILE, "secret"], {
      env: { PGPOOLKEYFILE: other },
    });
    expect(byFile.out).toBe(read(env.PGPOOLKEYFILE));
    const byArgument = await call("pg_enc", ["-k", other, "-K", "filekey", "secret"]);
    expect(byArgument.out).toBe(printed(stored));
    const asked = await call("pg_enc", ["-P", "-K", "otherkey", "secret"], { typed: ["filekey"] });
    expect(asked).toMatchObject({ ...silent, out: printed(stored), asked: ["encryption key: "] });
  });

  test("without a password it asks, for the password before the key", async () => {
    const answer = await call("pg_enc", ["-P"], { typed: ["secret", "filekey"] });
    expect(answer.asked).toEqual(["db password: ", "encryption key: "]);
    expect(answer.out).toBe(printed(stored));
  });

  test("-m writes the entry beside the others, in place and in the file that pgpool.conf names", async () => {
    file("entries", "a:TEXTa\nu:old\nb:TEXTb", 0o640);
    const inode = statSync(join(dir, "entries")).ino;
    const args = ["-K", "filekey", "-m", "-f", conf(), "-u", "u", "secret"];
    expect(await call("pg_enc", args)).toMatchObject(silent);
    expect(contentOf("entries")).toBe(`a:TEXTa\nu:${stored}\nb:TEXTb`);
    await call("pg_enc", ["-K", "filekey", "-m", "-f", conf(), "-u", "new", "secret"]);
    expect(contentOf("entries")).toBe(`a:TEXTa\nu:${stored}\nb:TEXTb\nnew:${stored}\n`);
    const after = statSync(join(dir, "entries"));
    expect([after.ino, after.mode & 0o777]).toEqual([inode, 0o640]);
  });

  test("a shorter entry leaves nothing of the longer one, and a new file is private", async () => {
    const entries = (password: string) =>
      call("pg_enc", ["-K", "mykey", "-m", "-f", conf(), "-u", "u", password]);
    await entries("p".repeat(128));
    await entries("secret");
    expect(contentOf("entries")).toBe("u:AESV7IMV7YNworqqZU1Z46Wgw==\n");
    expect(statSync(join(dir, "entries")).mode & 0o777).toBe(0o600);
  });

  test("-i skips blank lines and complains of bad ones on stderr", async () => {
    const pairs = file("pairs", `u1:p1\n\nnopassword\n:nouser\nlong:${"p".repeat(129)}\n`);
    expect(await call("pg_enc", ["-K", "mykey", "-i", pairs])).toMatchObject({
      out:
        `trying to read username:password pairs from file ${pairs}\n` +
        printed("AESahVwZVxvMwvaAywFZYrGbQ==") +
        printed("AESstK918V7GLQccz2pUdObgQ=="),
      err: "LINE#03: invalid username:password pair\nLINE#05: input exceeds maximum password length 128\n",
      exitCode: 0,
    });
    await call("pg_enc", ["-K", "mykey", "-m", "-f", conf(), "-i", pairs]);
    expect(contentOf("entries")).toBe(
      "u1:AESahVwZVxvMwvaAywFZYrGbQ==\nroot:AESstK918V7GLQccz2pUdObgQ==\n",
    );
  });

  const usage = "pg_enc - AES-encrypted";
  const noKey = "encryption key not provided\n";
  const refusals: [string, string[], { out?: string; err?: string; exitCode: number }][] = [
    ["no password and no terminal", [], { out: "", err: "stdin is not tty\n", exitCode: 1 }],
    ["-P without terminal", ["-P", "x"], { err: "stdin is not tty\n", exitCode: 1 }],
    [
      "a missing key file",
      ["-k", "nokey", "x"],
      { out: "trying to read key from file nokey\n", err: noKey, exitCode: 1 },
    ],
    ["an empty key", ["-k", "nokey", "-K", "", "x"], { err: noKey, exitCode: 1 }],
    [
      "a missing key for a list",
      ["-k", "nokey", "-i", "nofile"],
      { out: "trying to read key from file nokey\n", err: noKey, exitCode: 1 },
    ],
    [
      "a missing list",
      ["-K", "k", "-i", "nofile"],
      { err: 'failed to open input_file "nofile" (No such file or directory)\n', exitCode: 1 },
    ],
    [
      "a password that is too long",
      ["-K", "k", "p".repeat(129)],
      {
        err: expect.stringMatching(
          /^Error: Input exceeds maximum password length given:129 max allowed:128!\n\npg_enc - AES/,
        ),
        exitCode: 1,
      },
    ],
    [
      "an unknown option",
      ["-Z"],
      { out: expect.stringContaining(usage), err: "pg_enc: invalid option -- 'Z'\n", exitCode: 0 },
    ],
    ["--help", ["-h"], { out: expect.stringContaining(usage), exitCode: 0 }],
  ];
  test.each(refusals)("answers %s", async (_, args, expected) => {
    expect(await call("pg_enc", args)).toMatchObject(expected as object);
  });

  test("an empty key file holds no key, and neither does a directory", async () => {
    expect((await call("pg_enc", ["-k", file("empty", ""), "x"])).err).toBe(noKey);
    const folder = join(dir, "folder");
    mkdirSync(folder);
    const { err, exitCode } = await call("pg_enc", ["-k", folder, "x"]);
    expect(err).toBe(
      `WARNING: pid ${process.pid}: pool key file "${folder}" is not a plain file\n${noKey}`,
    );
    expect(exitCode).toBe(1);
  });

  test("a key that others can read is used with a warning", async () => {
    const path = file("key", "filekey\n");
    chmodSync(path, 0o644);
    const { out, err } = await call("pg_enc", ["-k", path, "secret"]);
    expect(out).toEndWith(printed(stored));
    expect(err).toBe(
      `WARNING: pid ${process.pid}: pool key file "${path}" has group or world access; permissions should be u=rw (0600) or less\n`,
    );
  });

  test("a disabled pool_passwd cannot be written", async () => {
    const off = file("pgpool.conf", "pool_passwd = ''\n");
    const { err, exitCode } = await call("pg_enc", ["-K", "k", "-m", "-f", off, "-u", "u", "x"]);
    expect([exitCode, err]).toEqual([1, expect.stringContaining('"pool_passwd" is empty')]);
  });

  test("no secret is repeated in any message", async () => {
    const secrets = ["hunter2", "otherkey"];
    const calls = [
      await call("pg_enc", ["-K", "otherkey", "-m", "-f", "none.conf", "hunter2"]),
      await call("pg_enc", ["-k", "nokey", "hunter2"]),
      await call("pg_md5", ["-m", "-f", "none.conf", "hunter2"]),
    ];
    for (const { out, err } of calls) {
      for (const secret of secrets) expect(out + err).not.toContain(secret);
    }
  });
});

test("readPairs keeps bytes that are not UTF-8", () => {
  const content = Uint8Array.of(0x75, 0x3a, 0xff, 0x3a, 0x0d, 0x0a);
  expect(readPairs(content)).toEqual([
    { kind: "pair", user: encodeText("u"), password: Uint8Array.of(0xff, 0x3a, 0x0d) },
  ]);
});
