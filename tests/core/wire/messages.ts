/** Every message of the protocol, at random: the arbitraries that codec tests and fuzzers share. */

import fc from "fast-check";
import type { BackendMessage, ErrorField, RowField } from "../../../core/wire/backend.ts";
import { BACKEND, FRONTEND } from "../../../core/wire/codes.ts";
import { ByteWriter, type Frame, frameOf } from "../../../core/wire/frame.ts";
import type {
  AuthenticationAnswer,
  FrontendMessage,
  FrontendPhase,
  StartupRequest,
} from "../../../core/wire/frontend.ts";

/** A string that a C string can hold: any characters but the zero byte. */
const text = (maxLength = 40) =>
  fc.string({ unit: "binary", maxLength }).map((value) => value.replaceAll("\0", ""));
const name = text(12);
const nonEmptyName = name.filter((value) => value !== "");
const bytes = (constraints: fc.IntArrayConstraints = { maxLength: 60 }) =>
  fc.uint8Array(constraints);
const int16 = fc.integer({ min: -0x8000, max: 0x7fff });
const int32 = fc.integer({ min: -0x8000_0000, max: 0x7fff_ffff });
const oid = fc.integer({ min: 0, max: 0xffff_ffff });
const few = <T>(item: fc.Arbitrary<T>) => fc.array(item, { maxLength: 5 });
const value = fc.option(bytes(), { nil: null, freq: 4 });
const secretKey = bytes({ minLength: 4, maxLength: 256 });
const is = <K extends string>(kind: K) => fc.constant(kind);
const plain = <K extends string>(kind: K) => fc.record({ kind: is(kind) });

export const queryMessage: fc.Arbitrary<FrontendMessage> = fc.oneof(
  fc.record({
    kind: is("Bind"),
    portal: name,
    statement: name,
    parameterFormats: few(int16),
    parameters: few(value),
    resultFormats: few(int16),
  }),
  fc.record({ kind: is("Close"), target: fc.constantFrom("S", "P"), name }),
  fc.record({ kind: is("CopyData"), data: bytes() }),
  plain("CopyDone"),
  fc.record({ kind: is("CopyFail"), reason: text() }),
  fc.record({ kind: is("Describe"), target: fc.constantFrom("S", "P"), name }),
  fc.record({ kind: is("Execute"), portal: name, rowsMax: int32 }),
  plain("Flush"),
  fc.record({
    kind: is("FunctionCall"),
    functionId: oid,
    argumentFormats: few(int16),
    arguments: few(value),
    resultFormat: int16,
  }),
  fc.record({ kind: is("Parse"), statement: name, sql: text(200), parameterTypes: few(oid) }),
  // Longer than what the writer encodes in place, now and then.
  fc.record({ kind: is("Query"), sql: fc.oneof(text(200), text(3000)) }),
  plain("Sync"),
  plain("Terminate"),
);

/** An answer to an authentication request, with the phase in which it is one. */
export const answer: fc.Arbitrary<readonly [FrontendPhase, AuthenticationAnswer]> = fc.oneof(
  fc.tuple(is("password"), fc.record({ kind: is("PasswordMessage"), password: text() })),
  fc.tuple(
    is("sasl_initial"),
    fc.record({
      kind: is("SASLInitialResponse"),
      mechanism: name,
      response: fc.option(bytes(), { nil: undefined }),
    }),
  ),
  fc.tuple(is("sasl"), fc.record({ kind: is("SASLResponse"), data: bytes() })),
  fc.tuple(is("gss"), fc.record({ kind: is("GSSResponse"), data: bytes() })),
);

export const startupRequest: fc.Arbitrary<StartupRequest> = fc.oneof(
  fc.record({
    kind: is("StartupMessage"),
    major: fc.constant(3),
    minor: fc.oneof(fc.constantFrom(0, 2), fc.integer({ min: 0, max: 0xffff })),
    parameters: fc.array(fc.tuple(nonEmptyName, name), { maxLength: 8 }).map((all) => new Map(all)),
  }),
  plain("SSLRequest"),
  plain("GSSENCRequest"),
  fc.record({ kind: is("CancelRequest"), processId: int32, secretKey }),
);

