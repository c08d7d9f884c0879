/**
 * Who runs this process, as the password database says. `os.userInfo()` will not do: under Bun it
 * repeats $USER and $HOME, while Pgpool's tools ask the database (spec wire/crypto.md 2).
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

export type Account = { readonly name: string; readonly home: string };

/** The account of the effective user id; undefined when no database knows it. */
export function ownAccount(uid: number = process.geteuid?.() ?? -1): Account | undefined {
  return accountIn(localDatabase(), uid) ?? accountIn(askedDatabase(uid), uid);
}

/** The entry of `uid` in text of the form of /etc/passwd. */
export function accountIn(passwd: string, uid: number): Account | undefined {
  for (const line of passwd.split("\n")) {
    const [name, , id, , , home] = line.split(":");
    if (name !== undefined && home !== undefined && id === String(uid)) return { name, home };
  }
  return undefined;
}

function localDatabase(): string {
  try {
    return readFileSync("/etc/passwd", "utf8");
  } catch {
    return ""; // systems that keep accounts elsewhere may have none
  }
}

/** Accounts that come from a directory service are only known to the name service switch. */
function askedDatabase(uid: number): string {
  return spawnSync("getent", ["passwd", String(uid)], { encoding: "utf8" }).stdout ?? "";
}
