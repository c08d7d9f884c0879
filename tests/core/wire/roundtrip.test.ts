import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { type BackendMessage, decodeBackend, encodeBackend } from "../../../core/wire/backend.ts";
import { AUTHENTICATION, BACKEND, FRONTEND } from "../../../core/wire/codes.ts";
import { decodeStartup, frameOf } from "../../../core/wire/frame.ts";
import { decodeFrontend, encodeFrontend } from "../../../core/wire/frontend.ts";
import { answer, backendMessage, queryMessage, startupRequest } from "./messages.ts";

describe("what is encoded decodes to the same message", () => {
  test("from a client, once logged in", () => {
    fc.assert(
      fc.property(queryMessage, (message) => {
        expect(decodeFrontend(frameOf(encodeFrontend(message)))).toEqual(message);
      }),
    );
  });

  test("from a client, in answer to an authentication request", () => {
    fc.assert(
      fc.property(answer, ([phase, message]) => {
        expect(decodeFrontend(frameOf(encodeFrontend(message)), phase)).toEqual(message);
      }),
    );
  });

  test("from a client, before all that", () => {
    fc.assert(
      fc.property(startupRequest, (message) => {
        const raw = encodeFrontend(message);
        const decoded = decodeStartup(raw);
        if (message.kind !== "StartupMessage" || decoded.kind !== "StartupMessage") {
          expect(decoded).toEqual(message as typeof decoded);
          return;
        }
        expect(decoded).toMatchObject({ major: message.major, minor: message.minor, raw });
        // As lists: two maps are equal in any order, and the client's order is to be kept.
        expect([...decoded.parameters]).toEqual([...message.parameters]);
      }),
    );
  });

  test("from a server", () => {
    fc.assert(
      fc.property(backendMessage, (message) => {
        expect(decodeBackend(frameOf(encodeBackend(message)))).toEqual(message);
      }),
      { numRuns: 500 },
    );
  });
});

test("the random messages leave out none of the manual's", () => {
  const kinds = (messages: { kind: string }[]) => [...new Set(messages.map((m) => m.kind))].sort();
  const sample = <M>(arbitrary: fc.Arbitrary<M>) =>
    fc.sample(arbitrary, { numRuns: 3000, seed: 1 });
  const { Authentication: _, ...otherBackend } = BACKEND;
  const { Authentication: __, ...otherFrontend } = FRONTEND;
  expect(kinds(sample<BackendMessage>(backendMessage))).toEqual(
    [...Object.keys(otherBackend), ...Object.keys(AUTHENTICATION)].sort(),
  );
  expect(kinds(sample(queryMessage))).toEqual(Object.keys(otherFrontend).sort());
  expect(kinds(sample(answer).map(([, message]) => message))).toEqual([
    "GSSResponse",
    "PasswordMessage",
    "SASLInitialResponse",
    "SASLResponse",
  ]);
  expect(kinds(sample(startupRequest))).toEqual([
    "CancelRequest",
    "GSSENCRequest",
    "SSLRequest",
    "StartupMessage",
  ]);
});
