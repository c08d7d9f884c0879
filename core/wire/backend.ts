/**
 * Messages that servers send: names and fields are those of "Message Formats" in the PostgreSQL
 * manual, protocols 3.0 and 3.2. Byte fields are views into the frame they were decoded from.
 */

import { type PgpoolError, ProtocolViolation } from "../errors.ts";
import { ByteReader, ByteWriter } from "./bytes.ts";
import { AUTHENTICATION, BACKEND } from "./codes.ts";
import { CANCEL_KEY_SIZE_MAX, CANCEL_KEY_SIZE_MIN, type Frame } from "./frame.ts";

/** Idle, in a transaction block, or in a failed one. */
export type TransactionStatus = "I" | "T" | "E";

/** One field of an ErrorResponse; codes are in the manual, "Error and Notice Message Fields". */
export type ErrorField = { readonly code: string; readonly value: string };

export type RowField = {
  readonly name: string;
  /** OID of the table, or 0 when the field is no column. */
  readonly tableId: number;
  readonly columnNumber: number;
  /** OID. */
  readonly typeId: number;
  /** Negative for types of varying width. */
  readonly typeSize: number;
  readonly typeModifier: number;
  readonly format: number;
};

/** What COPY's data will be: 0 text, 1 binary, as a whole and by column. */
type CopyFormats = { readonly format: number; readonly columnFormats: readonly number[] };

export type BackendMessage =
  | AuthenticationMessage
  /** `secretKey` has 4 bytes under protocol 3.0 and 4…256 under 3.2. */
  | { readonly kind: "BackendKeyData"; readonly processId: number; readonly secretKey: Uint8Array }
  | { readonly kind: "BindComplete" }
  | { readonly kind: "CloseComplete" }
  | { readonly kind: "CommandComplete"; readonly tag: string }
  | ({ readonly kind: "CopyBothResponse" } & CopyFormats)
  | { readonly kind: "CopyData"; readonly data: Uint8Array }
  | { readonly kind: "CopyDone" }
  | ({ readonly kind: "CopyInResponse" } & CopyFormats)
  | ({ readonly kind: "CopyOutResponse" } & CopyFormats)
  | { readonly kind: "DataRow"; readonly values: readonly (Uint8Array | null)[] }
  | { readonly kind: "EmptyQueryResponse" }
  | { readonly kind: "ErrorResponse"; readonly fields: readonly ErrorField[] }
  | { readonly kind: "FunctionCallResponse"; readonly value: Uint8Array | null }
  | {
      readonly kind: "NegotiateProtocolVersion";
      /** The newest version the server speaks of what was asked for. */
      readonly major: number;
      readonly minor: number;
      /** The `_pq_.` options that it does not know. */
      readonly unrecognizedOptions: readonly string[];
    }
  | { readonly kind: "NoData" }
  | { readonly kind: "NoticeResponse"; readonly fields: readonly ErrorField[] }
  | {
      readonly kind: "NotificationResponse";
      readonly processId: number;
      readonly channel: string;
      readonly payload: string;
    }
  | { readonly kind: "ParameterDescription"; readonly parameterTypes: readonly number[] }
  | { readonly kind: "ParameterStatus"; readonly name: string; readonly value: string }
  | { readonly kind: "ParseComplete" }
  | { readonly kind: "PortalSuspended" }
  | { readonly kind: "ReadyForQuery"; readonly status: TransactionStatus }
  | { readonly kind: "RowDescription"; readonly fields: readonly RowField[] };

/** The messages of type `R`. */
export type AuthenticationMessage =
  | { readonly kind: "AuthenticationOk" }
  | { readonly kind: "AuthenticationKerberosV5" }
  | { readonly kind: "AuthenticationCleartextPassword" }
  /** `salt` has four bytes. */
  | { readonly kind: "AuthenticationMD5Password"; readonly salt: Uint8Array }
  | { readonly kind: "AuthenticationGSS" }
  | { readonly kind: "AuthenticationGSSContinue"; readonly data: Uint8Array }
  | { readonly kind: "AuthenticationSSPI" }
  | { readonly kind: "AuthenticationSASL"; readonly mechanisms: readonly string[] }
  | { readonly kind: "AuthenticationSASLContinue"; readonly data: Uint8Array }
  | { readonly kind: "AuthenticationSASLFinal"; readonly data: Uint8Array };

export function decodeBackend(frame: Frame): BackendMessage {
  const reader = new ByteReader(frame.body, BACKEND_NAMES.get(frame.type));
  const message = decodeFields(frame.type, reader);
  reader.end();
  return message;
}

