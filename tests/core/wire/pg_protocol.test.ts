/**
 * node-postgres' own protocol package as a second opinion: it must read what we write for clients,
 * and we must read what it writes for servers.
 */

import { describe, expect, test } from "bun:test";
import { EventEmitter } from "node:events";
import fc from "fast-check";
import { parse, serialize } from "pg-protocol";
import { type BackendMessage, encodeBackend, errorField } from "../../../core/wire/backend.ts";
import { FrameDecoder, StartupDecoder } from "../../../core/wire/frame.ts";
import {
  decodeFrontend,
  type FrontendMessage,
  type FrontendPhase,
} from "../../../core/wire/frontend.ts";
import { backendMessage } from "./messages.ts";

const utf8 = (bytes: Uint8Array) => Buffer.from(bytes).toString("utf8");

type PgProtocolMessage = { readonly name: string };

/** What pg-protocol makes of a stream of server messages. */
function readByPgProtocol(bytes: Uint8Array): PgProtocolMessage[] {
  const stream = new EventEmitter();
  const messages: PgProtocolMessage[] = [];
  void parse(stream as unknown as NodeJS.ReadableStream, (message) => {
    messages.push(message as unknown as PgProtocolMessage);
  });
  stream.emit("data", Buffer.from(bytes));
  return messages;
}

/** Our message in pg-protocol's words; undefined for the few that it does not know or not fully. */
function inPgProtocolWords(message: BackendMessage): Record<string, unknown> | undefined {
  switch (message.kind) {
    case "AuthenticationKerberosV5":
    case "AuthenticationGSS":
    case "AuthenticationGSSContinue":
    case "AuthenticationSSPI":
    case "CopyBothResponse":
    case "FunctionCallResponse":
    case "NegotiateProtocolVersion":
      return undefined;
    case "AuthenticationOk":
      return { name: "authenticationOk" };
    case "AuthenticationCleartextPassword":
      return { name: "authenticationCleartextPassword" };
    case "AuthenticationMD5Password":
      return { name: "authenticationMD5Password", salt: Buffer.from(message.salt) };
    case "AuthenticationSASL":
      return { name: "authenticationSASL", mechanisms: message.mechanisms };
    case "AuthenticationSASLContinue":
      return { name: "authenticationSASLContinue", data: utf8(message.data) };
    case "AuthenticationSASLFinal":
      return { name: "authenticationSASLFinal", data: utf8(message.data) };
    case "BackendKeyData":
      // It knows protocol 3.0 only, where the key is an Int32.
      return {
        name: "backendKeyData",
        processID: message.processId,
        secretKey: Buffer.from(message.secretKey).readInt32BE(0),
      };
    case "BindComplete":
      return { name: "bindComplete" };
    case "CloseComplete":
      return { name: "closeComplete" };
    case "CommandComplete":
      return { name: "commandComplete", text: message.tag };
    case "CopyData":
      return { name: "copyData", chunk: Buffer.from(message.data) };
    case "CopyDone":
      return { name: "copyDone" };
    case "CopyInResponse":
    case "CopyOutResponse":
      return {
        name: message.kind === "CopyInResponse" ? "copyInResponse" : "copyOutResponse",
        binary: message.format !== 0,
        columnTypes: message.columnFormats,
      };
    case "DataRow":
      return { name: "dataRow", fields: message.values.map((v) => (v === null ? v : utf8(v))) };
    case "EmptyQueryResponse":
      return { name: "emptyQuery" };
    case "ErrorResponse":
    case "NoticeResponse":
      return inPgProtocolReport(message);
    case "NoData":
      return { name: "noData" };
    case "NotificationResponse": {
      const { processId, channel, payload } = message;
      return { name: "notification", processId, channel, payload };
    }
    case "ParameterDescription":
      return { name: "parameterDescription", dataTypeIDs: message.parameterTypes };
    case "ParameterStatus": {
      const { name, value } = message;
      return { name: "parameterStatus", parameterName: name, parameterValue: value };
    }
    case "ParseComplete":
      return { name: "parseComplete" };
    case "PortalSuspended":
      return { name: "portalSuspended" };
    case "ReadyForQuery":
      return { name: "readyForQuery", status: message.status };
    case "RowDescription":
      return {
        name: "rowDescription",
        fields: message.fields.map((field) => ({
          name: field.name,
          tableID: field.tableId,
          columnID: field.columnNumber,
          dataTypeID: field.typeId,
          dataTypeSize: field.typeSize,
          dataTypeModifier: field.typeModifier,
          format: field.format === 0 ? "text" : "binary",
        })),
      };
  }
}

