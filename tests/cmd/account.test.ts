import { expect, test } from "bun:test";
import { accountIn, groupId, groupIn, ownAccount } from "../../cmd/account.ts";

const passwd = `root:x:0:0:root:/root:/bin/bash
# a comment
broken
postgres:x:105:109:PostgreSQL:/var/lib/postgresql:/bin/bash
toor:x:0:0::/elsewhere:/bin/sh
`;

test("an account is found by its number, the first of several", () => {
  expect(accountIn(passwd, 105)).toEqual({ name: "postgres", home: "/var/lib/postgresql" });
  expect(accountIn(passwd, 0)).toEqual({ name: "root", home: "/root" });
  expect(accountIn(passwd, 5)).toBeUndefined();
  expect(accountIn("", 0)).toBeUndefined();
});

test("the own account does not come from the environment", () => {
  const { USER, HOME } = process.env;
  Object.assign(process.env, { USER: "somebody-else", HOME: "/somewhere/else" });
  try {
    expect(ownAccount()?.name).not.toBe("somebody-else");
    expect(ownAccount()?.home).not.toBe("/somewhere/else");
  } finally {
    restore("USER", USER);
    restore("HOME", HOME);
  }
});

function restore(name: string, value: string | undefined): void {
  if (value === undefined) delete process.env[name];
  else process.env[name] = value;
}

test("a group is found by its name or is a number; nobody's name is none", () => {
  const groups = "root:x:0:\nadm:x:4:alice,bob\nadmin::17:\nbroken:x::";
  expect(["root", "adm", "admin", "ad", "broken"].map((name) => groupIn(groups, name))).toEqual([
    0,
    4,
    17,
    undefined,
    undefined,
  ]);
  expect([groupId("1234"), groupId("root"), groupId("no such group")]).toEqual([
    1234,
    0,
    undefined,
  ]);
});