export function encodeBackend(message: BackendMessage): Uint8Array {
  const writer = new ByteWriter();
  writeBackend(writer, message);
  return writer.take();
}

/** Appends the message, so that several can be sent as one. */
export function writeBackend(writer: ByteWriter, message: BackendMessage): void {
  if (isAuthentication(message)) {
    writeAuthentication(writer.begin(BACKEND.Authentication), message);
  } else {
    writeFields(writer.begin(BACKEND[message.kind]), message);
  }
  writer.end();
}

const BACKEND_NAMES = new Map<number, string>(
  Object.entries(BACKEND).map(([name, code]) => [code, name]),
);

function decodeFields(type: number, reader: ByteReader): BackendMessage {
  switch (type) {
    case BACKEND.DataRow:
      return { kind: "DataRow", values: reader.list(readValue) };
    case BACKEND.CopyData:
      return { kind: "CopyData", data: reader.rest() };
    case BACKEND.CommandComplete:
      return { kind: "CommandComplete", tag: reader.cstring() };
    case BACKEND.ReadyForQuery:
      return { kind: "ReadyForQuery", status: readStatus(reader) };
    case BACKEND.RowDescription:
      return { kind: "RowDescription", fields: reader.list(readRowField) };
    case BACKEND.ParameterDescription:
      return { kind: "ParameterDescription", parameterTypes: reader.list(readUint32) };
    case BACKEND.ParameterStatus:
      return { kind: "ParameterStatus", name: reader.cstring(), value: reader.cstring() };
    case BACKEND.ErrorResponse:
      return { kind: "ErrorResponse", fields: readErrorFields(reader) };
    case BACKEND.NoticeResponse:
      return { kind: "NoticeResponse", fields: readErrorFields(reader) };
    case BACKEND.CopyInResponse:
      return { kind: "CopyInResponse", ...readCopyFormats(reader) };
    case BACKEND.CopyOutResponse:
      return { kind: "CopyOutResponse", ...readCopyFormats(reader) };
    case BACKEND.CopyBothResponse:
      return { kind: "CopyBothResponse", ...readCopyFormats(reader) };
    case BACKEND.FunctionCallResponse:
      return { kind: "FunctionCallResponse", value: reader.value() };
    case BACKEND.NotificationResponse:
      return {
        kind: "NotificationResponse",
        processId: reader.int32(),
        channel: reader.cstring(),
        payload: reader.cstring(),
      };
    case BACKEND.Authentication:
      return readAuthentication(reader);
    case BACKEND.BackendKeyData:
      return readBackendKeyData(reader);
    case BACKEND.NegotiateProtocolVersion:
      return readNegotiateProtocolVersion(reader);
    default:
      return bodiless(type);
  }
}

/** Messages that are a type and nothing else. */
function bodiless(type: number): BackendMessage {
  switch (type) {
    case BACKEND.BindComplete:
      return { kind: "BindComplete" };
    case BACKEND.CloseComplete:
      return { kind: "CloseComplete" };
    case BACKEND.CopyDone:
      return { kind: "CopyDone" };
    case BACKEND.EmptyQueryResponse:
      return { kind: "EmptyQueryResponse" };
    case BACKEND.NoData:
      return { kind: "NoData" };
    case BACKEND.ParseComplete:
      return { kind: "ParseComplete" };
    case BACKEND.PortalSuspended:
      return { kind: "PortalSuspended" };
    default:
      throw new ProtocolViolation(`invalid backend message type ${type}`);
  }
}

const readInt16 = (reader: ByteReader) => reader.int16();
const readUint32 = (reader: ByteReader) => reader.uint32();
const readValue = (reader: ByteReader) => reader.value();

function readStatus(reader: ByteReader): TransactionStatus {
  const code = reader.int8();
  switch (code) {
    case 0x49:
      return "I";
    case 0x54:
      return "T";
    case 0x45:
      return "E";
    default:
      throw new ProtocolViolation(`invalid transaction status ${code}`);
  }
}

function readRowField(reader: ByteReader): RowField {
  return {
    name: reader.cstring(),
    tableId: reader.uint32(),
    columnNumber: reader.int16(),
    typeId: reader.uint32(),
    typeSize: reader.int16(),
    typeModifier: reader.int32(),
    format: reader.int16(),
  };
}

/** Servers other than PostgreSQL leave fields out or repeat them: whatever is there is kept in order. */
function readErrorFields(reader: ByteReader): ErrorField[] {
  const fields: ErrorField[] = [];
  for (let code = reader.int8(); code !== 0; code = reader.int8()) {
    fields.push({ code: String.fromCharCode(code), value: reader.cstring() });
  }
  return fields;
}

