/**
 * TLS on both sides of the binary: what psql and a modern client may ask for, client certificates,
 * what is refused before encryption is complete, and how PostgreSQL's own certificate is verified.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { copyFileSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { type ConnectionOptions, type TLSSocket, connect as tlsConnect } from "node:tls";
import { Authority } from "./authority.ts";
import {
  type ConfigValue,
  eventually,
  findProgram,
  frame,
  gatherResult,
  int32s,
  Pgpool,
  type PgpoolOptions,
  Postgres,
  RawClient,
  runCommand,
  Scope,
  type ServerCertificate,
  sslRequest,
  startupPacket,
  testNeeding,
} from "./harness.ts";

const psqlTest = await testNeeding("psql", "openssl");
const gssRequest = int32s(8, 80877104);

let scope: Scope;
let authority: Authority;
let stranger: Authority;
let own: ServerCertificate;
let server: Postgres;

beforeAll(async () => {
  scope = new Scope();
  scope.giveToOwner(scope.dir);
  authority = await Authority.create(scope, "authority");
  stranger = await Authority.create(scope, "stranger");
  own = await authority.issue("localhost");
  server = await Postgres.create(scope);
  for (const user of ["alice", "bob"]) await server.createRole(user, "secret");
}, 300_000);

afterAll(() => scope.close());

const tlsConfig = (files: ServerCertificate = own): Record<string, ConfigValue> => ({
  ssl: true,
  ssl_key: files.key,
  ssl_cert: files.cert,
});

async function withPgpool(
  options: Partial<PgpoolOptions>,
  body: (pgpool: Pgpool) => Promise<void>,
): Promise<void> {
  await using mine = new Scope();
  const pgpool = await Pgpool.create(mine, { backends: [server], ...options });
  await body(pgpool);
  expect(await pgpool.stop("fast")).toBe("exit 0");
}

type Env = Record<string, string>;

async function psql(pgpool: Pgpool, env: Env): Promise<string> {
  const { stdout, stderr } = await runCommand(
    [findProgram("psql") ?? "psql", "-XAtc", "SELECT current_user"],
    { env: { ...pgpool.env, PGHOST: "localhost", PGHOSTADDR: pgpool.host, ...env } },
  );
  return (stdout || stderr).trim();
}

/** Logs in over TLS from the first byte, as PostgreSQL 17's `sslnegotiation=direct` does. */
function dial(pgpool: Pgpool, options: ConnectionOptions): Promise<TLSSocket> {
  const socket = tlsConnect({ ...pgpool.tcp, rejectUnauthorized: false, ...options });
  return new Promise((resolve, reject) => {
    socket.once("secureConnect", () => resolve(socket));
    socket.once("error", reject);
    socket.once("close", () => reject(new Error("closed during the handshake")));
  });
}

async function fingerprint(pgpool: Pgpool): Promise<string> {
  const socket = await dial(pgpool, { ALPNProtocols: ["postgresql"] });
  const { fingerprint256 } = socket.getPeerCertificate();
  socket.destroy();
  return fingerprint256;
}

