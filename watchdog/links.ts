/**
 * The TCP connections between watchdogs (spec watchdog/wire.md sections 1 and 5): everybody dials
 * everybody, so that a pair of nodes has two, each of which carries packets both ways. Bytes become
 * events of the machine here, and its effects become bytes; who may come in is the machine's to say.
 */

import { connect, createServer, type Server, type Socket } from "node:net";
import {
  checkServerIdentity,
  connect as connectTls,
  createServer as createTlsServer,
  type PeerCertificate,
  TLSSocket,
} from "node:tls";
import type { NodeSettings, WatchdogEffect, WatchdogEvent } from "./node.ts";
import {
  BODY_SIZE_MAX,
  decodePacket,
  encodePacket,
  packetCutter,
  type ReceivedMessage,
} from "./wire.ts";

/** PEM texts. With them every connection is TLS, and both ends show who they are. */
export type WatchdogTls = { readonly cert: string; readonly key: string; readonly ca: string };

export type LinksOptions = {
  /** Undefined is every address. */
  readonly host: string | undefined;
  readonly port: number;
  readonly remotes: readonly NodeSettings[];
  readonly tls: WatchdogTls | undefined;
  /** Takes an event at any time, also while an effect is carried out. */
  readonly happen: (event: WatchdogEvent) => void;
  /** What is odd about somebody who is not let in. */
  readonly complain: (message: string, detail: string) => void;
};

/** The effects that are carried out here. */
export type LinkEffect = Extract<
  WatchdogEffect,
  {
    readonly kind: "send" | "dial" | "close" | "close_outbound" | "attach" | "refuse" | "hang_up";
  }
>;

const DIAL_LIMIT_MS = 10_000;
/** Who has not said who he is by then is sent away; Pgpool waits for ever. */
const STRANGER_LIMIT_MS = 10_000;
/** A NodeInfo has some 600 bytes, and as many more as its names are long. */
const STRANGER_BODY_MAX = 16 * 1024;
const STRANGERS_MAX = 64;
/** What a node that does not read may leave with us before it counts as gone. */
const UNSENT_MAX = 1024 * 1024;
const LINGER_MS = 2000;

type Link = {
  readonly socket: Socket;
  /** Undefined for a stranger. */
  node: number | undefined;
  readonly number: number;
  readonly address: string;
  /** It was we who closed it: nobody is told of its end. */
  isOver: boolean;
};

export class Links {
  readonly #options: LinksOptions;
  readonly #outbound = new Map<number, Link>();
  readonly #inbound = new Map<number, Link>();
  readonly #strangers = new Map<number, Link>();
  /** Every socket there is, whatever becomes of it. */
  readonly #sockets = new Set<Socket>();
  readonly #refusals = new Map<number, string>();
  #server: Server | undefined;
  #count = 0;

  constructor(options: LinksOptions) {
    this.#options = options;
  }

