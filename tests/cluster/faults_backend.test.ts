/**
 * What a PostgreSQL server can do to its clients: be down, die, lie, send garbage. Mostly played by
 * a scripted server in raw mode, where pgpool asks it nothing on its own account.
 */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import {
  cString,
  dataRow,
  type ErrorFields,
  errorFields,
  eventually,
  frame,
  freePort,
  idle,
  int32s,
  Ledger,
  MockPostgres,
  type MockScript,
  type MockSession,
  monitor,
  Pgpool,
  type PgpoolOptions,
  Postgres,
  RawClient,
  type RawFrame,
  rowDescription,
  Scope,
  type ServerCertificate,
  serverCertificate,
} from "./harness.ts";

let scope: Scope;
let certificate: ServerCertificate;

beforeAll(async () => {
  scope = new Scope();
  certificate = await serverCertificate(scope);
});
afterAll(() => scope.close());

const login = { user: "postgres", database: "test" };
const firstError = (frames: readonly RawFrame[]): ErrorFields | undefined => {
  const found = frames.find(({ type }) => type === "E");
  return found && errorFields(found.body);
};
const types = (frames: readonly RawFrame[]) => frames.map(({ type }) => type).join("");

type Options = Omit<PgpoolOptions, "backends">;

const rawMode = {
  backend_clustering_mode: "raw",
  sr_check_period: 0,
  num_init_children: 4,
  max_pool: 2,
};

/** A pgpool in front of a scripted server, with a ledger to balance afterwards. */
async function withMock(
  options: Options,
  fault: (pgpool: Pgpool, mock: MockPostgres, ledger: Ledger) => Promise<void>,
): Promise<void> {
  await using own = new Scope();
  const mock = await MockPostgres.create(own);
  const config = { ...rawMode, ...options.config };
  const pgpool = await Pgpool.create(own, { ...options, backends: [mock], config });
  const ledger = await Ledger.open(pgpool, mock);
  await fault(pgpool, mock, ledger);
  mock.script = {};
  await ledger.balanced();
  await ledger.close();
}

