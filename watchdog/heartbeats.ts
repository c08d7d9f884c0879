/** The datagrams of the life check, sent and received (spec watchdog/lifecheck.md, wire.md 8). */

import { createSocket, type Socket } from "node:dgram";
import { networkInterfaces } from "node:os";
import { decodeHeartbeat, encodeHeartbeat, type Heartbeat, timeOf } from "./heartbeat.ts";
import type { HeartbeatTarget } from "./settings.ts";

export type HeartbeatOptions = {
  readonly places: {
    readonly hosts: readonly (string | undefined)[];
    readonly port: number;
  };
  readonly targets: readonly HeartbeatTarget[];
  /** Ourselves, as others know us. */
  readonly from: { readonly host: string; readonly pgpoolPort: number };
  readonly everyMs: number;
  readonly key: () => string;
  readonly hear: (beat: Heartbeat, address: string) => void;
  /** Milliseconds of the epoch by a clock that no one sets: an earlier time than the last is not heard. */
  readonly now: () => number;
  readonly complain: (message: string, detail: string) => void;
};

export class Heartbeats {
  readonly #options: HeartbeatOptions;
  readonly #sockets: Socket[] = [];
  readonly #complaints = new Set<string>();
  #timer: ReturnType<typeof setInterval> | undefined;

  constructor(options: HeartbeatOptions) {
    this.#options = options;
  }

  /** Rejects with the system's error when the port cannot be had. */
  async start(): Promise<void> {
    const { places, targets, everyMs } = this.#options;
    for (const host of places.hosts) await this.#receive(host, places.port);
    const senders = targets.map((target) => ({ target, socket: this.#sender(target) }));
    const beat = () => {
      for (const { target, socket } of senders) this.#send(socket, target);
    };
    beat();
    this.#timer = setInterval(beat, everyMs);
  }

  stop(): void {
    clearInterval(this.#timer);
    for (const socket of this.#sockets.splice(0)) {
      try {
        socket.close();
      } catch {
        // It was closed by its own error.
      }
    }
  }

  async #receive(host: string | undefined, port: number): Promise<void> {
    const socket = this.#open(host?.includes(":") === true);
    socket.on("message", (bytes, { address }) => {
      // Whoever knows no key, or sends something else, is not heard.
      const beat = decodeHeartbeat(new Uint8Array(bytes), this.#options.key());
      if (beat !== undefined) this.#options.hear(beat, address);
    });
    await new Promise<void>((resolve, reject) => {
      socket.once("error", reject);
      socket.bind({ port, ...(host === undefined ? {} : { address: host }) }, resolve);
    });
  }

  #open(isV6: boolean): Socket {
    const socket = createSocket({ type: isV6 ? "udp6" : "udp4", reuseAddr: true });
    socket.on("error", (error) => this.#complainOnce("heartbeat socket", error.message));
    this.#sockets.push(socket);
    return socket;
  }

  /**
   * A device is chosen by its address: the runtimes cannot bind a socket to a device itself, which
   * would also need a privilege.
   */
  #sender({ host, device }: HeartbeatTarget): Socket {
    const isV6 = host.includes(":");
    const socket = this.#open(isV6);
    if (device === "") return socket;
    const family = isV6 ? "IPv6" : "IPv4";
    const own = networkInterfaces()[device]?.find((each) => each.family === family);
    if (own === undefined) this.#complainOnce(`heartbeat_device "${device}"`, "it has no address");
    else socket.bind({ port: 0, address: own.address });
    return socket;
  }

  #send(socket: Socket, { host, port }: HeartbeatTarget): void {
    const { from, key, now } = this.#options;
    const beat: Heartbeat = { ...from, ...timeOf(now()) };
    const failed = (error: Error | null) => {
      const to = `heartbeat to ${host}:${port}`;
      if (error === null || error === undefined) this.#complaints.delete(to);
      else this.#complainOnce(to, error.message);
    };
    try {
      socket.send(encodeHeartbeat(beat, key()), port, host, failed);
    } catch (error) {
      failed(error instanceof Error ? error : new Error(String(error)));
    }
  }

  /** A network that is away is away at every heartbeat: it is said once, until it is back. */
  #complainOnce(what: string, reason: string): void {
    if (this.#complaints.has(what)) return;
    this.#complaints.add(what);
    this.#options.complain(`${what} failed`, reason);
  }
}
