/**
 * The complete matrix of spec wire/client-auth.md section 10: a client with a password, our
 * decisions in the middle, and a PostgreSQL that demands what it is told to, for the first login and
 * for the pooled connection that it leaves behind.
 */
import { describe, expect, test } from "bun:test";
import {
  type ClientAccess,
  concludeLogin,
  reauthenticate,
  secretForDemand,
} from "../../../core/auth/access.ts";
import { BackendRefused, loginToBackend } from "../../../core/auth/client.ts";
import {
  type AuthDialogue,
  type BackendDemand,
  type BackendSecret,
  send,
} from "../../../core/auth/dialogue.ts";
import type { HbaMethod } from "../../../core/auth/hba.ts";
import { type Credential, md5Hash } from "../../../core/auth/password.ts";
import { deriveScramKeys } from "../../../core/auth/scram_keys.ts";
import {
  authenticateClient,
  type ClientLogin,
  type ClientProof,
} from "../../../core/auth/server.ts";
import { AuthenticationFailed } from "../../../core/errors.ts";
import { authenticationOk } from "../../../core/wire/backend.ts";
import { encodeText } from "../../../core/wire/text.ts";
import { meet, Side } from "./talk.ts";

type Demand = BackendDemand | "trust";
type Pooled = { readonly demand: Demand; readonly secret: BackendSecret | undefined };

const right = encodeText("right");
const wrong = encodeText("wrong");
const clear = (password: Uint8Array) => ({ kind: "clear", password }) as const;

const loginOf = (credential: Credential | undefined): ClientLogin => ({
  user: "U",
  credential,
  md5Salt: Uint8Array.of(1, 2, 3, 4),
  scramNonce: "bm9uY2U",
  processSecret: new Uint8Array(32).fill(3),
  unknownUsers: "tell",
});

/** Runs a dialogue with a client that knows this password and answers whatever it is asked. */
function withClient<R>(dialogue: AuthDialogue<R>, password: Uint8Array): R {
  function* untilOk(): AuthDialogue<R> {
    const result = yield* dialogue;
    yield* send(authenticationOk());
    return result;
  }
  const server = new Side(untilOk());
  const client = new Side(loginToBackend({ user: "U", scramNonce: "Y2xpZW50" }), clear(password));
  meet(server, client);
  return server.result;
}

/** PostgreSQL, where the user's password is `right`. */
function logInToPostgres(demand: BackendDemand, secret: BackendSecret): void {
  const server = new Side(
    (function* () {
      yield* authenticateClient(demand, loginOf(clear(right)), undefined);
      yield* send(authenticationOk());
    })(),
  );
  const client = new Side(loginToBackend({ user: "U", scramNonce: "cG9vbGVy" }), secret);
  meet(server, client);
  expect(client.result.demand).toBe(demand);
}

const proofOf = (access: ClientAccess, password: Uint8Array): ClientProof | undefined =>
  access.hbaMethod === undefined
    ? undefined
    : withClient(authenticateClient(access.hbaMethod, access.login, undefined), password);

/** The whole first login; what the pooled connection remembers of it. */
function firstLogin(access: ClientAccess, demand: Demand, password: Uint8Array): Pooled {
  const proof = proofOf(access, password);
  if (demand === "trust") {
    concludeLogin([demand], proof, access.login);
    return { demand, secret: undefined };
  }
  const answer = withClient(secretForDemand(demand, access, proof), password);
  logInToPostgres(demand, answer.secret);
  const concluded = concludeLogin([demand], answer.proof, access.login);
  expect(concluded.kind).not.toBe("claimed");
  return { demand, secret: answer.secret };
}

function reuse(access: ClientAccess, pooled: Pooled, password: Uint8Array): void {
  withClient(reauthenticate(pooled, access, proofOf(access, password)), password);
}

