/** The terms of TLS that both transports keep. */

/** The ALPN name PostgreSQL registered (protocol chapter, "SSL Session Encryption"). */
export const postgresqlAlpn = "postgresql";

/** Why a handshake failed, as one error whatever runtime found out. The cause keeps its own text and code. */
export function tlsFailure(cause: Error | null): Error {
  const reason = cause?.message || "the peer closed the connection or does not speak TLS";
  return new Error(`TLS handshake failed: ${reason}`, { cause: cause ?? undefined });
}

/** As PostgreSQL: without SSLRequest only ALPN tells that the client means this protocol. */
export function alpnMissing(): Error {
  return tlsFailure(
    new Error("direct TLS connection request without ALPN protocol negotiation extension"),
  );
}

/** Bytes held back since before the handshake would later pass for encrypted ones (CVE-2021-23214). */
export function plainBytesBeforeTls(): Error {
  return tlsFailure(new Error("received unencrypted data before the handshake"));
}
