/**
 * Sockets by Bun's own API: the default under Bun, up to a third cheaper per query than `node:net`.
 *
 * Facts about Bun 1.4 this file rests on: a socket's handlers belong to its listener, so behaviour
 * changes through `socket.data` and never by `reload`; after `upgradeTLS` the raw socket still
 * reports ciphertext, so its `data` is cleared; an exception in a handler leaves the socket open,
 * so none may escape; the backlog is always 512, whatever a `ListenAddress` asks.
 */
import { constants } from "node:crypto";
import { checkServerIdentity, type PeerCertificate } from "node:tls";
import type { Socket, SocketHandler, TLSOptions } from "bun";
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
import { SendQueue } from "./send_queue.ts";

/** Undefined on a socket that nobody must hear any more: the raw one below TLS. */
type BunSocket = Socket<BunConn | undefined>;
/** Declared as giving Buffers, the only form `Bun.listen` is typed for; `binaryType` makes them plain. */
type BunHandler = SocketHandler<BunConn | undefined>;

/** The handshake under way: how it ends, and what the certificate must satisfy. */
type Handshake = {
  readonly resolve: () => void;
  readonly reject: (error: Error) => void;
  readonly judge: (
    socket: BunSocket,
    completed: boolean,
    complaint: Error | null,
  ) => Error | undefined;
  readonly withPeerName: boolean;
};

export const bunTransport: Transport = {
  name: "bun",

  async listen(address, onConn) {
    if (address.kind === "unix") return await listenUnix(address, onConn);
    return await bindAll(address, (host, port) => bindTcp(host, port, onConn));
  },

  async connect(target, options) {
    return await connectAny(target, options, dial);
  },
};

class BunConn implements Conn {
  readonly peer: PeerAddress;
  #tls: TlsInfo | undefined;
  #socket: BunSocket;
  /** `ending`: what is queued still goes out, nothing else is accepted. */
  #phase: "open" | "ending" | "closed" = "open";
  #peerFinished = false;
  #handshake: Handshake | undefined;
  #linger: ReturnType<typeof setTimeout> | undefined;
  readonly #queue = new SendQueue();
  readonly #delivery = new Delivery((error) => this.#abort(error));

  /** The functions Bun calls, shared by all connections; `open` is the listener's or dialler's. */
  static readonly handler: BunHandler = {
    binaryType: "uint8array",
    data(socket, chunk) {
      const conn = socket.data;
      if (conn !== undefined) conn.#delivery.data(chunk);
    },
    drain(socket) {
      const conn = socket.data;
      if (conn !== undefined) conn.#flush();
    },
    end(socket) {
      const conn = socket.data;
      if (conn !== undefined) conn.#onPeerFinished();
    },
    close(socket, error) {
      const conn = socket.data;
      if (conn !== undefined) conn.#onClosed(error);
    },
    error(socket, error) {
      const conn = socket.data;
      if (conn !== undefined) conn.#abort(error);
    },
    handshake(socket, completed, complaint) {
      const conn = socket.data;
      if (conn !== undefined) conn.#onHandshake(socket, completed, complaint);
    },
    // Present so that a refused connect is a rejection of its own promise and nothing else.
    connectError() {},
  };

  constructor(socket: BunSocket, peer: PeerAddress) {
    this.#socket = socket;
    this.peer = peer;
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
    return this.#queue.bytes;
  }