describe("psql", () => {
  psqlTest("gets in, or does not, by sslmode and by hostssl and hostnossl", async () => {
    const hba = [
      "host all postgres all trust",
      "hostssl all alice all trust",
      "hostnossl all bob all trust",
    ];
    const refused = (ssl: string) => expect.stringContaining(`database "test", SSL ${ssl}`);
    const alien = expect.stringContaining("certificate verify failed");
    const root = (PGSSLROOTCERT: string) => ({ PGSSLROOTCERT });
    const rows: [user: string, mode: string, env: Env, answer: unknown][] = [
      ["alice", "disable", {}, refused("off")],
      ["alice", "prefer", {}, "alice"],
      ["alice", "require", {}, "alice"],
      ["alice", "verify-ca", root(authority.cert), "alice"],
      ["alice", "verify-full", root(authority.cert), "alice"],
      ["alice", "verify-full", root(stranger.cert), alien],
      ["bob", "disable", {}, "bob"],
      ["bob", "allow", {}, "bob"],
      ["bob", "require", {}, refused("on")],
      ["alice", "require", { PGGSSENCMODE: "prefer" }, "alice"],
    ];
    await withPgpool({ hba, config: tlsConfig() }, async (pgpool) => {
      for (const [PGUSER, PGSSLMODE, env, answer] of rows) {
        const said = await psql(pgpool, { PGUSER, PGSSLMODE, ...env });
        expect({ PGUSER, PGSSLMODE, said }).toEqual({ PGUSER, PGSSLMODE, said: answer as string });
      }
    });
  });

  psqlTest("with ssl off is served in the clear, unless it insists", async () => {
    await withPgpool({ config: { ssl: false } }, async (pgpool) => {
      expect(await psql(pgpool, { PGSSLMODE: "prefer" })).toBe("postgres");
      expect(await psql(pgpool, { PGSSLMODE: "require" })).toContain("does not support SSL");
    });
  });

  psqlTest("with a key that is none is answered N, and the log warns", async () => {
    const key = join(scope.dir, "broken.key");
    writeFileSync(key, "-----BEGIN PRIVATE KEY-----\nno key\n-----END PRIVATE KEY-----\n");
    await withPgpool({ config: tlsConfig({ key, cert: own.cert }) }, async (pgpool) => {
      expect(await psql(pgpool, { PGSSLMODE: "prefer" })).toBe("postgres");
      expect(await psql(pgpool, { PGSSLMODE: "require" })).toContain("does not support SSL");
      await pgpool.logged(/WARNING: .*TLS/);
    });
  });

  psqlTest("by a cert rule is who its certificate says, and nobody else", async () => {
    const [alice, shouting, nul, forged] = await Promise.all([
      authority.issue("alice"),
      authority.issue("ALICE"),
      authority.issueWithNul("alice_evil"),
      stranger.issue("alice"),
    ]);
    const hba = ["host all postgres all trust", "hostssl all all all cert"];
    const config = { ...tlsConfig(), ssl_ca_cert: authority.cert };
    const failed = expect.stringContaining("CERT authentication failed");
    const rows: [user: string, files: ServerCertificate | undefined, answer: unknown][] = [
      ["alice", alice, "alice"],
      ["alice", shouting, "alice"],
      ["bob", alice, failed],
      ["alice", undefined, failed],
      ["alice", nul, failed],
      ["alice", forged, expect.stringMatching(/EOF|closed|SSL error/)],
    ];
    await withPgpool({ hba, config }, async (pgpool) => {
      for (const [PGUSER, files, answer] of rows) {
        const env = { PGUSER, PGSSLMODE: "require", PGSSLCERT: files?.cert ?? "/nowhere" };
        const said = await psql(pgpool, { ...env, PGSSLKEY: files?.key ?? "/nowhere" });
        expect({ PGUSER, files, said }).toEqual({ PGUSER, files, said: answer as string });
      }
      expect(await psql(pgpool, { PGUSER: "alice", PGSSLMODE: "disable" })).toContain("SSL off");
      await pgpool.logged(/could not accept SSL connection/);
    });
  });
});

describe("a client", () => {
  const login = startupPacket({ user: "postgres", database: "test" });

  test("may begin with TLS at once, if it names the protocol", async () => {
    await withPgpool({ config: tlsConfig() }, async (pgpool) => {
      const socket = await dial(pgpool, { ALPNProtocols: ["postgresql"] });
      expect(socket.alpnProtocol).toBe("postgresql");
      const client = new RawClient(socket, 10_000);
      expect((await client.login({ user: "postgres", database: "test" })).error).toBeUndefined();
      expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
      await client.terminate();
    });
  });

  test.each([[[]], [["http/1.1"]]])(
    "that begins with TLS at once and offers %p is not served",
    async (ALPNProtocols) => {
      await withPgpool({ config: tlsConfig() }, async (pgpool) => {
        const answer = dial(pgpool, { ALPNProtocols }).then(async (socket) => {
          const client = new RawClient(socket, 10_000);
          client.send(login);
          return (await client.closed()).map(({ type }) => type).join("");
        });
        expect(await answer.catch(() => "")).not.toContain("Z");
        expect(await pgpool.sql("SELECT 1 AS one")).toEqual([{ one: "1" }]);
      });
    },
  );

  const stuffed: readonly (readonly [string, Uint8Array])[] = [
    ["SSLRequest", Buffer.concat([sslRequest, login])],
    ["GSSENCRequest and SSLRequest", Buffer.concat([gssRequest, sslRequest, login])],
    ["SSLRequest, a query", Buffer.concat([sslRequest, frame("Q", Buffer.from("SELECT 1\0"))])],
    ["two SSLRequests", Buffer.concat([sslRequest, sslRequest])],
  ];
  test.each(stuffed)("that sends more in the clear behind %s is refused", async (_, bytes) => {
    await withPgpool({ config: tlsConfig() }, async (pgpool) => {
      const client = await RawClient.connect(pgpool.tcp);
      client.send(bytes);
      const answer = (await client.bytes(10_000)).toString("latin1");
      expect(answer).toMatch(/^N?S?(E|$)/);
      expect(answer).not.toMatch(/^N?SR/);
      expect(await pgpool.sql("SELECT 1 AS one")).toEqual([{ one: "1" }]);
    });
  });

  test("asking twice for GSSAPI is refused; once and then in the clear is served", async () => {
    await withPgpool({ config: tlsConfig() }, async (pgpool) => {
      const twice = await RawClient.connect(pgpool.tcp);
      twice.send(gssRequest, gssRequest);
      expect((await twice.bytes(1)).toString()).toBe("N");
      expect((await twice.closed()).map(({ type }) => type)).not.toContain("Z");
      const once = await RawClient.connect(pgpool.tcp);
      once.send(gssRequest);
      expect((await once.bytes(1)).toString()).toBe("N");
      once.send(login);
      expect(gatherResult(await once.until("Z")).status).toBe("I");
      await once.terminate();
    });
  });
});

