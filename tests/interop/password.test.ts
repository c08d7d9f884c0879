/**
 * pg_md5 and pg_enc of the real Pgpool-II beside ours: the same output for the same input, each
 * reads the files that the other wrote, and the real pgpool lets users in by ours.
 */
import { afterAll, beforeAll, beforeEach, describe, expect } from "bun:test";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { openStoredPassword, parseStoredPassword } from "../../core/auth/password.ts";
import { derivePoolKey, keyTextOfFile } from "../../core/auth/pool_key.ts";
import { lookupPassword } from "../../core/auth/pool_passwd.ts";
import { encodeText } from "../../core/wire/text.ts";
import {
  findProgram,
  mustRun,
  originalPgpool,
  Pgpool,
  Postgres,
  repositoryRoot,
  runCommand,
  Scope,
  testNeeding,
} from "../cluster/harness.ts";

const toolTest = await testNeeding("pgpool2");
const loginTest = await testNeeding("pgpool2", "postgres", "psql");

let scope: Scope;
let dir = "";
beforeAll(() => {
  scope = new Scope();
});
afterAll(() => scope.close());

const keyText = "clé with blanks";
beforeEach(() => {
  dir = scope.makeDir(`case-${crypto.randomUUID()}`);
  writeFileSync(join(dir, "pgpool.conf"), "pool_passwd = 'pool_passwd'\n");
  writeFileSync(join(dir, "key"), `${keyText}\n`, { mode: 0o600 });
});

type Tool = "pg_md5" | "pg_enc";

const ours = (tool: Tool): [string, ...string[]] => [
  process.execPath,
  join(repositoryRoot, "cmd/main.ts"),
  tool === "pg_md5" ? "md5" : "enc",
];
const theirs = (tool: Tool): [string, ...string[]] => [findProgram(tool) ?? tool];

async function run(argv: readonly [string, ...string[]], args: readonly string[]) {
  const { code, stdout, stderr } = await runCommand([...argv, ...args], { cwd: dir });
  return { code, stdout, stderr };
}

const passwords = [
  "secret",
  "pässwörd",
  "パスワード",
  "0123456789abcdef",
  "pass word:with:colons",
  "back\\slash",
  "\"quotes'$`",
  "AESlooks-encrypted",
  "p".repeat(79),
];
const users = passwords.map((_, at) => `user${at}`);

describe("the same output", () => {
  const calls: [string, Tool, readonly string[]][] = [
    ["a hash", "pg_md5", ["secret"]],
    ["more words than one", "pg_md5", ["one", "two"]],
    ["no terminal", "pg_md5", ["-p"]],
    ["a list", "pg_md5", ["-i", "pairs"]],
    ["a missing list", "pg_md5", ["-i", "missing"]],
    ["an encrypted password", "pg_enc", ["-K", "k", "pw"]],
    ["an empty password", "pg_enc", ["-K", "k", ""]],
    ["a key file", "pg_enc", ["-k", "key", "pw"]],
    ["a key file that is missing", "pg_enc", ["-k", "missing", "pw"]],
    ["a list to encrypt", "pg_enc", ["-k", "key", "-i", "pairs"]],
    ["a key that is not there for a list", "pg_enc", ["-k", "missing", "-i", "pairs"]],
    ["no password and no terminal", "pg_enc", ["-k", "key"]],
    ["a key from no terminal", "pg_enc", ["-P", "pw"]],
  ];
  const pairs = `u1:p1\n\nnone\n:nouser\nz:\nlong:${"p".repeat(129)}\nu4: sp \nlast:x`;
  toolTest(
    "for every call",
    async () => {
      writeFileSync(join(dir, "pairs"), pairs);
      for (const [title, tool, args] of calls) {
        const expected = await run(theirs(tool), args);
        const trimmed = { ...expected, stderr: expected.stderr.trim() };
        const own = await run(ours(tool), args);
        expect({ title, ...own, stderr: own.stderr.trim() }).toEqual({ title, ...trimmed });
      }
    },
    60_000,
  );
});

