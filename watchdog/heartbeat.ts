/**
 * The datagram of the life check (spec watchdog/wire.md section 8): a C structure of 352 bytes, whose
 * two 64-bit times hold a big-endian 32-bit number in their first half.
 */

import { decodeText, encodeText } from "../core/wire/text.ts";
import { authSum, heartbeatClaim, isAuthSum } from "./auth_key.ts";

export const HEARTBEAT_SIZE = 352;
const HOST_SIZE = 254;
const PORT_AT = 256;
const SECONDS_AT = 264;
const MICROSECONDS_AT = 272;
const SUM_AT = 280;
const SUM_SIZE = 64;

export type Heartbeat = {
  /** The sender's `hostnameN`. */
  readonly host: string;
  /** The sender's `port`, which tells nodes on one host apart. */
  readonly pgpoolPort: number;
  /** When it was sent, by the sender's clock: whoever repeats it, or an older one, is not believed. */
  readonly seconds: number;
  readonly microseconds: number;
};

export function timeOf(milliseconds: number): Pick<Heartbeat, "seconds" | "microseconds"> {
  const seconds = Math.trunc(milliseconds / 1000);
  return { seconds, microseconds: Math.trunc((milliseconds - seconds * 1000) * 1000) };
}

/** `key` is wd_authkey; empty leaves the sum out. Padding is zero, unlike the original's. */
export function encodeHeartbeat(beat: Heartbeat, key: string): Uint8Array {
  const bytes = new Uint8Array(HEARTBEAT_SIZE);
  const view = new DataView(bytes.buffer);
  bytes.set(encodeText(beat.host).subarray(0, HOST_SIZE - 1));
  view.setUint32(PORT_AT, beat.pgpoolPort);
  view.setUint32(SECONDS_AT, beat.seconds);
  view.setUint32(MICROSECONDS_AT, beat.microseconds);
  if (key !== "") {
    const claim = heartbeatClaim(beat.seconds, beat.microseconds, beat.host);
    bytes.set(encodeText(authSum(key, claim)), SUM_AT);
  }
  return bytes;
}

/** Undefined for what is no heartbeat, or not one of a node that knows the key. */
export function decodeHeartbeat(bytes: Uint8Array, key: string): Heartbeat | undefined {
  if (bytes.length !== HEARTBEAT_SIZE) return undefined;
  const hostEnd = bytes.indexOf(0);
  if (hostEnd < 0 || hostEnd >= HOST_SIZE) return undefined;
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const beat: Heartbeat = {
    host: decodeText(bytes.subarray(0, hostEnd)),
    pgpoolPort: view.getUint32(PORT_AT),
    seconds: view.getUint32(SECONDS_AT),
    microseconds: view.getUint32(MICROSECONDS_AT),
  };
  if (key === "") return beat;
  const sum = decodeText(bytes.subarray(SUM_AT, SUM_AT + SUM_SIZE));
  const claim = heartbeatClaim(beat.seconds, beat.microseconds, beat.host);
  return isAuthSum(sum, key, claim) ? beat : undefined;
}

/** Whether `beat` was sent after `last`; an equal time is a repetition. */
export const isNewer = (beat: Heartbeat, last: Heartbeat): boolean =>
  beat.seconds > last.seconds ||
  (beat.seconds === last.seconds && beat.microseconds > last.microseconds);