describe("a server that is down", () => {
  test("at the start is an error for the client, and no longer when it has come up", async () => {
    await using own = new Scope();
    const server = await Postgres.create(own);
    await server.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN`);
    await server.stop();
    const pgpool = await Pgpool.create(own, {
      backends: [server],
      config: { num_init_children: 4, sr_check_user: monitor, search_primary_node_timeout: 1 },
    });
    const client = await RawClient.connect(pgpool.tcp, 30_000);
    const { error } = await client.login(login);
    expect(error).toMatchObject({ S: "FATAL", C: "XX000" });
    expect(error?.M).toMatch(/^failed to create a backend( 0)? connection$/);
    expect(error?.D).toMatch(/^not executing failover because/);
    await client.closed();
    await server.start();
    await pgpool.untilServing();
    const ledger = await Ledger.open(pgpool, server);
    await ledger.balanced();
  }, 300_000);

  test("that refuses at once does not keep the others waiting", async () => {
    await using own = new Scope();
    const pgpool = await Pgpool.create(own, {
      backends: [{ host: "127.0.0.1", port: await freePort() }],
      config: rawMode,
    });
    const logins = Array.from({ length: 12 }, async () => {
      const client = await RawClient.connect(pgpool.tcp, 30_000);
      const { error } = await client.login(login);
      await client.closed();
      return error?.M;
    });
    for (const message of await Promise.all(logins)) {
      expect(message).toMatch(/^failed to create a backend( 0)? connection$/);
    }
  }, 300_000);
});

describe("a server that dies", () => {
  const deaths: readonly [string, (session: MockSession) => void][] = [
    ["without an answer", () => undefined],
    ["within the header of a message", (session) => session.send(Buffer.from("D\0\0"))],
    ["between two rows", (session) => session.send(rowDescription("x"))],
  ];
  test.each(deaths)("%s is an error for its client, who may go on", async (_, lastWords) => {
    await withMock({}, async (pgpool, mock) => {
      const client = await RawClient.login(pgpool.tcp, login);
      mock.script = onQuery(/fatal/, (session) => {
        lastWords(session);
        session.end();
        return "done";
      });
      const { errors, status } = await client.query("SELECT 'fatal'");
      expect(errors[0]).toMatchObject({
        S: "ERROR",
        C: "57P01",
        M: "unable to read data from DB node 0",
        D: "EOF encountered with backend",
      });
      expect(status).toBe("I");
      expect(await client.rows("SELECT 1")).toHaveLength(1);
      await client.terminate();
    });
  });

  test("within a row closes the connection of its client: half a message admits no error", async () => {
    await withMock({}, async (pgpool, mock) => {
      const client = await RawClient.login(pgpool.tcp, login);
      mock.script = onQuery(/fatal/, (session) => {
        session.send(rowDescription("x"), dataRow("x".repeat(200_000)).subarray(0, 100_000));
        session.end();
        return "done";
      });
      client.send(frame("Q", cString("SELECT 'fatal'")));
      expect(types(await client.closed())).not.toMatch(/[DZ]/);
    });
  });

  test("while its client is idle is not noticed by the client", async () => {
    await withMock({}, async (pgpool, mock) => {
      const client = await RawClient.login(pgpool.tcp, login);
      const connection = mock.open.at(-1);
      connection?.destroy();
      await pgpool.logged(/DB node id: 0 is not used by this session any more/);
      expect(await client.rows("SELECT 1")).toHaveLength(1);
      await client.terminate();
    });
  });

  test("while its connection lies in the pool is replaced for the next client", async () => {
    await withMock({}, async (pgpool, mock) => {
      const first = await RawClient.login(pgpool.tcp, login);
      await first.rows("SELECT 1");
      await first.terminate();
      const pooled = await eventually(
        () => mock.open.filter(({ queries }) => queries.includes("DISCARD ALL")),
        (sessions) => sessions.length > 0,
      );
      for (const session of pooled) session.destroy();
      const second = await RawClient.login(pgpool.tcp, login);
      expect(await second.rows("SELECT 1")).toHaveLength(1);
      await second.terminate();
    });
  });

  test("during the reset queries is not kept in the pool", async () => {
    await withMock({}, async (pgpool, mock) => {
      const client = await RawClient.login(pgpool.tcp, login);
      mock.script = onQuery(/DISCARD ALL/, (session) => {
        session.end();
        return "done";
      });
      await client.terminate();
    });
  });

  test("for real, by kill, ends what was under way, and the restarted server is found", async () => {
    await using own = new Scope();
    const server = await Postgres.create(own);
    await server.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN`);
    const pgpool = await Pgpool.create(own, {
      backends: [server],
      config: { num_init_children: 4, sr_check_user: monitor },
    });
    await pgpool.untilServing();
    const busy = await RawClient.login(pgpool.tcp, login, 30_000);
    busy.send(frame("Q", cString("SELECT pg_sleep(600)")));
    const query = "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep'";
    await eventually(
      () => server.value(query),
      (count) => count === "1",
    );
    await server.kill();
    expect(firstError(await busy.until("Z"))?.S).toBe("ERROR");
    await busy.terminate();
    await server.start();
    await pgpool.untilServing();
    const ledger = await Ledger.open(pgpool, server);
    await ledger.balanced();
  }, 300_000);
});

/** Answers queries that match as told, the others as usual. */
function onQuery(
  pattern: RegExp,
  answer: (session: MockSession) => "done" | "as usual",
): MockScript {
  return { onQuery: async (session, sql) => (pattern.test(sql) ? answer(session) : "as usual") };
}

