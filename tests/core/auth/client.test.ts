import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { BackendRefused, loginToBackend } from "../../../core/auth/client.ts";
import { type BackendSecret, runDialogue } from "../../../core/auth/dialogue.ts";
import { deriveScramKeys } from "../../../core/auth/scram_keys.ts";
import { AuthenticationFailed, PgpoolError, ProtocolViolation } from "../../../core/errors.ts";
import { type BackendMessage, encodeBackend, errorResponse } from "../../../core/wire/backend.ts";
import { ByteWriter } from "../../../core/wire/bytes.ts";
import { type Frame, FrameDecoder } from "../../../core/wire/frame.ts";
import { encodeFrontend } from "../../../core/wire/frontend.ts";
import { encodeText } from "../../../core/wire/text.ts";
import { Side } from "./talk.ts";

const secret: BackendSecret = { kind: "clear", password: encodeText("pencil") };
const ok: BackendMessage = { kind: "AuthenticationOk" };
const sasl: BackendMessage = { kind: "AuthenticationSASL", mechanisms: ["SCRAM-SHA-256"] };
const challenge: BackendMessage = {
  kind: "AuthenticationSASLContinue",
  data: encodeText("r=abcsrv,s=AAAA,i=1"),
};
const forged: BackendMessage = {
  kind: "AuthenticationSASLFinal",
  data: encodeText(`v=${new Uint8Array(32).toBase64()}`),
};
const md5: BackendMessage = {
  kind: "AuthenticationMD5Password",
  salt: Uint8Array.of(1, 2, 3, 4),
};
const cleartext: BackendMessage = { kind: "AuthenticationCleartextPassword" };

/** Our login against a server that says just this, whatever we answer. */
function facing(messages: readonly (BackendMessage | Uint8Array)[], given = secret) {
  const side = new Side(loginToBackend({ user: "bob", scramNonce: "abc" }), given);
  for (const message of messages) {
    side.receive(message instanceof Uint8Array ? message : encodeBackend(message));
  }
  return side.run();
}

const authentication = (code: number) => new ByteWriter().begin(0x52).int32(code).end().take();

describe("loginToBackend", () => {
  test("a trusting server is not told a password", () => {
    const side = facing([ok]);
    expect(side.result).toEqual({ demand: "trust", relayed: [] });
    expect(side.outbox).toEqual([]);
  });

  test("a clear text demand is answered with the password's bytes, whatever their encoding", () => {
    const password = Uint8Array.of(0xff, 0x70, 0xe4);
    const side = facing([cleartext, ok], { kind: "clear", password });
    expect(side.outbox[0]?.toHex()).toBe("7000000008ff70e400");
  });

  test("an md5 demand is answered by hash or by password alike", () => {
    const byPassword = facing([md5, ok]).outbox;
    const hash = "9ec21f9f9f9e9f3ec0f40a4ea4c36c28";
    const byHash = facing([md5, ok], { kind: "md5", hash }).outbox;
    expect(byPassword[0]?.length).toBe(41);
    expect(byHash[0]?.length).toBe(41);
    expect(byHash).not.toEqual(byPassword);
  });

  test("notices and NegotiateProtocolVersion on the way are handed on as they came", () => {
    const notice = encodeBackend({
      kind: "NoticeResponse",
      fields: [{ code: "M", value: "hello" }],
    });
    const negotiate = encodeBackend({
      kind: "NegotiateProtocolVersion",
      major: 3,
      minor: 0,
      unrecognizedOptions: ["_pq_.foo"],
    });
    expect(facing([negotiate, notice, ok]).result.relayed).toEqual([negotiate, notice]);
  });

  test("notices without end are not collected without end", () => {
    const notice: BackendMessage = { kind: "NoticeResponse", fields: [{ code: "M", value: "x" }] };
    expect(facing(new Array(100).fill(notice)).error).toBeInstanceOf(ProtocolViolation);
  });

  test("the server's own error is kept whole, before and after the demand", () => {
    const response = errorResponse({
      severity: "FATAL",
      code: "28P01",
      message: 'password authentication failed for user "bob"',
    });
    const before = facing([response]).error;
    expect(before).toMatchObject({
      message: "backend authentication failed",
      detail: "backend response with kind 'E' when expecting 'R'",
      severity: "ERROR",
      response,
    });
    expect(facing([md5, response]).error).toMatchObject({
      message: "authentication failed",
      detail: 'password authentication failed for user "bob"',
      response,
    });
    expect(before).toBeInstanceOf(BackendRefused);
  });

  test("an error without any field is still an error", () => {
    const bare = Uint8Array.of(0x45, 0, 0, 0, 5, 0);
    expect(facing([md5, bare]).error).toMatchObject({
      message: "authentication failed",
      detail: "",
    });
  });
});

