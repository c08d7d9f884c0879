/**
 * Who runs this process, and which groups there are, as the system's databases say. `os.userInfo()` will not do: under Bun it
 * repeats $USER and $HOME, while Pgpool's tools ask the database (spec wire/crypto.md 2).
 */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";

export type Account = { readonly name: string; readonly home: string };

/** The account of the effective user id; undefined when no database knows it. */
export function ownAccount(uid: number = process.geteuid?.() ?? -1): Account | undefined {
  return accountIn(readText("/etc/passwd"), uid) ?? accountIn(askedDatabase(uid), uid);
}

/** The entry of `uid` in text of the form of /etc/passwd. */
export function accountIn(passwd: string, uid: number): Account | undefined {
  for (const line of passwd.split("\n")) {
    const [name, , id, , , home] = line.split(":");
    if (name !== undefined && home !== undefined && id === String(uid)) return { name, home };
  }
  return undefined;
}

function readText(path: string): string {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return ""; // systems that keep accounts elsewhere may have none
  }
}

/** The id of a group given by its name or number; undefined when there is none. */
export function groupId(group: string): number | undefined {
  if (/^\d+$/.test(group)) return Number(group);
  const asked = () => spawnSync("getent", ["group", group], { encoding: "utf8" }).stdout ?? "";
  return groupIn(readText("/etc/group"), group) ?? groupIn(asked(), group);
}

/** The number of a group by its name, in text of the form of /etc/group. */
export function groupIn(text: string, name: string): number | undefined {
  const entry = text.split("\n").find((line) => line.startsWith(`${name}:`));
  const id = entry?.split(":")[2];
  return id === undefined || !/^\d+$/.test(id) ? undefined : Number(id);
}

/** Accounts that come from a directory service are only known to the name service switch. */
function askedDatabase(uid: number): string {
  return spawnSync("getent", ["passwd", String(uid)], { encoding: "utf8" }).stdout ?? "";
}
