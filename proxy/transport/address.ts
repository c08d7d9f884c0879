/** What both transports do before a socket exists: names, several addresses, deadlines, socket files. */
import { lookup } from "node:dns/promises";
import { chmod, chown, lstat, unlink } from "node:fs/promises";
import { connect, isIP } from "node:net";
import type { ConnectTarget, Listener, UnixListenAddress } from "./conn.ts";

export type DialAddress =
  | { readonly kind: "tcp"; readonly host: string; readonly port: number }
  | { readonly kind: "unix"; readonly path: string };

export type ConnectLimits = {
  /** For the whole of `connect`, names included. 0 leaves it to the kernel. */
  readonly timeoutMs: number;
  readonly signal?: AbortSignal | undefined;
};

/**
 * Tries every address of the target in the order the resolver gave, each with its share of the time
 * left, so that a first address that swallows packets does not hide a second that answers. Rejects
 * with the last error; a refusal only when every address refused, for some take it as a proof that
 * nobody is there. `dial` must close what it opened once its signal is aborted.
 */
export async function connectAny<T>(
  target: ConnectTarget,
  limits: ConnectLimits,
  dial: (address: DialAddress, signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const deadline = limits.timeoutMs > 0 ? performance.now() + limits.timeoutMs : undefined;
  const leftMs = () => (deadline === undefined ? undefined : deadline - performance.now());
  const addresses = await limited(() => addressesOf(target), leftMs(), limits.signal);
  let failure: unknown;
  for (const [index, address] of addresses.entries()) {
    const left = leftMs();
    const share = left === undefined ? undefined : left / (addresses.length - index);
    try {
      return await limited((signal) => dial(address, signal), share, limits.signal);
    } catch (error) {
      if (limits.signal?.aborted) throw error;
      if (failure === undefined || !isRefusal(error)) failure = error;
    }
  }
  throw failure;
}

const isRefusal = (error: unknown): boolean =>
  (error as { readonly code?: unknown }).code === "ECONNREFUSED";

async function addressesOf(target: ConnectTarget): Promise<readonly DialAddress[]> {
  if (target.kind === "unix") return [target];
  const hosts = await resolveHost(target.host);
  return hosts.map((host) => ({ kind: "tcp", host, port: target.port }));
}

/** Every address of a host name, none twice; an address stands for itself. Rejects as `getaddrinfo` does. */
async function resolveHost(host: string): Promise<readonly string[]> {
  if (isIP(host) !== 0) return [host];
  const found = await lookup(host, { all: true });
  return [...new Set(found.map((entry) => entry.address))];
}

/**
 * Runs something that can be given up: when the time is over or `outer` is aborted it rejects at
 * once and aborts the signal `run` was given. What `run` yields after that is its own to close.
 */
function limited<T>(
  run: (signal: AbortSignal) => Promise<T>,
  limitMs: number | undefined,
  outer: AbortSignal | undefined,
): Promise<T> {
  return new Promise((resolve, reject) => {
    const inner = new AbortController();
    const giveUp = (reason: Error) => {
      forget();
      reject(reason);
      inner.abort(reason);
    };
    const onAbort = () => giveUp(abortReason(outer));
    const timer =
      limitMs === undefined
        ? undefined
        : setTimeout(() => giveUp(timedOut()), Math.max(1, limitMs));
    const forget = () => {
      clearTimeout(timer);
      outer?.removeEventListener("abort", onAbort);
    };
    if (outer?.aborted) return onAbort();
    outer?.addEventListener("abort", onAbort);
    run(inner.signal).then(resolve, reject).finally(forget);
  });
}

function abortReason(signal: AbortSignal | undefined): Error {
  return signal?.reason instanceof Error ? signal.reason : new Error("connect was given up");
}

function timedOut(): Error {
  return systemError("ETIMEDOUT", "connection timed out");
}

export function systemError(code: string, message: string): Error & { readonly code: string } {
  return Object.assign(new Error(message), { code });
}

/**
 * Binds every address a listen host stands for; port 0 becomes the same port on all of them. `*` is
 * every address of both families: bound as `::`, which on a dual-stack kernel takes IPv4 as well,
 * and as `0.0.0.0` where there is no IPv6. As in Pgpool one address bound is enough when the others
 * do not exist on this machine; any other failure undoes the rest and rejects.
 */
export async function bindAll(
  address: { readonly host: string; readonly port: number },
  bind: (host: string, port: number) => Promise<Listener>,
): Promise<Listener> {
  const hosts = address.host === "*" ? ["::", "0.0.0.0"] : await resolveHost(address.host);
  const bound: Listener[] = [];
  const close = async () => {
    await Promise.all(bound.map((listener) => listener.close()));
  };
  let absent: unknown;
  for (const host of hosts) {
    try {
      bound.push(await bind(host, bound[0]?.port ?? address.port));
      if (address.host === "*") break;
    } catch (error) {
      if (!isAbsentAddress(error)) {
        await close();
        throw error;
      }
      absent = error;
    }
  }
  const [first] = bound;
  if (first === undefined) throw absent;
  return { port: first.port, close };
}

/** Whether a bind failed because this machine lacks the address or its family, not because it is taken. */
function isAbsentAddress(error: unknown): boolean {
  const code = codeOf(error);
  return code === "EADDRNOTAVAIL" || code === "EAFNOSUPPORT" || code === "EPROTONOSUPPORT";
}

/** An IPv4 client of a dual-stack socket is an IPv4 client: pool_hba.conf and the log say so. */
export function plainAddress(address: string): string {
  return address.startsWith("::ffff:") && address.includes(".") ? address.slice(7) : address;
}

/**
 * Removes a socket file that a dead process left behind. Rejects with EADDRINUSE when somebody
 * answers there or the path is something else than a socket.
 */
export async function clearStaleSocket(path: string): Promise<void> {
  let isSocket: boolean;
  try {
    isSocket = (await lstat(path)).isSocket();
  } catch (error) {
    if (codeOf(error) === "ENOENT") return;
    throw error;
  }
  if (!isSocket || (await answers(path))) {
    throw systemError("EADDRINUSE", `address already in use ${path}`);
  }
  await unlink(path);
}

/** Only a refusal proves that nobody listens: any other failure (EACCES, EAGAIN) counts as somebody. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once("connect", () => {
      probe.destroy();
      resolve(true);
    });
    probe.once("error", (error) => {
      const code = codeOf(error);
      resolve(code !== "ECONNREFUSED" && code !== "ENOENT");
    });
  });
}

/** Who may connect to a socket file that was just made. Returns its inode, by which it stays known. */
export async function admitTo({ path, mode, groupId }: UnixListenAddress): Promise<number> {
  const { uid, ino } = await lstat(path);
  if (groupId !== undefined) await chown(path, uid, groupId);
  await chmod(path, mode);
  return ino;
}

/** Removes our socket file, unless another process has put its own there since. */
export async function removeOwnSocket(path: string, inode: number): Promise<void> {
  try {
    if ((await lstat(path)).ino === inode) await unlink(path);
  } catch (error) {
    if (codeOf(error) !== "ENOENT") throw error;
  }
}

function codeOf(error: unknown): string | undefined {
  if (!(error instanceof Error) || !("code" in error)) return undefined;
  return typeof error.code === "string" ? error.code : undefined;
}
