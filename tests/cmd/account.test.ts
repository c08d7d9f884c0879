import { expect, test } from "bun:test";
import { accountIn, ownAccount } from "../../cmd/account.ts";

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
