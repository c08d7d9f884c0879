/**
 * What a client can do wrong or on purpose. After each of these the ledger must balance: the error
 * is where it belongs, the others are served, nothing is left behind.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  cString,
  type ErrorFields,
  errorFields,
  frame,
  int32s,
  Ledger,
  monitor,
  Pgpool,
  type PgpoolOptions,
  Postgres,
  protocolVersion,
  RawClient,
  type RawFrame,
  Scope,
  type ServerCertificate,
  serverCertificate,
  sslRequest,
  startupPacket,
} from "./harness.ts";

let scope: Scope;
let certificate: ServerCertificate;
let server: Postgres;

beforeAll(async () => {
  scope = new Scope();
  server = await Postgres.create(scope);
  await server.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN`);
  await server.createRole("alice", "secret");
  certificate = await serverCertificate(scope);
}, 300_000);

afterAll(() => scope.close());

/** Runs a fault against a pgpool of its own and holds the ledger against it. */
async function inLedger(
  options: Omit<PgpoolOptions, "backends">,
  fault: (pgpool: Pgpool, ledger: Ledger) => Promise<void>,
): Promise<void> {
  await using own = new Scope();
  const pgpool = await Pgpool.create(own, {
    ...options,
    backends: [server],
    config: { num_init_children: 4, max_pool: 2, sr_check_user: monitor, ...options.config },
  });
  await pgpool.untilServing();
  const ledger = await Ledger.open(pgpool, server);
  await fault(pgpool, ledger);
  await ledger.balanced();
  await ledger.close();
}

const connect = (pgpool: Pgpool) => RawClient.connect(pgpool.tcp);
const login = { user: "postgres", database: "test" };
const firstError = (frames: readonly RawFrame[]): ErrorFields | undefined => {
  const found = frames.find(({ type }) => type === "E");
  return found && errorFields(found.body);
};
const types = (frames: readonly RawFrame[]) => frames.map(({ type }) => type).join("");

/** Sends bytes as the first thing and returns all that came until pgpool closed. */
async function answerTo(pgpool: Pgpool, ...bytes: Uint8Array[]): Promise<RawFrame[]> {
  const client = await connect(pgpool);
  client.send(...bytes);
  return client.closed();
}

describe("the start-up packet", () => {
  test.each([
    ["a length of 0", int32s(0)],
    ["a length of 3", int32s(3)],
    ["a length that leaves no room for the code", int32s(7)],
    ["one byte more than 10000", int32s(10_005)],
    ["two gigabytes", int32s(0x7fffffff)],
    ["a negative length", int32s(0x80000000)],
    ["the highest length", int32s(0xffffffff)],
  ])("with %s is closed without an answer, and its body is not waited for", async (_, bytes) => {
    await inLedger({}, async (pgpool) => {
      expect(await answerTo(pgpool, bytes)).toEqual([]);
    });
  });

  test("of another major version is closed", async () => {
    await inLedger({}, async (pgpool) => {
      const packet = startupPacket({ user: "postgres" }, protocolVersion(4, 0));
      expect(types(await answerTo(pgpool, packet))).not.toContain("Z");
    });
  });

  test("without a user is FATAL 28000", async () => {
    await inLedger({}, async (pgpool) => {
      expect(firstError(await answerTo(pgpool, startupPacket({ database: "test" })))).toMatchObject(
        {
          S: "FATAL",
          C: "28000",
          M: "no PostgreSQL user name specified in startup packet",
        },
      );
    });
  });

  test("left hanging halfway is closed after authentication_timeout", async () => {
    await inLedger({ config: { authentication_timeout: 1 } }, async (pgpool) => {
      const whole = startupPacket(login);
      expect(await answerTo(pgpool, whole.subarray(0, whole.length - 5))).toEqual([]);
      await pgpool.logged(/authentication timeout/);
    });
  });

  test("not sent at all is closed after authentication_timeout", async () => {
    await inLedger({ config: { authentication_timeout: 1 } }, async (pgpool) => {
      expect(await answerTo(pgpool)).toEqual([]);
    });
  });

  test("with a name of 64 kB is closed without an answer", async () => {
    await inLedger({}, async (pgpool) => {
      const long = "n".repeat(65_536);
      expect(await answerTo(pgpool, startupPacket({ user: long, database: "test" }))).toEqual([]);
      expect(await answerTo(pgpool, startupPacket({ user: "postgres", database: long }))).toEqual(
        [],
      );
    });
  });

  test("with the longest name that fits is PostgreSQL's to refuse", async () => {
    await inLedger({}, async (pgpool) => {
      const long = "n".repeat(9_900);
      const frames = await answerTo(pgpool, startupPacket({ user: "postgres", database: long }));
      expect(firstError(frames)).toMatchObject({ C: "3D000" });
    });
  });

  test("cut off by the client's end leaves nothing", async () => {
    await inLedger({}, async (pgpool) => {
      const client = await connect(pgpool);
      client.send(startupPacket(login).subarray(0, 6));
      client.destroy();
    });
  });
});

