/**
 * `pg_md5` and `pg_enc`, or `pgpool md5` and `pgpool enc`: passwords for pcp.conf and pool_passwd
 * (spec config/commands.md 2 and 3, wire/crypto.md). Texts, streams and exit codes are the classic
 * tools'; where those write files that nobody can use, we do not.
 */
import { join } from "node:path";
import { md5Hash, pcpMd5 } from "../core/auth/password.ts";
import {
  derivePoolKey,
  encryptPassword,
  keyArgumentSizeMax,
  type PoolKey,
} from "../core/auth/pool_key.ts";
import { PgpoolError } from "../core/errors.ts";
import { decodeText, encodeText } from "../core/wire/text.ts";
import { type Account, ownAccount } from "./account.ts";
import { CommandFailure } from "./failure.ts";
import {
  type Command,
  defineCommand,
  type Flags,
  helpText,
  type Invocation,
  type Values,
} from "./options.ts";
import {
  inputSizeMax,
  passwordFileOf,
  readKeyText,
  readPairFile,
  writeEntry,
} from "./password_file.ts";
import { defaultConfigDir } from "./places.ts";
import { HiddenPrompt } from "./terminal.ts";

/** What the tools ask of the machine beside files. */
export type PasswordWorld = {
  readonly account: () => Account | undefined;
  readonly env: Readonly<Record<string, string | undefined>>;
  readonly prompt: Pick<HiddenPrompt, "possible" | "ask">;
  readonly configDir: string;
};

const processWorld: PasswordWorld = {
  account: ownAccount,
  env: process.env,
  prompt: new HiddenPrompt(),
  configDir: defaultConfigDir(),
};

const entryFlags = (configDir: string) =>
  ({
    username: { short: "u", arg: "USER", brief: "user of the entry (default: who runs this)" },
    "config-file": {
      short: "f",
      arg: "FILE",
      brief: `pgpool.conf, which names pool_passwd (default: ${configDir}/pgpool.conf)`,
    },
    "input-file": { short: "i", arg: "FILE", brief: "read user:password lines from FILE" },
    help: { short: "h", brief: "print this help" },
  }) as const;

const argumentNote =
  "A password given as an argument can be seen by everybody on the machine: prefer -p or -i.\n";

// --- pg_md5 ----------------------------------------------------------------------------------

const md5Flags = (configDir: string) =>
  ({
    prompt: { short: "p", brief: "ask for the password on the terminal" },
    md5auth: { short: "m", brief: "write an entry to pool_passwd instead of printing" },
    ...entryFlags(configDir),
  }) as const;

type Md5Flags = ReturnType<typeof md5Flags>;

/** `world` is replaced only by tests. */
export function makeMd5Command(world: PasswordWorld): Command<Md5Flags> {
  const command = defineCommand({
    name: "pg_md5",
    brief: "MD5 passwords for pcp.conf and pool_passwd",
    usage: ["[OPTION]... PASSWORD", "[OPTION]... -p", "[OPTION]... -i FILE"],
    flags: md5Flags(world.configDir),
    notes: `At most ${inputSizeMax} bytes are allowed for a password. ${argumentNote}`,
    help: { to: "stdout", exitCode: 0 },
    misuse: { show: "usage", to: "stdout", exitCode: 0 },
    run: plainly(async (values, operands, call) => {
      const input = values["input-file"];
      if (input !== undefined) return md5OfPairs(input, values, world, call);
      const password = values.prompt
        ? await askPassword("password: ", world)
        : operandBytes(operands);
      if (password === undefined) {
        call.err(helpText(command, call.program));
        return 1;
      }
      if (password.length > inputSizeMax) {
        call.err("Error: Input exceeds maximum password length!\n\n");
        call.err(helpText(command, call.program));
        return 1;
      }
      return md5OfOne(password, values, world, call);
    }),
  });
  return command;
}