function readCopyFormats(reader: ByteReader): CopyFormats {
  return { format: reader.int8(), columnFormats: reader.list(readInt16) };
}

function readAuthentication(reader: ByteReader): AuthenticationMessage {
  const code = reader.int32();
  switch (code) {
    case AUTHENTICATION.AuthenticationOk:
      return { kind: "AuthenticationOk" };
    case AUTHENTICATION.AuthenticationKerberosV5:
      return { kind: "AuthenticationKerberosV5" };
    case AUTHENTICATION.AuthenticationCleartextPassword:
      return { kind: "AuthenticationCleartextPassword" };
    case AUTHENTICATION.AuthenticationMD5Password:
      return { kind: "AuthenticationMD5Password", salt: reader.bytes(4) };
    case AUTHENTICATION.AuthenticationGSS:
      return { kind: "AuthenticationGSS" };
    case AUTHENTICATION.AuthenticationGSSContinue:
      return { kind: "AuthenticationGSSContinue", data: reader.rest() };
    case AUTHENTICATION.AuthenticationSSPI:
      return { kind: "AuthenticationSSPI" };
    case AUTHENTICATION.AuthenticationSASL:
      return { kind: "AuthenticationSASL", mechanisms: readMechanisms(reader) };
    case AUTHENTICATION.AuthenticationSASLContinue:
      return { kind: "AuthenticationSASLContinue", data: reader.rest() };
    case AUTHENTICATION.AuthenticationSASLFinal:
      return { kind: "AuthenticationSASLFinal", data: reader.rest() };
    default:
      throw new ProtocolViolation(`authentication method ${code} not supported`);
  }
}

/** Names until an empty one. */
function readMechanisms(reader: ByteReader): string[] {
  const mechanisms: string[] = [];
  for (let name = reader.cstring(); name !== ""; name = reader.cstring()) mechanisms.push(name);
  return mechanisms;
}

function readBackendKeyData(reader: ByteReader): BackendMessage {
  const processId = reader.int32();
  const secretKey = reader.rest();
  if (secretKey.length < CANCEL_KEY_SIZE_MIN) {
    throw new ProtocolViolation(`cancel key length is less than ${CANCEL_KEY_SIZE_MIN} bytes`);
  }
  if (secretKey.length > CANCEL_KEY_SIZE_MAX) {
    throw new ProtocolViolation(`cancel key length exceeds ${CANCEL_KEY_SIZE_MAX} bytes`);
  }
  return { kind: "BackendKeyData", processId, secretKey };
}

/** PostgreSQL sends the whole version number where the manual speaks of the minor one. */
function readNegotiateProtocolVersion(reader: ByteReader): BackendMessage {
  const major = reader.uint16();
  const minor = reader.uint16();
  const unrecognizedOptions: string[] = [];
  for (let count = reader.uint32(); count > 0; count--) unrecognizedOptions.push(reader.cstring());
  return { kind: "NegotiateProtocolVersion", major, minor, unrecognizedOptions };
}

function isAuthentication(message: BackendMessage): message is AuthenticationMessage {
  return Object.hasOwn(AUTHENTICATION, message.kind);
}

function writeFields(writer: ByteWriter, message: Exclude<BackendMessage, AuthenticationMessage>) {
  switch (message.kind) {
    case "BackendKeyData":
      writer.int32(message.processId).bytes(message.secretKey);
      return;
    case "CommandComplete":
      writer.cstring(message.tag);
      return;
    case "CopyBothResponse":
    case "CopyInResponse":
    case "CopyOutResponse":
      writer.int8(message.format).int16(message.columnFormats.length);
      for (const format of message.columnFormats) writer.int16(format);
      return;
    case "CopyData":
      writer.bytes(message.data);
      return;
    case "DataRow":
      writer.int16(message.values.length);
      for (const value of message.values) writer.value(value);
      return;
    case "ErrorResponse":
    case "NoticeResponse":
      writeErrorFields(writer, message.fields);
      return;
    case "FunctionCallResponse":
      writer.value(message.value);
      return;
    case "NegotiateProtocolVersion":
      writer.int16(message.major).int16(message.minor).int32(message.unrecognizedOptions.length);
      for (const option of message.unrecognizedOptions) writer.cstring(option);
      return;
    case "NotificationResponse":
      writer.int32(message.processId).cstring(message.channel).cstring(message.payload);
      return;
    case "ParameterDescription":
      writer.int16(message.parameterTypes.length);
      for (const type of message.parameterTypes) writer.int32(type);
      return;
    case "ParameterStatus":
      writer.cstring(message.name).cstring(message.value);
      return;
    case "ReadyForQuery":
      writer.int8(message.status.charCodeAt(0));
      return;
    case "RowDescription":
      writeRowFields(writer, message.fields);
      return;
    case "BindComplete":
    case "CloseComplete":
    case "CopyDone":
    case "EmptyQueryResponse":
    case "NoData":
    case "ParseComplete":
    case "PortalSuspended":
      return;
  }
}

