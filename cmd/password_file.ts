/** The files that pg_md5 and pg_enc read and write: pool_passwd, key files, lists of passwords. */
import {
  closeSync,
  constants,
  ftruncateSync,
  openSync,
  readFileSync,
  statSync,
  writeSync,
} from "node:fs";
import { resolve } from "node:path";
import { keyFileWarning, keyTextOfFile } from "../core/auth/pool_key.ts";
import { updatePasswordFile } from "../core/auth/pool_passwd.ts";
import { loadConfig } from "../core/config/load.ts";
import { directoryOf, resolvePath } from "../core/config/path.ts";
import { CommandFailure } from "./failure.ts";
import { configSource } from "./load_config.ts";

/** Bytes of a user's name and of a password that both tools take. */
export const inputSizeMax = 128;

/**
 * The pool_passwd file that this pgpool.conf names, which pg_md5 4.3.5 means to honour and does not
 * (spec wire/crypto.md 3).
 *
 * @throws CommandFailure when there is no such configuration, ConfigError when it is wrong
 */
export function passwordFileOf(configFile: string, warn: (text: string) => void): string {
  const file = resolve(configFile);
  if (configSource(file).readFile(file) === undefined) {
    warn(`WARNING: pid ${process.pid}: could not open configuration file: "${configFile}"\n`);
    throw new CommandFailure("Unable to get configuration. Exiting...", { exitCode: 1 });
  }
  const name = loadConfig(configSource(file)).config.pool_passwd;
  if (name === "") {
    throw new CommandFailure(`parameter "pool_passwd" is empty in "${configFile}"`, {
      hint: "Without a pool_passwd file no entry can be stored.",
      exitCode: 1,
    });
  }
  return resolvePath(directoryOf(file), name);
}

/**
 * Sets the user's entry. The file keeps its inode, which running servers have open, and is never
 * empty in between. One that is missing is made for its owner alone.
 */
export function writeEntry(path: string, user: string, value: string): void {
  const file = openSync(path, constants.O_RDWR | constants.O_CREAT, 0o600);
  try {
    const content = updatePasswordFile(readFileSync(file), user, value);
    for (let at = 0; at < content.length; ) {
      at += writeSync(file, content, at, content.length - at, at);
    }
    ftruncateSync(file, content.length);
  } finally {
    closeSync(file);
  }
}

/** The key text in a key file; undefined when there is none, after a warning where one is due. */
export function readKeyText(path: string, warn: (text: string) => void): Uint8Array | undefined {
  try {
    const stats = statSync(path);
    const warning = keyFileWarning(path, { isPlainFile: stats.isFile(), mode: stats.mode });
    if (warning !== undefined) warn(`WARNING: pid ${process.pid}: ${warning.message}\n`);
    return warning?.usable === false ? undefined : keyTextOfFile(readFileSync(path));
  } catch {
    return undefined; // missing or unreadable: there is no key, and that is what is said
  }
}

/** One line of a file of `user:password` pairs. */
export type PairLine =
  | { readonly kind: "pair"; readonly user: Uint8Array; readonly password: Uint8Array }
  | { readonly kind: "blank" }
  | { readonly kind: "invalid" }
  | { readonly kind: "too_long"; readonly what: "password" | "username" };

const colon = 0x3a;
const newline = 0x0a;

/**
 * The lines of such a file. What stands before the first colon is the user, and all the rest the
 * password, further colons and blanks included. There are no comments.
 */
export function readPairs(content: Uint8Array): readonly PairLine[] {
  const lines: PairLine[] = [];
  for (let start = 0; start < content.length; ) {
    const found = content.indexOf(newline, start);
    const end = found === -1 ? content.length : found;
    lines.push(readPair(content.subarray(start, end)));
    start = end + 1;
  }
  return lines;
}

function readPair(line: Uint8Array): PairLine {
  if (line.length === 0) return { kind: "blank" };
  const at = line.indexOf(colon);
  if (at < 0 || at === line.length - 1) return { kind: "invalid" };
  const [user, password] = [line.subarray(0, at), line.subarray(at + 1)];
  if (user.length > inputSizeMax) return { kind: "too_long", what: "username" };
  if (password.length > inputSizeMax) return { kind: "too_long", what: "password" };
  return { kind: "pair", user, password };
}

/** @throws CommandFailure in the words of both tools */
export function readPairFile(path: string): readonly PairLine[] {
  try {
    return readPairs(readFileSync(path));
  } catch (error) {
    throw new CommandFailure(`failed to open input_file "${path}" (${reasonOf(error)})`, {
      exitCode: 1,
      cause: error,
    });
  }
}

/** The system's own words, where they are the usual ones. */
function reasonOf(error: unknown): string {
  const code = error instanceof Error && "code" in error ? error.code : undefined;
  switch (code) {
    case "ENOENT":
      return "No such file or directory";
    case "EACCES":
      return "Permission denied";
    case "EISDIR":
      return "Is a directory";
    default:
      return error instanceof Error ? error.message : String(error);
  }
}