describe("a server that talks nonsense", () => {
  const nonsense: readonly [string, Uint8Array][] = [
    ["a message of no known type", frame("?", Buffer.from("what"))],
    ["a length of 0", Buffer.concat([Buffer.from("D"), int32s(0)])],
    ["a length of 3", Buffer.concat([Buffer.from("T"), int32s(3)])],
    ["a negative length", Buffer.concat([Buffer.from("C"), int32s(0x80000000)])],
    ["a ReadyForQuery without a status", frame("Z")],
    ["a ReadyForQuery of two gigabytes", Buffer.concat([Buffer.from("Z"), int32s(0x7fffffff)])],
    ["plain text", Buffer.from("HTTP/1.1 400 Bad Request\r\n\r\n")],
  ];
  test.each(nonsense)("%s, ends that session with an error", async (_, bytes) => {
    await withMock({}, async (pgpool, mock) => {
      const client = await RawClient.login(pgpool.tcp, login);
      mock.script = onQuery(/nonsense/, (session) => {
        session.send(bytes);
        return "done";
      });
      client.send(frame("Q", cString("SELECT 'nonsense'")));
      expect(types(await client.closed())).not.toContain("Z");
    });
  });

  const strangeErrors: readonly [string, Uint8Array][] = [
    ["without any field", frame("E", Buffer.from([0]))],
    ["without a SQLSTATE", frame("E", cString("SERROR"), cString("Mno code"), Buffer.from([0]))],
    [
      "with its fields twice",
      frame(
        "E",
        ...["SERROR", "SERROR", "C42601", "C00000", "Ma", "Mb"].map(cString),
        Buffer.from([0]),
      ),
    ],
    [
      "with a field of 100 kB",
      frame("E", ...["SERROR", "C42601", `M${"x".repeat(100_000)}`].map(cString), Buffer.from([0])),
    ],
  ];
  test.each(strangeErrors)(
    "an error %s reaches the client and the session goes on",
    async (_, bytes) => {
      await withMock({}, async (pgpool, mock) => {
        const client = await RawClient.login(pgpool.tcp, login);
        mock.script = onQuery(/strange/, (session) => {
          session.send(bytes, idle);
          return "done";
        });
        client.send(frame("Q", cString("SELECT 'strange'")));
        expect(types(await client.until("Z"))).toBe("EZ");
        mock.script = {};
        expect(await client.rows("SELECT 1")).toHaveLength(1);
        await client.terminate();
      });
    },
  );

  const logins: readonly [string, Uint8Array][] = [
    ["an authentication that nobody knows", frame("R", int32s(99))],
    ["an authentication without a code", frame("R")],
    ["an MD5 request without its salt", frame("R", int32s(5))],
    ["a greeting of another protocol", Buffer.from("SSH-2.0-OpenSSH_9.2\r\n")],
    ["a message of two gigabytes", Buffer.concat([Buffer.from("R"), int32s(0x7fffffff)])],
    ["a row", frame("D", Buffer.from([0, 0]))],
    ["ReadyForQuery before it let anybody in", idle],
    ["a mechanism list without end", frame("R", int32s(10), Buffer.from("SCRAM-SHA-256"))],
    [
      "only mechanisms that nobody knows",
      frame("R", int32s(10), cString("OAUTHBEARER"), Buffer.from([0])),
    ],
  ];
  test.each(logins)(
    "during the login, %s, is an error and no connection is kept",
    async (_, bytes) => {
      await withMock({}, async (pgpool, mock) => {
        mock.script = {
          onLogin: async (session) => {
            session.send(bytes);
            await session.closed();
          },
        };
        const client = await RawClient.connect(pgpool.tcp);
        const { error, sequence } = await client.login(login);
        expect(error?.C).toBeDefined();
        expect(sequence).not.toContain("Z");
        await client.closed();
        await eventually(
          () => mock.open.length,
          (open) => open === 1,
        );
      });
    },
  );
});

describe("a server that asks for a password", () => {
  const options: Options = {
    hba: ["host all all 127.0.0.1/32 trust"],
    passwd: ["alice:TEXTsecret"],
  };
  const alice = { user: "alice", database: "test" };
  const nonce = (clientFirst: string) => /r=([^,]*)/.exec(clientFirst)?.[1] ?? "";

  const scramLies: readonly [string, (clientNonce: string) => string][] = [
    ["a nonce that does not begin with ours", () => "r=somethingelse,s=c2FsdA==,i=4096"],
    ["no nonce", () => "s=c2FsdA==,i=4096"],
    ["no salt", (r) => `r=${r}more,i=4096`],
    ["a count of 0", (r) => `r=${r}more,s=c2FsdA==,i=0`],
    ["a count that would take a week", (r) => `r=${r}more,s=c2FsdA==,i=2147483647`],
    ["a count that is no number", (r) => `r=${r}more,s=c2FsdA==,i=many`],
    ["a mandatory extension", (r) => `m=must,r=${r}more,s=c2FsdA==,i=4096`],
    ["a nonce of 30 kB", (r) => `r=${r}${"n".repeat(29_000)},s=c2FsdA==,i=4096`],
  ];
  test.each(scramLies)("by SCRAM with %s is not answered", async (_, serverFirst) => {
    let answered = false;
    await withMock(options, async (pgpool, mock) => {
      mock.script = {
        onLogin: async (session) => {
          if (session.parameters.get("user") !== "alice")
            return session.send(frame("R", int32s(0)));
          session.send(frame("R", int32s(10), cString("SCRAM-SHA-256"), Buffer.from([0])));
          const first = (await session.next())?.body.toString("latin1") ?? "";
          session.send(frame("R", int32s(11), Buffer.from(serverFirst(nonce(first)))));
          const last = await session.next();
          if (last?.type === "p") answered = true;
          session.destroy();
        },
      };
      const client = await RawClient.connect(pgpool.tcp);
      const { error, sequence } = await client.login(alice);
      expect(error?.C).toBeDefined();
      expect(sequence).not.toContain("Z");
      await client.closed();
    });
    expect(answered).toBe(false);
  });

  test("by SCRAM and cannot prove that it knows it is refused", async () => {
    await withMock(options, async (pgpool, mock) => {
      mock.script = {
        onLogin: async (session) => {
          if (session.parameters.get("user") !== "alice")
            return session.send(frame("R", int32s(0)));
          session.send(
            frame("R", int32s(10), cString("SCRAM-SHA-256"), cString("SCRAM-X"), Buffer.from([0])),
          );
          const first = (await session.next())?.body.toString("latin1") ?? "";
          session.send(
            frame("R", int32s(11), Buffer.from(`r=${nonce(first)}more,s=c2FsdA==,i=4096`)),
          );
          await session.next();
          session.send(frame("R", int32s(12), Buffer.from("v=AAAA")), frame("R", int32s(0)));
          session.ready();
          await session.closed();
        },
      };
      const client = await RawClient.connect(pgpool.tcp);
      const { error, sequence } = await client.login(alice);
      expect(error?.C).toBeDefined();
      expect(sequence).not.toContain("Z");
      await client.closed();
    });
  });

  test("that nobody gave us is an error that says so", async () => {
    await withMock(options, async (pgpool, mock) => {
      mock.script = {
        onLogin: async (session) => {
          if (session.parameters.get("user") !== "carol")
            return session.send(frame("R", int32s(0)));
          session.send(frame("R", int32s(10), cString("SCRAM-SHA-256"), Buffer.from([0])));
          await session.closed();
        },
      };
      const client = await RawClient.connect(pgpool.tcp);
      const { error } = await client.login({ user: "carol", database: "test" });
      expect(error).toMatchObject({
        M: "failed to authenticate with backend using SCRAM",
        D: "valid password not found",
      });
      await client.closed();
    });
  });
});

