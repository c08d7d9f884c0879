/**
 * The one seam between the proxy and sockets. `bun.ts` (default) and `node.ts` (Deno, and the
 * fallback) implement it; nothing else in proxy/ touches a socket.
 */

/** Who listens to a connection. Replaced as a whole when a dialogue gives way to a session. */
export interface ConnHandler {
  /** `chunk` belongs to the receiver: the transport never reuses its memory. */
  onData(chunk: Uint8Array): void;
  /** All that `send` had buffered has been handed to the kernel. */
  onDrain(): void;
  /** Called exactly once, with the reason when it was not an orderly end by either side. */
  onClose(error?: Error): void;
}

export type PeerAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix" };

/** PEM texts (not paths), already read, so that a transport does no file I/O. */
export type ServerTls = {
  readonly key: string;
  readonly cert: string;
  readonly passphrase?: string | undefined;
  readonly ca?: string | undefined;
  readonly crl?: string | undefined;
  readonly ciphers?: string | undefined;
  readonly honorCipherOrder?: boolean | undefined;
  readonly ecdhCurve?: string | undefined;
  readonly dhparam?: string | undefined;
};

export type ClientTls = {
  /** When set the peer's chain is verified against it; the host name is not checked (as Pgpool). */
  readonly ca?: string | undefined;
  readonly cert?: string | undefined;
  readonly key?: string | undefined;
  /** When set the certificate must also be for this name (verify-full). */
  readonly verifyName?: string | undefined;
  /** Sent as SNI. */
  readonly serverName?: string | undefined;
};

export type TlsInfo = {
  readonly version: string;
  readonly cipher: string;
  /** The verified client certificate's subject CN: the full text, NUL bytes included. */
  readonly peerCommonName?: string | undefined;
  /** Set by ALPN, `postgresql` for direct TLS. */
  readonly alpn?: string | undefined;
};

export interface Conn {
  readonly peer: PeerAddress;
  /** Undefined until TLS is established. */
  readonly tls: TlsInfo | undefined;
  handler: ConnHandler;

  /**
   * Takes ownership of `bytes` (the caller must not change them) and writes as much as the kernel
   * takes. Returns false when something is left buffered: stop producing until `onDrain`.
   * Silently ignored once the connection is closed.
   */
  send(bytes: Uint8Array): boolean;
  /** Bytes accepted by `send` and not yet handed to the kernel. */
  readonly buffered: number;
  pause(): void;
  resume(): void;
  /** Sends what is buffered, then closes. Nothing is received after this call. */
  end(): void;
  /** Closes at once. */
  destroy(): void;
  /**
   * Server side of TLS. `received` are bytes already read that belong to the handshake (direct TLS
   * without SSLRequest). Rejects when the handshake fails; the connection is then closed.
   */
  startServerTls(options: ServerTls, received?: Uint8Array): Promise<void>;
  /** Client side of TLS. Rejects when the handshake or verification fails. */
  startClientTls(options: ClientTls): Promise<void>;
}

export type ListenAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number; readonly backlog: number }
  | UnixListenAddress;

export type UnixListenAddress = {
  readonly kind: "unix";
  readonly path: string;
  readonly mode: number;
  /** Id of the group that the file is given to; else it has ours. */
  readonly groupId?: number | undefined;
};

export type ConnectTarget =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

export interface Listener {
  /** The port bound, useful when 0 was asked. Undefined for Unix sockets. */
  readonly port: number | undefined;
  /** Stops accepting; connections already accepted live on. Removes a Unix socket's file. */
  close(): Promise<void>;
}

export interface Transport {
  readonly name: "bun" | "node";
  /** Rejects with the system's error (`code` EADDRINUSE, EACCES, …). TCP_NODELAY is set. */
  listen(address: ListenAddress, onConn: (conn: Conn) => void): Promise<Listener>;
  /** Rejects on refusal, on timeout (an Error whose `code` is ETIMEDOUT) and on abort. */
  connect(
    target: ConnectTarget,
    options: { readonly timeoutMs: number; readonly signal?: AbortSignal | undefined },
  ): Promise<Conn>;
}
