/** The way in: where clients wait until the server serves, and whose the sockets are. */
import type { Config } from "../core/config/schema.ts";
import { ConfigError } from "../core/errors.ts";
import { listenAddresses } from "../proxy/listener.ts";
import type { Conn, ListenAddress } from "../proxy/transport/conn.ts";
import { groupId } from "./account.ts";

/** Where clients wait who come before the server can serve them. */
export class Lobby {
  #waiting: Conn[] = [];
  #accept: ((conn: Conn) => void) | undefined;
  #closed = false;

  readonly enter = (conn: Conn): void => {
    if (this.#closed) conn.destroy();
    else if (this.#accept !== undefined) this.#accept(conn);
    else {
      conn.pause();
      this.#waiting.push(conn);
    }
  };

  open(accept: (conn: Conn) => void): void {
    this.#accept = accept;
    for (const conn of this.#waiting.splice(0)) {
      accept(conn);
      conn.resume();
    }
  }

  /** Nobody comes in any more. Those already let in are not touched. */
  close(): void {
    this.#closed = true;
    for (const conn of this.#waiting.splice(0)) conn.destroy();
  }
}

/** What to listen at. @throws ConfigError when unix_socket_group names no group */
export function addressesOf(config: Config): readonly ListenAddress[] {
  const name = config.unix_socket_group;
  if (name === "") return listenAddresses(config);
  const group = groupId(name);
  if (group === undefined) throw new ConfigError(`unix_socket_group "${name}" does not exist`);
  return listenAddresses(config, group);
}
