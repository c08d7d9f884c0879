/**
 * Sockets by `node:net` and `node:tls`: the transport under Deno, and the fallback under Bun.
 *
 * Two things differ from the native one. `send` answers as the stream does: false from the
 * high-water mark on, not from the first byte left over. TLS for a server goes through
 * `tls.createServer`, never `new TLSSocket`, which hangs under Deno.
 */
import { constants } from "node:crypto";
import { connect, createServer, type Server, type Socket } from "node:net";
import {
  checkServerIdentity,
  createServer as createTlsServer,
  type PeerCertificate,
  type TLSSocket,
  type TlsOptions,
  connect as tlsConnect,
} from "node:tls";
import {
  admitTo,
  bindAll,
  clearStaleSocket,
  connectAny,
  type DialAddress,
  plainAddress,
  removeOwnSocket,
} from "./address.ts";
import { subjectCommonName } from "./certificate.ts";
import type {
  ClientTls,
  Conn,
  ConnHandler,
  Listener,
  PeerAddress,
  ServerTls,
  TlsInfo,
  Transport,
  UnixListenAddress,
} from "./conn.ts";
import { asError, Delivery, lingerMs } from "./delivery.ts";
import { alpnMissing, plainBytesBeforeTls, postgresqlAlpn, tlsFailure } from "./handshake.ts";

export const nodeTransport: Transport = {
  name: "node",

  async listen(address, onConn) {
    if (address.kind === "unix") return await listenUnix(address, onConn);
    return await bindAll(address, (host, port) =>
      bind({ host, port, backlog: address.backlog }, onConn),
    );
  },

  async connect(target, options) {
    return await connectAny(target, options, dial);
  },
};

const underDeno = "Deno" in globalThis;

/** The handshake under way: what the certificate must satisfy, and how it ends. */
type Handshake = {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly judge: (socket: TLSSocket) => Error | undefined;
  readonly withPeerName: boolean;
};

class NodeConn implements Conn {
  readonly peer: PeerAddress;
  #tls: TlsInfo | undefined;
  #socket: Socket;
  /** The TCP or Unix socket itself; not every runtime closes it together with the TLS above it. */
  readonly #raw: Socket;
  /** `ending`: what is queued still goes out, nothing else is accepted. */
  #phase: "open" | "ending" | "closed" = "open";
  #error: Error | undefined;
  #handshake: Handshake | undefined;
  #linger: ReturnType<typeof setTimeout> | undefined;
  readonly #delivery = new Delivery((error) => this.#abort(error));

  constructor(socket: Socket, peer: PeerAddress) {
    this.peer = peer;
    this.#socket = socket;
    this.#raw = socket;
    this.#listenTo(socket);
    if (peer.kind === "tcp") {
      socket.setNoDelay(true);
      socket.setKeepAlive(true);
    }
  }

  get tls(): TlsInfo | undefined {
    return this.#tls;
  }

  get handler(): ConnHandler {
    return this.#delivery.handler;
  }

  set handler(handler: ConnHandler) {
    this.#delivery.handler = handler;
  }

  get buffered(): number {
    return this.#phase === "closed" ? 0 : this.#socket.writableLength;
  }

