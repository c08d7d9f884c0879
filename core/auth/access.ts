/**
 * Where a client's proof and a backend's demand meet (spec wire/client-auth.md 2, 4, 6 and the
 * matrix of 10): what is asked of the client, and what answers the backend. Three moments, in
 * order: `authenticateClient` (server.ts) when pool_hba.conf is in use; then `secretForDemand` for
 * each backend that asks; `concludeLogin` when all have let us in. On a pooled connection
 * `reauthenticate` takes the place of the last two.
 *
 * Two cells of the matrix are not Pgpool's: a password that nobody has checked never lets a client
 * in, though the backend trusts everybody; and a connection that one client's own password opened is
 * given to the next one only for the same password, though pool_hba.conf trusts it.
 */
import { AuthenticationFailed } from "../errors.ts";
import { equalSecrets } from "./bytes.ts";
import { noValidPassword } from "./client.ts";
import type { AuthDialogue, BackendDemand, BackendSecret } from "./dialogue.ts";
import type { HbaMethod } from "./hba.ts";
import type { Credential } from "./password.ts";
import {
  authenticateClear,
  authenticateMd5,
  authenticateScram,
  type ClientLogin,
  type ClientProof,
  refused,
  undecryptable,
} from "./server.ts";

export type ClientAccess = {
  readonly login: ClientLogin;
  /** Of the rule that met the client; undefined when `enable_pool_hba` is off. */
  readonly hbaMethod: HbaMethod | undefined;
  /** The parameter `allow_clear_text_frontend_auth`. */
  readonly allowClearText: boolean;
};

/**
 * Finds the answer to a backend's demand, after asking the client (to whom this dialogue speaks)
 * whatever it still owes. `proof` is undefined while the client has shown nothing. Give the proof
 * that comes back to the next node's call: the client is asked once.
 */
export function* secretForDemand(
  demand: BackendDemand,
  access: ClientAccess,
  proof: ClientProof | undefined,
): AuthDialogue<{ readonly proof: ClientProof; readonly secret: BackendSecret }> {
  const { credential } = access.login;
  if (credential === undefined) return yield* secretOfClient(demand, access, proof);
  requireUsable(credential, demand);
  const shown = proof ?? (yield* authenticateBy(demand, access.login));
  return { proof: shown, secret: secretOf(credential, shown, demand) };
}

/** Without an entry only the client itself can name the password. */
function* secretOfClient(
  demand: BackendDemand,
  access: ClientAccess,
  proof: ClientProof | undefined,
): AuthDialogue<{ readonly proof: ClientProof; readonly secret: BackendSecret }> {
  const known = proof !== undefined && proof.kind !== "trusted" ? proof.password : undefined;
  if (proof !== undefined && known !== undefined) {
    return { proof, secret: { kind: "clear", password: known } };
  }
  if (mayAskClearText(demand, access)) {
    const claimed = yield* authenticateClear(access.login);
    if (claimed.kind !== "claimed") throw noValidPassword(demand);
    const secret = { kind: "clear", password: claimed.password } as const;
    // A client that a rule has let in stays so: the backend is the one that wants the password.
    return { proof: proof ?? claimed, secret };
  }
  if (proof === undefined && access.login.unknownUsers === "mock") {
    yield* authenticateBy(demand, access.login); // fails as a wrong password does
  }
  throw noValidPassword(demand);
}

function mayAskClearText(demand: BackendDemand, access: ClientAccess): boolean {
  if (demand !== "password") return access.hbaMethod === undefined && access.allowClearText;
  return access.hbaMethod === undefined || access.hbaMethod === "password" || access.allowClearText;
}

/** The exchange with the client that asks for as much as the backend asks of us. */
function* authenticateBy(
  demand: BackendDemand,
  login: ClientLogin,
  from: "pool_passwd" | "pooled" = "pool_passwd",
): AuthDialogue<ClientProof> {
  switch (demand) {
    case "password":
      return yield* authenticateClear(login, from);
    case "md5":
      return yield* authenticateMd5(login);
    case "scram-sha-256":
      return yield* authenticateScram(login);
  }
}

