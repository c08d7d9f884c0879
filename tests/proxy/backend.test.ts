/** A server's connection between its owners, with a list for a socket. */
import { describe, expect, test } from "bun:test";
import { ScramKeyCache } from "../../core/auth/key_cache.ts";
import { nodeId } from "../../core/cluster/state.ts";
import { authenticationOk, readyForQuery } from "../../core/wire/backend.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { type Backend, openBackend, resetBackend } from "../../proxy/backend.ts";
import type { Conn, ConnHandler, Transport } from "../../proxy/transport/conn.ts";

/** Answers each `send` with the next of `answers`. */
class ServerConn implements Conn {
  readonly peer = { kind: "unix" } as const;
  readonly tls = undefined;
  readonly buffered = 0;
  handler: ConnHandler = { onData() {}, onDrain() {}, onClose() {} };
  destroyed = false;
  readonly #answers: (() => void)[];

  constructor(answers: readonly ((conn: ServerConn) => void)[]) {
    this.#answers = answers.map((answer) => () => answer(this));
  }

  send(): boolean {
    this.#answers.shift()?.();
    return true;
  }
  pause(): void {}
  resume(): void {}
  end(): void {}
  destroy(): void {
    this.destroyed = true;
    this.handler.onClose();
  }
  startServerTls(): Promise<void> {
    return Promise.resolve();
  }
  startClientTls(): Promise<void> {
    return Promise.resolve();
  }
}

const letIn = Buffer.concat([authenticationOk(), readyForQuery("I")]);
const says = (bytes: Uint8Array) => (conn: ServerConn) => conn.handler.onData(bytes);
const saysAndLeaves = (bytes: Uint8Array) => (conn: ServerConn) => {
  conn.handler.onData(bytes);
  conn.handler.onClose();
};

function open(conn: ServerConn, signal?: AbortSignal): Promise<Backend> {
  const transport: Transport = {
    name: "node",
    listen: () => Promise.reject(new Error("nobody listens")),
    connect: () => Promise.resolve(conn),
  };
  const scramKeys = new ScramKeyCache({ blindingKey: new Uint8Array(32) });
  const startup = encodeFrontend({
    kind: "StartupMessage",
    major: 3,
    minor: 0,
    parameters: new Map([["user", "alice"]]),
  });
  return openBackend(
    { transport, tls: undefined, scramKeys, defaultSocketDir: "/tmp" },
    { id: nodeId(0), hostname: "", port: 5432, connectTimeoutMs: 0 },
    { startup, user: "alice", secretFor: () => Promise.reject(new Error("nobody asks")) },
    signal,
  );
}

describe("a backend", () => {
  test("that leaves right behind its log-in is known to be closed", async () => {
    expect((await open(new ServerConn([saysAndLeaves(letIn)]))).closed).toBe(true);
  });

  test("that leaves before a session has taken it is known to be closed", async () => {
    const conn = new ServerConn([says(letIn)]);
    const backend = await open(conn);
    expect(backend.closed).toBe(false);
    conn.handler.onClose();
    expect(backend.closed).toBe(true);
  });

  test("that leaves after its reset, while other nodes are still at theirs, is known to be closed", async () => {
    const conn = new ServerConn([says(letIn), says(readyForQuery("I"))]);
    const backend = await open(conn);
    expect(await resetBackend(backend, ["DISCARD ALL"], 1000)).toBe(true);
    expect(backend.closed).toBe(false);
    conn.handler.onClose();
    expect(backend.closed).toBe(true);
  });

  test("is not waited for when the client has gone while it was connected to", async () => {
    const conn = new ServerConn([]);
    const gone = new AbortController();
    gone.abort(new Error("the client is gone"));
    await expect(open(conn, gone.signal)).rejects.toThrow(
      "failed to create a backend 0 connection",
    );
  });
});