describe("logging in", () => {
  const scram = {
    hba: ["host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 scram-sha-256"],
    passwd: ["alice:TEXTsecret", "bob:md500000000000000000000000000000000"],
  };
  const md5 = {
    hba: ["host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 md5"],
    passwd: ["alice:TEXTsecret"],
  };

  test("as a role that PostgreSQL does not know shows PostgreSQL's own error", async () => {
    await inLedger({}, async (pgpool) => {
      const client = await connect(pgpool);
      const { error } = await client.login({ user: "nobody_here", database: "test" });
      expect(error).toMatchObject({
        S: "FATAL",
        C: "28000",
        M: 'role "nobody_here" does not exist',
      });
      expect(types(await client.closed())).not.toContain("Z");
    });
  });

  test("to a database that does not exist shows PostgreSQL's own error", async () => {
    await inLedger({}, async (pgpool) => {
      const client = await connect(pgpool);
      const { error } = await client.login({ user: "postgres", database: "nowhere" });
      expect(error).toMatchObject({ C: "3D000", M: 'database "nowhere" does not exist' });
      await client.closed();
    });
  });

  test.each([
    ["scram-sha-256", scram],
    ["md5", md5],
  ])(
    "by %s a user without a usable entry fails exactly as a wrong password does",
    async (_, options) => {
      await inLedger(options, async (pgpool) => {
        const attempt = async (user: string) => {
          const client = await connect(pgpool);
          const { error, sequence } = await client.login({
            user,
            database: "test",
            password: "wrong",
          });
          await client.closed();
          return [sequence, error?.S, error?.C, error?.M, error?.D?.replace(user, "USER")];
        };
        const wrongPassword = await attempt("alice");
        // Else the difference would tell which users there are (Pgpool-II's texts do).
        expect(await attempt("carol")).toEqual(wrongPassword);
        expect(await attempt("bob")).toEqual(wrongPassword);
      });
    },
  );

  test.each([
    ["scram-sha-256", scram, "authentication failed"],
    ["md5", md5, "md5 authentication failed"],
  ])(
    "by %s with a wrong password fails, on a fresh connection and on a pooled one",
    async (_, options, message) => {
      await inLedger(options, async (pgpool) => {
        const attempt = async (password: string) => {
          const client = await connect(pgpool);
          const { error } = await client.login({ user: "alice", database: "test", password });
          if (error === undefined) await client.terminate();
          else expect(types(await client.closed())).not.toContain("Z");
          return error;
        };
        expect(await attempt("wrong")).toMatchObject({ M: message });
        expect(await attempt("secret")).toBeUndefined();
        expect(await attempt("wrong")).toMatchObject({ M: message });
        expect(await attempt("")).toMatchObject({ M: message });
      });
    },
  );

  test("from a refused host says which rule was missed", async () => {
    const options = {
      hba: ["host all postgres 127.0.0.1/32 trust", "host all all 127.0.0.1/32 reject"],
    };
    await inLedger(options, async (pgpool) => {
      const client = await connect(pgpool);
      const { error } = await client.login({ user: "alice", database: "test" });
      expect(error).toMatchObject({
        S: "FATAL",
        C: "28000",
        M: "client authentication failed",
        D: 'no pool_hba.conf entry for host "127.0.0.1", user "alice", database "test", SSL off',
        H: "see pgpool log for details",
      });
      await client.closed();
    });
  });

  const duringScram: readonly [string, Uint8Array][] = [
    ["a second start-up packet", startupPacket({ user: "postgres", database: "test" })],
    ["a query", frame("Q", cString("SELECT 1"))],
    ["a goodbye", frame("X")],
    [
      "an answer with a length of two gigabytes",
      Buffer.concat([Buffer.from("p"), int32s(0x7fffffff)]),
    ],
    ["an answer with a length of 3", Buffer.concat([Buffer.from("p"), int32s(3)])],
    ["another mechanism", frame("p", cString("PLAIN"), int32s(0))],
    ["an answer without a nonce", saslInitial("n,,n=,x=1")],
    ["an answer that is not SCRAM at all", saslInitial("\xff\xfe")],
    [
      "an answer whose inner length is beyond its end",
      frame("p", cString("SCRAM-SHA-256"), int32s(9999)),
    ],
  ];
  test.each(duringScram)("in the middle of SCRAM %s ends the session", async (_, bytes) => {
    await inLedger(scram, async (pgpool) => {
      const client = await connect(pgpool);
      client.send(startupPacket({ user: "alice", database: "test" }));
      expect((await client.next())?.type).toBe("R");
      client.send(bytes);
      const rest = types(await client.closed());
      expect(rest).not.toContain("Z");
      expect(rest).not.toContain("R");
    });
  });

  test("left hanging at the password is given up when the client goes", async () => {
    await inLedger(scram, async (pgpool) => {
      const client = await connect(pgpool);
      client.send(startupPacket({ user: "alice", database: "test" }));
      expect((await client.next())?.type).toBe("R");
      client.destroy();
    });
  });
});