describe("a reload", () => {
  test("presents the new certificate to new clients, and keeps it when the next is broken", async () => {
    const files = { key: join(scope.dir, "live.key"), cert: join(scope.dir, "live.crt") };
    const install = ({ key, cert }: ServerCertificate) => {
      copyFileSync(key, files.key);
      copyFileSync(cert, files.cert);
    };
    install(own);
    await withPgpool({ config: tlsConfig(files) }, async (pgpool) => {
      const before = await fingerprint(pgpool);
      const client = await RawClient.connect(pgpool.tcp);
      expect(await client.requestTls()).toBe("S");
      await client.login({ user: "postgres", database: "test" });
      install(await authority.issue("localhost"));
      pgpool.reload();
      const after = await eventually(
        () => fingerprint(pgpool),
        (now) => now !== before,
        { what: "the new certificate" },
      );
      writeFileSync(files.cert, readFileSync(files.cert).subarray(0, 100));
      pgpool.reload();
      await pgpool.logged(/WARNING: .*TLS/);
      expect(await fingerprint(pgpool)).toBe(after);
      expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
      await client.terminate();
    });
  });
});

describe("PostgreSQL", () => {
  let secured: Postgres;

  beforeAll(async () => {
    secured = await Postgres.create(scope, { hba: ["hostssl all all all trust"] });
    for (const [name, path] of Object.entries(await authority.issue("some server"))) {
      secured.addFile(path, `server.${name === "key" ? "key" : "crt"}`);
    }
    secured.configure({ ssl: "on" });
    await secured.stop();
    await secured.start();
  }, 300_000);

  const encrypted = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";

  test.each([
    ["verified against ssl_ca_cert", () => ({ ssl_ca_cert: authority.cert })],
    ["taken as it is without one", () => ({})],
  ])("that insists on TLS is %s", async (_, extra) => {
    const config = { ...tlsConfig(), ...extra() };
    await withPgpool({ backends: [secured], config }, async (pgpool) => {
      await pgpool.untilServing();
      expect(await pgpool.sql(encrypted)).toEqual([{ ssl: "t" }]);
      expect(await pgpool.sql(encrypted)).toEqual([{ ssl: "t" }]);
    });
  });

  test("with a certificate of another authority is refused", async () => {
    const config = { ...tlsConfig(), ssl_ca_cert: stranger.cert };
    await withPgpool({ backends: [secured], config }, async (pgpool) => {
      const client = await RawClient.connect(pgpool.tcp);
      const { error, sequence } = await client.login({ user: "postgres", database: "test" });
      expect(error?.C).toBeDefined();
      expect(sequence).not.toContain("R");
      await client.closed();
      await pgpool.logged(/TLS handshake failed: unable.to.verify/i);
    });
  });

  test("without TLS is spoken to in the clear", async () => {
    await withPgpool({ config: tlsConfig() }, async (pgpool) => {
      await pgpool.untilServing();
      expect(await pgpool.sql(encrypted)).toEqual([{ ssl: "f" }]);
    });
  });
});
