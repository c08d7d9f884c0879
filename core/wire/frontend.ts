/**
 * Messages that clients send: names and fields are those of "Message Formats" in the PostgreSQL
 * manual, protocols 3.0 and 3.2. Byte fields are views into the frame they were decoded from.
 */

import { ProtocolViolation } from "../errors.ts";
import { ByteReader, ByteWriter } from "./bytes.ts";
import { FRONTEND, REQUEST } from "./codes.ts";
import type { Frame } from "./frame.ts";

/** What Describe and Close speak of: a prepared statement or a portal. */
export type NameTarget = "S" | "P";

export type FrontendMessage =
  | {
      readonly kind: "Bind";
      readonly portal: string;
      readonly statement: string;
      /** None: all text. One: for all. Else one for each parameter. */
      readonly parameterFormats: readonly number[];
      readonly parameters: readonly (Uint8Array | null)[];
      readonly resultFormats: readonly number[];
    }
  | { readonly kind: "Close"; readonly target: NameTarget; readonly name: string }
  | { readonly kind: "CopyData"; readonly data: Uint8Array }
  | { readonly kind: "CopyDone" }
  | { readonly kind: "CopyFail"; readonly reason: string }
  | { readonly kind: "Describe"; readonly target: NameTarget; readonly name: string }
  /** `rowsMax` 0 means all rows. */
  | { readonly kind: "Execute"; readonly portal: string; readonly rowsMax: number }
  | { readonly kind: "Flush" }
  | {
      readonly kind: "FunctionCall";
      readonly functionId: number;
      readonly argumentFormats: readonly number[];
      readonly arguments: readonly (Uint8Array | null)[];
      readonly resultFormat: number;
    }
  | {
      readonly kind: "Parse";
      readonly statement: string;
      readonly sql: string;
      /** OIDs; 0 leaves a type to the server. May be fewer than the parameters. */
      readonly parameterTypes: readonly number[];
    }
  | { readonly kind: "Query"; readonly sql: string }
  | { readonly kind: "Sync" }
  | { readonly kind: "Terminate" }
  | AuthenticationAnswer
  | StartupRequest;

/** The four messages of type `p`. Only the server's last request tells them apart. */
export type AuthenticationAnswer =
  | { readonly kind: "PasswordMessage"; readonly password: string }
  | {
      readonly kind: "SASLInitialResponse";
      readonly mechanism: string;
      /** Undefined when the client sends no initial response, which an empty one is not. */
      readonly response: Uint8Array | undefined;
    }
  | { readonly kind: "SASLResponse"; readonly data: Uint8Array }
  | { readonly kind: "GSSResponse"; readonly data: Uint8Array };

/** Packets without a type byte; `StartupDecoder` reads them. */
export type StartupRequest =
  | {
      readonly kind: "StartupMessage";
      readonly major: number;
      readonly minor: number;
      readonly parameters: ReadonlyMap<string, string>;
    }
  | { readonly kind: "SSLRequest" }
  | { readonly kind: "GSSENCRequest" }
  | { readonly kind: "CancelRequest"; readonly processId: number; readonly secretKey: Uint8Array };

/** `query` once logged in; the others name the answer that an authentication request awaits. */
export type FrontendPhase = "query" | "password" | "sasl_initial" | "sasl" | "gss";

/**
 * In the phases of authentication any other message is a violation, not something to be skipped: a
 * client that speaks out of turn there may be trying to become somebody else.
 */
export function decodeFrontend(frame: Frame, phase: FrontendPhase = "query"): FrontendMessage {
  if (phase !== "query") return decodeAuthenticationAnswer(frame, phase);
  const reader = new ByteReader(frame.body, FRONTEND_NAMES.get(frame.type));
  const message = decodeFields(frame.type, reader);
  reader.end();
  return message;
}

export function encodeFrontend(message: FrontendMessage): Uint8Array {
  const writer = new ByteWriter();
  writeFrontend(writer, message);
  return writer.take();
}