toolTest(
  "each updates the file of the other, and both write the same bytes",
  async () => {
    const file = join(dir, "pool_passwd");
    const written: string[] = [];
    for (const [first, second] of [
      [ours, theirs],
      [theirs, ours],
    ] as const) {
      writeFileSync(file, "# untouched: line\nuser1:TEXTold\n");
      for (const [at, password] of passwords.entries()) {
        const conf = ["-m", "-f", join(dir, "pgpool.conf"), "-u", users[at] ?? ""];
        const tool = at % 2 === 0 ? first : second;
        await mustRun([...tool("pg_md5"), ...conf, password], { cwd: dir });
        // The other one has to find the entry just written in order to replace it.
        const other = at % 2 === 0 ? second : first;
        await mustRun([...other("pg_enc"), "-k", "key", ...conf, password], { cwd: dir });
      }
      written.push(readFileSync(file, "utf8"));
    }
    expect(written[0]).toBe(written[1] as string);
    expect(written[0]?.split("\n").length).toBe(passwords.length + 2);
  },
  60_000,
);

toolTest(
  "we read what the real tools wrote",
  async () => {
    const conf = join(dir, "pgpool.conf");
    for (const [at, password] of passwords.entries()) {
      const user = users[at] ?? "";
      await mustRun([...theirs("pg_enc"), "-k", "key", "-m", "-f", conf, "-u", user, password], {
        cwd: dir,
      });
    }
    const file = readFileSync(join(dir, "pool_passwd"));
    const key = derivePoolKey(keyTextOfFile(readFileSync(join(dir, "key"))) ?? new Uint8Array(0));
    for (const [at, password] of passwords.entries()) {
      const stored = lookupPassword(file, users[at] ?? "") ?? parseStoredPassword("");
      expect(openStoredPassword(stored, key)).toEqual({
        kind: "clear",
        password: encodeText(password),
      });
    }
  },
  60_000,
);

loginTest(
  "the real pgpool lets in who is in the file that we wrote, and nobody else",
  async () => {
    const postgres = await Postgres.create(scope, {
      hba: [
        "host all postgres 127.0.0.1/32 trust",
        "host all hashed 127.0.0.1/32 md5",
        "host all all 127.0.0.1/32 scram-sha-256",
      ],
    });
    const passwd = ["untouched:TEXTx"];
    const pgpool = await Pgpool.create(scope, {
      program: originalPgpool(),
      backends: [postgres],
      hba: [
        "host all postgres 127.0.0.1/32 trust",
        "host all hashed all md5",
        "host all all all scram-sha-256",
      ],
      passwd,
      key: keyText,
      startLater: true,
    });
    await postgres.createRole("hashed", "pässwörd", "md5");
    const conf = ["-m", "-f", pgpool.configPath];
    await mustRun([...ours("pg_md5"), ...conf, "-u", "hashed", "pässwörd"]);
    for (const [at, password] of passwords.entries()) {
      const user = users[at] ?? "";
      await postgres.createRole(user, password);
      await mustRun([...ours("pg_enc"), "-K", keyText, ...conf, "-u", user, password]);
    }
    await pgpool.start();
    await pgpool.untilServing();
    const logIn = (user: string, password: string) =>
      runCommand([findProgram("psql") ?? "psql", "-X", "-tAc", "select current_user"], {
        env: { ...pgpool.env, PGUSER: user, PGPASSWORD: password, PGSSLMODE: "disable" },
      });
    expect((await logIn("hashed", "pässwörd")).stdout).toBe("hashed\n");
    expect((await logIn("hashed", "wrong")).code).not.toBe(0);
    for (const [at, password] of passwords.entries()) {
      const user = users[at] ?? "";
      expect(await logIn(user, password)).toMatchObject({ stdout: `${user}\n`, code: 0 });
    }
    expect((await logIn("user0", "wrong")).code).not.toBe(0);
  },
  120_000,
);
