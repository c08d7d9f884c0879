import { describe, expect, test } from "bun:test";
import { createHmac } from "node:crypto";
import fc from "fast-check";
import { loginToBackend } from "../../../core/auth/client.ts";
import { type AuthDialogue, type BackendSecret, send } from "../../../core/auth/dialogue.ts";
import type { HbaMethod } from "../../../core/auth/hba.ts";
import { type Credential, md5Hash } from "../../../core/auth/password.ts";
import { deriveScramKeys } from "../../../core/auth/scram_keys.ts";
import {
  authenticateClear,
  authenticateClient,
  authenticateMd5,
  authenticateScram,
  type ClientLogin,
  type ClientProof,
} from "../../../core/auth/server.ts";
import { AuthenticationFailed, ProtocolViolation } from "../../../core/errors.ts";
import { authenticationOk } from "../../../core/wire/backend.ts";
import { ByteWriter } from "../../../core/wire/bytes.ts";
import { frameOf } from "../../../core/wire/frame.ts";
import { encodeFrontend } from "../../../core/wire/frontend.ts";
import { decodeText, encodeText } from "../../../core/wire/text.ts";
import { against, meet, Side } from "./talk.ts";

const clear = (password: string | Uint8Array) =>
  ({
    kind: "clear",
    password: typeof password === "string" ? encodeText(password) : password,
  }) as const;

const loginOf = (changes: Partial<ClientLogin> = {}): ClientLogin => ({
  user: "bob",
  credential: clear("pencil"),
  md5Salt: Uint8Array.of(0xdf, 0x80, 0x9f, 0x14),
  scramNonce: "c2VydmVybm9uY2U0NTY3ODkw",
  processSecret: new Uint8Array(32).fill(9),
  unknownUsers: "mock",
  ...changes,
});

/** The server's side up to and including AuthenticationOk. */
function* letIn(dialogue: AuthDialogue<ClientProof>): AuthDialogue<ClientProof> {
  const proof = yield* dialogue;
  yield* send(authenticationOk());
  return proof;
}

function logIn(dialogue: AuthDialogue<ClientProof>, secret: BackendSecret, user = "bob") {
  const server = new Side(letIn(dialogue));
  const client = new Side(loginToBackend({ user, scramNonce: "Y2xpZW50bm9uY2U" }), secret);
  meet(server, client);
  return { server, client };
}

const password = (text: string) => encodeFrontend({ kind: "PasswordMessage", password: text });

describe("our two ends", () => {
  const methods: HbaMethod[] = ["password", "md5", "scram-sha-256"];
  const passwords = fc.uint8Array({ min: 1, minLength: 1, maxLength: 30 });

  test("agree on every password, by every method", () => {
    fc.assert(
      fc.property(fc.constantFrom(...methods), passwords, (method, right) => {
        const login = loginOf({ credential: clear(right) });
        const { server, client } = logIn(
          authenticateClient(method, login, undefined),
          clear(right),
        );
        expect(server.result).toMatchObject({ kind: "verified", password: right });
        expect(client.result).toEqual({ demand: method as "password", relayed: [] });
      }),
      { numRuns: 40 },
    );
  });

  test("refuse every other password, by every method", () => {
    fc.assert(
      fc.property(fc.constantFrom(...methods), passwords, passwords, (method, right, wrong) => {
        fc.pre(decodeText(right).normalize("NFKC") !== decodeText(wrong).normalize("NFKC"));
        const login = loginOf({ credential: clear(right) });
        const { server, client } = logIn(
          authenticateClient(method, login, undefined),
          clear(wrong),
        );
        expect(server.error).toBeInstanceOf(AuthenticationFailed);
        expect(client.error).toBeInstanceOf(AuthenticationFailed);
      }),
      { numRuns: 40 },
    );
  });

  test("a hash alone is enough for md5", () => {
    const hash = { kind: "md5", hash: md5Hash(encodeText("pencil"), "bob") } as const;
    const { server } = logIn(authenticateMd5(loginOf({ credential: hash })), hash);
    expect(server.result).toEqual({ kind: "verified", password: undefined });
  });

  test("a verifier alone is enough for SCRAM, and gives keys that log in elsewhere", () => {
    const salting = { salt: encodeText("some salt 123456"), iterations: 100 };
    const keys = deriveScramKeys({ password: encodeText("pencil"), ...salting });
    const login = loginOf({ credential: { kind: "scram", verifier: { ...keys, ...salting } } });
    const { server } = logIn(authenticateScram(login), clear("pencil"));
    const proof = server.result;
    if (proof.kind !== "verified" || proof.scram === undefined) throw new Error("no keys");
    const again = logIn(authenticateScram(login), { kind: "scram", ...proof.scram });
    expect(again.server.result.kind).toBe("verified");
  });
});