/** Appends the message, so that several can be sent as one. */
export function writeFrontend(writer: ByteWriter, message: FrontendMessage): void {
  switch (message.kind) {
    case "Bind":
      writer.begin(FRONTEND.Bind).cstring(message.portal).cstring(message.statement);
      writeInt16s(writer, message.parameterFormats);
      writeValues(writer, message.parameters);
      writeInt16s(writer, message.resultFormats);
      break;
    case "Close":
      writeTarget(writer.begin(FRONTEND.Close), message);
      break;
    case "CopyData":
      writer.begin(FRONTEND.CopyData).bytes(message.data);
      break;
    case "CopyDone":
      writer.begin(FRONTEND.CopyDone);
      break;
    case "CopyFail":
      writer.begin(FRONTEND.CopyFail).cstring(message.reason);
      break;
    case "Describe":
      writeTarget(writer.begin(FRONTEND.Describe), message);
      break;
    case "Execute":
      writer.begin(FRONTEND.Execute).cstring(message.portal).int32(message.rowsMax);
      break;
    case "Flush":
      writer.begin(FRONTEND.Flush);
      break;
    case "FunctionCall":
      writer.begin(FRONTEND.FunctionCall).int32(message.functionId);
      writeInt16s(writer, message.argumentFormats);
      writeValues(writer, message.arguments);
      writer.int16(message.resultFormat);
      break;
    case "Parse":
      writer.begin(FRONTEND.Parse).cstring(message.statement).cstring(message.sql);
      writer.int16(message.parameterTypes.length);
      for (const type of message.parameterTypes) writer.int32(type);
      break;
    case "Query":
      writer.begin(FRONTEND.Query).cstring(message.sql);
      break;
    case "Sync":
      writer.begin(FRONTEND.Sync);
      break;
    case "Terminate":
      writer.begin(FRONTEND.Terminate);
      break;
    case "PasswordMessage":
    case "SASLInitialResponse":
    case "SASLResponse":
    case "GSSResponse":
      writeAuthenticationAnswer(writer.begin(FRONTEND.Authentication), message);
      break;
    case "StartupMessage":
    case "SSLRequest":
    case "GSSENCRequest":
    case "CancelRequest":
      writeStartupRequest(writer.begin(), message);
      break;
  }
  writer.end();
}

const FRONTEND_NAMES = new Map<number, string>(
  Object.entries(FRONTEND).map(([name, code]) => [code, name]),
);

function decodeFields(type: number, reader: ByteReader): FrontendMessage {
  switch (type) {
    case FRONTEND.Query:
      return { kind: "Query", sql: reader.cstring() };
    case FRONTEND.Parse:
      return {
        kind: "Parse",
        statement: reader.cstring(),
        sql: reader.cstring(),
        parameterTypes: reader.list(readUint32),
      };
    case FRONTEND.Bind:
      return {
        kind: "Bind",
        portal: reader.cstring(),
        statement: reader.cstring(),
        parameterFormats: reader.list(readInt16),
        parameters: reader.list(readValue),
        resultFormats: reader.list(readInt16),
      };
    case FRONTEND.Describe:
      return { kind: "Describe", target: readTarget(reader, "DESCRIBE"), name: reader.cstring() };
    case FRONTEND.Execute:
      return { kind: "Execute", portal: reader.cstring(), rowsMax: reader.int32() };
    case FRONTEND.Close:
      return { kind: "Close", target: readTarget(reader, "CLOSE"), name: reader.cstring() };
    case FRONTEND.Sync:
      return { kind: "Sync" };
    case FRONTEND.Flush:
      return { kind: "Flush" };
    case FRONTEND.Terminate:
      return { kind: "Terminate" };
    case FRONTEND.CopyData:
      return { kind: "CopyData", data: reader.rest() };
    case FRONTEND.CopyDone:
      return { kind: "CopyDone" };
    case FRONTEND.CopyFail:
      return { kind: "CopyFail", reason: reader.cstring() };
    case FRONTEND.FunctionCall:
      return {
        kind: "FunctionCall",
        functionId: reader.uint32(),
        argumentFormats: reader.list(readInt16),
        arguments: reader.list(readValue),
        resultFormat: reader.int16(),
      };
    default:
      throw new ProtocolViolation(`invalid frontend message type ${type}`);
  }
}

