/**
 * The login dialogues of core/auth against those who speak them best: ours as a client of real
 * PostgreSQL servers, and libpq as a client of ours. Passwords are ones on which SASLprep has an
 * opinion, so that both ends must prepare them to the same bytes.
 */
import { afterAll, beforeAll, describe, expect } from "bun:test";
import { once } from "node:events";
import { type AddressInfo, connect, createServer, type Socket } from "node:net";
import { BackendRefused, loginToBackend } from "../../core/auth/client.ts";
import {
  type AuthActor,
  type BackendDemand,
  type BackendSecret,
  runDialogue,
} from "../../core/auth/dialogue.ts";
import { saslprep } from "../../core/auth/saslprep.ts";
import {
  deriveScramKeysAsync,
  parseVerifier,
  type ScramVerifier,
} from "../../core/auth/scram_keys.ts";
import { authenticateClient, type ClientLogin, type ClientProof } from "../../core/auth/server.ts";
import { PgpoolError } from "../../core/errors.ts";
import {
  authenticationOk,
  backendKeyData,
  readyForQuery,
  toErrorResponse,
} from "../../core/wire/backend.ts";
import {
  type Frame,
  FrameDecoder,
  StartupDecoder,
  type StartupPacket,
} from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { encodeText } from "../../core/wire/text.ts";
import {
  everyPostgres,
  findProgram,
  Postgres,
  runCommand,
  Scope,
  testNeeding,
} from "../cluster/harness.ts";

const passwords: readonly (readonly [title: string, password: string])[] = [
  ["ASCII", "secret"],
  ["blanks and punctuation", " a,=b\"'\\ "],
  ["UTF-8", "пароль-鍵-é"],
  ["what NFKC changes", "\u2168\uff21\u00aa"],
  ["a decomposed accent", "e\u0301a\u0308"],
  ["a soft hyphen and a wide space", "a\u00adb\u3000c"],
  ["right-to-left", "\ufe8d\ufe8f"],
  ["mixed directions", "\u0627a\u2168"],
  ["a character of private use", "\u2168\ue000"],
  ["a character younger than Unicode 3.2", "\u2168\u{1f600}"],
  ["1000 bytes", "p".repeat(1000)],
];
const userOf = (at: number): string => `user${at}`;
const postgresTest = await testNeeding("postgres");
const psqlTest = await testNeeding("psql");

/** Frames from a socket, one at a time. */
class FrameSource {
  readonly #chunks: AsyncIterator<Uint8Array>;
  readonly #decoder = new FrameDecoder({ bodySizeMax: 100_000 });

  constructor(chunks: AsyncIterator<Uint8Array>, ahead: Uint8Array = new Uint8Array(0)) {
    this.#chunks = chunks;
    this.#decoder.add(ahead);
  }

  async next(): Promise<Frame> {
    for (;;) {
      const frame = this.#decoder.next();
      if (frame !== undefined) return frame;
      const { value, done } = await this.#chunks.next();
      if (done) throw new PgpoolError("the peer has gone");
      this.#decoder.add(value);
    }
  }
}

const chunksOf = (socket: Socket): AsyncIterator<Uint8Array> => socket[Symbol.asyncIterator]();

function actorOver(socket: Socket, frames: FrameSource, secret?: BackendSecret): AuthActor {
  return {
    send: (bytes) => {
      socket.write(bytes);
    },
    receive: () => frames.next(),
    derive: deriveScramKeysAsync,
    secretFor: () => {
      if (secret === undefined) throw new Error("only a login to a backend asks for a secret");
      return secret;
    },
  };
}

async function logIn(server: Postgres, user: string, secret: BackendSecret) {
  const socket = connect(server.port, server.host);
  try {
    await once(socket, "connect");
    const parameters = new Map([
      ["user", user],
      ["database", "test"],
    ]);
    socket.write(encodeFrontend({ kind: "StartupMessage", major: 3, minor: 0, parameters }));
    const nonce = crypto.getRandomValues(new Uint8Array(18)).toBase64();
    const dialogue = loginToBackend({ user, scramNonce: nonce });
    return await runDialogue(
      dialogue,
      actorOver(socket, new FrameSource(chunksOf(socket)), secret),
    );
  } finally {
    socket.destroy();
  }
}

const clear = (password: string) =>
  ({ kind: "clear", password: encodeText(password) }) as const satisfies BackendSecret;