describe("captured logins (spec wire/client-auth.md 11)", () => {
  const frame = (hex: string) => Uint8Array.fromHex(hex);

  test("md5: the request and the accepted answer", () => {
    const login = loginOf({ user: "bs_aes", credential: clear("pw123") });
    const answer =
      "70000000286d6435393063643134303763346663326161653664316165663137313163353865353100";
    const side = against(authenticateMd5(login), frame(answer));
    expect(side.outbox).toEqual([frame("520000000c00000005df809f14")]);
    expect(side.result).toMatchObject({ kind: "verified" });
  });

  test("SCRAM: every message of the server", () => {
    const salting = { salt: Uint8Array.fromBase64("hdjz8BurCAu+JL9FMBUsLg=="), iterations: 4096 };
    const keys = deriveScramKeys({ password: encodeText("pw123"), ...salting });
    const login = loginOf({
      credential: { kind: "scram", verifier: { ...keys, ...salting } },
      scramNonce: "CGDp2Mjt9I629UApzuodx8/C",
    });
    const clientFinal =
      "c=biws,r=vX8C043UnkrGq2YTDizFN76UCGDp2Mjt9I629UApzuodx8/C,p=fRndL2rZ4/oGkEQVookFR6qTU6pWuO/qpRTQtaJAokk=";
    const side = against(
      authenticateScram(login),
      frame(
        "7000000036534352414d2d5348412d32353600000000206e2c2c6e3d2c723d76583843303433556e6b72477132595444697a464e373655",
      ),
      frame(`700000006c${encodeText(clientFinal).toHex()}`),
    );
    expect(side.outbox.map((bytes) => bytes.toHex())).toEqual([
      "52000000170000000a534352414d2d5348412d3235360000",
      "520000005c0000000b723d76583843303433556e6b72477132595444697a464e37365543474470324d6a7439493632395541707a756f6478382f432c733d68646a7a384275724341752b4a4c39464d4255734c673d3d2c693d34303936",
      "52000000360000000c763d7358546b59346553647148454d71663567636a3531733574414c695651447130544c3151376341723476453d",
    ]);
    expect(side.result.kind).toBe("verified");
  });
});

