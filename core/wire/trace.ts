/**
 * One line for each message, shaped as libpq's PQtrace prints it, so that whole conversations can be
 * read, logged and compared as text. Differences: control characters are escaped in strings too
 * (one message is always one line), authentication messages have their own names, and secrets are
 * never printed: passwords, what SASL and GSS exchange, cancel keys.
 */

import { PgpoolError } from "../errors.ts";
import { type BackendMessage, decodeBackend, type ErrorField, type RowField } from "./backend.ts";
import { BACKEND } from "./codes.ts";
import { decodeStartup, type Frame, type StartupPacket } from "./frame.ts";
import { decodeFrontend, type FrontendMessage, type FrontendPhase } from "./frontend.ts";

export type TraceOptions = {
  /** Hides what differs from run to run: OIDs, process ids, source lines (PQTRACE_REGRESS_MODE). */
  readonly regress?: boolean | undefined;
  /** What the client is to answer; see `decodeFrontend`. */
  readonly phase?: FrontendPhase | undefined;
};

/** What a client sent: `F`, length, name, fields. Never throws: a malformed message is said to be. */
export function traceFrontend(frame: Frame, options: TraceOptions = {}): string {
  const regress = options.regress === true;
  return line("F", sizeOf(frame), () => {
    const message = decodeFrontend(frame, options.phase);
    return [message.kind, frontendFields(message, regress)];
  });
}

/** What a server sent: `B`, length, name, fields. Never throws. */
export function traceBackend(frame: Frame, options: TraceOptions = {}): string {
  const regress = options.regress === true;
  const isReport = frame.type === BACKEND.ErrorResponse || frame.type === BACKEND.NoticeResponse;
  // File, line and routine differ between releases, and the length with them.
  return line("B", regress && isReport ? "NN" : sizeOf(frame), () => {
    const message = decodeBackend(frame);
    return [message.kind, backendFields(message, regress)];
  });
}

/** A whole start-up packet, its length word included. Never throws. */
export function traceStartup(raw: Uint8Array, options: TraceOptions = {}): string {
  return line("F", raw.length, () => {
    const packet = decodeStartup(raw);
    return [packet.kind, startupFields(packet, options.regress === true)];
  });
}

/** PQtrace counts as the length word does: without the type byte. */
const sizeOf = (frame: Frame): number => frame.raw.length - 1;

function line(
  sender: "F" | "B",
  size: number | "NN",
  describe: () => readonly [name: string, fields: string],
): string {
  try {
    const [name, fields] = describe();
    return `${sender}\t${size}\t${name}${fields === "" ? "" : `\t${fields}`}`;
  } catch (error) {
    if (!(error instanceof PgpoolError)) throw error;
    const why = error.detail === undefined ? "" : ` (${error.detail})`;
    return `${sender}\t${size}\tmalformed: ${error.message}${why}`;
  }
}

const SECRET = ' "SSSS"';

function frontendFields(message: FrontendMessage, regress: boolean): string {
  switch (message.kind) {
    case "Bind":
      return (
        string(message.portal) +
        string(message.statement) +
        list(message.parameterFormats, int16) +
        list(message.parameters, value) +
        list(message.resultFormats, int16)
      );
    case "Close":
    case "Describe":
      return ` ${message.target}${string(message.name)}`;
    case "CopyFail":
      return string(message.reason);
    case "Execute":
      return string(message.portal) + number(message.rowsMax);
    case "FunctionCall":
      return (
        varying(message.functionId, regress) +
        list(message.argumentFormats, int16) +
        list(message.arguments, value) +
        int16(message.resultFormat)
      );
    case "Parse":
      return (
        string(message.statement) +
        string(message.sql) +
        list(message.parameterTypes, (type) => varying(type, regress))
      );
    case "Query":
      return string(message.sql);
    case "SASLInitialResponse":
      return string(message.mechanism) + SECRET;
    case "PasswordMessage":
    case "SASLResponse":
    case "GSSResponse":
      return SECRET;
    // Data are left out, as PQtrace does: they would drown the rest.
    case "CopyData":
    case "CopyDone":
    case "Flush":
    case "Sync":
    case "Terminate":
      return "";
    case "StartupMessage":
    case "SSLRequest":
    case "GSSENCRequest":
    case "CancelRequest":
      return startupFields(message, regress);
  }
}