function writeAuthentication(writer: ByteWriter, message: AuthenticationMessage): void {
  writer.int32(AUTHENTICATION[message.kind]);
  switch (message.kind) {
    case "AuthenticationMD5Password":
      writer.bytes(message.salt);
      return;
    case "AuthenticationSASL":
      for (const mechanism of message.mechanisms) writer.cstring(mechanism);
      writer.int8(0);
      return;
    case "AuthenticationGSSContinue":
    case "AuthenticationSASLContinue":
    case "AuthenticationSASLFinal":
      writer.bytes(message.data);
      return;
    case "AuthenticationOk":
    case "AuthenticationKerberosV5":
    case "AuthenticationCleartextPassword":
    case "AuthenticationGSS":
    case "AuthenticationSSPI":
      return;
  }
}

function writeErrorFields(writer: ByteWriter, fields: readonly ErrorField[]): void {
  for (const { code, value } of fields) writer.int8(code.charCodeAt(0)).cstring(value);
  writer.int8(0);
}

function writeRowFields(writer: ByteWriter, fields: readonly RowField[]): void {
  writer.int16(fields.length);
  for (const field of fields) {
    writer.cstring(field.name).int32(field.tableId).int16(field.columnNumber);
    writer.int32(field.typeId).int16(field.typeSize).int32(field.typeModifier);
    writer.int16(field.format);
  }
}

/** The value of the first field of that code, as libpq's PQresultErrorField. */
export function errorField(
  message: { readonly fields: readonly ErrorField[] },
  code: string,
): string | undefined {
  return message.fields.find((field) => field.code === code)?.value;
}

export type Severity =
  | "ERROR"
  | "FATAL"
  | "PANIC"
  | "WARNING"
  | "NOTICE"
  | "DEBUG"
  | "INFO"
  | "LOG";

/** What an error or a notice says, by names instead of by field codes. */
export type Report = {
  readonly severity: Severity;
  /** SQLSTATE. */
  readonly code: string;
  readonly message: string;
  readonly detail?: string | undefined;
  readonly hint?: string | undefined;
  /** In characters, from 1, within the statement. */
  readonly position?: number | undefined;
  readonly where?: string | undefined;
  readonly schema?: string | undefined;
  readonly table?: string | undefined;
  readonly column?: string | undefined;
  readonly dataType?: string | undefined;
  readonly constraint?: string | undefined;
};

/** In the order in which PostgreSQL sends them. */
export function reportFields(report: Report): ErrorField[] {
  const fields: readonly (readonly [string, string | number | undefined])[] = [
    ["S", report.severity],
    ["V", report.severity],
    ["C", report.code],
    ["M", report.message],
    ["D", report.detail],
    ["H", report.hint],
    ["W", report.where],
    ["s", report.schema],
    ["t", report.table],
    ["c", report.column],
    ["d", report.dataType],
    ["n", report.constraint],
    ["P", report.position],
  ];
  return fields.flatMap(([code, value]) =>
    // Texts may quote what a peer sent; a zero byte in one must not spoil the report of it.
    value === undefined ? [] : [{ code, value: String(value).replaceAll("\0", "") }],
  );
}

export function errorResponse(report: Report): Uint8Array {
  return encodeBackend({ kind: "ErrorResponse", fields: reportFields(report) });
}

export function noticeResponse(report: Report): Uint8Array {
  return encodeBackend({ kind: "NoticeResponse", fields: reportFields(report) });
}

/** An error we raised, as its client sees it. */
export function toErrorResponse(error: PgpoolError): Uint8Array {
  const { severity, sqlstate: code, message, detail, hint } = error;
  return errorResponse({ severity, code, message, detail, hint });
}

export function authenticationOk(): Uint8Array {
  return encodeBackend({ kind: "AuthenticationOk" });
}

export function backendKeyData(processId: number, secretKey: Uint8Array): Uint8Array {
  return encodeBackend({ kind: "BackendKeyData", processId, secretKey });
}

export function commandComplete(tag: string): Uint8Array {
  return encodeBackend({ kind: "CommandComplete", tag });
}

export function parameterStatus(name: string, value: string): Uint8Array {
  return encodeBackend({ kind: "ParameterStatus", name, value });
}

export function readyForQuery(status: TransactionStatus): Uint8Array {
  return encodeBackend({ kind: "ReadyForQuery", status });
}