  send(bytes: Uint8Array): boolean {
    if (this.#phase !== "open" || bytes.length === 0) return this.#queue.bytes === 0;
    if (this.#queue.bytes > 0) {
      this.#queue.push(bytes);
      return false;
    }
    const written = this.#socket.write(bytes);
    if (written === bytes.length) return true;
    if (written < 0) {
      this.#abort(new Error("connection is closed for writing"));
      return true;
    }
    this.#queue.push(written === 0 ? bytes : bytes.subarray(written));
    return false;
  }

  pause(): void {
    if (this.#phase !== "open" || this.#delivery.paused) return;
    this.#delivery.pause();
    if (this.#handshake === undefined) this.#socket.pause();
  }

  /** Also of a peer that has gone meanwhile: what it said, and that it is over, is still to be told. */
  resume(): void {
    if (!this.#delivery.paused) return;
    this.#delivery.resume();
    if (this.#phase === "open") this.#socket.resume();
  }

  end(): void {
    if (this.#phase !== "open") return;
    this.#phase = "ending";
    this.#delivery.mute();
    this.#failHandshake(() => new Error("connection was ended during the TLS handshake"));
    // What the peer still sends is read and dropped: closing over unread bytes would be a reset,
    // and a reset may overtake the last message on its way.
    this.#socket.resume();
    if (this.#queue.bytes === 0) this.#finishSending();
  }

  destroy(): void {
    this.#abort(undefined);
  }

  startServerTls(options: ServerTls, received?: Uint8Array): Promise<void> {
    const judge: Handshake["judge"] = (socket, completed, complaint) => {
      if (!completed) return tlsFailure(complaint);
      if (received !== undefined && socket.alpnProtocol !== postgresqlAlpn) return alpnMissing();
      // A client without a certificate is welcome; one with a bad certificate is not.
      const presented = options.ca !== undefined && peerCertificate(socket) !== undefined;
      return presented && !socket.authorized ? tlsFailure(complaint) : undefined;
    };
    return this.#upgrade(judge, options.ca !== undefined, {
      isServer: true,
      tls: serverOptions(options),
      ...(received === undefined ? {} : { initialData: received }),
    });
  }

  startClientTls(options: ClientTls): Promise<void> {
    const judge: Handshake["judge"] = (socket, completed, complaint) =>
      judgeServer(options, socket, completed, complaint);
    return this.#upgrade(judge, false, { tls: clientOptions(options) });
  }

  #upgrade(
    judge: Handshake["judge"],
    withPeerName: boolean,
    options: {
      readonly tls: TLSOptions;
      readonly isServer?: true;
      readonly initialData?: Uint8Array;
    },
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
      raw.resume();
      try {
        raw.data = undefined;
        const [, secured] = raw.upgradeTLS({ ...options, data: this, socket: BunConn.handler });
        this.#socket = secured;
      } catch (error) {
        raw.data = this;
        this.#abort(asError(error));
      }
    });
  }

  #onHandshake(socket: BunSocket, completed: boolean, complaint: Error | null): void {
    const handshake = this.#handshake;
    if (handshake === undefined) return;
    this.#socket = socket;
    const failure = handshake.judge(socket, completed, complaint);
    if (failure !== undefined) {
      this.#abort(failure);
      return;
    }
    this.#handshake = undefined;
    this.#tls = tlsInfo(socket, handshake.withPeerName);
    if (this.#delivery.paused) socket.pause();
    handshake.resolve();
    this.#delivery.settled();
  }

  #flush(): void {
    if (this.#phase === "closed" || this.#queue.bytes === 0) return;
    for (let chunk = this.#queue.next(); chunk !== undefined; chunk = this.#queue.next()) {
      const written = this.#socket.write(chunk);
      if (written < 0) {
        this.#abort(new Error("connection is closed for writing"));
        return;
      }
      this.#queue.consume(written);
      if (written < chunk.length) return;
    }
    if (this.#phase === "ending") this.#finishSending();
    else this.#delivery.drained();
  }

  /** Everything is written. The peer is given a moment to read it and to say goodbye as well. */
  #finishSending(): void {
    if (this.#peerFinished) {
      this.#socket.end();
      return;
    }
    this.#socket.shutdown();
    this.#startLinger();
  }

  /**
   * The peer sends no more. PostgreSQL's protocol has no use for half a connection, so this ends it;
   * what is already queued for the peer still goes out, for as long as it goes on reading.
   */
  #onPeerFinished(): void {
    if (this.#peerFinished) return;
    this.#peerFinished = true;
    if (this.#phase === "ending") {
      if (this.#queue.bytes === 0) this.#socket.end();
      return;
    }
    this.#phase = "ending";
    this.#failHandshake(() => tlsFailure(null));
    this.#delivery.close();
    if (this.#queue.bytes === 0) this.#socket.end();
    else this.#startLinger();
  }

  #startLinger(): void {
    this.#linger ??= setTimeout(() => this.#socket.terminate(), lingerMs);
  }

  #onClosed(error: Error | undefined): void {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    clearTimeout(this.#linger);
    this.#queue.clear();
    this.#failHandshake(() => tlsFailure(error ?? null));
    this.#delivery.close(error);
  }

  #abort(error: Error | undefined): void {
    if (this.#phase === "closed") return;
    this.#phase = "closed";
    clearTimeout(this.#linger);
    this.#queue.clear();
    this.#failHandshake(
      () => error ?? new Error("connection was destroyed during the TLS handshake"),
    );
    this.#delivery.closeSoon(error);
    this.#socket.terminate();
  }

  /** The error is made when somebody waits for it: most connections end without a handshake. */
  #failHandshake(error: () => Error): void {
    const handshake = this.#handshake;
    this.#handshake = undefined;
    handshake?.reject(error());
  }
}

/** Bun checks the name against what was sent as SNI; whether names count at all is ours to say. */
function judgeServer(
  options: ClientTls,
  socket: BunSocket,
  completed: boolean,
  complaint: Error | null,
): Error | undefined {
  const code = complaintCode(complaint);
  // A broken handshake is told as a system error (EPROTO, ECONNRESET); OpenSSL's words for what it
  // dislikes in a certificate (CERT_HAS_EXPIRED) mean that the handshake itself is complete.
  const secured = complaint === null ? completed : !/^E[A-Z0-9]*$/.test(code);
  if (!secured) return tlsFailure(complaint);
  if (options.ca === undefined && options.verifyName === undefined) return undefined;
  // `completed` says nothing about trust: only the absence of a complaint does. The chain is judged
  // before the name, so a complaint about the name vouches for the chain.
  const trusted = complaint === null || code === "ERR_TLS_CERT_ALTNAME_INVALID";
  if (!trusted) return tlsFailure(complaint);
  if (options.verifyName === undefined) return undefined;
  const certificate = peerCertificate(socket);
  if (certificate === undefined) return tlsFailure(null);
  const mismatch = checkServerIdentity(options.verifyName, certificate);
  return mismatch === undefined ? undefined : tlsFailure(mismatch);
}

/** `E` when there is none: an error without a code is no opinion about a certificate. */
function complaintCode(complaint: Error | null): string {
  return complaint !== null && "code" in complaint ? String(complaint.code) : "E";
}

/** Bun says undefined, or an empty object, when there is none. */
function peerCertificate(socket: BunSocket): PeerCertificate | undefined {
  const certificate: PeerCertificate | undefined = socket.getPeerCertificate();
  return certificate?.raw === undefined ? undefined : certificate;
}

function tlsInfo(socket: BunSocket, withPeerName: boolean): TlsInfo {
  const certificate = withPeerName ? peerCertificate(socket) : undefined;
  return {
    version: socket.getTLSVersion(),
    cipher: socket.getCipher().name,
    peerCommonName: certificate && subjectCommonName(certificate.raw),
    alpn: socket.alpnProtocol || undefined,
  };
}

/**
 * Certificates are requested without `rejectUnauthorized`, since that would demand one of every
 * client; `startServerTls` refuses the bad ones itself. BoringSSL has no finite-field
 * Diffie-Hellman and picks curves itself: `dhparam` and `ecdhCurve` have no effect here.
 */
function serverOptions(options: ServerTls): TLSOptions {
  const verify = options.ca !== undefined;
  return {
    key: options.key,
    cert: options.cert,
    requestCert: verify,
    rejectUnauthorized: false,
    // The wire format of ALPN: each name after its length. Bun takes no array here.
    ALPNProtocols: `${String.fromCharCode(postgresqlAlpn.length)}${postgresqlAlpn}`,
    ...(options.passphrase === undefined ? {} : { passphrase: options.passphrase }),
    ...(options.ca === undefined ? {} : { ca: options.ca }),
    ...(options.crl === undefined ? {} : { crl: options.crl }),
    ...(options.ciphers === undefined ? {} : { ciphers: options.ciphers }),
    ...(options.honorCipherOrder === true
      ? { secureOptions: constants.SSL_OP_CIPHER_SERVER_PREFERENCE }
      : {}),
  };
}

function clientOptions(options: ClientTls): TLSOptions {
  const serverName = options.serverName ?? options.verifyName;
  return {
    rejectUnauthorized: false,
    ...(options.ca === undefined ? {} : { ca: options.ca }),
    ...(options.cert === undefined ? {} : { cert: options.cert }),
    ...(options.key === undefined ? {} : { key: options.key }),
    ...(serverName === undefined ? {} : { serverName }),
  };
}

/** Opens one address. When given up meanwhile, what opens later is closed on arrival. */
async function dial(address: DialAddress, signal: AbortSignal): Promise<Conn> {
  const peer: PeerAddress = address.kind === "unix" ? { kind: "unix" } : address;
  const options = {
    allowHalfOpen: true,
    data: undefined,
    socket: {
      ...BunConn.handler,
      open(socket: BunSocket) {
        socket.data = new BunConn(socket, peer);
      },
    },
  };
  const socket = await (address.kind === "unix"
    ? Bun.connect<BunConn | undefined>({ ...options, unix: address.path })
    : Bun.connect<BunConn | undefined>({ ...options, hostname: address.host, port: address.port }));
  const conn = socket.data;
  if (conn === undefined) throw new Error("connection was closed while it was opened");
  if (signal.aborted) conn.destroy();
  return conn;
}

/** The handlers of a listener: the common ones, and `open` which makes the connection known. */
function accepting(kind: "tcp" | "unix", onConn: (conn: Conn) => void): BunHandler {
  return {
    ...BunConn.handler,
    open(socket) {
      const peer = kind === "unix" ? { kind } : remotePeer(socket);
      if (peer === undefined) {
        socket.terminate();
        return;
      }
      const conn = new BunConn(socket, peer);
      socket.data = conn;
      try {
        onConn(conn);
      } catch {
        // The owner could not take this connection; it must not keep the client waiting.
        conn.destroy();
      }
    },
  };
}

/** Undefined, whatever Bun's types say, when the client reset the connection before it was accepted. */
function remotePeer(socket: BunSocket): PeerAddress | undefined {
  const address: string | undefined = socket.remoteAddress;
  if (address === undefined) return undefined;
  return { kind: "tcp", host: plainAddress(address), port: socket.remotePort };
}

async function listenUnix(
  address: UnixListenAddress,
  onConn: (conn: Conn) => void,
): Promise<Listener> {
  await clearStaleSocket(address.path);
  const server = Bun.listen<BunConn | undefined>({
    unix: address.path,
    allowHalfOpen: true,
    data: undefined,
    socket: accepting("unix", onConn),
  });
  const inode = await admitTo(address);
  return {
    port: undefined,
    async close() {
      await removeOwnSocket(address.path, inode);
      server.stop();
    },
  };
}

/** `exclusive`, or a second pgpool on this port would silently share its clients. */
async function bindTcp(
  hostname: string,
  port: number,
  onConn: (conn: Conn) => void,
): Promise<Listener> {
  const server = Bun.listen<BunConn | undefined>({
    hostname,
    port,
    exclusive: true,
    allowHalfOpen: true,
    data: undefined,
    socket: accepting("tcp", onConn),
  });
  return {
    port: server.port,
    async close() {
      server.stop();
    },
  };
}
