/**
 * From a client's first byte to the moment when a backend is wanted: encryption, the start-up
 * packet, and who the client is (spec wire/client-auth.md sections 1 to 5).
 */
import {
  type ClientAccess,
  concludeLogin,
  reauthenticate,
  secretForDemand,
} from "../../core/auth/access.ts";
import {
  type AuthDialogue,
  type BackendDemand,
  type BackendSecret,
  runDialogue,
} from "../../core/auth/dialogue.ts";
import type { HbaMethod, HbaRule } from "../../core/auth/hba.ts";
import {
  type HbaClient,
  type HbaQuestion,
  hbaRefusal,
  type LocalInterface,
  matchHba,
} from "../../core/auth/hba_match.ts";
import type { ScramKeyCache } from "../../core/auth/key_cache.ts";
import type { Credential } from "../../core/auth/password.ts";
import { authenticateClient, type ClientLogin, type ClientProof } from "../../core/auth/server.ts";
import { AuthenticationFailed, ProtocolViolation } from "../../core/errors.ts";
import type { StartupPacket } from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import type { Channel } from "../channel.ts";
import type { ServerTls } from "../transport/conn.ts";

/** What log-in needs to know of its surroundings. */
export type LoginWorld = {
  /** Undefined: `ssl` is off, or its files could not be used. */
  readonly tls: ServerTls | undefined;
  /** Undefined: enable_pool_hba is off. "broken": the file could not be used, nobody may come in. */
  readonly hba: readonly HbaRule[] | "broken" | undefined;
  readonly allowClearText: boolean;
  readonly interfaces: readonly LocalInterface[];
  resolve(question: HbaQuestion): Promise<readonly string[]>;
  /** The user's entry of pool_passwd. */
  credentialOf(user: string): Credential | undefined;
  readonly scramKeys: ScramKeyCache;
  /** 32 random bytes of this process. */
  readonly processSecret: Uint8Array;
};

export type StartupRequest = {
  readonly user: string;
  readonly database: string;
  /** "" when the client gave none. */
  readonly applicationName: string;
  readonly major: number;
  readonly minor: number;
  /** The packet as the backends get it: parameters sorted by name. */
  readonly packet: Uint8Array;
  /** The packet as text: connections are shared only between equal ones. */
  readonly key: string;
  /** A walsender connection: never pooled, never interpreted. */
  readonly replication: boolean;
};

export type FirstRequest =
  | { readonly kind: "session"; readonly request: StartupRequest }
  | { readonly kind: "cancel"; readonly processId: number; readonly secretKey: Uint8Array }
  /** A protocol nobody speaks here: closed without an answer, as Pgpool does. */
  | { readonly kind: "foreign" };

const sslAccepted = Uint8Array.of(0x53);
const refused = Uint8Array.of(0x4e);

export async function firstRequest(
  channel: Channel,
  tls: ServerTls | undefined,
): Promise<FirstRequest> {
  let askedForTls = false;
  let askedForGss = false;
  for (;;) {
    const packet = await channel.startupPacket();
    switch (packet.kind) {
      case "SSLRequest":
        if (askedForTls) throw new ProtocolViolation("unexpected SSLRequest");
        askedForTls = true;
        await grantTls(channel, tls);
        break;
      case "GSSENCRequest":
        if (askedForGss) throw new ProtocolViolation("unexpected GSSENCRequest");
        askedForGss = true;
        channel.conn.send(refused);
        break;
      case "DirectTls":
        if (tls === undefined) return { kind: "foreign" };
        askedForTls = true;
        await channel.secure(channel.conn.startServerTls(tls, Buffer.concat(channel.takeRest())));
        break;
      case "CancelRequest": {
        const { processId, secretKey } = packet;
        return { kind: "cancel", processId, secretKey: secretKey.slice() };
      }
      case "StartupMessage":
        if (packet.major !== 3) return { kind: "foreign" };
        return { kind: "session", request: requestOf(packet) };
    }
  }
}

async function grantTls(channel: Channel, tls: ServerTls | undefined): Promise<void> {
  if (tls === undefined || channel.conn.tls !== undefined) {
    channel.conn.send(refused);
    return;
  }
  // What came before encryption could be anyone's (CVE-2021-23214).
  if (channel.hasUnread) throw new ProtocolViolation("received unencrypted data after SSL request");
  channel.conn.send(sslAccepted);
  await channel.secure(channel.conn.startServerTls(tls));
}

function requestOf(packet: Extract<StartupPacket, { kind: "StartupMessage" }>): StartupRequest {
  const { parameters, major, minor } = packet;
  const user = parameters.get("user") ?? "";
  if (user === "") {
    throw new AuthenticationFailed("no PostgreSQL user name specified in startup packet", {
      sqlstate: "28000",
    });
  }
  const sorted = new Map([...parameters].sort(([a], [b]) => (a < b ? -1 : a > b ? 1 : 0)));
  const bytes = encodeFrontend({ kind: "StartupMessage", major, minor, parameters: sorted });
  const replication = parameters.get("replication") ?? "";
  return {
    user,
    database: parameters.get("database") || user,
    applicationName: parameters.get("application_name") ?? "",
    major,
    minor,
    packet: bytes,
    key: Buffer.from(bytes).toString("latin1"),
    replication: !["", "0", "off", "false", "no"].includes(replication.toLowerCase()),
  };
}

