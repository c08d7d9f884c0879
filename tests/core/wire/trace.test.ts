import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { ProtocolViolation } from "../../../core/errors.ts";
import { encodeBackend, toErrorResponse } from "../../../core/wire/backend.ts";
import { frameOf } from "../../../core/wire/frame.ts";
import { encodeFrontend } from "../../../core/wire/frontend.ts";
import { traceBackend, traceFrontend, traceStartup } from "../../../core/wire/trace.ts";
import plainTrace from "./libpq_trace.txt" with { type: "text" };
import regressTrace from "./libpq_trace_regress.txt" with { type: "text" };
import { frameOfAnything } from "./messages.ts";

/** Pairs of a line that libpq printed and the message it printed it of. */
function libpqTrace(file: string): (readonly [line: string, raw: Uint8Array])[] {
  const lines = file.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
  return lines.flatMap((line, i) => {
    const raw = Uint8Array.fromHex(i % 2 === 0 ? (lines[i + 1] ?? "") : "");
    // libpq 15 leaves out the name of CopyData along with its data, and ends every name in a tab.
    const name = line.endsWith("\t") && raw[0] === 0x64 ? `${line}CopyData` : line;
    return i % 2 === 0 ? [[name, raw] as const] : [];
  });
}

describe("a traced message reads as in libpq's own trace", () => {
  test.each([
    ["in full", plainTrace, false],
    ["with what varies hidden", regressTrace, true],
  ])("%s", (_, file, regress) => {
    const pairs = libpqTrace(file);
    expect(pairs.length).toBeGreaterThan(100);
    for (const [line, raw] of pairs) {
      const trace = line.startsWith("F") ? traceFrontend : traceBackend;
      expect(trace(frameOf(raw), { regress })).toBe(line);
    }
  });
});

const salt = Uint8Array.of(1, 2, 3, 4);
const secret = new TextEncoder().encode("hunter2!");

describe("messages that libpq does not trace", () => {
  test.each([
    [
      traceStartup(
        encodeFrontend({
          kind: "StartupMessage",
          major: 3,
          minor: 2,
          parameters: new Map([["user", "ä"]]),
        }),
      ),
      'F\t17\tStartupMessage\t 3 2 "user" "ä"',
    ],
    [traceStartup(encodeFrontend({ kind: "SSLRequest" })), "F\t8\tSSLRequest\t 1234 5679"],
    [traceStartup(encodeFrontend({ kind: "GSSENCRequest" })), "F\t8\tGSSENCRequest\t 1234 5680"],
    [traceBackend(frameOf(encodeBackend({ kind: "AuthenticationOk" }))), "B\t8\tAuthenticationOk"],
    [
      traceBackend(
        frameOf(encodeBackend({ kind: "AuthenticationSASL", mechanisms: ["SCRAM-SHA-256"] })),
      ),
      'B\t23\tAuthenticationSASL\t "SCRAM-SHA-256"',
    ],
    [
      traceBackend(
        frameOf(
          encodeBackend({
            kind: "NegotiateProtocolVersion",
            major: 3,
            minor: 0,
            unrecognizedOptions: ["_pq_.foo"],
          }),
        ),
      ),
      'B\t21\tNegotiateProtocolVersion\t 3 0 1 "_pq_.foo"',
    ],
    [
      traceBackend(frameOf(toErrorResponse(new ProtocolViolation("two\nlines")))),
      'B\t37\tErrorResponse\t S "FATAL" V "FATAL" C "08P01" M "two\\x0alines" \\x00',
    ],
    [traceFrontend(frameOf(Uint8Array.of(0x51, 0, 0, 0, 6, 0xe4, 0))), 'F\t6\tQuery\t "\\xe4"'],
    [
      traceFrontend(frameOf(Uint8Array.of(0x51, 0, 0, 0, 5, 0x61))),
      "F\t5\tmalformed: invalid string in message (Query: no terminator at byte 0 of 1)",
    ],
    [
      traceBackend(frameOf(Uint8Array.of(0x21, 0, 0, 0, 4))),
      "B\t4\tmalformed: invalid backend message type 33",
    ],
  ])("%#: %p", (line, expected) => {
    expect(line).toBe(expected);
  });
});

test("no secret appears in a trace", () => {
  const password = new TextDecoder().decode(secret);
  const lines = [
    traceFrontend(frameOf(encodeFrontend({ kind: "PasswordMessage", password })), {
      phase: "password",
    }),
    traceFrontend(
      frameOf(
        encodeFrontend({ kind: "SASLInitialResponse", mechanism: "PLAIN", response: secret }),
      ),
      { phase: "sasl_initial" },
    ),
    traceFrontend(frameOf(encodeFrontend({ kind: "SASLResponse", data: secret })), {
      phase: "sasl",
    }),
    traceFrontend(frameOf(encodeFrontend({ kind: "GSSResponse", data: secret })), { phase: "gss" }),
    // Out of turn, it is malformed; it is no less a password.
    traceFrontend(frameOf(encodeFrontend({ kind: "PasswordMessage", password }))),
    traceBackend(frameOf(encodeBackend({ kind: "AuthenticationSASLContinue", data: secret }))),
    traceBackend(frameOf(encodeBackend({ kind: "AuthenticationSASLFinal", data: secret }))),
    traceBackend(frameOf(encodeBackend({ kind: "AuthenticationGSSContinue", data: secret }))),
    traceBackend(
      frameOf(encodeBackend({ kind: "BackendKeyData", processId: 7, secretKey: secret })),
    ),
    traceStartup(encodeFrontend({ kind: "CancelRequest", processId: 7, secretKey: secret })),
  ];
  for (const line of lines) expect(line).not.toContain("hunter2");
  const md5 = traceBackend(frameOf(encodeBackend({ kind: "AuthenticationMD5Password", salt })));
  expect(md5).toBe('B\t12\tAuthenticationMD5Password\t "SSSS"');
});

test("any frame at all is traced in one line", () => {
  fc.assert(
    fc.property(frameOfAnything, fc.boolean(), (frame, regress) => {
      for (const line of [traceFrontend(frame, { regress }), traceBackend(frame, { regress })]) {
        expect(line).not.toInclude("\n");
        expect(line).toMatch(/^[FB]\t(\d+|NN)\t/);
      }
    }),
  );
});