describe("texts and severities (spec wire/client-auth.md 10)", () => {
  const md5Entry: Credential = { kind: "md5", hash: "0".repeat(32) };
  type Row = [string, AuthDialogue<ClientProof>, string, string, string];
  const wrong = [password("wrong")];
  const tell = { unknownUsers: "tell" } as const;
  const undecryptable: Credential = { kind: "undecryptable" };
  const decryption = "unable to decrypt password from pool_passwd";
  const rows: Row[] = [
    [
      "A",
      authenticateMd5(loginOf()),
      "ERROR 28P01",
      "md5 authentication failed",
      "password does not match",
    ],
    [
      "C",
      authenticateClear(loginOf()),
      "ERROR 28P01",
      "clear text authentication failed",
      "password does not match",
    ],
    [
      "D",
      authenticateClear(loginOf(), "pooled"),
      "ERROR 28P01",
      "clear text password authentication failed",
      "password does not match",
    ],
    [
      "F1",
      authenticateMd5(loginOf({ ...tell, credential: undefined })),
      "FATAL XX000",
      "md5 authentication failed",
      'pool_passwd file does not contain an entry for "bob"',
    ],
    [
      "F2",
      authenticateScram(loginOf({ ...tell, credential: undefined })),
      "FATAL XX000",
      "SCRAM authentication failed",
      'pool_passwd file does not contain an entry for "bob"',
    ],
    [
      "F3",
      authenticateScram(loginOf({ ...tell, credential: md5Entry })),
      "FATAL XX000",
      "SCRAM authentication failed",
      'pool_passwd file does not contain valid SCRAM entry for "bob"',
    ],
    [
      "no key, md5",
      authenticateMd5(loginOf({ credential: undecryptable })),
      "FATAL XX000",
      "md5 authentication failed",
      decryption,
    ],
    [
      "no key, SCRAM",
      authenticateScram(loginOf({ credential: undecryptable })),
      "FATAL XX000",
      "SCRAM authentication failed",
      decryption,
    ],
    [
      "no key, clear text",
      authenticateClear(loginOf({ credential: undecryptable })),
      "FATAL XX000",
      "clear text authentication failed",
      decryption,
    ],
    [
      "a verifier for a password rule",
      authenticateClear(loginOf({ credential: { kind: "unusable" } })),
      "ERROR 28P01",
      "clear text authentication failed",
      "password type stored in pool_passwd can't be used for clear text authentication",
    ],
    [
      "no certificate",
      authenticateClient("cert", loginOf(), undefined),
      "ERROR 28000",
      "CERT authentication failed",
      "no valid certificate presented",
    ],
    [
      "another's certificate",
      authenticateClient("cert", loginOf(), "bob\0.evil"),
      "ERROR 28000",
      "CERT authentication failed",
      "no valid certificate presented",
    ],
    [
      "pam",
      authenticateClient("pam", loginOf(), undefined),
      "FATAL XX000",
      "client authentication failed",
      'authentication method "pam" of pool_hba.conf is not supported by this server',
    ],
    [
      "ldap",
      authenticateClient("ldap", loginOf(), undefined),
      "FATAL XX000",
      "client authentication failed",
      'authentication method "ldap" of pool_hba.conf is not supported by this server',
    ],
  ];
  test.each(rows)("%s", (_, dialogue, code, message, detail) => {
    const { error } = against(dialogue, ...wrong);
    expect(`${error.severity} ${error.sqlstate}`).toBe(code);
    expect({ ...error, message: error.message }).toMatchObject({ message, detail });
  });

  test("B: a wrong SCRAM password", () => {
    const { server } = logIn(authenticateScram(loginOf()), clear("wrong"));
    expect(server.error).toMatchObject({
      severity: "ERROR",
      message: "authentication failed",
      detail: 'username "bob" or password does not exist in backend',
    });
  });

  test("a certificate of that name is enough for cert, whatever its case", () => {
    const side = against(authenticateClient("cert", loginOf(), "BOB"));
    expect(side.result).toEqual({ kind: "trusted" });
    expect(side.outbox).toEqual([]);
  });
});