const errorField: fc.Arbitrary<ErrorField> = fc.record({
  code: fc.integer({ min: 1, max: 255 }).map((code) => String.fromCharCode(code)),
  value: text(),
});
const rowField: fc.Arbitrary<RowField> = fc.record({
  name,
  tableId: oid,
  columnNumber: int16,
  typeId: oid,
  typeSize: int16,
  typeModifier: int32,
  format: int16,
});
const copyFormats = { format: fc.integer({ min: 0, max: 255 }), columnFormats: few(int16) };

export const backendMessage: fc.Arbitrary<BackendMessage> = fc.oneof(
  plain("AuthenticationOk"),
  plain("AuthenticationKerberosV5"),
  plain("AuthenticationCleartextPassword"),
  fc.record({
    kind: is("AuthenticationMD5Password"),
    salt: bytes({ minLength: 4, maxLength: 4 }),
  }),
  plain("AuthenticationGSS"),
  fc.record({ kind: is("AuthenticationGSSContinue"), data: bytes() }),
  plain("AuthenticationSSPI"),
  fc.record({ kind: is("AuthenticationSASL"), mechanisms: few(nonEmptyName) }),
  fc.record({ kind: is("AuthenticationSASLContinue"), data: bytes() }),
  fc.record({ kind: is("AuthenticationSASLFinal"), data: bytes() }),
  fc.record({ kind: is("BackendKeyData"), processId: int32, secretKey }),
  plain("BindComplete"),
  plain("CloseComplete"),
  fc.record({ kind: is("CommandComplete"), tag: text() }),
  fc.record({ kind: is("CopyBothResponse"), ...copyFormats }),
  fc.record({ kind: is("CopyData"), data: bytes() }),
  plain("CopyDone"),
  fc.record({ kind: is("CopyInResponse"), ...copyFormats }),
  fc.record({ kind: is("CopyOutResponse"), ...copyFormats }),
  fc.record({ kind: is("DataRow"), values: few(value) }),
  plain("EmptyQueryResponse"),
  fc.record({ kind: is("ErrorResponse"), fields: few(errorField) }),
  fc.record({ kind: is("FunctionCallResponse"), value }),
  fc.record({
    kind: is("NegotiateProtocolVersion"),
    major: fc.integer({ min: 0, max: 0xffff }),
    minor: fc.integer({ min: 0, max: 0xffff }),
    unrecognizedOptions: few(name),
  }),
  plain("NoData"),
  fc.record({ kind: is("NoticeResponse"), fields: few(errorField) }),
  fc.record({ kind: is("NotificationResponse"), processId: int32, channel: name, payload: text() }),
  fc.record({ kind: is("ParameterDescription"), parameterTypes: few(oid) }),
  fc.record({ kind: is("ParameterStatus"), name, value: text() }),
  plain("ParseComplete"),
  plain("PortalSuspended"),
  fc.record({ kind: is("ReadyForQuery"), status: fc.constantFrom("I", "T", "E") }),
  fc.record({ kind: is("RowDescription"), fields: few(rowField) }),
);

/** A frame whose type exists, more often than not, and whose body may be anything. */
export const frameOfAnything: fc.Arbitrary<Frame> = fc
  .tuple(
    fc.oneof(
      fc.constantFrom(...Object.values(FRONTEND), ...Object.values(BACKEND)),
      fc.integer({ min: 0, max: 255 }),
    ),
    // Small numbers make counts and lengths that nearly fit.
    fc.oneof(bytes(), fc.array(fc.integer({ min: 0, max: 3 }), { maxLength: 40 })),
  )
  .map(([type, body]) =>
    frameOf(new ByteWriter().begin(type).bytes(Uint8Array.from(body)).end().take()),
  );