const readInt16 = (reader: ByteReader) => reader.int16();
const readUint32 = (reader: ByteReader) => reader.uint32();
const readValue = (reader: ByteReader) => reader.value();

function readTarget(reader: ByteReader, message: "DESCRIBE" | "CLOSE"): NameTarget {
  const code = reader.int8();
  if (code === 0x53) return "S";
  if (code === 0x50) return "P";
  throw new ProtocolViolation(`invalid ${message} message subtype ${code}`);
}

/** How PostgreSQL calls the answer it wants when it gets another message. */
const ANSWER_NAMES = {
  password: "password",
  sasl_initial: "SASL",
  sasl: "SASL",
  gss: "GSS",
} as const;

function decodeAuthenticationAnswer(
  frame: Frame,
  phase: Exclude<FrontendPhase, "query">,
): AuthenticationAnswer {
  if (frame.type !== FRONTEND.Authentication) {
    const expected = ANSWER_NAMES[phase];
    throw new ProtocolViolation(`expected ${expected} response, got message type ${frame.type}`);
  }
  const reader = new ByteReader(frame.body, `${ANSWER_NAMES[phase]} response`);
  const answer = decodeAnswerFields(reader, phase);
  reader.end();
  return answer;
}

function decodeAnswerFields(
  reader: ByteReader,
  phase: Exclude<FrontendPhase, "query">,
): AuthenticationAnswer {
  switch (phase) {
    case "password":
      return { kind: "PasswordMessage", password: reader.cstring() };
    case "sasl_initial":
      return {
        kind: "SASLInitialResponse",
        mechanism: reader.cstring(),
        response: reader.value() ?? undefined,
      };
    case "sasl":
      return { kind: "SASLResponse", data: reader.rest() };
    case "gss":
      return { kind: "GSSResponse", data: reader.rest() };
  }
}

function writeInt16s(writer: ByteWriter, values: readonly number[]): void {
  writer.int16(values.length);
  for (const value of values) writer.int16(value);
}

function writeValues(writer: ByteWriter, values: readonly (Uint8Array | null)[]): void {
  writer.int16(values.length);
  for (const value of values) writer.value(value);
}

function writeTarget(
  writer: ByteWriter,
  message: { readonly target: NameTarget; readonly name: string },
): void {
  writer.int8(message.target.charCodeAt(0)).cstring(message.name);
}

function writeAuthenticationAnswer(writer: ByteWriter, message: AuthenticationAnswer): void {
  switch (message.kind) {
    case "PasswordMessage":
      writer.cstring(message.password);
      break;
    case "SASLInitialResponse":
      writer.cstring(message.mechanism).value(message.response ?? null);
      break;
    case "SASLResponse":
    case "GSSResponse":
      writer.bytes(message.data);
      break;
  }
}

function writeStartupRequest(writer: ByteWriter, message: StartupRequest): void {
  switch (message.kind) {
    case "StartupMessage":
      writer.int16(message.major).int16(message.minor);
      for (const [name, value] of message.parameters) writer.cstring(name).cstring(value);
      writer.int8(0);
      break;
    case "SSLRequest":
      writer.int32(REQUEST.SSL);
      break;
    case "GSSENCRequest":
      writer.int32(REQUEST.GSSENC);
      break;
    case "CancelRequest":
      writer.int32(REQUEST.Cancel).int32(message.processId).bytes(message.secretKey);
      break;
  }
}
