/**
 * Who is the primary, by what the servers say of themselves (spec routing/delay-and-primary.md
 * sections 5 and 6).
 */

import type { NodeId } from "./state.ts";

/** What one server said. */
export type RoleAnswer = {
  readonly node: NodeId;
  readonly inRecovery: boolean;
  /** Of a standby, when it was asked: where it streams from; undefined while it does not stream. */
  readonly streamsFrom?: { readonly host: string; readonly port: number } | undefined;
};

export type PrimaryRules = {
  /** A live node with ALWAYS_PRIMARY: it is the primary whatever it says. */
  readonly alwaysPrimary: NodeId | undefined;
  readonly detachFalsePrimary: boolean;
  /** Who is to stay when several fit; undefined leaves it to their ids, as Pgpool always does. */
  readonly present: NodeId | undefined;
  readonly placeOf: (node: NodeId) => { readonly hostname: string; readonly port: number };
};

export type PrimaryVerdict = {
  readonly primary: NodeId | undefined;
  /** Primaries that are none, by certain signs. In the order of their ids. */
  readonly invalid: readonly NodeId[];
};

export function judgePrimary(answers: readonly RoleAnswer[], rules: PrimaryRules): PrimaryVerdict {
  if (rules.alwaysPrimary !== undefined) return { primary: rules.alwaysPrimary, invalid: [] };
  const primaries = answers.filter((answer) => !answer.inRecovery).map(({ node }) => node);
  const standbys = answers.filter((answer) => answer.inRecovery);
  if (primaries.length > 1 && standbys.length === 0) {
    const primary = primaries.find((node) => node === rules.present) ?? primaries[0];
    const others = primaries.filter((node) => node !== primary);
    return { primary, invalid: rules.detachFalsePrimary ? others : [] };
  }
  const invalid =
    rules.detachFalsePrimary && standbys.length > 0 ? falseOnes(primaries, standbys, rules) : [];
  const candidates = primaries.filter((node) => !invalid.includes(node));
  const stays = candidates.find((node) => node === rules.present);
  return { primary: stays ?? candidates.at(-1), invalid };
}

/** One primary owns every standby: the others are false. Where none does, nothing is judged. */
function falseOnes(
  primaries: readonly NodeId[],
  standbys: readonly RoleAnswer[],
  rules: PrimaryRules,
): readonly NodeId[] {
  const owned = primaries.map(
    (node) =>
      standbys.filter(({ streamsFrom }) => isPlace(streamsFrom, rules.placeOf(node))).length,
  );
  if (!owned.includes(standbys.length)) return [];
  return primaries.filter((_, i) => owned[i] !== standbys.length);
}

/** A backend behind a Unix socket is meant by an empty host and by `localhost` too. */
function isPlace(
  from: RoleAnswer["streamsFrom"],
  { hostname, port }: { readonly hostname: string; readonly port: number },
): boolean {
  if (from === undefined || from.port !== port) return false;
  if (from.host === hostname) return true;
  return hostname.startsWith("/") && (from.host === "" || from.host === "localhost");
}