describe("loginToBackend refuses", () => {
  const codes: [string, number][] = [
    ["Kerberos V5", 2],
    ["crypt", 4],
    ["SCM credentials", 6],
    ["GSSAPI", 7],
    ["SSPI", 9],
    ["a code of the future", 99],
    ["a negative code", -5],
  ];
  test.each(codes)("%s, by its number", (_, code) => {
    expect(facing([authentication(code)]).error).toMatchObject({
      message: "failed to authenticate with backend",
      detail: `unsupported auth kind received from backend: authkind:${code}`,
    });
  });

  test("SASL without a mechanism that we know", () => {
    const plus: BackendMessage = { ...sasl, mechanisms: ["SCRAM-SHA-256-PLUS", "OAUTHBEARER"] };
    expect(facing([plus]).error.message).toBe("failed to authenticate with backend");
  });

  test("but takes SCRAM-SHA-256 among others", () => {
    const several: BackendMessage = {
      ...sasl,
      mechanisms: ["SCRAM-SHA-256-PLUS", "SCRAM-SHA-256"],
    };
    expect(facing([several]).outbox.length).toBe(1);
  });

  const turns: [string, (BackendMessage | Uint8Array)[]][] = [
    ["AuthenticationOk before the server has proven anything", [sasl, ok]],
    ["AuthenticationOk before the server has signed", [sasl, challenge, ok]],
    ["a final message without a challenge", [sasl, forged]],
    ["a second challenge", [sasl, challenge, challenge]],
    ["a forged signature", [sasl, challenge, forged, ok]],
    ["a demand for the password after SCRAM was begun", [sasl, cleartext]],
    ["a second demand", [md5, cleartext]],
    ["the same demand twice", [cleartext, cleartext]],
    ["a challenge that nobody began", [challenge]],
    ["a challenge that is too long", [sasl, { ...challenge, data: new Uint8Array(5000) }]],
    ["ReadyForQuery instead of an answer", [{ kind: "ReadyForQuery", status: "I" }]],
    ["a row instead of an answer", [md5, { kind: "DataRow", values: [] }]],
    ["an empty authentication message", [new ByteWriter().begin(0x52).end().take()]],
    [
      "an md5 demand with a short salt",
      [new ByteWriter().begin(0x52).int32(5).int16(1).end().take()],
    ],
  ];
  test.each(turns)("%s", (_, messages) => {
    expect(facing(messages).error).toBeInstanceOf(PgpoolError);
  });

  const unfit: [string, BackendMessage, BackendSecret, string][] = [
    [
      "a hash for clear text",
      cleartext,
      { kind: "md5", hash: "0".repeat(32) },
      "clear text password authentication failed",
    ],
    [
      "a hash for SCRAM",
      sasl,
      { kind: "md5", hash: "0".repeat(32) },
      "failed to authenticate with backend using SCRAM",
    ],
    [
      "keys for md5",
      md5,
      {
        kind: "scram",
        clientKey: new Uint8Array(32),
        serverKey: new Uint8Array(32),
        salt: new Uint8Array(1),
        iterations: 1,
      },
      "failed to authenticate with backend using md5",
    ],
  ];
  test.each(unfit)("%s", (_, demand, given, message) => {
    const side = facing([demand, ok], given);
    expect(side.error).toMatchObject({ message, severity: "ERROR" });
    expect(side.outbox).toEqual([]);
  });

  test("arbitrary messages with an error of ours", () => {
    const message = fc.tuple(
      fc.constantFrom(0x52, 0x45, 0x4e, 0x76, 0x5a, 0x00),
      fc.oneof(
        fc.uint8Array({ maxLength: 40 }),
        fc
          .tuple(fc.nat(13), fc.uint8Array({ maxLength: 40 }))
          .map(([code, rest]) => new ByteWriter().int32(code).bytes(rest).take()),
      ),
    );
    fc.assert(
      fc.property(fc.array(message, { minLength: 1, maxLength: 4 }), (messages) => {
        const side = facing(
          messages.map(([type, body]) => new ByteWriter().begin(type).bytes(body).end().take()),
        );
        if (side.end !== undefined && "error" in side.end) {
          expect(side.error).toBeInstanceOf(PgpoolError);
        }
      }),
      { numRuns: 500 },
    );
  });
});

describe("runDialogue", () => {
  const frames = (...messages: BackendMessage[]): Frame[] => {
    const decoder = new FrameDecoder({ bodySizeMax: 1000 });
    return messages.flatMap((message) => [...decoder.push(encodeBackend(message))]);
  };

  test("asks an actor for each effect, in order, waiting for each", async () => {
    const inbox = frames(cleartext, ok);
    const done: string[] = [];
    const login = await runDialogue(loginToBackend({ user: "bob", scramNonce: "abc" }), {
      send: async (bytes) => {
        await Promise.resolve();
        done.push(`send ${bytes.toHex()}`);
      },
      receive: () => {
        const frame = inbox.shift();
        if (frame === undefined) throw new AuthenticationFailed("gone");
        done.push(`receive ${frame.type}`);
        return frame;
      },
      derive: (work) => deriveScramKeys(work),
      secretFor: async (demand) => {
        done.push(`secret for ${demand}`);
        return secret;
      },
    });
    expect(login.demand).toBe("password");
    const answer = encodeFrontend({ kind: "PasswordMessage", password: "pencil" }).toHex();
    expect(done).toEqual(["receive 82", "secret for password", `send ${answer}`, "receive 82"]);
  });

  test("ends with what the actor throws", async () => {
    const gone = new Error("connection closed");
    const running = runDialogue(loginToBackend({ user: "bob", scramNonce: "abc" }), {
      send: () => undefined,
      receive: () => Promise.reject(gone),
      derive: (work) => deriveScramKeys(work),
      secretFor: () => secret,
    });
    await expect(running).rejects.toBe(gone);
  });
});
