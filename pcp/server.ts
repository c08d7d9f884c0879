/**
 * The PCP server: takes the connections that listeners hand over, and keeps their number bounded.
 * Who has not logged in yet makes room for who comes later, so that nobody can lock operators out.
 */

import type { Config } from "../core/config/schema.ts";
import type { Log } from "../core/ports.ts";
import type { PcpConn } from "./desk.ts";
import { PcpSession, type PcpWorld } from "./session.ts";

/** Connections at a time. */
const SESSIONS_MAX = 128;

export class PcpServer {
  readonly #world: PcpWorld;
  readonly #log: Log;
  readonly #logsSessions: () => boolean;
  /** In the order in which they came. */
  readonly #sessions = new Set<PcpSession>();
  #lastNumber = 0;

  constructor(
    world: PcpWorld,
    options: {
      readonly log: Log;
      /** log_pcp_processes */
      readonly logsSessions: () => boolean;
    },
  ) {
    this.#world = world;
    this.#log = options.log;
    this.#logsSessions = options.logsSessions;
  }

  get sessionCount(): number {
    return this.#sessions.size;
  }

  accept(conn: PcpConn): void {
    const number = ++this.#lastNumber;
    const log = this.#log.as({
      processName: "PCP WORKER",
      applicationName: "pcp_child",
      pid: number,
    });
    const session = new PcpSession(conn, this.#world, {
      log,
      onClose: () => {
        this.#sessions.delete(session);
        if (this.#logsSessions()) {
          this.#log.write("LOG", `PCP process with pid: ${number} exit with SUCCESS.`);
        }
      },
    });
    this.#sessions.add(session);
    if (this.#logsSessions()) {
      this.#log.write("LOG", `forked new pcp worker, pid=${number} socket=${number}`);
    }
    if (this.#sessions.size > SESSIONS_MAX) this.#makeRoom(session);
  }

  /** The one that has been silent longest goes; when all have logged in, the new one. */
  #makeRoom(latest: PcpSession): void {
    const oldest = [...this.#sessions].find((session) => !session.loggedIn) ?? latest;
    oldest.refuse("too many PCP connections");
    this.#sessions.delete(oldest);
  }

  close(): void {
    for (const session of this.#sessions) session.close();
  }
}

/** Where PCP listens: TCP addresses, and a Unix socket in each directory. */
export type PcpAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number; readonly backlog: number }
  | { readonly kind: "unix"; readonly path: string; readonly mode: number };

const BACKLOG = 5;
const SOCKET_MODE = 0o777;

export function pcpAddresses(
  params: Pick<Config, "pcp_listen_addresses" | "pcp_port" | "pcp_socket_dir">,
): readonly PcpAddress[] {
  const { pcp_port: port } = params;
  const hosts = params.pcp_listen_addresses.map((host): PcpAddress => {
    return { kind: "tcp", host, port, backlog: BACKLOG };
  });
  const sockets = params.pcp_socket_dir.map((dir): PcpAddress => {
    return { kind: "unix", path: `${dir}/.s.PGSQL.${port}`, mode: SOCKET_MODE };
  });
  return [...hosts, ...sockets];
}