describe("an unknown user (CVE-2015-6817)", () => {
  const methods = ["md5", "scram-sha-256"] as const;
  const entries: [string, Credential | undefined][] = [
    ["no entry", undefined],
    ["an entry that cannot be used", { kind: "unusable" }],
  ];
  const cases = methods.flatMap((method) =>
    entries.map(([title, credential]) => [method, title, credential] as const),
  );
  test.each(cases)(
    "%s with %s: as many messages and sums as a wrong password, and one text",
    (method, _, credential) => {
      const talkOf = (login: ClientLogin) => {
        const messages: string[] = [];
        const server = new Side(letIn(authenticateClient(method, login, undefined)));
        const client = new Side(loginToBackend({ user: "bob", scramNonce: "abc" }), clear("wrong"));
        meet(server, client, (from, bytes) => {
          messages.push(`${from} ${bytes.length}`);
          return bytes;
        });
        const { message, detail, hint, severity, sqlstate } = server.error;
        return {
          messages,
          sums: server.derivations,
          error: { message, detail, hint, severity, sqlstate },
        };
      };
      expect(talkOf(loginOf({ credential }))).toEqual(talkOf(loginOf()));
    },
  );

  test("the log can learn the reason that the client does not", () => {
    const login = loginOf({ credential: undefined });
    const { server } = logIn(authenticateMd5(login), clear("wrong"));
    expect(server.error.cause).toMatchObject({
      detail: 'pool_passwd file does not contain an entry for "bob"',
    });
  });

  const clientFirst = encodeFrontend({
    kind: "SASLInitialResponse",
    mechanism: "SCRAM-SHA-256",
    response: encodeText("n,,n=,r=abc"),
  });
  /** The salt that a login shows, in base64. */
  const saltOf = (changes: Partial<ClientLogin>): string => {
    const { outbox } = against(authenticateScram(loginOf(changes)), clientFirst);
    return /,s=([^,]+)/.exec(decodeText(outbox[1] ?? new Uint8Array(0)))?.[1] ?? "";
  };

  test("gets the same salt each time, another than the next user, and another after a restart", () => {
    const unknown = { credential: undefined };
    expect(saltOf(unknown)).toMatch(/^[A-Za-z0-9+/]{22}==$/);
    expect(saltOf(unknown)).toBe(saltOf(unknown));
    expect(saltOf(unknown)).toBe(saltOf({ credential: clear("known") }));
    expect(saltOf({ ...unknown, user: "eve" })).not.toBe(saltOf(unknown));
    expect(saltOf({ ...unknown, processSecret: new Uint8Array(32) })).not.toBe(saltOf(unknown));
  });

  /** The derivation that a login asks for. */
  const workOf = (changes: Partial<ClientLogin>) => {
    const dialogue = authenticateScram(loginOf(changes));
    dialogue.next();
    dialogue.next({ kind: "sent" });
    const step = dialogue.next({ kind: "received", frame: frameOf(clientFirst) });
    if (step.done || step.value.kind !== "derive") throw new Error("no derivation");
    return step.value;
  };

  test("costs no PBKDF2 of its own, so that invented names neither show nor flood the cache", () => {
    const unknown = { credential: undefined };
    expect(workOf({ ...unknown, user: "eve" })).toEqual(workOf({ ...unknown, user: "mallory" }));
    expect(workOf({ user: "alice" })).not.toEqual(workOf({ user: "bob" }));
  });

  test("is refused even with the md5 hash that we made up", () => {
    const login = loginOf({ credential: undefined });
    const hmac = createHmac("sha256", login.processSecret).update("md5 hash\0bob").digest("hex");
    const hash = { kind: "md5", hash: hmac.slice(0, 32) } as const;
    const { server } = logIn(authenticateMd5(login), hash);
    expect(server.error.message).toBe("md5 authentication failed");
  });

  test("is refused even with the keys that we made up", () => {
    const unknown = { credential: undefined };
    const keys = deriveScramKeys(workOf(unknown));
    const salting = { salt: Uint8Array.fromBase64(saltOf(unknown)), iterations: 4096 };
    const { server } = logIn(authenticateScram(loginOf(unknown)), {
      kind: "scram",
      ...keys,
      ...salting,
    });
    expect(server.error.message).toBe("authentication failed");
    // The same keys are the right ones where they are stored: only being unknown stands against it.
    const verifier = { ...keys, ...salting };
    const known = logIn(authenticateScram(loginOf({ credential: { kind: "scram", verifier } })), {
      kind: "scram",
      ...keys,
      ...salting,
    });
    expect(known.server.result.kind).toBe("verified");
  });
});

