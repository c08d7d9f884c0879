/**
 * What every transport must do, as plain functions: bun:test runs them for both implementations and
 * a script runs them under Deno. Each takes free ports and leaves nothing behind.
 */
import assert from "node:assert/strict";
import { createHash } from "node:crypto";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { createServer, type Socket } from "node:net";
import { join } from "node:path";
import type {
  ClientTls,
  Conn,
  ConnHandler,
  Listener,
  ServerTls,
  Transport,
} from "../../proxy/transport/conn.ts";
import type { Certificates } from "./certificates.ts";

export type World = {
  readonly transport: Transport;
  readonly certificates: Certificates;
  /** An empty directory of this check alone. */
  readonly directory: string;
};

export type Check = {
  readonly title: string;
  /** Why Deno cannot pass this one: a limit of its `node:` modules, kept in view here. */
  readonly denoLacks?: string;
  readonly run: (world: World) => Promise<void>;
};

const deadlineMs = 30_000;

async function until(fact: () => boolean, what: string): Promise<void> {
  const deadline = performance.now() + deadlineMs;
  while (!fact()) {
    if (performance.now() > deadline) throw new Error(`still waiting for ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
}

/** Remembers what a connection said. */
class Recorder implements ConnHandler {
  chunks: Uint8Array[] = [];
  size = 0;
  drains = 0;
  closes: (Error | undefined)[] = [];
  onData(chunk: Uint8Array): void {
    this.chunks.push(chunk);
    this.size += chunk.length;
  }
  onDrain(): void {
    this.drains += 1;
  }
  onClose(error?: Error): void {
    this.closes.push(error);
  }
  get text(): string {
    return Buffer.concat(this.chunks).toString("latin1");
  }
  async says(text: string): Promise<void> {
    await until(() => this.text.includes(text), `"${text}", having "${this.text}"`);
  }
  async closed(): Promise<Error | undefined> {
    await until(() => this.closes.length > 0, "onClose");
    return this.closes[0];
  }
}

function listened(conn: Conn): Recorder {
  const recorder = new Recorder();
  conn.handler = recorder;
  return recorder;
}

const bytes = (text: string) => new Uint8Array(Buffer.from(text, "latin1"));
const patience = { timeoutMs: deadlineMs } as const;

type Two = {
  readonly client: Conn;
  readonly server: Conn;
  readonly port: number;
  readonly heardByClient: Recorder;
  readonly heardByServer: Recorder;
};

/** A connected pair over loopback, and its end. */
async function withPair(transport: Transport, use: (two: Two) => Promise<void>): Promise<void> {
  const accepted: { conn: Conn; recorder: Recorder }[] = [];
  const listener = await transport.listen(
    { kind: "tcp", host: "127.0.0.1", port: 0, backlog: 16 },
    (conn) => accepted.push({ conn, recorder: listened(conn) }),
  );
  const port = portOf(listener);
  const client = await transport.connect({ kind: "tcp", host: "127.0.0.1", port }, patience);
  const heardByClient = listened(client);
  await until(() => accepted.length === 1, "the accepted connection");
  const [first] = accepted;
  if (first === undefined) throw new Error("nothing accepted");
  try {
    await use({ client, server: first.conn, port, heardByClient, heardByServer: first.recorder });
  } finally {
    client.destroy();
    first.conn.destroy();
    await listener.close();
  }
}

function portOf(listener: Listener): number {
  if (listener.port === undefined) throw new Error("no port");
  return listener.port;
}

/** Both ends of TLS at once; the settled results in the order client, server. */
async function secure(two: Two, server: ServerTls, client: ClientTls) {
  return await Promise.allSettled([
    two.client.startClientTls(client),
    two.server.startServerTls(server),
  ]);
}

function reasonOf(result: PromiseSettledResult<void>): string {
  return result.status === "rejected" ? String(result.reason.message) : "fulfilled";
}

const serverTls = (c: Certificates, more: Partial<ServerTls> = {}): ServerTls => ({
  ...c.server,
  ...more,
});

function codeOf(error: unknown): unknown {
  return error instanceof Error && "code" in error ? error.code : undefined;
}

/** A reproducible stream: block `index` differs from every other. */
function block(index: number, size: number): Uint8Array {
  const out = new Uint8Array(size);
  const view = new DataView(out.buffer);
  for (let at = 0; at + 4 <= size; at += 4)
    view.setUint32(at, (index * 2654435761 + at * 40503) >>> 0);
  return out;
}

/**
 * Pumps blocks through client → server → (sha256), the server's reader stalling now and then, and
 * the producer obeying `send`. Returns the most that was ever buffered.
 */
async function pump(two: Two, totalBytes: number): Promise<number> {
  const blockBytes = 100_000;
  const sent = createHash("sha256");
  const received = createHash("sha256");
  let receivedBytes = 0;
  let stalls = 0;
  let bufferedMax = 0;
  let index = 0;
  two.server.handler = {
    onData(chunk) {
      received.update(chunk);
      receivedBytes += chunk.length;
      if (receivedBytes > (stalls + 1) * (totalBytes / 5)) {
        stalls += 1;
        two.server.pause();
        two.server.pause();
        setTimeout(() => two.server.resume(), 100);
      }
    },
    onDrain() {},
    onClose() {},
  };
  const produce = () => {
    while (index * blockBytes < totalBytes) {
      const piece = block(index++, blockBytes);
      sent.update(piece);
      const more = two.client.send(piece);
      bufferedMax = Math.max(bufferedMax, two.client.buffered);
      if (!more) return;
    }
  };
  two.client.handler = { onData() {}, onDrain: produce, onClose() {} };
  produce();
  const wanted = Math.ceil(totalBytes / blockBytes) * blockBytes;
  const deadline = performance.now() + 60_000;
  while (receivedBytes < wanted) {
    if (performance.now() > deadline) throw new Error(`${receivedBytes} of ${wanted} bytes came`);
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  assert.ok(stalls >= 4, "the reader stalled");
  assert.equal(received.digest("hex"), sent.digest("hex"));
  return bufferedMax;
}

/** A plain socket of the runtime, to be rude with. */
async function rawPeer(use: (transportTarget: number, accepted: Promise<Socket>) => Promise<void>) {
  let accept: (socket: Socket) => void = () => {};
  const accepted = new Promise<Socket>((resolve) => {
    accept = resolve;
  });
  const server = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on("error", () => {});
    accept(socket);
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const address = server.address();
  if (address === null || typeof address === "string") throw new Error("no address");
  try {
    await use(address.port, accepted);
  } finally {
    (await accepted).destroy();
    server.close();
  }
}

const sockets: readonly Check[] = [
  {
    title: "what is sent arrives, both ways, and peers know each other's address",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        assert.equal(two.client.send(bytes("ping")), true);
        await two.heardByServer.says("ping");
        two.server.send(bytes("pong"));
        await two.heardByClient.says("pong");
        assert.deepEqual(two.client.peer, { kind: "tcp", host: "127.0.0.1", port: two.port });
        assert.equal(two.server.peer.kind === "tcp" && two.server.peer.host, "127.0.0.1");
        assert.equal(two.client.buffered, 0);
        assert.equal(two.client.tls, undefined);
      }),
  },
  {
    title: "200 MB pass a stalling reader byte for byte, and the producer never holds much",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        const bufferedMax = await pump(two, 200_000_000);
        assert.ok(bufferedMax > 0, "there was back-pressure");
        assert.ok(bufferedMax < 1_000_000, `buffered ${bufferedMax}`);
      }),
  },
  {
    title: "a paused connection delivers nothing, and after resume everything in order",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        two.server.pause();
        two.server.pause();
        two.client.send(bytes("one "));
        two.client.send(bytes("two "));
        // The other direction is the clock: it works while this one stands still.
        two.server.send(bytes("tick"));
        await two.heardByClient.says("tick");
        assert.equal(two.heardByServer.size, 0);
        two.server.resume();
        two.server.resume();
        await two.heardByServer.says("one two ");
        two.client.send(bytes("three"));
        await two.heardByServer.says("one two three");
      }),
  },
  {
    title: "bytes sent before a close reach a reader that was paused, then onClose comes once",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        two.server.pause();
        for (let i = 0; i < 20; i++) two.client.send(block(i, 10_000));
        two.client.end();
        two.server.send(bytes("tick"));
        assert.equal(two.heardByServer.size, 0);
        two.server.resume();
        assert.equal(await two.heardByServer.closed(), undefined);
        assert.equal(two.heardByServer.size, 200_000);
        assert.equal(await two.heardByClient.closed(), undefined);
        assert.equal(two.heardByServer.closes.length, 1);
        assert.equal(two.heardByClient.closes.length, 1);
      }),
  },
  {
    title: "a paused reader is told the rest and the end, though the connection broke meanwhile",
    run: async ({ transport }) => {
      for (let round = 0; round < 30; round++) {
        await rawPeer(async (port, accepted) => {
          const conn = await transport.connect({ kind: "tcp", host: "127.0.0.1", port }, patience);
          const heard = listened(conn);
          let chunks = 0;
          heard.onData = () => {
            chunks++;
            conn.pause();
          };
          const peer = await accepted;
          peer.resume();
          peer.write(block(round, 250_000));
          await until(() => chunks > 0, "the first chunk");
          peer.destroy();
          let sent = 0;
          await until(() => {
            conn.send(block(round, 50_000)); // what nobody reads any more is answered by a reset
            if (++sent % 5 === 0) conn.resume();
            return heard.closes.length > 0;
          }, `onClose in round ${round}`);
        });
      }
    },
  },
  {
    title: "end sends what is buffered, however much, and then the peer sees the end",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        two.server.pause();
        let total = 0;
        for (let more = true; more; total += 1_000_000)
          more = two.client.send(block(total, 1_000_000));
        two.client.send(bytes("last words"));
        two.client.end();
        assert.equal(two.client.send(bytes("ignored")), false);
        two.server.resume();
        assert.equal(await two.heardByServer.closed(), undefined);
        assert.equal(two.heardByServer.size, total + "last words".length);
      }),
  },
  {
    title: "a last message is read even when the peer was still sending",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        two.server.pause();
        two.client.send(block(1, 300_000));
        two.server.send(bytes("FATAL"));
        two.server.end();
        await two.heardByClient.says("FATAL");
        assert.equal(await two.heardByClient.closed(), undefined);
      }),
  },
  {
    title: "a peer that answers end with silence is let go after a moment",
    run: ({ transport }) =>
      rawPeer(async (port, accepted) => {
        const conn = await transport.connect({ kind: "tcp", host: "127.0.0.1", port }, patience);
        const heard = listened(conn);
        await accepted;
        conn.send(bytes("bye"));
        conn.end();
        await heard.closed();
        assert.equal(heard.closes.length, 1);
      }),
  },
  {
    title: "a peer that closes its half is told what was buffered for it, then it is over",
    denoLacks: "a write under way when the peer's FIN arrives fails with EPIPE",
    run: ({ transport }) =>
      rawPeer(async (port, accepted) => {
        const conn = await transport.connect({ kind: "tcp", host: "127.0.0.1", port }, patience);
        const heard = listened(conn);
        const peer = await accepted;
        let got = 0;
        let total = 0;
        for (let more = true; more; total += 1_000_000) more = conn.send(block(total, 1_000_000));
        peer.end();
        peer.on("data", (chunk) => {
          got += chunk.length;
        });
        assert.equal(await heard.closed(), undefined);
        await until(() => got === total, "all bytes after the half-close");
      }),
  },
  {
    title: "a reset ends in exactly one onClose, with its reason",
    run: ({ transport }) =>
      rawPeer(async (port, accepted) => {
        const conn = await transport.connect({ kind: "tcp", host: "127.0.0.1", port }, patience);
        const heard = listened(conn);
        (await accepted).resetAndDestroy();
        assert.equal(codeOf(await heard.closed()), "ECONNRESET");
        conn.send(bytes("into the void"));
        conn.pause();
        conn.resume();
        conn.end();
        conn.destroy();
        assert.equal(heard.closes.length, 1);
        assert.equal(conn.buffered, 0);
      }),
  },
  {
    title:
      "destroy closes at once, also what is buffered and paused; onClose comes once, without error",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        two.server.pause();
        while (two.client.send(block(3, 1_000_000))) {}
        assert.ok(two.client.buffered > 0);
        two.client.destroy();
        two.client.destroy();
        assert.equal(two.heardByClient.closes.length, 0, "not from inside destroy");
        assert.equal(await two.heardByClient.closed(), undefined);
        assert.equal(two.client.buffered, 0);
        two.server.destroy();
        await two.heardByServer.closed();
        assert.deepEqual(
          [two.heardByClient.closes.length, two.heardByServer.closes.length],
          [1, 1],
        );
      }),
  },
  {
    title: "an exception in a handler closes that connection and is its onClose reason",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        const broken = new Recorder();
        broken.onData = () => {
          throw new Error("a bug");
        };
        two.server.handler = broken;
        two.client.send(bytes("x"));
        assert.equal((await broken.closed())?.message, "a bug");
        assert.equal(broken.closes.length, 1);
        await two.heardByClient.closed();
      }),
  },
  {
    title: "exceptions in onDrain, onClose and the accepting function harm nobody else",
    run: async ({ transport }) => {
      await withPair(transport, async (two) => {
        const broken = new Recorder();
        broken.onDrain = () => {
          throw new Error("drain bug");
        };
        broken.onClose = (error) => {
          broken.closes.push(error);
          throw new Error("close bug");
        };
        two.client.handler = broken;
        two.server.pause();
        while (two.client.send(block(3, 1_000_000))) {}
        two.server.resume();
        assert.equal((await broken.closed())?.message, "drain bug");
        await two.heardByServer.closed();
      });
      const listener = await transport.listen(
        { kind: "tcp", host: "127.0.0.1", port: 0, backlog: 16 },
        () => {
          throw new Error("no room");
        },
      );
      const conn = await transport.connect(
        { kind: "tcp", host: "127.0.0.1", port: portOf(listener) },
        patience,
      );
      await listened(conn).closed();
      await listener.close();
    },
  },
  {
    title: "the handler can be replaced between two chunks",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        const second = new Recorder();
        two.server.handler = {
          onData() {
            two.server.handler = second;
          },
          onDrain() {},
          onClose() {},
        };
        two.client.send(bytes("first"));
        await until(() => two.server.handler === second, "the new handler");
        two.client.send(bytes("second"));
        await second.says("second");
      }),
  },
  {
    title: "500 connections opened and closed leave no descriptor behind",
    run: async ({ transport }) => {
      const open = () => (existsSync("/proc/self/fd") ? descriptors() : 0);
      const before = open();
      let closedByServer = 0;
      const listener = await transport.listen(
        { kind: "tcp", host: "127.0.0.1", port: 0, backlog: 512 },
        (conn) => {
          conn.handler = {
            onData: (chunk) => conn.send(chunk),
            onDrain() {},
            onClose() {
              closedByServer += 1;
            },
          };
        },
      );
      const target = { kind: "tcp", host: "127.0.0.1", port: portOf(listener) } as const;
      for (let round = 0; round < 5; round++) {
        const talk = async (way: number) => {
          const conn = await transport.connect(target, patience);
          const heard = listened(conn);
          conn.send(bytes("hello"));
          await heard.says("hello");
          if (way % 2 === 0) conn.end();
          else conn.destroy();
          await heard.closed();
        };
        await Promise.all(Array.from({ length: 100 }, (_, way) => talk(way)));
      }
      await until(() => closedByServer === 500, "500 closes at the server");
      await listener.close();
      await until(() => open() <= before + 2, `descriptors back to ${before}, not ${open()}`);
    },
  },
];

function descriptors(): number {
  // Counting by name keeps the count itself from opening one.
  let count = 0;
  for (let fd = 0; fd < 2_000; fd++) if (existsSync(`/proc/self/fd/${fd}`)) count += 1;
  return count;
}

const addresses: readonly Check[] = [
  {
    title: "a refused connect rejects with ECONNREFUSED",
    run: async ({ transport }) => {
      const listener = await transport.listen(
        { kind: "tcp", host: "127.0.0.1", port: 0, backlog: 1 },
        () => {},
      );
      const port = portOf(listener);
      await listener.close();
      const failure = await transport
        .connect({ kind: "tcp", host: "127.0.0.1", port }, patience)
        .catch((e) => e);
      assert.equal(codeOf(failure), "ECONNREFUSED");
    },
  },
  {
    title: "a connect that nobody answers times out with ETIMEDOUT, or is given up by its signal",
    run: async ({ transport }) => {
      // TEST-NET-1 (RFC 5737) is never routed; where the kernel says so at once, that is an answer too.
      const silent = { kind: "tcp", host: "192.0.2.1", port: 9 } as const;
      const began = performance.now();
      const late = await transport.connect(silent, { timeoutMs: 200 }).catch((error) => error);
      assert.ok(
        ["ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH", "ECONNREFUSED"].includes(String(codeOf(late))),
        String(late),
      );
      assert.ok(performance.now() - began < 60_000); // the kernel would take two minutes

      const abort = new AbortController();
      const given = transport
        .connect(silent, { timeoutMs: 0, signal: abort.signal })
        .catch((error) => error);
      abort.abort(new Error("shutting down"));
      assert.equal((await given).message, "shutting down");
      const never = transport.connect(silent, { timeoutMs: 0, signal: abort.signal });
      await assert.rejects(never, /shutting down/);
    },
  },
  {
    title: "a name is resolved, and its second address is tried when the first refuses",
    run: async ({ transport }) => {
      for (const host of ["127.0.0.1", "::1"]) {
        const heard: Recorder[] = [];
        const listener = await transport.listen(
          { kind: "tcp", host, port: 0, backlog: 4 },
          (conn) => {
            heard.push(listened(conn));
          },
        );
        const target = { kind: "tcp", host: "localhost", port: portOf(listener) } as const;
        const conn = await transport.connect(target, patience).catch(async (error) => {
          // A machine whose resolver knows only one address of localhost cannot show this for the other.
          const { lookup } = await import("node:dns/promises");
          const known = await lookup("localhost", { all: true });
          if (known.some((entry) => entry.address === host)) throw error;
          return undefined;
        });
        conn?.destroy();
        await listener.close();
      }
      const unknown = transport.connect(
        { kind: "tcp", host: "no-such-host.invalid", port: 1 },
        patience,
      );
      await assert.rejects(unknown);
    },
  },
  {
    title: "* listens on both families, and an IPv4 client is shown as one",
    run: async ({ transport }) => {
      const peers: string[] = [];
      const listener = await transport.listen(
        { kind: "tcp", host: "*", port: 0, backlog: 4 },
        (conn) => {
          peers.push(conn.peer.kind === "tcp" ? conn.peer.host : "unix");
        },
      );
      for (const host of ["127.0.0.1", "::1"]) {
        const conn = await transport.connect(
          { kind: "tcp", host, port: portOf(listener) },
          patience,
        );
        conn.destroy();
      }
      await until(() => peers.length === 2, "both clients");
      assert.deepEqual(peers, ["127.0.0.1", "::1"]);
      await listener.close();
    },
  },
  {
    title: "a name to listen on binds all its addresses to one port",
    run: async ({ transport }) => {
      const listener = await transport.listen(
        { kind: "tcp", host: "localhost", port: 0, backlog: 4 },
        () => {},
      );
      const conn = await transport.connect(
        { kind: "tcp", host: "localhost", port: portOf(listener) },
        patience,
      );
      conn.destroy();
      await listener.close();
    },
  },
  {
    title: "a taken port is EADDRINUSE, an address that is not ours EADDRNOTAVAIL",
    denoLacks: "a bind to a foreign address fails with EINVAL",
    run: async ({ transport }) => {
      const listener = await transport.listen(
        { kind: "tcp", host: "127.0.0.1", port: 0, backlog: 4 },
        () => {},
      );
      const listenAt = (host: string, port: number) =>
        transport.listen({ kind: "tcp", host, port, backlog: 4 }, () => {}).catch((error) => error);
      assert.equal(codeOf(await listenAt("127.0.0.1", portOf(listener))), "EADDRINUSE");
      assert.equal(codeOf(await listenAt("192.0.2.1", 0)), "EADDRNOTAVAIL");
      await listener.close();
    },
  },
  {
    title: "close refuses newcomers and leaves those inside alone",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        const inside: Conn[] = [];
        const listener = await transport.listen(
          { kind: "tcp", host: "127.0.0.1", port: 0, backlog: 4 },
          (conn) => {
            inside.push(conn);
            conn.handler = { onData: (chunk) => conn.send(chunk), onDrain() {}, onClose() {} };
          },
        );
        const target = { kind: "tcp", host: "127.0.0.1", port: portOf(listener) } as const;
        const conn = await transport.connect(target, patience);
        const heard = listened(conn);
        await until(() => inside.length === 1, "the accepted connection");
        await listener.close();
        assert.equal(
          codeOf(await transport.connect(target, patience).catch((error) => error)),
          "ECONNREFUSED",
        );
        conn.send(bytes("still here"));
        await heard.says("still here");
        conn.destroy();
        two.client.send(bytes("x"));
      }),
  },
  {
    title: "a Unix socket has the mode asked, carries bytes, and its file goes with the listener",
    run: async ({ transport, directory }) => {
      const path = join(directory, ".s.PGSQL.9999");
      const heard: Recorder[] = [];
      const kinds: string[] = [];
      const listener = await transport.listen({ kind: "unix", path, mode: 0o770 }, (conn) => {
        kinds.push(conn.peer.kind);
        heard.push(listened(conn));
      });
      assert.equal(statSync(path).mode & 0o777, 0o770);
      assert.equal(listener.port, undefined);
      const conn = await transport.connect({ kind: "unix", path }, patience);
      conn.handler = new Recorder();
      conn.send(bytes("local"));
      await until(() => heard[0]?.text === "local", "the bytes");
      assert.deepEqual([conn.peer.kind, ...kinds], ["unix", "unix"]);
      const second = await transport
        .listen({ kind: "unix", path, mode: 0o777 }, () => {})
        .catch((e) => e);
      assert.equal(codeOf(second), "EADDRINUSE");
      await listener.close();
      assert.equal(existsSync(path), false);
      conn.send(bytes(" bytes"));
      await until(() => heard[0]?.text === "local bytes", "bytes after close");
      conn.destroy();
    },
  },
  {
    title: "a socket file left by a dead process is replaced; any other file is not",
    run: async ({ transport, directory }) => {
      const path = join(directory, "stale.sock");
      await leaveStaleSocket(path);
      assert.equal(
        codeOf(await transport.connect({ kind: "unix", path }, patience).catch((e) => e)),
        "ECONNREFUSED",
      );
      const listener = await transport.listen({ kind: "unix", path, mode: 0o777 }, () => {});
      const conn = await transport.connect({ kind: "unix", path }, patience);
      conn.destroy();
      await listener.close();
      const precious = join(directory, "precious");
      writeFileSync(precious, "data");
      const refused = await transport
        .listen({ kind: "unix", path: precious, mode: 0o777 }, () => {})
        .catch((e) => e);
      assert.equal(codeOf(refused), "EADDRINUSE");
      assert.equal(existsSync(precious), true);
    },
  },
];

/** A process that dies without unlinking: python, since the runtimes here clean up after themselves. */
async function leaveStaleSocket(path: string): Promise<void> {
  const { execFileSync } = await import("node:child_process");
  const script =
    "import socket,sys; s=socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(1)";
  execFileSync("python3", ["-c", script, path]);
}

const securedChecks: readonly Check[] = [
  {
    title:
      "TLS on both sides: bytes pass, version and cipher are known, pause and resume still work",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        // As after SSLRequest: the answer goes out in clear on the same connection.
        two.server.send(bytes("S"));
        await two.heardByClient.says("S");
        const results = await secure(two, serverTls(certificates), { ca: certificates.ca });
        assert.deepEqual(results.map(reasonOf), ["fulfilled", "fulfilled"]);
        assert.match(two.server.tls?.version ?? "", /^TLSv1\.[23]$/);
        assert.equal(two.client.tls?.version, two.server.tls?.version);
        assert.match(two.server.tls?.cipher ?? "", /^[A-Z0-9_-]+$/);
        assert.equal(two.server.tls?.peerCommonName, undefined);
        two.client.send(bytes("secret"));
        await two.heardByServer.says("secret");
        two.server.pause();
        two.server.pause();
        two.client.send(bytes(" more"));
        two.server.send(bytes("tick"));
        await two.heardByClient.says("tick");
        assert.equal(two.heardByServer.text, "secret");
        two.server.resume();
        two.server.resume();
        await two.heardByServer.says("secret more");
        assert.equal(two.heardByServer.text, "secret more");
        assert.equal(two.heardByClient.text, "Stick");
        two.client.end();
        assert.equal(await two.heardByServer.closed(), undefined);
        assert.equal(await two.heardByClient.closed(), undefined);
      }),
  },
  {
    title: "20 MB pass a stalling reader over TLS byte for byte",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        await secure(two, serverTls(certificates), {});
        assert.ok((await pump(two, 20_000_000)) < 1_000_000);
      }),
  },
  {
    title: "a connection paused before TLS is still paused after it",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        two.server.pause();
        await secure(two, serverTls(certificates), {});
        two.client.send(bytes("early"));
        two.server.send(bytes("tick"));
        await two.heardByClient.says("tick");
        assert.equal(two.heardByServer.size, 0);
        two.server.resume();
        await two.heardByServer.says("early");
      }),
  },
  {
    title: "bytes that come with the end of the handshake reach the handler set after it",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        const later = new Recorder();
        const serverDone = (async () => {
          await two.server.startServerTls(serverTls(certificates));
          two.server.handler = later;
        })();
        await two.client.startClientTls({});
        two.client.send(bytes("startup"));
        await serverDone;
        await later.says("startup");
        assert.equal(two.heardByServer.size, 0);
      }),
  },
  {
    title: "a server whose authority is not ours is refused, and both ends close",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        const [client] = await Promise.allSettled([
          two.client.startClientTls({ ca: certificates.otherCa }),
          two.server.startServerTls(serverTls(certificates)),
        ]);
        assert.match(reasonOf(client), /^TLS handshake failed: ./);
        assert.ok((await two.heardByClient.closed()) instanceof Error);
        await two.heardByServer.closed();
        assert.equal(two.client.tls, undefined);
        assert.equal(two.heardByClient.closes.length, 1);
      }),
  },
  {
    title: "the name counts only when verifyName is set",
    run: async ({ transport, certificates }) => {
      const { ca } = certificates;
      const rows: readonly (readonly [ClientTls, boolean])[] = [
        [{ ca, serverName: "elsewhere.example" }, true],
        [{ ca, verifyName: "good.example" }, true],
        [{ ca, verifyName: "good.example", serverName: "elsewhere.example" }, true],
        [{ ca, verifyName: "bad.example" }, false],
        [{ ca, verifyName: "bad.example", serverName: "good.example" }, false],
        [{ ca: certificates.otherCa, verifyName: "good.example" }, false],
        [{ ca: certificates.otherCa, serverName: "elsewhere.example" }, false],
      ];
      for (const [options, accepted] of rows) {
        await withPair(transport, async (two) => {
          const [client] = await secure(two, serverTls(certificates), options);
          const shown = JSON.stringify({ ...options, ca: undefined });
          assert.equal(
            client?.status === "fulfilled",
            accepted,
            `${shown}: ${client && reasonOf(client)}`,
          );
        });
      }
    },
  },
  {
    title: "a client certificate is asked for when there is an authority, and may be absent",
    run: async ({ transport, certificates }) => {
      const { ca } = certificates;
      const rows: readonly (readonly [ClientTls, string | undefined])[] = [
        [{}, undefined],
        [certificates.client, "alice"],
        [certificates.clientWithNul, "alice\0.evil"],
      ];
      for (const [options, name] of rows) {
        await withPair(transport, async (two) => {
          const results = await secure(two, serverTls(certificates, { ca }), options);
          assert.deepEqual(results.map(reasonOf), ["fulfilled", "fulfilled"]);
          assert.equal(two.server.tls?.peerCommonName, name);
        });
      }
    },
  },
  {
    title: "a client certificate of a stranger or a revoked one ends the handshake at the server",
    run: async ({ transport, certificates }) => {
      const { ca, crl } = certificates;
      const rows: readonly (readonly [ServerTls, ClientTls, boolean])[] = [
        [serverTls(certificates, { ca }), certificates.stranger, false],
        [serverTls(certificates, { ca }), certificates.revoked, true],
        [serverTls(certificates, { ca, crl }), certificates.revoked, false],
      ];
      for (const [index, [server, client, accepted]] of rows.entries()) {
        await withPair(transport, async (two) => {
          const [, served] = await secure(two, server, client);
          assert.equal(
            served?.status === "fulfilled",
            accepted,
            `row ${index}: ${served && reasonOf(served)}`,
          );
          if (!accepted) assert.ok((await two.heardByServer.closed()) instanceof Error);
        });
      }
    },
  },
  {
    title: "a client certificate that is not on the list of revoked ones is welcome",
    denoLacks: "it ignores revocation lists, so the transport refuses to serve with one",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        const { ca, crl, client } = certificates;
        const results = await secure(two, serverTls(certificates, { ca, crl }), client);
        assert.deepEqual(results.map(reasonOf), ["fulfilled", "fulfilled"]);
        assert.equal(two.server.tls?.peerCommonName, "alice");
      }),
  },
  {
    title:
      "plain bytes that were held back when TLS starts end the connection, not pass for encrypted",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        const [inbox, unread] = [new Recorder(), new Recorder()];
        two.server.handler = {
          onData() {
            // Stops in the midst of what was read together, as a parser with a full queue does.
            two.server.pause();
            two.server.handler = unread;
          },
          onDrain() {},
          onClose() {},
        };
        two.client.send(bytes("SSLRequest"));
        await until(() => two.server.handler === unread, "the first bytes");
        two.client.send(bytes("Q evil"));
        two.client.handler = inbox;
        two.server.send(bytes("S"));
        await inbox.says("S");
        const [client, server] = await secure(two, serverTls(certificates), {});
        assert.deepEqual([client?.status, server?.status], ["rejected", "rejected"]);
        two.server.resume();
        await unread.closed();
        assert.equal(unread.size, 0);
      }),
  },
  {
    title: "a server without an authority ignores client certificates",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        const results = await secure(two, serverTls(certificates), certificates.stranger);
        assert.deepEqual(results.map(reasonOf), ["fulfilled", "fulfilled"]);
        assert.equal(two.server.tls?.peerCommonName, undefined);
      }),
  },
  {
    title: "an encrypted key opens with its passphrase and not without",
    run: async ({ transport, certificates }) => {
      const key = certificates.encryptedKey;
      await withPair(transport, async (two) => {
        const options = serverTls(certificates, { key, passphrase: certificates.passphrase });
        assert.deepEqual((await secure(two, options, {})).map(reasonOf), [
          "fulfilled",
          "fulfilled",
        ]);
      });
      await withPair(transport, async (two) => {
        const [, served] = await secure(
          two,
          serverTls(certificates, { key, passphrase: "wrong" }),
          {},
        );
        assert.equal(served?.status, "rejected");
        await two.heardByClient.closed();
      });
    },
  },
  {
    title: "a peer that speaks no TLS is refused with one rejection and one onClose",
    run: ({ transport, certificates }) =>
      withPair(transport, async (two) => {
        const handshake = two.server
          .startServerTls(serverTls(certificates))
          .catch((error) => error);
        two.client.send(bytes("Q\0\0\0\x0dselect 1;\0 and so on"));
        assert.match((await handshake).message, /^TLS handshake failed: ./);
        await two.heardByServer.closed();
        await two.heardByClient.closed();
        assert.equal(two.heardByServer.closes.length, 1);
        assert.equal(two.heardByServer.size, 0);
      }),
  },
  {
    title: "a server that answers the handshake with something else is refused, verified or not",
    run: async ({ transport, certificates }) => {
      const answers = [
        bytes("HTTP/1.1 400 Bad Request\r\n\r\n"),
        Uint8Array.of(0x15, 3, 3, 0, 2, 2, 40), // alert: handshake_failure
        Uint8Array.of(),
      ];
      for (const answer of answers) {
        for (const options of [{}, { ca: certificates.ca }]) {
          await withPair(transport, async (two) => {
            const handshake = two.client.startClientTls(options).catch((error) => error);
            two.server.send(answer);
            two.server.end();
            assert.match(String(await handshake), /TLS handshake failed: ./);
            await two.heardByClient.closed();
            assert.equal(two.client.tls, undefined);
          });
        }
      }
    },
  },
  {
    title: "a peer that leaves or is dropped during the handshake rejects it",
    run: async ({ transport, certificates }) => {
      await withPair(transport, async (two) => {
        const handshake = two.server
          .startServerTls(serverTls(certificates))
          .catch((error) => error);
        two.client.end();
        assert.match((await handshake).message, /^TLS handshake failed: ./);
        await two.heardByServer.closed();
      });
      await withPair(transport, async (two) => {
        const handshake = two.client.startClientTls({}).catch((error) => error);
        two.client.destroy();
        assert.ok((await handshake) instanceof Error);
        await two.heardByServer.closed();
        await assert.rejects(two.client.startClientTls({}));
      });
    },
  },
  {
    title: "plain bytes stuffed after SSLRequest are seen by the caller in the same chunk",
    run: ({ transport }) =>
      withPair(transport, async (two) => {
        const sslRequest = [0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f];
        two.client.send(new Uint8Array([...sslRequest, ...bytes("Q evil")]));
        await two.heardByServer.says("Q evil");
        assert.equal(two.heardByServer.chunks[0]?.length, 14);
      }),
  },
  {
    title: "direct TLS replays the first bytes and demands ALPN postgresql",
    run: async ({ transport, certificates, directory }) => {
      assert.match(
        await directTls(transport, certificates, directory, "postgresql"),
        /^alpn postgresql, heard hello/,
      );
      assert.match(
        await directTls(transport, certificates, directory, undefined),
        /^TLS handshake failed: /,
      );
      assert.match(
        await directTls(transport, certificates, directory, "http/1.1"),
        /^TLS handshake failed: /,
      );
    },
  },
];

/** openssl connects without SSLRequest; the server sees the first bytes before it knows they are TLS. */
async function directTls(
  transport: Transport,
  certificates: Certificates,
  directory: string,
  alpn: string | undefined,
): Promise<string> {
  const { spawn } = await import("node:child_process");
  const heard = new Recorder();
  let outcome: string | undefined;
  const listener = await transport.listen(
    { kind: "tcp", host: "127.0.0.1", port: 0, backlog: 4 },
    (conn) => {
      conn.handler = {
        onData(chunk) {
          assert.equal(chunk[0], 0x16);
          conn.handler = heard;
          conn.startServerTls(serverTls(certificates), chunk).then(
            async () => {
              await heard.says("hello").catch(() => {});
              outcome = `alpn ${conn.tls?.alpn}, heard ${heard.text}`;
            },
            (error) => {
              outcome = error.message;
            },
          );
        },
        onDrain() {},
        onClose() {},
      };
    },
  );
  const args = ["s_client", "-quiet", "-connect", `127.0.0.1:${listener.port}`];
  const client = spawn("openssl", alpn === undefined ? args : [...args, "-alpn", alpn], {
    cwd: directory,
    stdio: ["pipe", "ignore", "ignore"],
  });
  client.stdin.on("error", () => {});
  client.stdin.write("hello\n");
  const exited = new Promise((resolve) => client.once("exit", resolve));
  await until(() => outcome !== undefined, "the end of the handshake");
  client.kill();
  await exited;
  await listener.close();
  return outcome ?? "";
}

export const checks: readonly Check[] = [...sockets, ...addresses, ...securedChecks];
