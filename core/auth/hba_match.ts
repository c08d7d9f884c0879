/**
 * Which rule of pool_hba.conf meets a client: the first whose type, TLS state, address, database
 * and user all match. A generator, because a rule with a host name needs the resolver: each `yield`
 * is a question and its reply the answer. Answers are remembered for this client.
 */
import { AuthenticationFailed } from "../errors.ts";
import type { HbaAddress, HbaRule } from "./hba.ts";
import type { HbaToken } from "./hba_tokens.ts";
import { type IpAddress, isInRange, parseIp, sameIp } from "./ip.ts";

/** One address of a local interface, as `os.networkInterfaces()` tells it. */
export type LocalInterface = { readonly address: string; readonly netmask: string };

export type HbaClient = {
  readonly peer: { readonly kind: "unix" } | { readonly kind: "tcp"; readonly address: string };
  /** Whether the client's side of this connection is encrypted. */
  readonly tls: boolean;
  readonly user: string;
  readonly database: string;
  readonly interfaces: readonly LocalInterface[];
};

/** Reply to either with the names or addresses found, none when the question fails. */
export type HbaQuestion =
  | { readonly kind: "reverse_lookup"; readonly address: string }
  | { readonly kind: "forward_lookup"; readonly name: string };

export type HbaDecision =
  | { readonly kind: "rule"; readonly rule: HbaRule }
  | { readonly kind: "no_match" };

type Asking<Result> = Generator<HbaQuestion, Result, readonly string[]>;

export function* matchHba(rules: readonly HbaRule[], client: HbaClient): Asking<HbaDecision> {
  const address = client.peer.kind === "tcp" ? parseIp(client.peer.address) : undefined;
  const names = new HostNames(client);
  for (const rule of rules) {
    if (!typeMatches(rule, client)) continue;
    if (rule.address !== undefined) {
      if (address === undefined) continue;
      if (!(yield* addressMatches(rule.address, address, client, names))) continue;
    }
    if (!databaseMatches(rule.databases, client)) continue;
    if (!userMatches(rule.users, client.user)) continue;
    return { kind: "rule", rule };
  }
  return { kind: "no_match" };
}

/** `matchHba` for rules without host names, or with a resolver that answers at once. */
export function matchHbaWith(
  rules: readonly HbaRule[],
  client: HbaClient,
  answer: (question: HbaQuestion) => readonly string[],
): HbaDecision {
  const asking = matchHba(rules, client);
  let step = asking.next();
  while (!step.done) step = asking.next(answer(step.value));
  return step.value;
}

/** What a client gets that no rule, or a `reject` rule, meets: one text for both, on purpose. */
export function hbaRefusal(client: HbaClient): AuthenticationFailed {
  const host = client.peer.kind === "unix" ? "[local]" : client.peer.address;
  const { user, database, tls } = client;
  return new AuthenticationFailed("client authentication failed", {
    detail: `no pool_hba.conf entry for host "${host}", user "${user}", database "${database}", SSL ${tls ? "on" : "off"}`,
    hint: "see pgpool log for details",
    sqlstate: "28000",
  });
}

function typeMatches(rule: HbaRule, client: HbaClient): boolean {
  switch (rule.type) {
    case "local":
      return client.peer.kind === "unix";
    case "host":
      return client.peer.kind === "tcp";
    case "hostssl":
      return client.peer.kind === "tcp" && client.tls;
    case "hostnossl":
      return client.peer.kind === "tcp" && !client.tls;
  }
}

function* addressMatches(
  wanted: HbaAddress,
  address: IpAddress,
  client: HbaClient,
  names: HostNames,
): Asking<boolean> {
  switch (wanted.kind) {
    case "all":
      return true;
    case "range":
      return isInRange(address, wanted.range);
    case "samehost":
    case "samenet":
      return client.interfaces.some((local) => isLocal(wanted.kind, address, local));
    case "name":
      return yield* names.match(wanted.name, address);
  }
}

function isLocal(kind: "samehost" | "samenet", address: IpAddress, local: LocalInterface): boolean {
  const base = parseIp(local.address);
  const mask = parseIp(local.netmask);
  if (base === undefined || mask === undefined || mask.length !== base.length) return false;
  return kind === "samehost" ? sameIp(base, address) : isInRange(address, { address: base, mask });
}

/**
 * A client bears a name when its address resolves to the name and the name resolves to the address:
 * whoever controls the reverse zone alone can claim any name.
 */
class HostNames {
  readonly #client: HbaClient;
  #confirmed: string | undefined;
  #asked = false;

  constructor(client: HbaClient) {
    this.#client = client;
  }

  *match(wanted: string, address: IpAddress): Asking<boolean> {
    if (!this.#asked) {
      this.#asked = true;
      this.#confirmed = yield* this.#ask(address);
    }
    const name = this.#confirmed?.toLowerCase();
    const pattern = wanted.toLowerCase();
    if (name === undefined) return false;
    return pattern.startsWith(".") ? name.endsWith(pattern) : name === pattern;
  }

  *#ask(address: IpAddress): Asking<string | undefined> {
    const { peer } = this.#client;
    if (peer.kind !== "tcp") return undefined;
    const [name] = yield { kind: "reverse_lookup", address: peer.address };
    if (name === undefined) return undefined;
    const addresses = yield { kind: "forward_lookup", name };
    const isConfirmed = addresses.some((text) => {
      const found = parseIp(text);
      return found !== undefined && sameIp(found, address);
    });
    return isConfirmed ? name : undefined;
  }
}

function databaseMatches(tokens: readonly HbaToken[], client: HbaClient): boolean {
  for (const token of tokens) {
    switch (token.quoted ? undefined : token.text) {
      case "all":
        return true;
      case "sameuser":
        if (client.user === client.database) return true;
        break;
      // Role membership is not ours to know: Pgpool gives up the whole field, and so do we.
      case "samegroup":
      case "samerole":
        return false;
      default:
        if (token.text === client.database) return true;
    }
  }
  return false;
}

function userMatches(tokens: readonly HbaToken[], user: string): boolean {
  for (const token of tokens) {
    if (!token.quoted && token.text.startsWith("+")) return false;
    if (token.text === user || (!token.quoted && token.text === "all")) return true;
  }
  return false;
}
