/**
 * The lock that keeps a standby pgpool from judging primaries while the leader makes backends follow
 * a new one (spec watchdog/states.md section 9). Held here, or by the leader, never by both; the
 * leader's wish waits for a local holder.
 */

export type FollowLock = {
  readonly holder: "nobody" | "local" | "leader";
  /** The leader wants it as soon as the local holder is done. */
  readonly pending: boolean;
};

export type FollowLockWish = { readonly by: "local" | "leader"; readonly acquire: boolean };

/** The lock afterwards, and whether the wish was granted at once. */
export function stepFollowLock(
  lock: FollowLock,
  { by, acquire }: FollowLockWish,
): readonly [FollowLock, boolean] {
  if (by === "leader") return leaderWishes(lock, acquire);
  if (acquire) {
    if (lock.holder === "nobody") return [{ holder: "local", pending: false }, true];
    return [lock, lock.holder === "local"];
  }
  if (lock.holder !== "local") return [lock, true];
  return [{ holder: lock.pending ? "leader" : "nobody", pending: false }, true];
}

function leaderWishes(lock: FollowLock, acquire: boolean): readonly [FollowLock, boolean] {
  if (acquire) {
    if (lock.holder === "nobody") return [{ holder: "leader", pending: false }, true];
    if (lock.holder === "local") return [{ holder: "local", pending: true }, false];
    return [lock, true];
  }
  // A release that nothing was taken for is ignored.
  if (lock.holder === "leader") return [{ holder: "nobody", pending: false }, true];
  return [{ ...lock, pending: false }, true];
}