describe("out of turn", () => {
  const startup = encodeFrontend({
    kind: "StartupMessage",
    major: 3,
    minor: 0,
    parameters: new Map([["user", "postgres"]]),
  });
  /** What a start-up packet looks like to a reader of typed messages. */
  const asTyped = new ByteWriter().begin(0).bytes(startup).end().take();
  const strangers: [string, Uint8Array][] = [
    ["a query", encodeFrontend({ kind: "Query", sql: "select 1" })],
    ["Terminate", encodeFrontend({ kind: "Terminate" })],
    ["Sync", encodeFrontend({ kind: "Sync" })],
    ["a second StartupMessage (CVE-2026-107350)", asTyped],
  ];
  const first = encodeFrontend({
    kind: "SASLInitialResponse",
    mechanism: "SCRAM-SHA-256",
    response: encodeText("n,,n=,r=abc"),
  });
  const states: [string, () => AuthDialogue<ClientProof>, Uint8Array[]][] = [
    ["password", () => authenticateClear(loginOf()), []],
    ["md5", () => authenticateMd5(loginOf()), []],
    ["SCRAM, first message", () => authenticateScram(loginOf()), []],
    ["SCRAM, final message", () => authenticateScram(loginOf()), [first]],
  ];
  const cases = states.flatMap(([state, dialogue, before]) =>
    strangers.map(([title, message]) => [title, state, dialogue, [...before, message]] as const),
  );
  test.each(cases)("%s during %s is FATAL", (_, __, dialogue, messages) => {
    const side = against(dialogue(), ...messages);
    expect(side.error.severity).toBe("FATAL");
  });

  const answers: [string, () => AuthDialogue<ClientProof>, Uint8Array[], RegExp][] = [
    [
      "an unknown mechanism",
      () => authenticateScram(loginOf()),
      [
        encodeFrontend({
          kind: "SASLInitialResponse",
          mechanism: "SCRAM-SHA-256-PLUS",
          response: encodeText("p=x,,n=,r=a"),
        }),
      ],
      /invalid SASL authentication mechanism/,
    ],
    [
      "a password instead of SASL",
      () => authenticateScram(loginOf()),
      [password("pencil")],
      /SASL/,
    ],
    [
      "a password that is too long",
      () => authenticateClear(loginOf()),
      [password("p".repeat(1024))],
      /password is too long. password length is 1025/,
    ],
    [
      "an empty password message",
      () => authenticateMd5(loginOf()),
      [Uint8Array.of(0x70, 0, 0, 0, 4)],
      /invalid password length. password length is 0/,
    ],
    [
      "a password without its zero byte",
      () => authenticateClear(loginOf()),
      [Uint8Array.of(0x70, 0, 0, 0, 5, 0x61)],
      /./,
    ],
    [
      "something after the password",
      () => authenticateClear(loginOf()),
      [Uint8Array.of(0x70, 0, 0, 0, 7, 0x61, 0, 0x62)],
      /./,
    ],
    [
      "a SASL message that is too long",
      () => authenticateScram(loginOf()),
      [
        encodeFrontend({
          kind: "SASLInitialResponse",
          mechanism: "SCRAM-SHA-256",
          response: new Uint8Array(60_000).fill(0x61),
        }),
      ],
      /too long/,
    ],
  ];
  test.each(answers)("%s is FATAL", (_, dialogue, messages, text) => {
    const { error } = against(dialogue(), ...messages);
    expect(error.severity).toBe("FATAL");
    expect(`${error.message} ${error.detail}`).toMatch(text);
  });

  test("a client without initial response is asked for it", () => {
    const empty = encodeFrontend({
      kind: "SASLInitialResponse",
      mechanism: "SCRAM-SHA-256",
      response: undefined,
    });
    const late = encodeFrontend({ kind: "SASLResponse", data: encodeText("n,,n=,r=abc") });
    const side = against(authenticateScram(loginOf()), empty, late);
    expect(side.outbox.map((bytes) => bytes.length)).toEqual([24, 9, expect.any(Number)]);
  });

  test("arbitrary bytes end in an error of ours", () => {
    fc.assert(
      fc.property(
        fc.constantFrom(...states),
        fc.array(fc.uint8Array({ maxLength: 60 }), { minLength: 2, maxLength: 3 }),
        ([, dialogue], bodies) => {
          const messages = bodies.map((body) =>
            new ByteWriter().begin(0x70).bytes(body).end().take(),
          );
          const { error } = against(dialogue(), ...messages);
          expect(error instanceof ProtocolViolation || error instanceof AuthenticationFailed).toBe(
            true,
          );
        },
      ),
    );
  });
});
