/**
 * What a client asks over PCP (spec wire/pcp.md section 3). Arguments stay the texts they are on the
 * wire: servers print them back, and read numbers out of them as C's atoi does.
 */

import { decodeText } from "../wire/text.ts";
import { encodeFrame, PcpError, type PcpFrame } from "./frame.ts";

/** `cluster` is every member of the watchdog; anything else a client says means `local`. */
export type PcpScope = "local" | "cluster";

export type PcpRequest =
  | { readonly kind: "salt" }
  | { readonly kind: "authenticate"; readonly user: string; readonly response: string }
  | { readonly kind: "set"; readonly name: string; readonly value: string }
  | { [K in PlainKind]: { readonly kind: K } }[PlainKind]
  | { [K in ArgumentKind]: { readonly kind: K; readonly argument: string } }[ArgumentKind]
  | { readonly kind: "detach_node"; readonly argument: string; readonly gracefully: boolean }
  | {
      readonly kind: "promote_node";
      readonly argument: string;
      readonly gracefully: boolean;
      /** Detach the primary for it, instead of only believing that it is the primary. */
      readonly switchover: boolean;
    }
  /** `mode` is one character: s, f or i from an honest client. */
  | { readonly kind: "stop"; readonly scope: PcpScope; readonly mode: string }
  | { readonly kind: "reload" | "rotate_log"; readonly scope: PcpScope };

const plainLetters = {
  B: "pool_status",
  F: "stop_recovery",
  G: "invalidate_cache",
  L: "node_count",
  N: "process_list",
  /** Our own: one screen's worth of facts. Servers that do not know it close the connection. */
  S: "status",
  X: "disconnect",
} as const;
type PlainKind = (typeof plainLetters)[keyof typeof plainLetters];

const argumentLetters = {
  C: "attach_node",
  H: "health_check_stats",
  I: "node_info",
  O: "recovery_node",
  P: "process_info",
  W: "watchdog_info",
} as const;
type ArgumentKind = (typeof argumentLetters)[keyof typeof argumentLetters];

const scopeLetters = { Z: "reload", V: "rotate_log" } as const;

/** @throws PcpError, FATAL, for a letter that means nothing */
export function decodeRequest({ letter, body }: PcpFrame): PcpRequest {
  const plain = lookup(plainLetters, letter);
  if (plain !== undefined) return { kind: plain };
  const withArgument = lookup(argumentLetters, letter);
  if (withArgument !== undefined) return { kind: withArgument, argument: stringAt(body, 0).text };
  const scoped = lookup(scopeLetters, letter);
  if (scoped !== undefined) {
    return { kind: scoped, scope: characterAt(body, 0) === "c" ? "cluster" : "local" };
  }
  switch (letter) {
    case "M":
      return { kind: "salt" };
    case "R": {
      const user = stringAt(body, 0);
      const response = stringAt(body, user.next).text;
      return { kind: "authenticate", user: user.text, response };
    }
    case "A": {
      const name = stringAt(body, 0);
      return { kind: "set", name: name.text, value: stringAt(body, name.next).text };
    }
    case "D":
    case "d": {
      const argument = stringAt(body, 0).text;
      return { kind: "detach_node", argument, gracefully: letter === "d" };
    }
    case "J":
    case "j":
      return { kind: "promote_node", ...promotion(body), gracefully: letter === "j" };
    case "T":
    case "t": {
      const mode = characterAt(body, 0);
      return { kind: "stop", scope: letter === "t" ? "cluster" : "local", mode };
    }
    default:
      throw new PcpError("PCP processing request", {
        severity: "FATAL",
        detail: `unknown PCP packet type "${letter}"`,
      });
  }
}

/** Digits, a blank, a zero and the option; clients before 4.3 send the digits alone. */
function promotion(body: Uint8Array): { readonly argument: string; readonly switchover: boolean } {
  const { text, next } = stringAt(body, 0);
  const argument = text.endsWith(" ") ? text.slice(0, -1) : text;
  return { argument, switchover: characterAt(body, next) === "s" };
}

function lookup<T extends object>(table: T, letter: string): T[keyof T] | undefined {
  return Object.hasOwn(table, letter) ? table[letter as keyof T] : undefined;
}

/** Up to the zero byte, or to the end where there is none: what is not there was never allocated. */
function stringAt(body: Uint8Array, at: number): { readonly text: string; readonly next: number } {
  const zero = body.indexOf(0, at);
  const end = zero < 0 ? body.length : zero;
  return { text: decodeText(body.subarray(at, end)), next: end + 1 };
}

const characterAt = (body: Uint8Array, at: number): string =>
  at < body.length ? String.fromCharCode(body[at] ?? 0) : "";

/** What `letter` is sent for a request. */
export function requestLetter(request: PcpRequest): string {
  switch (request.kind) {
    case "salt":
      return "M";
    case "authenticate":
      return "R";
    case "set":
      return "A";
    case "detach_node":
      return request.gracefully ? "d" : "D";
    case "promote_node":
      return request.gracefully ? "j" : "J";
    case "stop":
      return request.scope === "cluster" ? "t" : "T";
    case "reload":
      return "Z";
    case "rotate_log":
      return "V";
    default:
      return letterIn(plainLetters, request.kind) ?? letterIn(argumentLetters, request.kind) ?? "";
  }
}

const letterIn = (table: object, kind: string): string | undefined =>
  Object.entries(table).find(([, value]) => value === kind)?.[0];

export function encodeRequest(request: PcpRequest): Uint8Array {
  return encodeFrame(requestLetter(request), (body) => {
    switch (request.kind) {
      case "authenticate":
        return body.cstring(request.user).cstring(request.response);
      case "set":
        return body.cstring(request.name).cstring(request.value);
      case "promote_node":
        return body
          .cstring(`${request.argument} `)
          .int8((request.switchover ? "s" : "n").charCodeAt(0));
      case "stop":
        return body.int8(request.mode.charCodeAt(0));
      case "reload":
      case "rotate_log":
        return body.int8(request.scope.charCodeAt(0));
      default:
        return "argument" in request ? body.cstring(request.argument) : body;
    }
  });
}

/** The letter that answers a request; recovery is answered as an attach is, a promotion as a detach. */
export function replyLetter(request: PcpRequest): string {
  if (request.kind === "recovery_node") return "c";
  if (request.kind === "promote_node") return "d";
  return requestLetter(request).toLowerCase();
}

/** C's atoi: leading blanks, a sign, digits; whatever else is 0. */
export function leadingInteger(text: string): number {
  const digits = /^[ \t\n\v\f\r]*([+-]?\d+)/.exec(text)?.[1];
  const value = digits === undefined ? 0 : Number.parseInt(digits, 10);
  return Math.max(-0x8000_0000, Math.min(0x7fff_ffff, value));
}
