import { describe, expect, test } from "bun:test";
import { connectAny } from "../../../proxy/transport/address.ts";

const failing = (code: string) => Object.assign(new Error(code), { code });

describe("connecting to every address of localhost", () => {
  /** What each address in turn answers with, and what the whole comes to. */
  const rows: readonly [string, readonly string[], string][] = [
    ["all refuse", ["ECONNREFUSED", "ECONNREFUSED"], "ECONNREFUSED"],
    ["one is out of reach, then one refuses", ["EHOSTUNREACH", "ECONNREFUSED"], "EHOSTUNREACH"],
    ["one refuses, then one is out of reach", ["ECONNREFUSED", "ETIMEDOUT"], "ETIMEDOUT"],
    ["one refuses, then one answers", ["ECONNREFUSED", "ok"], "ok"],
  ];
  test.each(rows)("%s", async (_, answers, expected) => {
    let dialled = 0;
    const target = { kind: "tcp", host: "localhost", port: 1 } as const;
    const attempt = connectAny(target, { timeoutMs: 0, signal: undefined }, async () => {
      const answer = answers[Math.min(dialled++, answers.length - 1)] ?? "";
      if (answer !== "ok") throw failing(answer);
      return "ok";
    });
    const outcome = await attempt.catch((error: { readonly code: string }) => error.code);
    // Where localhost has one address only, its answer is all there is.
    expect(outcome).toBe(dialled === 1 ? (answers[0] ?? "") : expected);
  });
});