for (const install of await everyPostgres()) {
  describe(`logging in to PostgreSQL ${install.major} (${install.kind})`, () => {
    let scope: Scope;
    let server: Postgres;
    const verifiers = new Map<string, ScramVerifier>();

    beforeAll(async () => {
      scope = new Scope();
      server = await Postgres.create(scope, { install });
      for (const [at, [, password]] of passwords.entries()) {
        await server.createRole(userOf(at), password);
        const text = await server.value(
          `SELECT rolpassword FROM pg_authid WHERE rolname = '${userOf(at)}'`,
        );
        const verifier = parseVerifier(text ?? "");
        if (verifier !== undefined) verifiers.set(userOf(at), verifier);
      }
      await server.createRole("hashed", "pässwörd", "md5");
      await server.setHba([
        "local all all trust",
        "host all hashed all md5",
        "host all user0 all password",
        "host all all all scram-sha-256",
      ]);
    }, 300_000);
    afterAll(() => scope.close());

    postgresTest("SCRAM with every password, and never with another", async () => {
      for (const [at, [title, password]] of passwords.entries()) {
        if (at === 0) continue; // user0 is asked for clear text
        const login = await logIn(server, userOf(at), clear(password));
        expect({ title, demand: login.demand }).toEqual({ title, demand: "scram-sha-256" });
        const refused = logIn(server, userOf(at), clear(`${password}x`));
        await expect(refused).rejects.toThrow(BackendRefused);
      }
    });

    postgresTest("our keys are those in the verifier that PostgreSQL made", async () => {
      expect(verifiers.size).toBe(passwords.length);
      for (const [at, [title, password]] of passwords.entries()) {
        const verifier = verifiers.get(userOf(at));
        if (verifier === undefined) throw new Error(`no verifier for ${title}`);
        const keys = await deriveScramKeysAsync({
          password: saslprep(encodeText(password)),
          salt: verifier.salt,
          iterations: verifier.iterations,
        });
        expect({ title, key: keys.storedKey.toHex() }).toEqual({
          title,
          key: verifier.storedKey.toHex(),
        });
      }
    });

    const others: [BackendDemand, string, string][] = [
      ["md5", "hashed", "pässwörd"],
      ["password", "user0", "secret"],
    ];
    for (const [demand, user, password] of others) {
      postgresTest(`${demand}, and never with another password`, async () => {
        expect((await logIn(server, user, clear(password))).demand).toBe(demand);
        await expect(logIn(server, user, clear("wrong"))).rejects.toThrow(BackendRefused);
      });
    }
  });
}

describe("psql logging in to us", () => {
  const methods: readonly BackendDemand[] = ["password", "md5", "scram-sha-256"];

  /** A server that authenticates one client and says no more than that it is ready. */
  async function serveOnce(
    method: BackendDemand,
    password: string,
    body: (port: number) => Promise<void>,
  ): Promise<ClientProof | PgpoolError> {
    const server = createServer().listen(0, "127.0.0.1");
    await once(server, "listening");
    const accepted = once(server, "connection").then(([socket]) =>
      authenticate(socket as Socket, method, password),
    );
    try {
      await body((server.address() as AddressInfo).port);
      return await accepted;
    } finally {
      server.close();
    }
  }

  async function authenticate(socket: Socket, method: BackendDemand, password: string) {
    const startup = new StartupDecoder();
    const chunks = chunksOf(socket);
    let packet: StartupPacket | undefined;
    while (packet === undefined) {
      const { value, done } = await chunks.next();
      if (done) throw new Error("psql has gone");
      [packet] = startup.push(value);
    }
    if (packet.kind !== "StartupMessage") throw new Error(`unexpected ${packet.kind}`);
    const login: ClientLogin = {
      user: packet.parameters.get("user") ?? "",
      credential: clear(password),
      md5Salt: crypto.getRandomValues(new Uint8Array(4)),
      scramNonce: crypto.getRandomValues(new Uint8Array(18)).toBase64(),
      processSecret: crypto.getRandomValues(new Uint8Array(32)),
      unknownUsers: "mock",
    };
    try {
      const actor = actorOver(socket, new FrameSource(chunks, startup.rest()));
      const proof = await runDialogue(authenticateClient(method, login, undefined), actor);
      socket.write(authenticationOk());
      socket.write(backendKeyData(1, new Uint8Array(4)));
      socket.write(readyForQuery("I"));
      return proof;
    } catch (error) {
      if (!(error instanceof PgpoolError)) throw error;
      socket.end(toErrorResponse(error));
      return error;
    }
  }

  async function psql(port: number, password: string) {
    return await runCommand([findProgram("psql") ?? "psql", "-X", "-c", "\\q"], {
      env: {
        PGHOST: "127.0.0.1",
        PGPORT: String(port),
        PGUSER: "bob",
        PGDATABASE: "test",
        PGPASSWORD: password,
        PGSSLMODE: "disable",
        PGGSSENCMODE: "disable",
        PGCLIENTENCODING: "UTF8",
      },
    });
  }

  for (const method of methods) {
    psqlTest(`${method} with every password, and never with another`, async () => {
      for (const [title, password] of passwords) {
        const proof = await serveOnce(method, password, async (port) => {
          const { code, stderr } = await psql(port, password);
          expect({ title, code, stderr }).toEqual({ title, code: 0, stderr: "" });
        });
        expect(proof).toMatchObject({ kind: "verified" });
      }
      const refused = await serveOnce(method, "secret", async (port) => {
        const { code, stderr } = await psql(port, "wrong");
        expect(code).toBe(2);
        expect(stderr).toContain("authentication failed");
      });
      expect(refused).toBeInstanceOf(PgpoolError);
    });
  }
});