/** Whether such an entry can answer the demand; a verifier can when the client gives its key. */
function requireUsable(credential: Credential, demand: BackendDemand): void {
  switch (credential.kind) {
    case "clear":
      return;
    case "md5":
      if (demand === "md5") return;
      throw noValidPassword(demand);
    case "scram":
      if (demand === "scram-sha-256") return;
      throw noValidPassword(demand);
    case "unusable":
      throw noValidPassword(demand);
    case "undecryptable":
      throw undecryptable(methodName(demand));
  }
}

function secretOf(
  credential: Credential,
  proof: ClientProof,
  demand: BackendDemand,
): BackendSecret {
  if (credential.kind === "clear" || credential.kind === "md5") return credential;
  if (proof.kind === "verified" && proof.scram !== undefined) {
    return { kind: "scram", ...proof.scram };
  }
  throw noValidPassword(demand);
}

/**
 * What the client has shown once every backend of `demands` has let us in. A password that was a
 * mere claim is proven by a backend that asked for it; where none asked, nobody has checked it and
 * the client is refused.
 */
export function concludeLogin(
  demands: readonly (BackendDemand | "trust")[],
  proof: ClientProof | undefined,
  login: ClientLogin,
): ClientProof {
  if (proof === undefined) return { kind: "trusted" };
  if (proof.kind !== "claimed") return proof;
  if (demands.some((demand) => demand !== "trust")) return { ...proof, kind: "verified" };
  const truth = new AuthenticationFailed("clear text password authentication failed", {
    detail: `unable to get the password for user: "${login.user}"`,
    hint: 'a "password" rule needs an entry in pool_passwd when the backend does not ask for a password',
  });
  if (login.unknownUsers === "tell") throw truth;
  throw refused("clear text authentication failed", "password does not match", truth);
}

/**
 * Lets a client have a connection that is logged in already. `demand` is what its main backend
 * asked when it was made, `secret` what it was given then.
 */
export function* reauthenticate(
  pooled: {
    readonly demand: BackendDemand | "trust";
    readonly secret: BackendSecret | undefined;
  },
  access: ClientAccess,
  proof: ClientProof | undefined,
): AuthDialogue<ClientProof> {
  const { demand, secret } = pooled;
  const { login } = access;
  if (demand === "trust") return concludeLogin(["trust"], proof, login);
  if (proof?.kind === "claimed") return confirmClaim(demand, secret, proof.password, login.user);
  // Nobody checked a `trusted` client: what another one's password opened is not for it to take.
  const owesPassword = proof?.kind === "trusted" && login.credential === undefined;
  if (proof !== undefined && !owesPassword) return proof;
  if (login.credential !== undefined) {
    requireUsable(login.credential, demand);
    return yield* authenticateBy(demand, login);
  }
  const credential = secret?.kind === "scram" ? undefined : secret;
  return yield* authenticateBy(demand, { ...login, credential: credential ?? unusable }, "pooled");
}

const unusable: Credential = { kind: "unusable" };

/** The password that opened the connection is the one that opens it again. */
function confirmClaim(
  demand: BackendDemand,
  secret: BackendSecret | undefined,
  password: Uint8Array,
  user: string,
): ClientProof {
  if (secret?.kind === "clear" && equalSecrets(secret.password, password)) {
    return { kind: "verified", password };
  }
  switch (demand) {
    case "md5":
      throw refused("md5 authentication failed", "password does not match");
    case "scram-sha-256":
      throw refused(
        "authentication failed",
        `username "${user}" or password does not exist in backend`,
      );
    case "password":
      throw refused("clear text password authentication failed", "password does not match");
  }
}

function methodName(demand: BackendDemand): string {
  switch (demand) {
    case "md5":
      return "md5";
    case "scram-sha-256":
      return "SCRAM";
    case "password":
      return "clear text password";
  }
}