const codes: Record<string, [string, string]> = {
  A: ["md5 authentication failed", "password does not match"],
  B: ["authentication failed", 'username "U" or password does not exist in backend'],
  C: ["clear text authentication failed", "password does not match"],
  D: ["clear text password authentication failed", "password does not match"],
  E1: ["failed to authenticate with backend using md5", "valid password not found"],
  E2: ["failed to authenticate with backend using SCRAM", "valid password not found"],
  E3: ["clear text password authentication failed", "unable to get the password"],
  F1: ["md5 authentication failed", 'pool_passwd file does not contain an entry for "U"'],
  F2: ["SCRAM authentication failed", 'pool_passwd file does not contain an entry for "U"'],
  F3: [
    "SCRAM authentication failed",
    'pool_passwd file does not contain valid SCRAM entry for "U"',
  ],
  /** Ours alone: a password that nobody has checked. */
  unchecked: [
    "clear text password authentication failed",
    'unable to get the password for user: "U"',
  ],
};

/** The code of the error, `ok` when there is none, `backend` when PostgreSQL itself refused. */
function codeOf(run: () => void): string {
  try {
    run();
    return "ok";
  } catch (error) {
    if (error instanceof BackendRefused) return "backend";
    if (!(error instanceof AuthenticationFailed)) throw error;
    const { message, detail } = error;
    const code = Object.entries(codes).find(
      ([, text]) => text[0] === message && text[1] === detail,
    );
    return code?.[0] ?? `${message} / ${detail}`;
  }
}

const md5Entry: Credential = { kind: "md5", hash: md5Hash(right, "U") };

/**
 * Method, allow_clear_text_frontend_auth, backend, then one cell for no entry, an md5 entry and a
 * clear one (AES, TEXT and plain are the same in every row). A cell is the code of the first login,
 * or what a wrong password gets on the pooled connection after a good one.
 */
const matrix = `
  off            off trust    accepted   accepted  accepted
  off            off md5      E1         A         A
  off            off scram    E2         E2        B
  off            off password D          E3        C
  off            on  trust    accepted   accepted  accepted
  off            on  md5      A          A         A
  off            on  scram    B          E2        B
  off            on  password D          E3        C
  trust          off trust    accepted   accepted  accepted
  trust          off md5      E1         accepted  accepted
  trust          off scram    E2         E2        accepted
  trust          off password E3         E3        accepted
  trust          on  trust    accepted   accepted  accepted
  trust          on  md5      E1         accepted  accepted
  trust          on  scram    E2         E2        accepted
  trust          on  password D          E3        accepted
  md5            off trust    F1         A         A
  md5            off md5      F1         A         A
  md5            off scram    F1         E2        A
  md5            off password F1         E3        A
  scram-sha-256  off trust    F2         F3        B
  scram-sha-256  off md5      F2         F3        B
  scram-sha-256  off scram    F2         F3        B
  scram-sha-256  off password F2         F3        B
  password       off trust    unchecked  C         C
  password       off md5      A          C         C
  password       off scram    B          E2        C
  password       off password D          E3        C
`;

type Cell = { readonly access: ClientAccess; readonly demand: Demand; readonly code: string };

const cells: [string, Cell][] = matrix
  .trim()
  .split("\n")
  .flatMap((line): [string, Cell][] => {
    const [method = "", allow, backend = "", ...row] = line.trim().split(/\s+/);
    const entries: [string, Credential | undefined][] = [
      ["no", undefined],
      ["an md5", md5Entry],
      ["a clear", clear(right)],
    ];
    return entries.map(([title, credential], at) => [
      `pool_hba ${method}, allow_clear ${allow}, backend ${backend}, ${title} entry`,
      {
        access: {
          login: loginOf(credential),
          hbaMethod: method === "off" ? undefined : (method as HbaMethod),
          allowClearText: allow === "on",
        },
        demand: (backend === "scram" ? "scram-sha-256" : backend) as Demand,
        code: row[at] ?? "",
      },
    ]);
  });