function md5OfOne(
  password: Uint8Array,
  values: Values<Md5Flags>,
  world: PasswordWorld,
  call: Invocation,
): number {
  if (!values.md5auth) {
    call.out(`${pcpMd5(password)}\n`);
    return 0;
  }
  const user = values.username ?? ownName(world);
  if (encodeText(user).length > inputSizeMax) {
    call.err("Error: input exceeds maximum username length!\n\n");
    return 1;
  }
  storeEntry(user, `md5${md5Hash(password, user)}`, values, world, call);
  return 0;
}

function md5OfPairs(
  input: string,
  values: Values<Md5Flags>,
  world: PasswordWorld,
  call: Invocation,
): number {
  call.out(`trying to read username:password pairs from file ${input}\n`);
  for (const [at, line] of readPairFile(input).entries()) {
    call.out(`LINE#${lineNumber(at)}: `);
    switch (line.kind) {
      case "blank":
        call.out("BLANK LINE\n");
        break;
      case "invalid":
        call.out("Invalid username:password pair\n");
        break;
      case "too_long":
        call.out(`input exceeds maximum ${line.what} length ${inputSizeMax}\n`);
        break;
      case "pair": {
        const user = decodeText(line.user);
        call.out(`USER: <${user}>\n`);
        md5OfOne(line.password, { ...values, username: user || ownName(world) }, world, call);
      }
    }
  }
  return 0;
}

// --- pg_enc ----------------------------------------------------------------------------------

const encFlags = (configDir: string) =>
  ({
    "key-file": {
      short: "k",
      arg: "FILE",
      brief: "file with the key (default: $PGPOOLKEYFILE, else ~/.pgpoolkey)",
    },
    "enc-key": { short: "K", arg: "KEY", brief: "the key itself" },
    "prompt-for-key": { short: "P", brief: "ask for the key on the terminal" },
    prompt: { short: "p", brief: "ask for the password on the terminal, as without PASSWORD" },
    "update-pass": { short: "m", brief: "write an entry to pool_passwd instead of printing" },
    ...entryFlags(configDir),
  }) as const;

type EncFlags = ReturnType<typeof encFlags>;

/** `world` is replaced only by tests. */
export function makeEncCommand(world: PasswordWorld): Command<EncFlags> {
  const command = defineCommand({
    name: "pg_enc",
    brief: "AES-encrypted passwords for pool_passwd",
    usage: ["[OPTION]... [PASSWORD]", "[OPTION]... -i FILE"],
    flags: encFlags(world.configDir),
    notes: `At most ${inputSizeMax} bytes are allowed for a password. ${argumentNote}`,
    help: { to: "stdout", exitCode: 0 },
    misuse: { show: "usage", to: "stdout", exitCode: 0 },
    run: plainly(async (values, operands, call) => {
      const input = values["input-file"];
      if (input !== undefined) {
        const key = await findKey(values, world, call);
        return key === undefined ? noKey(call) : encryptPairs(input, key, values, world, call);
      }
      const given = values.prompt ? undefined : operandBytes(operands);
      const password = given ?? (await askPassword("db password: ", world));
      if (password.length > inputSizeMax) {
        const sizes = `given:${password.length} max allowed:${inputSizeMax}`;
        call.err(`Error: Input exceeds maximum password length ${sizes}!\n\n`);
        call.err(helpText(command, call.program));
        return 1;
      }
      const key = await findKey(values, world, call);
      if (key === undefined) return noKey(call);
      encryptOne(password, key, values, world, call);
      return 0;
    }),
  });
  return command;
}

/** The first source that is given counts: prompt, argument, file, environment, home directory. */
async function findKey(
  values: Values<EncFlags>,
  world: PasswordWorld,
  call: Invocation,
): Promise<PoolKey | undefined> {
  if (values["prompt-for-key"]) {
    const typed = await askPassword("encryption key: ", world, keyArgumentSizeMax);
    return typed.length === 0 ? undefined : derivePoolKey(typed);
  }
  const given = values["enc-key"];
  if (given) return derivePoolKey(encodeText(given).slice(0, keyArgumentSizeMax));
  const path = values["key-file"] ?? defaultKeyPath(world);
  call.out(`trying to read key from file ${path}\n`);
  const keyText = readKeyText(path, call.err);
  return keyText && derivePoolKey(keyText);
}