/**
 * A client's log-in, from its rule in pool_hba.conf to the moment when every backend has let it
 * in. Several nodes may demand something at once; the client is asked once.
 */
export class LogIn {
  readonly #world: LoginWorld;
  readonly #channel: Channel;
  readonly #access: ClientAccess;
  #proof: ClientProof | undefined;
  /** Demands are met one after the other: each leaves a proof that the next may use. */
  #turn: Promise<unknown> = Promise.resolve();
  readonly #secrets = new Map<BackendDemand, Promise<BackendSecret>>();
  #failure: { readonly error: unknown } | undefined;

  private constructor(world: LoginWorld, channel: Channel, access: ClientAccess) {
    this.#world = world;
    this.#channel = channel;
    this.#access = access;
  }

  /** Authenticates by pool_hba.conf when that is in use; else the backends' demands will decide. */
  static async begin(world: LoginWorld, channel: Channel, request: StartupRequest): Promise<LogIn> {
    const hbaMethod = await hbaMethodFor(world, channel, request);
    const access = {
      login: loginOf(world, request),
      hbaMethod,
      allowClearText: world.allowClearText,
    };
    const logIn = new LogIn(world, channel, access);
    if (hbaMethod !== undefined) {
      const commonName = channel.conn.tls?.peerCommonName;
      logIn.#proof = await logIn.#converse(authenticateClient(hbaMethod, access.login, commonName));
    }
    return logIn;
  }

  /** The client is being asked something: it must not be left in the middle. */
  get isAsking(): boolean {
    return this.#asking > 0;
  }
  #asking = 0;

  /** What answers a backend that demands something. */
  secretFor(demand: BackendDemand): Promise<BackendSecret> {
    let secret = this.#secrets.get(demand);
    if (secret === undefined) {
      secret = this.#turn.then(() => this.#secretFor(demand));
      this.#turn = secret.catch((error: unknown) => {
        this.#failure ??= { error };
      });
      this.#secrets.set(demand, secret);
    }
    return secret;
  }

  async #secretFor(demand: BackendDemand): Promise<BackendSecret> {
    this.#asking++;
    try {
      const found = await this.#converse(secretForDemand(demand, this.#access, this.#proof));
      this.#proof = found.proof;
      return found.secret;
    } finally {
      this.#asking--;
    }
  }

  /** The secret that answered `demand`, once it did: kept with the connections that it opened. */
  async secretGiven(demand: BackendDemand | "trust"): Promise<BackendSecret | undefined> {
    return demand === "trust" ? undefined : await this.#secrets.get(demand);
  }

  /**
   * The nodes that count are logged in. Raises when the client has still not shown anything that
   * counts, and when it failed before any node: that another one trusts everybody is no excuse.
   */
  conclude(demands: readonly (BackendDemand | "trust")[]): void {
    if (this.#failure !== undefined) throw this.#failure.error;
    this.#proof = concludeLogin(demands, this.#proof, this.#access.login);
  }

  /** The client takes over connections that are logged in already: it must pass as their first user did. */
  async reuse(pooled: {
    readonly demand: BackendDemand | "trust";
    readonly secret: BackendSecret | undefined;
  }): Promise<void> {
    this.#proof = await this.#converse(reauthenticate(pooled, this.#access, this.#proof));
  }

  #converse<Result>(dialogue: AuthDialogue<Result>): Promise<Result> {
    const { conn } = this.#channel;
    return runDialogue(dialogue, {
      send: (bytes) => void conn.send(bytes),
      receive: () => this.#channel.frame(),
      derive: (work) => this.#world.scramKeys.keysOf(work),
      secretFor: () => Promise.reject(new Error("a dialogue with a client asked for its secret")),
    });
  }
}

async function hbaMethodFor(
  world: LoginWorld,
  channel: Channel,
  request: StartupRequest,
): Promise<HbaMethod | undefined> {
  if (world.hba === undefined) return undefined;
  if (world.hba === "broken") {
    throw new AuthenticationFailed("client authentication failed", {
      detail: "missing or erroneous pool_hba.conf file",
      hint: "see pgpool log for details",
    });
  }
  const { peer, tls } = channel.conn;
  const client: HbaClient = {
    peer: peer.kind === "unix" ? peer : { kind: "tcp", address: peer.host },
    tls: tls !== undefined,
    user: request.user,
    database: request.database,
    interfaces: world.interfaces,
  };
  const matching = matchHba(world.hba, client);
  let step = matching.next();
  while (!step.done) step = matching.next(await world.resolve(step.value));
  const decision = step.value;
  if (decision.kind === "no_match" || decision.rule.method === "reject") throw hbaRefusal(client);
  return decision.rule.method;
}

/** What a dialogue may need, made when it does: most log-ins of a trusted network need nothing. */
function loginOf(world: LoginWorld, request: StartupRequest): ClientLogin {
  const { user } = request;
  const credential = once(() => world.credentialOf(user));
  const md5Salt = once(() => crypto.getRandomValues(new Uint8Array(4)));
  const scramNonce = once(() => crypto.getRandomValues(new Uint8Array(18)).toBase64());
  return {
    user,
    processSecret: world.processSecret,
    unknownUsers: "mock",
    get credential() {
      return credential();
    },
    get md5Salt() {
      return md5Salt();
    },
    get scramNonce() {
      return scramNonce();
    },
  };
}

function once<T>(make: () => T): () => T {
  let made: { readonly value: T } | undefined;
  return () => {
    made ??= { value: make() };
    return made.value;
  };
}
