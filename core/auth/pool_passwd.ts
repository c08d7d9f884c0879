/**
 * The pool_passwd file as text: find a user's entry, replace or append one (spec wire/files.md 3,
 * wire/crypto.md 3). Works on bytes, one character per byte, so no encoding is assumed. Unlike
 * Pgpool we cut no field at 128 characters, so AES entries of long passwords work.
 */
import { encodeText } from "../wire/text.ts";
import { fromLatin1, latin1 } from "./bytes.ts";
import { parseStoredPassword, type StoredPassword } from "./password.ts";

export type PasswordEntry = {
  readonly stored: StoredPassword;
  /** Third and fourth field. No release of Pgpool has ever used them, and neither do we. */
  readonly backendUser: string | undefined;
};

/**
 * The first entry of `user` whose password is not empty. There is no comment syntax: `# x:y` is a
 * user named `# x`.
 */
export function findPasswordEntry(file: Uint8Array, user: string): PasswordEntry | undefined {
  const wanted = latin1(encodeText(user));
  for (const line of latin1(file).split("\n")) {
    const [name, password, backendUser] = splitFields(line);
    if (name !== wanted || password === undefined || password === "") continue;
    return { stored: parseStoredPassword(password), backendUser };
  }
  return undefined;
}

/** What `findPasswordEntry` finds, without the unused fields. */
export const lookupPassword = (file: Uint8Array, user: string): StoredPassword | undefined =>
  findPasswordEntry(file, user)?.stored;

/**
 * The file with `user`'s entry set to `value` (`md5…`, `AES…`, as stored): the first line of that
 * user is replaced, all others are kept byte for byte, else a line is appended. Differs from
 * pg_md5 and pg_enc where those write files nobody can use: a last line without newline is ended
 * first, and `:` and `\` in the user's name are escaped.
 */
export function updatePasswordFile(file: Uint8Array, user: string, value: string): Uint8Array {
  const wanted = latin1(encodeText(user));
  const entry = `${escapeField(wanted)}:${value}`;
  const lines = latin1(file).split("\n");
  const at = lines.findIndex((line) => line.includes(":") && splitFields(line)[0] === wanted);
  if (at >= 0) {
    lines[at] = entry;
    // The entry ends with a newline even where the line it replaces did not.
    if (at === lines.length - 1) lines.push("");
  } else if (lines.at(-1) === "") {
    lines.splice(-1, 1, entry, "");
  } else {
    lines.push(entry, "");
  }
  return fromLatin1(lines.join("\n"));
}

const escapeField = (text: string): string => text.replace(/[:\\]/g, "\\$&");

/** Cuts a line at its unescaped colons; a backslash stands for the character after it. */
export function splitFields(line: string): string[] {
  const fields: string[] = [""];
  for (let at = 0; at < line.length; at++) {
    const character = line[at] ?? "";
    if (character === ":") {
      fields.push("");
      continue;
    }
    const literal = character === "\\" && at + 1 < line.length ? line[++at] : character;
    fields[fields.length - 1] += literal ?? "";
  }
  return fields;
}
