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

/** The addresses that a configuration names, TCP first. */
export function listenAddresses(params: ListenerParams): readonly ListenAddress[] {
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
    return { kind: "unix", path: `${dir}/.s.PGSQL.${port}`, mode };
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
  for (const address of addresses) {
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
