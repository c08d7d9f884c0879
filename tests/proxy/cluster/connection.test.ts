import { describe, expect, test } from "bun:test";
import { BackendRefused } from "../../../core/auth/client.ts";
import { AuthenticationFailed, BackendUnavailable } from "../../../core/errors.ts";
import { errorResponse } from "../../../core/wire/backend.ts";
import { failingOf, reasonOf, TooSlow } from "../../../proxy/cluster/connection.ts";

const refusedWith = (code: string) =>
  new BackendRefused("refused", "why", errorResponse({ severity: "FATAL", code, message: "why" }));
const unreachable = (code: string) =>
  new BackendUnavailable("failed to create a backend 0 connection", {
    cause: Object.assign(new Error("connect"), { code }),
  });

describe("what a failed connection says of the server", () => {
  const rows: readonly [string, unknown, ReturnType<typeof failingOf>][] = [
    ["nobody listens", unreachable("ECONNREFUSED"), "refused"],
    ["no socket file", unreachable("ENOENT"), "refused"],
    ["no route", unreachable("EHOSTUNREACH"), "failing"],
    ["no such name", unreachable("ENOTFOUND"), "failing"],
    ["too slow", new TooSlow(100), "failing"],
    ["wrong password", refusedWith("28P01"), "alive"],
    ["no line in pg_hba.conf", refusedWith("28000"), "alive"],
    ["no such database", refusedWith("3D000"), "alive"],
    ["no place left", refusedWith("53300"), "alive"],
    ["no password of ours", new AuthenticationFailed("none"), "alive"],
    ["starting, stopping or recovering", refusedWith("57P03"), "failing"],
    ["out of memory", refusedWith("53200"), "failing"],
    ["nonsense", new Error("nonsense"), "failing"],
    ["not even an error", undefined, "failing"],
  ];
  test.each(rows)("%s", (_, error, failing) => expect(failingOf(error)).toBe(failing));

  test("is told in one line", () => {
    expect(reasonOf(new TooSlow(100))).toBe("no answer within 100 ms");
    expect(reasonOf(refusedWith("28P01"))).toBe("why");
    expect(reasonOf(undefined)).toBe("undefined");
  });
});