function startupFields(
  packet: StartupPacket | Extract<FrontendMessage, { kind: StartupPacket["kind"] }>,
  regress: boolean,
): string {
  switch (packet.kind) {
    case "StartupMessage": {
      const version = number(packet.major) + number(packet.minor);
      return version + [...packet.parameters].map(([k, v]) => string(k) + string(v)).join("");
    }
    case "SSLRequest":
      return " 1234 5679";
    case "GSSENCRequest":
      return " 1234 5680";
    case "CancelRequest":
      return ` 1234 5678${varying(packet.processId, regress)}${SECRET}`;
    case "DirectTls":
      return "";
  }
}

function backendFields(message: BackendMessage, regress: boolean): string {
  switch (message.kind) {
    case "AuthenticationSASL":
      return message.mechanisms.map(string).join("");
    case "AuthenticationMD5Password":
    case "AuthenticationGSSContinue":
    case "AuthenticationSASLContinue":
    case "AuthenticationSASLFinal":
      return SECRET;
    case "BackendKeyData":
      return varying(message.processId, regress) + SECRET;
    case "CommandComplete":
      return string(message.tag);
    case "CopyBothResponse":
    case "CopyInResponse":
    case "CopyOutResponse":
      return byte(message.format) + list(message.columnFormats, int16);
    case "DataRow":
      return list(message.values, value);
    case "ErrorResponse":
    case "NoticeResponse":
      return `${message.fields.map((field) => reportField(field, regress)).join("")} \\x00`;
    case "FunctionCallResponse":
      return value(message.value);
    case "NegotiateProtocolVersion": {
      const options = message.unrecognizedOptions;
      const version = number(message.major) + number(message.minor);
      return version + number(options.length) + options.map(string).join("");
    }
    case "NotificationResponse":
      return (
        varying(message.processId, regress) + string(message.channel) + string(message.payload)
      );
    case "ParameterDescription":
      return list(message.parameterTypes, (type) => varying(type, regress));
    case "ParameterStatus":
      return string(message.name) + string(message.value);
    case "ReadyForQuery":
      return ` ${message.status}`;
    case "RowDescription":
      return list(message.fields, (field) => rowField(field, regress));
    case "AuthenticationOk":
    case "AuthenticationKerberosV5":
    case "AuthenticationCleartextPassword":
    case "AuthenticationGSS":
    case "AuthenticationSSPI":
    case "BindComplete":
    case "CloseComplete":
    case "CopyData":
    case "CopyDone":
    case "EmptyQueryResponse":
    case "NoData":
    case "ParseComplete":
    case "PortalSuspended":
      return "";
  }
}

function reportField(field: ErrorField, regress: boolean): string {
  const isSource = field.code === "F" || field.code === "L" || field.code === "R";
  const text = regress && isSource ? ' "SSSS"' : string(field.value);
  return byte(field.code.charCodeAt(0)) + text;
}

function rowField(field: RowField, regress: boolean): string {
  return (
    string(field.name) +
    varying(field.tableId, regress) +
    int16(field.columnNumber) +
    varying(field.typeId, regress) +
    int16(field.typeSize) +
    number(field.typeModifier) +
    int16(field.format)
  );
}

const number = (n: number): string => ` ${n}`;
/** PQtrace prints every Int16 unsigned: a varying type's size is 65535. */
const int16 = (n: number): string => ` ${n & 0xffff}`;
const varying = (n: number, regress: boolean): string => (regress ? " NNNN" : ` ${n}`);
/** Control characters, and bytes that are not UTF-8 (see text.ts). */
// biome-ignore lint/suspicious/noControlCharactersInRegex: they are what is to be escaped.
const UNPRINTABLE = /[\x00-\x1f\x7f\udc80-\udcff]/gu;
const string = (text: string): string => ` "${text.replace(UNPRINTABLE, asHex)}"`;
const asHex = (character: string): string => hex(character.charCodeAt(0) & 0xff);
const hex = (code: number): string => `\\x${code.toString(16).padStart(2, "0")}`;

function list<T>(items: readonly T[], item: (value: T) => string): string {
  return number(items.length) + items.map(item).join("");
}

function byte(code: number): string {
  return ` ${isPrintable(code) ? String.fromCharCode(code) : hex(code)}`;
}

function value(bytes: Uint8Array | null): string {
  if (bytes === null) return " -1";
  let text = "";
  for (const code of bytes) text += isPrintable(code) ? String.fromCharCode(code) : hex(code);
  return ` ${bytes.length} '${text}'`;
}

const isPrintable = (code: number): boolean => code >= 0x20 && code < 0x7f;