function defaultKeyPath(world: PasswordWorld): string {
  const { PGPOOLKEYFILE: named } = world.env;
  return named || join(world.account()?.home ?? "/", ".pgpoolkey");
}

function noKey(call: Invocation): number {
  call.err("encryption key not provided\n");
  return 1;
}

function encryptOne(
  password: Uint8Array,
  key: PoolKey,
  values: Values<EncFlags>,
  world: PasswordWorld,
  call: Invocation,
): void {
  const base64 = encryptPassword(password, key);
  if (values["update-pass"]) {
    storeEntry(values.username ?? ownName(world), `AES${base64}`, values, world, call);
  } else {
    call.out(`\n${base64}\npool_passwd string: AES${base64}\n`);
  }
}

function encryptPairs(
  input: string,
  key: PoolKey,
  values: Values<EncFlags>,
  world: PasswordWorld,
  call: Invocation,
): number {
  call.out(`trying to read username:password pairs from file ${input}\n`);
  for (const [at, line] of readPairFile(input).entries()) {
    switch (line.kind) {
      case "blank":
        break;
      case "invalid":
        call.err(`LINE#${lineNumber(at)}: invalid username:password pair\n`);
        break;
      case "too_long":
        call.err(
          `LINE#${lineNumber(at)}: input exceeds maximum ${line.what} length ${inputSizeMax}\n`,
        );
        break;
      case "pair": {
        const username = decodeText(line.user) || ownName(world);
        encryptOne(line.password, key, { ...values, username }, world, call);
      }
    }
  }
  return 0;
}

// --- What both share ---------------------------------------------------------------------------

/** These tools tell what is wrong without naming themselves, unlike our others. */
function plainly<F extends Flags>(run: Command<F>["run"]): Command<F>["run"] {
  return async (values, operands, call) => {
    try {
      return await run(values, operands, call);
    } catch (error) {
      if (!(error instanceof PgpoolError)) throw error;
      const said = [error.message, error.detail, error.hint].filter((line) => line !== undefined);
      call.err(`${said.join("\n")}\n`);
      return error instanceof CommandFailure ? error.exitCode : 1;
    }
  };
}

const lineNumber = (at: number): string => String(at + 1).padStart(2, "0");

function operandBytes(operands: readonly string[]): Uint8Array | undefined {
  const [password] = operands;
  return password === undefined ? undefined : encodeText(password);
}

async function askPassword(
  question: string,
  world: PasswordWorld,
  sizeMax: number = inputSizeMax,
): Promise<Uint8Array> {
  if (!world.prompt.possible) throw new CommandFailure("stdin is not tty", { exitCode: 1 });
  return encodeText(await world.prompt.ask(question)).slice(0, sizeMax);
}

function ownName(world: PasswordWorld): string {
  const account = world.account();
  if (account !== undefined) return account.name;
  throw new CommandFailure("the current user has no name", {
    hint: "Name the user of the entry: -u USER",
    exitCode: 1,
  });
}

function storeEntry(
  user: string,
  value: string,
  options: { readonly "config-file"?: string },
  world: PasswordWorld,
  call: Invocation,
): void {
  // It would end the line, and what follows would become an entry of its own.
  if (/[\n\0]/.test(user)) {
    throw new CommandFailure("a user name must not contain line breaks", { exitCode: 1 });
  }
  const configFile = options["config-file"] ?? join(world.configDir, "pgpool.conf");
  const path = passwordFileOf(configFile, call.err);
  try {
    writeEntry(path, user, value);
  } catch (error) {
    throw new CommandFailure(`could not write "${path}"`, {
      detail: error instanceof Error ? error.message : String(error),
      exitCode: 1,
      cause: error,
    });
  }
}

export const md5Command = makeMd5Command(processWorld);
export const encCommand = makeEncCommand(processWorld);