  send(bytes: Uint8Array): boolean {
    if (this.#phase !== "open" || bytes.length === 0) return this.buffered === 0;
    return this.#socket.write(bytes);
  }

  pause(): void {
    if (this.#phase !== "open" || this.#delivery.paused) return;
    this.#delivery.pause();
    if (this.#handshake === undefined) this.#stopReading();
  }

  /** Also of a peer that has gone meanwhile: what it said, and that it is over, is still to be told. */
  resume(): void {
    if (!this.#delivery.paused) return;
    this.#delivery.resume();
    if (this.#phase === "open" && this.#handshake === undefined) this.#startReading();
  }

  end(): void {
    if (this.#phase !== "open") return;
    this.#phase = "ending";
    this.#delivery.mute();
    this.#failHandshake(() => new Error("connection was ended during the TLS handshake"));
    // What the peer still sends is read and dropped: closing over unread bytes would be a reset,
    // and a reset may overtake the last message on its way.
    this.#startReading();
    this.#socket.end(() => this.#startLinger());
  }

  destroy(): void {
    this.#abort(undefined);
  }

  startServerTls(options: ServerTls, received?: Uint8Array): Promise<void> {
    const judge = (socket: TLSSocket) => {
      const direct = received !== undefined;
      if (direct && socket.alpnProtocol !== postgresqlAlpn) return alpnMissing();
      // A client without a certificate is welcome; one with a bad certificate is not.
      const presented = options.ca !== undefined && peerCertificate(socket) !== undefined;
      return presented && !socket.authorized
        ? tlsFailure(asError(socket.authorizationError))
        : undefined;
    };
    return this.#upgrade(judge, options.ca !== undefined, (raw) => {
      if (underDeno && options.crl !== undefined) {
        throw new Error("certificate revocation lists have no effect under Deno");
      }
      // A server for one connection, so that its events need no telling apart.
      const server = createTlsServer(serverOptions(options));
      server.once("secureConnection", (socket) => this.#onHandshake(socket));
      server.once("tlsClientError", (error, socket) => {
        socket.on("error", ignore);
        this.#abort(tlsFailure(error));
      });
      // A flowing stream would hand what is put back to nobody.
      raw.pause();
      if (received !== undefined) raw.unshift(received);
      server.emit("connection", raw);
    });
  }

  startClientTls(options: ClientTls): Promise<void> {
    const judge = (socket: TLSSocket) => judgeServer(options, socket);
    return this.#upgrade(judge, false, (raw) => {
      const socket = tlsConnect({ socket: raw, ...clientOptions(options) });
      socket.once("secureConnect", () => this.#onHandshake(socket));
      socket.once("error", (error) => this.#abort(tlsFailure(error)));
      socket.on("error", ignore);
    });
  }

  #upgrade(
    judge: Handshake["judge"],
    withPeerName: boolean,
    begin: (raw: Socket) => void,
  ): Promise<void> {
    return new Promise((resolve, reject) => {
      if (this.#phase !== "open") return reject(new Error("connection is closed"));
      if (this.#delivery.holdsData) {
        const refusal = plainBytesBeforeTls();
        reject(refusal);
        this.#abort(refusal);
        return;
      }
      const raw = this.#socket;
      this.#handshake = { resolve, reject, judge, withPeerName };
      this.#delivery.settle();
      raw.removeAllListeners("data");
      raw.removeAllListeners("drain");
      raw.removeAllListeners("end");
      try {
        begin(raw);
        if (this.#delivery.paused) raw.resume();
      } catch (error) {
        this.#abort(asError(error));
      }
    });
  }

  #onHandshake(socket: TLSSocket): void {
    const handshake = this.#handshake;
    if (handshake === undefined) {
      socket.on("error", ignore);
      socket.destroy();
      return;
    }
    this.#socket.removeAllListeners("close");
    this.#socket = socket;
    const failure = handshake.judge(socket);
    if (failure !== undefined) {
      socket.on("error", ignore);
      this.#abort(failure);
      return;
    }
    this.#handshake = undefined;
    this.#tls = tlsInfo(socket, handshake.withPeerName);
    this.#listenTo(socket);
    if (this.#delivery.paused) this.#stopReading();
    handshake.resolve();
    this.#delivery.settled();
  }

  #listenTo(socket: Socket): void {
    socket.on("data", (chunk: Buffer) => {
      // Plain, as the interface says: a Buffer's `slice` does not copy.
      this.#delivery.data(new Uint8Array(chunk.buffer, chunk.byteOffset, chunk.length));
    });
    socket.on("drain", () => {
      if (this.#phase === "open") this.#delivery.drained();
    });
    socket.on("end", () => this.#onPeerFinished());
    socket.on("error", (error) => {
      this.#error ??= error;
    });
    socket.on("close", () => this.#onClosed());
  }

  /**
   * The peer sends no more. PostgreSQL's protocol has no use for half a connection, so this ends it;
   * what is already queued for the peer still goes out, for as long as it goes on reading.
   */
  #onPeerFinished(): void {
    if (this.#phase !== "open") return;
    this.#phase = "ending";
    this.#delivery.close();
    if (this.#socket.writableLength > 0) this.#startLinger();
    this.#socket.end();
  }

  #startLinger(): void {
    if (this.#phase === "closed") return;
    this.#linger ??= setTimeout(() => this.#closeSockets(), lingerMs);
  }

  #onClosed(): void {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    clearTimeout(this.#linger);
    this.#raw.destroy();
    this.#failHandshake(() => tlsFailure(this.#error ?? null));
    this.#delivery.close(this.#error);
  }

  #abort(error: Error | undefined): void {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    clearTimeout(this.#linger);
    this.#failHandshake(
      () => error ?? new Error("connection was destroyed during the TLS handshake"),
    );
    this.#delivery.closeSoon(error);
    this.#closeSockets();
  }

  #stopReading(): void {
    this.#socket.pause();
    if (denoTls(this.#socket)) denoHandle(this.#raw)?.readStop();
  }

  #startReading(): void {
    this.#socket.resume();
    if (denoTls(this.#socket)) denoHandle(this.#raw)?.readStart();
  }

  #closeSockets(): void {
    this.#socket.destroy();
    this.#raw.destroy();
  }

  /** The error is made when somebody waits for it: most connections end without a handshake. */
  #failHandshake(error: () => Error): void {
    const handshake = this.#handshake;
    this.#handshake = undefined;
    handshake?.reject(error());
  }
}

/**
 * Deno's TLS goes on reading while the stream above it is paused, without limit; the handle of the
 * socket below, which is not a public thing, can be told to stop.
 */
function denoTls(socket: Socket): boolean {
  return underDeno && "encrypted" in socket;
}

type DenoHandle = { readStop(): void; readStart(): void };

function denoHandle(raw: Socket & { readonly _handle?: DenoHandle | null }) {
  return raw._handle;
}

/** For the errors of a socket whose end is already told. */
function ignore(): void {}

function judgeServer(options: ClientTls, socket: TLSSocket): Error | undefined {
  if (options.ca === undefined && options.verifyName === undefined) return undefined;
  if (!socket.authorized) return tlsFailure(asError(socket.authorizationError));
  if (options.verifyName === undefined) return undefined;
  const certificate = peerCertificate(socket);
  if (certificate === undefined) return tlsFailure(null);
  const mismatch = checkServerIdentity(options.verifyName, certificate);
  return mismatch === undefined ? undefined : tlsFailure(mismatch);
}

/** Node gives an empty object when there is none. */
function peerCertificate(socket: TLSSocket): PeerCertificate | undefined {
  const certificate: PeerCertificate | undefined = socket.getPeerCertificate();
  return certificate?.raw === undefined ? undefined : certificate;
}

function tlsInfo(socket: TLSSocket, withPeerName: boolean): TlsInfo {
  const certificate = withPeerName ? peerCertificate(socket) : undefined;
  return {
    version: socket.getProtocol() ?? "unknown",
    cipher: socket.getCipher().name,
    peerCommonName: certificate && subjectCommonName(certificate.raw),
    alpn: socket.alpnProtocol || undefined,
  };
}

/**
 * Certificates are requested without `rejectUnauthorized`, since that would demand one of every
 * client; `startServerTls` refuses the bad ones itself.
 */
function serverOptions(options: ServerTls): TlsOptions {
  return {
    key: options.key,
    cert: options.cert,
    requestCert: options.ca !== undefined,
    rejectUnauthorized: false,
    ALPNProtocols: [postgresqlAlpn],
    passphrase: options.passphrase,
    ca: options.ca,
    crl: options.crl,
    ciphers: options.ciphers,
    ecdhCurve: options.ecdhCurve,
    dhparam: options.dhparam,
    ...(options.honorCipherOrder === true
      ? { secureOptions: constants.SSL_OP_CIPHER_SERVER_PREFERENCE }
      : {}),
  };
}

function clientOptions(options: ClientTls) {
  return {
    rejectUnauthorized: false,
    checkServerIdentity: () => undefined,
    ca: options.ca,
    cert: options.cert,
    key: options.key,
    servername: options.serverName ?? options.verifyName,
  };
}

function dial(address: DialAddress, signal: AbortSignal): Promise<Conn> {
  return new Promise((resolve, reject) => {
    const socket =
      address.kind === "unix" ? connect(address.path) : connect(address.port, address.host);
    const giveUp = () => socket.destroy();
    signal.addEventListener("abort", giveUp, { once: true });
    socket.once("error", reject);
    socket.once("connect", () => {
      signal.removeEventListener("abort", giveUp);
      socket.off("error", reject);
      resolve(new NodeConn(socket, address.kind === "unix" ? { kind: "unix" } : address));
    });
  });
}

type Place = { readonly host: string; readonly port: number; readonly backlog: number };

async function bind(
  place: Place | { readonly path: string },
  onConn: (conn: Conn) => void,
): Promise<Listener> {
  const server = createServer((socket) => accept(socket, place, onConn));
  await listening(server, place);
  const address = server.address();
  return {
    port: address !== null && typeof address === "object" ? address.port : undefined,
    // The callback of `close` would wait for the last connection to leave.
    async close() {
      server.close();
    },
  };
}

function listening(server: Server, place: Place | { readonly path: string }): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once("error", reject);
    server.listen(place, () => {
      server.off("error", reject);
      // A failing accept (out of descriptors, say) concerns one client; the next one is tried again.
      server.on("error", ignore);
      resolve();
    });
  });
}

function accept(
  socket: Socket,
  place: Place | { readonly path: string },
  onConn: (conn: Conn) => void,
): void {
  const peer = "path" in place ? ({ kind: "unix" } as const) : remotePeer(socket);
  if (peer === undefined) {
    socket.on("error", ignore);
    socket.destroy();
    return;
  }
  const conn = new NodeConn(socket, peer);
  try {
    onConn(conn);
  } catch {
    // The owner could not take this connection; it must not keep the client waiting.
    conn.destroy();
  }
}

/** Undefined when the client reset the connection before it was accepted. */
function remotePeer(socket: Socket): PeerAddress | undefined {
  const { remoteAddress, remotePort } = socket;
  if (remoteAddress === undefined || remotePort === undefined) return undefined;
  return { kind: "tcp", host: plainAddress(remoteAddress), port: remotePort };
}

async function listenUnix(
  address: UnixListenAddress,
  onConn: (conn: Conn) => void,
): Promise<Listener> {
  await clearStaleSocket(address.path);
  const listener = await bind({ path: address.path }, onConn);
  const inode = await admitTo(address);
  return {
    port: undefined,
    async close() {
      await removeOwnSocket(address.path, inode);
      await listener.close();
    },
  };
}