describe("the matrix of logins", () => {
  test("has every cell", () => {
    expect(cells.length).toBe(28 * 3);
  });

  test.each(cells)("%s", (_, { access, demand, code }) => {
    const first = codeOf(() => firstLogin(access, demand, right));
    if (/^[EF]|unchecked/.test(code)) {
      expect(first).toBe(code);
      return;
    }
    expect(first).toBe("ok");
    const pooled = firstLogin(access, demand, right);
    expect(codeOf(() => reuse(access, pooled, right))).toBe("ok");
    const expected = code === "accepted" ? "ok" : code;
    expect(codeOf(() => reuse(access, pooled, wrong))).toBe(expected);
  });

  test("a wrong password never makes a first login where anything checks it", () => {
    for (const [title, { access, demand, code }] of cells) {
      const first = codeOf(() => firstLogin(access, demand, wrong));
      expect({ title, accepted: first === "ok" }).toEqual({ title, accepted: code === "accepted" });
    }
  });

  test("with unknown users hidden, no error tells that there is no entry", () => {
    for (const [title, { access, demand }] of cells) {
      if (access.login.credential !== undefined || access.hbaMethod === "trust") continue;
      const hidden = { ...access, login: { ...access.login, unknownUsers: "mock" as const } };
      const code = codeOf(() => firstLogin(hidden, demand, wrong));
      expect([title, code]).toEqual([title, expect.stringMatching(/^(ok|backend|A|B|C|D)$/)]);
    }
  });
});

describe("a verifier as entry", () => {
  const salting = { salt: encodeText("0123456789abcdef"), iterations: 64 };
  const verifier = { ...deriveScramKeys({ password: right, ...salting }), ...salting };
  const access = (hbaMethod: HbaMethod | undefined): ClientAccess => ({
    login: loginOf({ kind: "scram", verifier }),
    hbaMethod,
    allowClearText: false,
  });

  test("lets the client in by SCRAM and answers a backend with the client's key", () => {
    const proof = proofOf(access("scram-sha-256"), right);
    const answer = withClient(
      secretForDemand("scram-sha-256", access("scram-sha-256"), proof),
      right,
    );
    expect(answer.secret).toMatchObject({ kind: "scram", ...salting });
  });

  test("is asked for when only the backend demands it", () => {
    const answer = withClient(
      secretForDemand("scram-sha-256", access(undefined), undefined),
      right,
    );
    expect(answer.secret.kind).toBe("scram");
    expect(answer.proof.kind).toBe("verified");
  });

  const refusals: [string, BackendDemand, HbaMethod | undefined, string][] = [
    ["an md5 backend", "md5", undefined, "E1"],
    ["a clear text backend", "password", "scram-sha-256", "E3"],
    ["a backend after trust, for nobody gave the key", "scram-sha-256", "trust", "E2"],
  ];
  test.each(refusals)("does not answer %s", (_, demand, method, code) => {
    const run = () =>
      withClient(secretForDemand(demand, access(method), proofOf(access(method), right)), right);
    expect(codeOf(run)).toBe(code);
  });
});

describe("an entry that the key does not open", () => {
  const demands: [BackendDemand, string][] = [
    ["md5", "md5 authentication failed"],
    ["scram-sha-256", "SCRAM authentication failed"],
    ["password", "clear text password authentication failed"],
  ];
  test.each(demands)("is told as such when the backend asks for %s", (demand, message) => {
    const login = loginOf({ kind: "undecryptable" });
    const access = { login, hbaMethod: undefined, allowClearText: false };
    const run = () => withClient(secretForDemand(demand, access, undefined), right);
    expect(codeOf(run)).toBe(`${message} / unable to decrypt password from pool_passwd`);
  });
});

test("a claimed password is proven by any backend that asked for it", () => {
  const claimed = { kind: "claimed", password: right } as const;
  expect(concludeLogin(["trust", "md5"], claimed, loginOf(undefined))).toEqual({
    kind: "verified",
    password: right,
  });
  expect(() => concludeLogin(["trust", "trust"], claimed, loginOf(undefined))).toThrow(
    AuthenticationFailed,
  );
});
