/**
 * The sum by which a node shows that it knows `wd_authkey` (spec watchdog/wire.md section 7). It
 * covers two numbers of the message and nothing else, and can be replayed: that is Pgpool's protocol.
 */

import { createHash, createHmac, timingSafeEqual } from "node:crypto";

/** `hmac` is that of builds with OpenSSL, as packages are; `md5` that of builds without. */
export type AuthForm = "hmac" | "md5";

/** What is summed in an ADD NODE or NODE INFO; both numbers are those of the same message. */
export const nodeClaim = (state: number, wdPort: number): string =>
  `state=${state} wd_port=${wdPort}`;

/** What is summed in a heartbeat. */
export const heartbeatClaim = (seconds: number, microseconds: number, host: string): string =>
  `tv_sec=${seconds} tv_usec=${microseconds} from=${host}`;

/** Lower-case hex: 64 digits, or 32 in the form of MD5. */
export function authSum(key: string, claim: string, form: AuthForm = "hmac"): string {
  if (form === "hmac") return createHmac("sha256", key).update(claim).digest("hex");
  const bytes = Buffer.from(key);
  const half = Math.trunc(bytes.length / 2);
  const inner = md5(Buffer.concat([bytes.subarray(half), bytes.subarray(0, half)]));
  return md5(Buffer.from(inner + claim));
}

const md5 = (bytes: Uint8Array): string => createHash("md5").update(bytes).digest("hex");

/** Whether the sum is right, in a time that tells nothing of where it is wrong. */
export function isAuthSum(
  sum: string | undefined,
  key: string,
  claim: string,
  form: AuthForm = "hmac",
): boolean {
  const expected = Buffer.from(authSum(key, claim, form));
  const given = Buffer.from(sum ?? "");
  return given.length === expected.length && timingSafeEqual(given, expected);
}