  /** Rejects with the system's error. */
  async listen(): Promise<void> {
    const { host, port, tls } = this.#options;
    const server =
      tls === undefined
        ? createServer((socket) => this.#welcome(socket))
        : createTlsServer(
            {
              ...tls,
              requestCert: true,
              rejectUnauthorized: true,
              minVersion: "TLSv1.2",
              handshakeTimeout: STRANGER_LIMIT_MS,
            },
            (socket) => this.#welcome(socket),
          );
    this.#server = server;
    if (tls !== undefined) {
      server.on("tlsClientError", (error: Error) =>
        this.#options.complain("a watchdog connection is refused", error.message),
      );
    }
    await new Promise<void>((resolve, reject) => {
      server.once("error", reject);
      server.listen({ port, ...(host === undefined ? {} : { host }), backlog: 256 }, resolve);
    });
    server.on("error", () => {}); // an accept that failed concerns one caller
  }

  perform(effect: LinkEffect): void {
    switch (effect.kind) {
      case "send":
        this.#send(effect);
        return;
      case "dial":
        this.#dial(effect.node);
        return;
      case "close":
        for (const links of [this.#outbound, this.#inbound]) this.#part(links, effect.node);
        return;
      case "close_outbound":
        this.#part(this.#outbound, effect.node);
        return;
      case "attach":
        this.#attach(effect.connection, effect.node);
        return;
      case "refuse": {
        const link = this.#takeStranger(effect.connection);
        link?.socket.write(encodePacket({ id: effect.id, message: { kind: "reject" } }));
        if (link !== undefined) end(link);
        return;
      }
      case "hang_up": {
        const link = this.#takeStranger(effect.connection);
        if (link !== undefined) end(link);
      }
    }
  }

  /** What is to be sent still goes out. */
  async close(): Promise<void> {
    this.#server?.close();
    for (const links of [this.#outbound, this.#inbound, this.#strangers]) {
      for (const link of links.values()) end(link);
      links.clear();
    }
    const closed = [...this.#sockets].map(
      (socket) => new Promise<void>((resolve) => socket.once("close", () => resolve())),
    );
    await Promise.all(closed);
  }

  // ---------------------------------------------------------------- who dials, and who is dialled

  #dial(node: number): void {
    const { remotes, tls, happen } = this.#options;
    const remote = remotes.find(({ id }) => id === node);
    if (remote === undefined) return;
    this.#part(this.#outbound, node);
    const place = { host: remote.hostname, port: remote.wdPort };
    const socket =
      tls === undefined
        ? connect(place)
        : connectTls({ ...place, ...tls, minVersion: "TLSv1.2", servername: nameOf(remote) });
    const link = this.#newLink(socket, remote.hostname, node);
    this.#outbound.set(node, link);
    let isOpen = false;
    const late = setTimeout(() => socket.destroy(), DIAL_LIMIT_MS);
    socket.once(tls === undefined ? "connect" : "secureConnect", () => {
      clearTimeout(late);
      if (link.isOver) return;
      isOpen = true;
      happen({ kind: "outbound_opened", node });
    });
    let reason = "";
    let refused = false;
    socket.once("error", (error: NodeJS.ErrnoException) => {
      reason = error.message;
      refused = error.code === "ECONNREFUSED";
    });
    socket.once("close", () => {
      clearTimeout(late);
      if (this.#outbound.get(node) !== link) return;
      this.#outbound.delete(node);
      if (!isOpen && tls !== undefined) this.#noteRefusal(node, reason);
      if (isOpen) happen({ kind: "outbound_closed", node });
      else happen({ kind: "outbound_failed", node, refused });
    });
  }

  /** That nobody listens is no news; that somebody is not who he should be is, once. */
  #noteRefusal(node: number, reason: string): void {
    const isOfTls = reason !== "" && !/ECONN|EHOSTUNREACH|ENETUNREACH|ETIMEDOUT/.test(reason);
    const said = isOfTls ? reason : "";
    if (said !== "" && this.#refusals.get(node) !== said) {
      this.#options.complain(`could not connect to watchdog node ${node}`, reason);
    }
    this.#refusals.set(node, said);
  }

  #welcome(socket: Socket): void {
    const link = this.#newLink(socket, plainAddress(socket.remoteAddress ?? ""), undefined);
    const { number } = link;
    // Whoever came first has had the longest time to say who he is.
    for (const older of this.#strangers.values()) {
      if (this.#strangers.size < STRANGERS_MAX) break;
      this.#strangers.delete(older.number);
      older.socket.destroy();
    }
    this.#strangers.set(number, link);
    const late = setTimeout(() => {
      if (this.#strangers.delete(number)) socket.destroy();
    }, STRANGER_LIMIT_MS);
    socket.once("close", () => {
      clearTimeout(late);
      this.#strangers.delete(number);
      const { node } = link;
      if (node === undefined || this.#inbound.get(node) !== link) return;
      this.#inbound.delete(node);
      this.#options.happen({ kind: "inbound_closed", node });
    });
  }

  #newLink(socket: Socket, address: string, node: number | undefined): Link {
    const link: Link = { socket, node, number: ++this.#count, address, isOver: false };
    this.#sockets.add(socket);
    socket.setNoDelay(true);
    socket.setKeepAlive(true);
    socket.on("error", () => {}); // its end is told by "close"
    socket.once("close", () => this.#sockets.delete(socket));
    const cutter = packetCutter(() =>
      link.node === undefined ? STRANGER_BODY_MAX : BODY_SIZE_MAX,
    );
    socket.on("data", (chunk: Buffer) => {
      if (link.isOver) return; // read and dropped: closing over unread bytes would be a reset
      try {
        cutter.push(new Uint8Array(chunk)); // a copy: what is unreadable is kept as a view
        for (let piece = this.#next(link, cutter); piece; piece = this.#next(link, cutter)) {
          const { id, message } = decodePacket(piece);
          this.#receive(link, id, message);
        }
      } catch (error) {
        const reason = error instanceof Error ? error.message : String(error);
        this.#options.complain(`"${address}" sends what is no watchdog packet`, reason);
        socket.destroy();
      }
    });
    return link;
  }

  #next(link: Link, cutter: ReturnType<typeof packetCutter>): Uint8Array | undefined {
    return link.isOver || link.socket.destroyed ? undefined : cutter.next();
  }

  #receive(link: Link, id: number, message: ReceivedMessage): void {
    const { happen } = this.#options;
    if (link.node !== undefined) {
      happen({ kind: "packet", from: link.node, id, message });
      return;
    }
    if (!this.#strangers.has(link.number)) return;
    if (!this.#isWhoItSays(link, message)) {
      this.#takeStranger(link.number);
      link.socket.destroy();
      return;
    }
    happen({ kind: "stranger", connection: link.number, address: link.address, id, message });
  }

  /** With TLS a node must show a certificate for the host that it is. */
  #isWhoItSays({ socket, address }: Link, message: ReceivedMessage): boolean {
    if (!(socket instanceof TLSSocket) || message.kind !== "add_node") return true;
    const remote = this.#options.remotes.find(({ id }) => id === message.info.nodeId);
    if (remote === undefined) return true; // the machine refuses it
    const certificate: PeerCertificate | undefined = socket.getPeerCertificate();
    const mismatch =
      certificate?.raw === undefined
        ? new Error("no certificate")
        : checkServerIdentity(remote.hostname, certificate);
    if (mismatch === undefined) return true;
    const message_ = `"${address}" is not watchdog node ${remote.id}, as which it comes`;
    this.#options.complain(message_, mismatch.message);
    return false;
  }

  #takeStranger(number: number): Link | undefined {
    const link = this.#strangers.get(number);
    this.#strangers.delete(number);
    return link;
  }

  #attach(number: number, node: number): void {
    const link = this.#takeStranger(number);
    if (link === undefined) return;
    this.#part(this.#inbound, node);
    link.node = node;
    this.#inbound.set(node, link);
    // Gone while it was looked at: its end has been told to nobody.
    if (link.socket.destroyed) {
      this.#inbound.delete(node);
      this.#options.happen({ kind: "inbound_closed", node });
    }
  }

  #part(links: Map<number, Link>, node: number): void {
    const link = links.get(node);
    links.delete(node);
    if (link !== undefined) end(link);
  }

  // ---------------------------------------------------------------- sending

  #send({ to, id, message }: Extract<LinkEffect, { readonly kind: "send" }>): void {
    const link = [this.#outbound.get(to), this.#inbound.get(to)].find(
      (each) => each !== undefined && canSend(each),
    );
    if (link === undefined) {
      this.#options.happen({ kind: "send_failed", node: to });
      return;
    }
    link.socket.write(encodePacket({ id, message }));
    if (link.socket.writableLength > UNSENT_MAX) link.socket.destroy();
  }
}

const canSend = ({ socket }: Link): boolean =>
  !socket.connecting && socket.writable && !socket.destroyed && isSecured(socket);

/** Before its handshake is done a TLS socket takes bytes for somebody who is not known yet. */
const isSecured = (socket: Socket): boolean => !(socket instanceof TLSSocket) || socket.authorized;

/** Sends what is to be sent, and waits a little for the other end to close too. */
function end(link: Link): void {
  link.isOver = true;
  const { socket } = link;
  if (socket.connecting) {
    socket.destroy();
    return;
  }
  const linger = setTimeout(() => socket.destroy(), LINGER_MS);
  socket.once("close", () => clearTimeout(linger));
  socket.resume();
  socket.end();
}

/** SNI is for names, not for addresses. */
const nameOf = ({ hostname }: NodeSettings): string =>
  /^[0-9.]+$|:/.test(hostname) ? "" : hostname;

/** An IPv4 address as such, when the socket is one of both families. */
const plainAddress = (address: string): string => address.replace(/^::ffff:(?=[0-9.]+$)/i, "");