function inPgProtocolReport(
  message: Extract<BackendMessage, { kind: "ErrorResponse" | "NoticeResponse" }>,
): Record<string, unknown> {
  // Of a repeated field it keeps the last: comparable only where each code stands once.
  const last = { fields: message.fields.toReversed() };
  return {
    name: message.kind === "ErrorResponse" ? "error" : "notice",
    severity: errorField(last, "S"),
    code: errorField(last, "C"),
    detail: errorField(last, "D"),
    hint: errorField(last, "H"),
    constraint: errorField(last, "n"),
    routine: errorField(last, "R"),
  };
}

test("pg-protocol reads what we encode for clients", () => {
  const known = backendMessage.filter((message) => inPgProtocolWords(message) !== undefined);
  fc.assert(
    fc.property(fc.array(known, { maxLength: 6 }), (messages) => {
      const bytes = Buffer.concat(messages.map(encodeBackend));
      const read = readByPgProtocol(bytes);
      expect(read).toHaveLength(messages.length);
      messages.forEach((message, i) => {
        expect({ ...read[i], name: read[i]?.name }).toMatchObject(inPgProtocolWords(message) ?? {});
      });
    }),
    { numRuns: 300 },
  );
});

const ascii = (value: string) => new TextEncoder().encode(value);

describe("we read what pg-protocol encodes for servers", () => {
  const rows: readonly (readonly [Uint8Array, FrontendMessage, FrontendPhase?])[] = [
    [serialize.query("SELECT 'ä'"), { kind: "Query", sql: "SELECT 'ä'" }],
    [
      serialize.parse({ name: "s1", text: "SELECT $1", types: [23, 4_000_000_000] }),
      { kind: "Parse", statement: "s1", sql: "SELECT $1", parameterTypes: [23, 4_000_000_000] },
    ],
    [
      serialize.bind({
        portal: "p",
        statement: "s1",
        binary: true,
        values: ["42", null, Buffer.from([0, 1, 255])],
      }),
      {
        kind: "Bind",
        portal: "p",
        statement: "s1",
        parameterFormats: [0, 0, 1],
        parameters: [ascii("42"), null, Uint8Array.of(0, 1, 255)],
        resultFormats: [1],
      },
    ],
    [serialize.execute({ portal: "p", rows: 7 }), { kind: "Execute", portal: "p", rowsMax: 7 }],
    [serialize.execute(), { kind: "Execute", portal: "", rowsMax: 0 }],
    [serialize.describe({ type: "S", name: "s1" }), { kind: "Describe", target: "S", name: "s1" }],
    [serialize.describe({ type: "P" }), { kind: "Describe", target: "P", name: "" }],
    [serialize.close({ type: "P", name: "p" }), { kind: "Close", target: "P", name: "p" }],
    [serialize.flush(), { kind: "Flush" }],
    [serialize.sync(), { kind: "Sync" }],
    [serialize.end(), { kind: "Terminate" }],
    [serialize.copyData(Buffer.from("1\t2\n")), { kind: "CopyData", data: ascii("1\t2\n") }],
    [serialize.copyDone(), { kind: "CopyDone" }],
    [serialize.copyFail("no"), { kind: "CopyFail", reason: "no" }],
    [serialize.password("pw123"), { kind: "PasswordMessage", password: "pw123" }, "password"],
    [
      serialize.sendSASLInitialResponseMessage("SCRAM-SHA-256", "n,,n=,r=x"),
      { kind: "SASLInitialResponse", mechanism: "SCRAM-SHA-256", response: ascii("n,,n=,r=x") },
      "sasl_initial",
    ],
    [
      serialize.sendSCRAMClientFinalMessage("c=biws,r=x"),
      { kind: "SASLResponse", data: ascii("c=biws,r=x") },
      "sasl",
    ],
  ];

  test.each(
    rows.map(([bytes, message, phase = "query"]) => [message.kind, bytes, message, phase] as const),
  )("%s", (_, bytes, message, phase) => {
    const decoder = new FrameDecoder({ bodySizeMax: 1000 });
    const frames = [...decoder.push(Uint8Array.from(bytes))];
    expect(frames.map((frame) => decodeFrontend(frame, phase))).toEqual([message]);
  });

  test("StartupMessage, SSLRequest and CancelRequest", () => {
    const startup = serialize.startup({ user: "u", database: "d" });
    const bytes = Buffer.concat([serialize.requestSsl(), startup]);
    const [ssl, message] = [...new StartupDecoder().push(bytes)];
    expect(ssl).toEqual({ kind: "SSLRequest" });
    expect(message).toMatchObject({ kind: "StartupMessage", major: 3, minor: 0 });
    expect(message?.kind === "StartupMessage" ? [...message.parameters] : []).toEqual([
      ["user", "u"],
      ["database", "d"],
      ["client_encoding", "UTF8"],
    ]);
    const [cancel] = [...new StartupDecoder().push(serialize.cancel(77, -2))];
    expect(cancel).toMatchObject({ kind: "CancelRequest", processId: 77 });
    expect(cancel?.kind === "CancelRequest" ? [...cancel.secretKey] : []).toEqual([
      255, 255, 255, 254,
    ]);
  });
});