describe("a server asked for TLS", () => {
  const tls = (): Options => ({
    config: { ssl: true, ssl_key: certificate.key, ssl_cert: certificate.cert },
  });

  /** Plays `answer` to the SSLRequest of the next session only. */
  const toSslRequest = (answer: (session: MockSession) => void): MockScript => ({
    onConnect: async (session) => {
      await session.packet();
      answer(session);
      await session.closed();
    },
  });

  test("that answers with an error is not believed, nor is its text passed on", async () => {
    await withMock(tls(), async (pgpool, mock) => {
      mock.script = toSslRequest((session) =>
        session.error("FATAL", "28000", "send me your password"),
      );
      const client = await RawClient.connect(pgpool.tcp);
      const { error } = await client.login({ user: "postgres", database: "other" });
      expect(error?.C).toBeDefined();
      expect(JSON.stringify(error)).not.toContain("send me your password");
      await client.closed();
      await pgpool.logged(/server sent an error response during SSL exchange/);
    });
  });

  test.each([
    ["S and more in the clear", Buffer.concat([Buffer.from("S"), frame("R", int32s(0)), idle])],
    ["a byte that means nothing", Buffer.from("?")],
  ])("that answers %s is refused", async (_, bytes) => {
    await withMock(tls(), async (pgpool, mock) => {
      mock.script = toSslRequest((session) => session.send(bytes));
      const client = await RawClient.connect(pgpool.tcp);
      const { error, sequence } = await client.login({ user: "postgres", database: "other" });
      expect(error?.C).toBeDefined();
      expect(sequence).not.toContain("Z");
      await client.closed();
    });
  });
});

describe("PostgreSQL out of connections", () => {
  test("says so to the client in its own words, and serves again when there is room", async () => {
    await using own = new Scope();
    const server = await Postgres.create(own, {
      settings: { max_connections: 8, superuser_reserved_connections: 3, max_wal_senders: 0 },
    });
    await server.sql(`CREATE ROLE ${monitor} SUPERUSER LOGIN; CREATE ROLE alice LOGIN`);
    const pgpool = await Pgpool.create(own, {
      backends: [server],
      config: { num_init_children: 8, max_pool: 1, sr_check_user: monitor, sr_check_period: 0 },
    });
    const alice = { user: "alice", database: "test" };
    await eventually(async () =>
      (await RawClient.login(pgpool.tcp, alice)).terminate().then(() => true),
    );
    const ledger = await Ledger.open(pgpool, server, alice);
    const direct = { host: server.host, port: server.port };
    const taken: RawClient[] = [];
    for (;;) {
      const client = await RawClient.connect(direct);
      if ((await client.login(alice)).error !== undefined) break;
      taken.push(client);
    }
    // One connection may still lie in pgpool's pool: the second client certainly finds none.
    const errors: (ErrorFields | undefined)[] = [];
    const held: RawClient[] = [];
    for (let i = 0; i < 2; i++) {
      const client = await RawClient.connect(pgpool.tcp);
      errors.push((await client.login(alice)).error);
      held.push(client);
    }
    expect(errors.at(-1)).toMatchObject({ S: "FATAL", C: "53300" });
    for (const client of [...taken, ...held]) client.destroy();
    // The bystander and whoever took the pool's last connection are the server's only ones again.
    await ledger.balanced();
  }, 300_000);
});