function saslInitial(text: string): Buffer {
  const bytes = Buffer.from(text, "latin1");
  return frame("p", cString("SCRAM-SHA-256"), int32s(bytes.length), bytes);
}

describe("encryption", () => {
  const tls = () => ({
    config: { ssl: true, ssl_key: certificate.key, ssl_cert: certificate.cert },
  });

  test("that is asked for and not configured is answered N, and the login goes on", async () => {
    await inLedger({}, async (pgpool) => {
      const client = await connect(pgpool);
      expect(await client.requestTls()).toBe("N");
      expect((await client.login(login)).error).toBeUndefined();
      await client.terminate();
    });
  });

  test("by GSSAPI is answered N, and the login goes on", async () => {
    await inLedger({}, async (pgpool) => {
      const client = await connect(pgpool);
      client.send(int32s(8, 80877104));
      expect((await client.bytes(1)).toString()).toBe("N");
      expect((await client.login(login)).error).toBeUndefined();
      await client.terminate();
    });
  });

  test("works from SSLRequest on", async () => {
    await inLedger(tls(), async (pgpool) => {
      const client = await connect(pgpool);
      expect(await client.requestTls()).toBe("S");
      expect((await client.login(login)).error).toBeUndefined();
      expect(await client.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
      await client.terminate();
    });
  });

  test("refuses what was sent in the clear behind SSLRequest", async () => {
    await inLedger(tls(), async (pgpool) => {
      const client = await connect(pgpool);
      client.send(sslRequest, startupPacket(login), frame("Q", cString("SELECT 1")));
      const rest = await client.bytes(1_000);
      expect(rest.toString("latin1")).not.toContain("Z\0\0\0\x05");
      expect(client.ended).toBe(true);
      await pgpool.logged(/received unencrypted data after SSL request/);
    });
  });

  test("refuses a start-up packet in the clear after the answer S", async () => {
    await inLedger(tls(), async (pgpool) => {
      const client = await connect(pgpool);
      client.send(sslRequest);
      expect((await client.bytes(1)).toString()).toBe("S");
      client.send(startupPacket(login));
      expect((await client.bytes(1_000)).toString("latin1")).not.toContain("Z\0\0\0\x05");
      expect(client.ended).toBe(true);
    });
  });

  test("given up in the middle of the handshake leaves nothing", async () => {
    await inLedger(tls(), async (pgpool) => {
      const client = await connect(pgpool);
      client.send(sslRequest);
      expect((await client.bytes(1)).toString()).toBe("S");
      client.send(Buffer.from([0x16, 3, 1]));
      client.destroy();
    });
  });
});

describe("after login", () => {
  const broken: readonly [string, Uint8Array][] = [
    ["a type that does not exist", frame("~", cString("x"))],
    ["a length of 0", Buffer.concat([Buffer.from("Q"), int32s(0)])],
    ["a length of 3", Buffer.concat([Buffer.from("Q"), int32s(3)])],
    ["a negative length", Buffer.concat([Buffer.from("Q"), int32s(0x80000000)])],
    ["a length above PostgreSQL's limit", Buffer.concat([Buffer.from("Q"), int32s(0x7fffffff)])],
    ["a long message of a short kind", Buffer.concat([Buffer.from("S"), int32s(20_000)])],
  ];
  test.each(broken)("a frame with %s is FATAL 08P01", async (_, bytes) => {
    await inLedger({}, async (pgpool) => {
      const client = await RawClient.login(pgpool.tcp, login);
      client.send(bytes);
      expect(firstError(await client.closed())).toMatchObject({ S: "FATAL", C: "08P01" });
    });
  });

  const malformed: readonly [string, Uint8Array][] = [
    ["a Parse that ends within its query", frame("P", Buffer.from("s\0SELECT 1"))],
    [
      "a Parse that announces more types than it has",
      frame("P", cString(""), cString("SELECT 1"), Buffer.from([255, 255])),
    ],
    [
      "a Bind that announces more values than it has",
      frame("B", cString(""), cString(""), Buffer.from([0, 0, 127, 255])),
    ],
    [
      "a Bind whose value is longer than the message",
      frame("B", cString(""), cString(""), Buffer.from([0, 0, 0, 1]), int32s(0x7fffffff)),
    ],
    ["a Describe of neither statement nor portal", frame("D", cString("Z"))],
    ["an Execute without a count", frame("E", cString(""))],
    ["a Close that is empty", frame("C")],
    ["a Query without its end", frame("Q", Buffer.from("SELECT 1"))],
    ["a FunctionCall that is empty", frame("F")],
  ];
  test.each(malformed)("%s is the error that PostgreSQL itself says", async (_, bytes) => {
    const direct = await RawClient.login({ host: server.host, port: server.port }, login);
    direct.send(bytes, frame("S"), frame("X"));
    const expected = firstError(await direct.closed());
    expect(expected?.C).toMatch(/^08P01|26000$/);
    await inLedger({}, async (pgpool) => {
      const client = await RawClient.login(pgpool.tcp, login);
      client.send(bytes, frame("S"), frame("X"));
      expect(firstError(await client.closed())?.C).toBe(expected?.C);
    });
  });

  test("identifiers and literals of 64 kB pass through", async () => {
    await inLedger({}, async (pgpool) => {
      const client = await RawClient.login(pgpool.tcp, login);
      const long = "n".repeat(65_536);
      const result = await client.query(`SELECT '${long}' AS "${long}"`);
      expect(result.columns).toEqual([long.slice(0, 63)]);
      expect(result.rows[0]?.[0]).toBe(long);
      await client.terminate();
    });
  });

  test.each([
    ["out", "COPY (SELECT repeat('x', 1000) FROM generate_series(1, 200000)) TO STDOUT", "H"],
    ["in", "COPY copied FROM STDIN", "G"],
  ])("a client gone in the middle of COPY %s takes its backend with it", async (_, sql, type) => {
    await server.sql("CREATE TABLE IF NOT EXISTS copied (x text)");
    await inLedger({}, async (pgpool) => {
      const client = await RawClient.login(pgpool.tcp, login);
      client.send(frame("Q", cString(sql)));
      await client.until(type);
      if (type === "G") client.send(frame("d", Buffer.from("half a row")));
      else client.pause();
      client.destroy();
    });
    expect(await server.value("SELECT count(*) FROM copied")).toBe("0");
  });

  test("a client gone in the middle of a transaction leaves no lock", async () => {
    await server.sql("CREATE TABLE IF NOT EXISTS locked (x int)");
    await inLedger({}, async (pgpool) => {
      const client = await RawClient.login(pgpool.tcp, login);
      await client.rows("BEGIN; LOCK TABLE locked; INSERT INTO locked VALUES (1)");
      client.destroy();
    });
    expect(await server.value("SELECT count(*) FROM locked")).toBe("0");
  });

  test("a cancel request with a wrong key cancels nothing", async () => {
    await inLedger({}, async (pgpool, { bystander }) => {
      const client = await connect(pgpool);
      client.send(int32s(16, 80877102, 4_242, 4_242));
      expect(await client.closed()).toEqual([]);
      expect(await bystander.rows("SELECT 1 AS one")).toEqual([{ one: "1" }]);
    });
  });

  test.each([9, 11, 15, 12 + 257])(
    "a cancel request of %d bytes is closed without an answer",
    async (size) => {
      await inLedger({}, async (pgpool) => {
        const packet = Buffer.alloc(size);
        int32s(size, 80877102).copy(packet);
        expect(await answerTo(pgpool, packet)).toEqual([]);
      });
    },
  );
});
