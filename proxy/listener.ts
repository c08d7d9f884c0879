/** Where clients come in: TCP addresses and Unix sockets of pgpool.conf, opened and closed together. */
import type { Config } from "../core/config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import type { Log } from "../core/ports.ts";
import type { Conn, ListenAddress, Listener, Transport } from "./transport/conn.ts";

/** Pgpool's ceiling of the backlog (spec wire/pooling.md section 2). */
const BACKLOG_MAX = 10_000;

type ListenerParams = Pick<
  Config,
  | "listen_addresses"
  | "port"
  | "unix_socket_directories"
  | "unix_socket_permissions"
  | "num_init_children"
  | "listen_backlog_multiplier"
>;

/** The longest path that a sockaddr_un takes, without its final NUL (unix(7)). */
const SOCKET_PATH_BYTES_MAX = 107;

/** The addresses that a configuration names, TCP first. `groupId` is that of unix_socket_group. */
export function listenAddresses(
  params: ListenerParams,
  groupId?: number | undefined,
): readonly ListenAddress[] {
  const { port } = params;
  const backlog = Math.min(
    params.num_init_children * params.listen_backlog_multiplier,
    BACKLOG_MAX,
  );
  const hosts = params.listen_addresses.map((host): ListenAddress => {
    return { kind: "tcp", host, port, backlog };
  });
  const mode = params.unix_socket_permissions;
  const sockets = params.unix_socket_directories.map((dir): ListenAddress => {
    const path = `${dir}/.s.PGSQL.${port}`;
    return groupId === undefined
      ? { kind: "unix", path, mode }
      : { kind: "unix", path, mode, groupId };
  });
  return [...hosts, ...sockets];
}

/**
 * Opens every address. One that cannot be opened is a warning as long as another one can; none at
 * all is a ConfigError, as is a Unix socket that cannot be made.
 */
export async function openListeners(
  transport: Transport,
  addresses: readonly ListenAddress[],
  onConn: (conn: Conn) => void,
  log: Log,
): Promise<readonly Listener[]> {
  const listeners: Listener[] = [];
  const failures: string[] = [];
  for (const address of withoutLongPaths(addresses, log)) {
    const name = address.kind === "tcp" ? `${address.host}:${address.port}` : address.path;
    log.write("LOG", `Setting up socket for ${name}`);
    try {
      listeners.push(await transport.listen(address, onConn));
    } catch (error) {
      const reason = reasonOf(error);
      failures.push(`${name}: ${reason}`);
      if (address.kind === "unix" || isTaken(error)) {
        await Promise.all(listeners.map((listener) => listener.close()));
        throw new ConfigError(`failed to bind a socket: "${name}"`, {
          detail: `bind socket failed with error: "${reason}"`,
        });
      }
      const detail = `bind on socket failed with error "${reason}"`;
      log.write("WARNING", "failed to create INET domain socket", { detail });
    }
  }
  if (listeners.length === 0) {
    throw new ConfigError("could not open any socket for clients", {
      detail: failures.join("; ") || "listen_addresses and unix_socket_directories are empty",
    });
  }
  return listeners;
}

/** A path that no socket can have is a warning, unless no Unix socket would be left (as Pgpool). */
function withoutLongPaths(addresses: readonly ListenAddress[], log: Log): readonly ListenAddress[] {
  const isUnix = ({ kind }: ListenAddress): boolean => kind === "unix";
  const possible = addresses.filter((address) => {
    if (address.kind === "tcp") return true;
    if (Buffer.byteLength(address.path) <= SOCKET_PATH_BYTES_MAX) return true;
    const most = `maximum ${SOCKET_PATH_BYTES_MAX} bytes`;
    log.write("WARNING", `Unix-domain socket path "${address.path}" is too long (${most})`);
    return false;
  });
  if (addresses.some(isUnix) && !possible.some(isUnix)) {
    throw new ConfigError("could not create any Unix-domain sockets", {
      hint: "Shorten unix_socket_directories.",
    });
  }
  return possible;
}

/** The system's own words for what it refuses most often (strerror(3)). */
const systemTexts: { readonly [code: string]: string } = {
  EADDRINUSE: "Address already in use",
  EADDRNOTAVAIL: "Cannot assign requested address",
  EACCES: "Permission denied",
  ENOENT: "No such file or directory",
};

function reasonOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { code } = error as { readonly code?: unknown };
  return (typeof code === "string" ? systemTexts[code] : undefined) ?? error.message;
}

/** Somebody else serves this port: going on without it would look like working. */
function isTaken(error: unknown): boolean {
  return error instanceof Error && (error as { code?: unknown }).code === "EADDRINUSE";
}
