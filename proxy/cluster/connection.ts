/**
 * Connections of our own to a node: for health checks, for questions, for promotions. Each has one
 * limit of time for everything, so that a server which accepts and then says nothing keeps nobody.
 */
import { BackendRefused } from "../../core/auth/client.ts";
import type { BackendSecret } from "../../core/auth/dialogue.ts";
import {
  type Credential,
  md5HashOf,
  openStoredPassword,
  parseConfiguredPassword,
} from "../../core/auth/password.ts";
import type { PoolKey } from "../../core/auth/pool_key.ts";
import type { NodeId } from "../../core/cluster/state.ts";
import type { Config } from "../../core/config/schema.ts";
import { AuthenticationFailed } from "../../core/errors.ts";
import type { Log } from "../../core/ports.ts";
import { decodeBackend, errorField } from "../../core/wire/backend.ts";
import { frameOf } from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { type Backend, type BackendAddress, type BackendWorld, openBackend } from "../backend.ts";

export type ProbeWorld = {
  readonly config: () => Config;
  readonly backendWorld: () => BackendWorld;
  readonly addressOf: (node: NodeId) => BackendAddress;
  /** The user's entry of pool_passwd. */
  readonly credentialOf: (user: string) => Credential | undefined;
  /** Opens AES passwords; undefined where there is no key. */
  readonly poolKey: () => PoolKey | undefined;
  readonly log: Log;
};

/** As whom we ask. */
export type Asker = {
  readonly user: string;
  /** As in pgpool.conf; empty looks in pool_passwd. */
  readonly password: string;
  readonly database: string;
  readonly applicationName: string;
  /** The parameter that names the user, for messages. */
  readonly parameter: string;
};

type Limit = { readonly limitMs: number; readonly signal: AbortSignal };

/** Opens a connection, has `ask` use it, and closes it, all before `signal` and within `limitMs` (0 is no limit). */
export async function withBackend<T>(
  world: ProbeWorld,
  node: NodeId,
  asker: Asker,
  limit: Limit,
  ask: (backend: Backend) => Promise<T>,
): Promise<T> {
  return await withServer(world, world.addressOf(node), asker, limit, ask);
}

/** The same with any server that speaks the protocol. */
export async function withServer<T>(
  world: ProbeWorld,
  address: BackendAddress,
  asker: Asker,
  limit: Limit,
  ask: (backend: Backend) => Promise<T>,
): Promise<T> {
  const { limitMs } = limit;
  const timer = new AbortController();
  const late = setTimeout(
    () => timer.abort(new TooSlow(limitMs)),
    limitMs > 0 ? limitMs : AS_LONG_AS_IT_TAKES_MS,
  );
  const signal = AbortSignal.any([limit.signal, timer.signal]);
  try {
    const backend = await openAs(world, address, asker, signal);
    const giveUp = () => backend.conn.destroy();
    signal.addEventListener("abort", giveUp, { once: true });
    try {
      return await ask(backend);
    } catch (error) {
      throw signal.aborted ? signal.reason : error;
    } finally {
      signal.removeEventListener("abort", giveUp);
      backend.close();
    }
  } catch (error) {
    throw timer.signal.aborted ? timer.signal.reason : error;
  } finally {
    clearTimeout(late);
  }
}

/** A day: TCP has given up long before. */
const AS_LONG_AS_IT_TAKES_MS = 86_400_000;

/** The node did not answer in time. */
export class TooSlow extends Error {
  override name = "TooSlow";

  constructor(limitMs: number) {
    super(`no answer within ${limitMs} ms`);
  }
}

async function openAs(
  world: ProbeWorld,
  address: BackendAddress,
  asker: Asker,
  signal: AbortSignal,
): Promise<Backend> {
  const { user, database, applicationName } = asker;
  const parameters = new Map([
    ["application_name", applicationName],
    ["database", database],
    ["user", user],
  ]);
  const startup = encodeFrontend({ kind: "StartupMessage", major: 3, minor: 0, parameters });
  const secretFor = async () => secretOf(world, asker);
  return await openBackend(world.backendWorld(), address, { startup, user, secretFor }, signal);
}

/** The configured password when there is one, else the user's entry of pool_passwd. */
function secretOf(world: ProbeWorld, { user, password, parameter }: Asker): BackendSecret {
  const credential =
    password === ""
      ? world.credentialOf(user)
      : openStoredPassword(parseConfiguredPassword(password), world.poolKey());
  if (credential?.kind === "clear") return credential;
  const hash = credential && md5HashOf(credential, user);
  if (hash !== undefined) return { kind: "md5", hash };
  throw new AuthenticationFailed(`no password for ${parameter}`, {
    detail: `user "${user}" has neither a usable password in pgpool.conf nor one in pool_passwd`,
  });
}

/** What a failed connection says about the server. */
export type Failing =
  /** Nobody listens there: the machine itself said so. */
  | "refused"
  /** A server answered, and had a reason of its own not to serve us: it lives. */
  | "alive"
  /** It is starting, stopping or recovering, is too slow, cannot be reached, or talks nonsense. */
  | "failing";

export function failingOf(error: unknown): Failing {
  if (error instanceof BackendRefused) return isWellEnough(error) ? "alive" : "failing";
  // A password that is missing here, or was asked for in a way that we do not know.
  if (error instanceof AuthenticationFailed) return "alive";
  const cause = error instanceof Error ? error.cause : undefined;
  const { code } = (cause ?? {}) as { readonly code?: unknown };
  return code === "ECONNREFUSED" || code === "ENOENT" ? "refused" : "failing";
}

/** Wrong user, password or database, and no place left (class 53): said by a server that works. */
function isWellEnough({ response }: BackendRefused): boolean {
  const message = decodeBackend(frameOf(response));
  const code = message.kind === "ErrorResponse" ? (errorField(message, "C") ?? "") : "";
  return code.startsWith("28") || code === "3D000" || code === "42501" || code === "53300";
}

/** Why, in one line. */
export function reasonOf(error: unknown): string {
  const { message, detail } = (error ?? {}) as {
    readonly message?: string;
    readonly detail?: string;
  };
  return detail ?? message ?? String(error);
}

/** Resolves after that time, or at once when it is given up. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const timer = setTimeout(done, ms);
    function done() {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    }
    signal.addEventListener("abort", done, { once: true });
  });
}
