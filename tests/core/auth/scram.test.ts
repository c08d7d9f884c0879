import { describe, expect, test } from "bun:test";
import fc from "fast-check";
import { encodeBase64 } from "../../../core/auth/bytes.ts";
import { saslprep } from "../../../core/auth/saslprep.ts";
import {
  type ScramDialogue,
  type ScramReply,
  saslMessageSizeMax,
  scramClient,
  scramServer,
} from "../../../core/auth/scram.ts";
import {
  deriveScramKeys,
  formatVerifier,
  parseVerifier,
  type ScramVerifier,
} from "../../../core/auth/scram_keys.ts";
import { AuthenticationFailed, ProtocolViolation } from "../../../core/errors.ts";
import { encodeText } from "../../../core/wire/text.ts";

const salt = Uint8Array.fromBase64("W22ZaJ0SNY7soEsUEjb6gQ==");

/** Few iterations: the sums are the same, and thousands of runs are cheap. */
function verifierOf(password: Uint8Array, iterations = 2): ScramVerifier {
  const keys = deriveScramKeys({ password: saslprep(password), salt, iterations });
  return { ...keys, salt, iterations };
}

/** Advances a dialogue to its next message, doing its sums on the way. */
function advance<R>(dialogue: ScramDialogue<R>, reply?: string): { text: string } | { result: R } {
  let step =
    reply === undefined ? dialogue.next() : dialogue.next({ kind: "scram_message", text: reply });
  while (!step.done && step.value.kind === "derive") {
    const derived: ScramReply = { kind: "derived", keys: deriveScramKeys(step.value) };
    step = dialogue.next(derived);
  }
  if (step.done) return { result: step.value };
  if (step.value.kind !== "scram_message") throw new Error("derive was answered above");
  return { text: step.value.text };
}

function textOf(step: { text: string } | { result: unknown }): string {
  if ("text" in step) return step.text;
  throw new Error("the dialogue ended early");
}

type Tamper = (
  message: "clientFirst" | "serverFirst" | "clientFinal" | "serverFinal",
  text: string,
) => string;

/** A whole exchange between our two ends; `tamper` stands between them. */
function exchange(
  password: Uint8Array,
  verifier: ScramVerifier,
  tamper: Tamper = (_, text) => text,
): "accepted" | "refused by server" {
  const client = scramClient({ secret: { kind: "password", password }, nonce: "clientNonce" });
  const clientFirst = tamper("clientFirst", textOf(advance(client)));
  const server = scramServer({ clientFirst, verifier, nonce: "serverNonce" });
  const serverFirst = tamper("serverFirst", textOf(advance(server)));
  const clientFinal = tamper("clientFinal", textOf(advance(client, serverFirst)));
  const verdict = advance(server, clientFinal);
  if (!("result" in verdict)) throw new Error("the server did not decide");
  if (!verdict.result.ok) return "refused by server";
  const end = advance(client, tamper("serverFinal", verdict.result.serverFinal));
  if (!("result" in end)) throw new Error("the client did not end");
  return "accepted";
}

const outcome = (run: () => string): string => {
  try {
    return run();
  } catch (error) {
    if (error instanceof ProtocolViolation || error instanceof AuthenticationFailed) {
      return error.name;
    }
    throw error;
  }
};

const passwords = fc.oneof(
  fc.string({ unit: "binary", minLength: 1, maxLength: 40 }).map(encodeText),
  fc.uint8Array({ minLength: 1, maxLength: 40 }),
);

describe("SCRAM-SHA-256", () => {
  test("the example of RFC 7677 is reproduced by the server", () => {
    const verifier = verifierOf(encodeText("pencil"), 4096);
    const server = scramServer({
      clientFirst: "n,,n=user,r=rOprNGfwEbeRWgbNEkqO",
      verifier,
      nonce: "%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0",
    });
    expect(textOf(advance(server))).toBe(
      "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
    );
    const proof =
      "c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,p=dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=";
    expect(advance(server, proof)).toMatchObject({
      result: { ok: true, serverFinal: "v=6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=" },
    });
  });

  test("client and server agree on every password, in any encoding", () => {
    fc.assert(
      fc.property(passwords, (password) => {
        expect(exchange(password, verifierOf(password))).toBe("accepted");
      }),
    );
  });

  test("another password is refused by the server", () => {
    fc.assert(
      fc.property(passwords, passwords, (right, wrong) => {
        fc.pre(encodeBase64(saslprep(right)) !== encodeBase64(saslprep(wrong)));
        expect(exchange(wrong, verifierOf(right))).toBe("refused by server");
      }),
    );
  });

  test("no message may be altered by a single byte", () => {
    const password = encodeText("pencil");
    const verifier = verifierOf(password);
    const messages = ["clientFirst", "serverFirst", "clientFinal", "serverFinal"] as const;
    fc.assert(
      fc.property(
        fc.constantFrom(...messages),
        fc.nat(),
        fc.integer({ min: 1, max: 127 }),
        (altered, at, difference) => {
          const result = outcome(() =>
            exchange(password, verifier, (message, text) => {
              if (message !== altered) return text;
              const position = at % text.length;
              const code = text.charCodeAt(position) ^ difference;
              return text.slice(0, position) + String.fromCharCode(code) + text.slice(position + 1);
            }),
          );
          expect(result).not.toBe("accepted");
        },
      ),
      { numRuns: 1000 },
    );
  });

  test("the key that a proof reveals logs in to a server with the same verifier, and to no other", () => {
    const password = encodeText("pencil");
    const verifier = verifierOf(password);
    const client = scramClient({ secret: { kind: "password", password }, nonce: "a" });
    const server = scramServer({
      clientFirst: textOf(advance(client)),
      verifier,
      nonce: "b",
    });
    const serverFirst = textOf(advance(server));
    const verdict = advance(server, textOf(advance(client, serverFirst)));
    if (!("result" in verdict) || !verdict.result.ok) throw new Error("not accepted");
    const keys = { ...verifier, clientKey: verdict.result.clientKey };
    const relay = scramClient({ secret: { kind: "keys", ...keys }, nonce: "c" });
    const backend = scramServer({ clientFirst: textOf(advance(relay)), verifier, nonce: "d" });
    const accepted = advance(backend, textOf(advance(relay, textOf(advance(backend)))));
    expect(accepted).toMatchObject({ result: { ok: true } });

    const other = scramClient({ secret: { kind: "keys", ...keys }, nonce: "c" });
    advance(other);
    expect(() => advance(other, "r=cd,s=AAAA,i=2")).toThrow(AuthenticationFailed);
  });
});

describe("scramServer refuses", () => {
  const verifier = verifierOf(encodeText("pencil"));
  const firsts: [string, string][] = [
    ["an empty message", ""],
    ["channel binding that it did not offer", "p=tls-server-end-point,,n=,r=abc"],
    ["an unknown binding flag", "x,,n=,r=abc"],
    ["an authorization identity", "n,a=postgres,n=,r=abc"],
    ["a missing comma", "n,n=,r=abc"],
    ["a mandatory extension", "n,,m=x,n=,r=abc"],
    ["a missing user attribute", "n,,r=abc"],
    ["a missing nonce", "n,,n=user"],
    ["an empty nonce", "n,,n=user,r="],
    ["a nonce with a blank", "n,,n=user,r=a b"],
    ["a nonce beyond ASCII", "n,,n=user,r=ä"],
    ["attributes out of order", "n,,r=abc,n=user"],
    ["text that is no attribute", "n,,n=user,r=abc,junk"],
    ["a start-up packet's parameters", "\0\x03\0\0user\0postgres\0\0"],
    ["a message that is too long", `n,,n=,r=${"a".repeat(saslMessageSizeMax)}`],
  ];
  test.each(firsts)("%s in client-first-message", (_, clientFirst) => {
    expect(() => advance(scramServer({ clientFirst, verifier, nonce: "srv" }))).toThrow(
      ProtocolViolation,
    );
  });

  const zeroProof = encodeBase64(new Uint8Array(32));
  const finals: [string, string][] = [
    ["an empty message", ""],
    ["no proof", "c=biws,r=abcsrv"],
    ["another binding flag than at first", `c=eSws,r=abcsrv,p=${zeroProof}`],
    ["a nonce that is not the whole", `c=biws,r=abc,p=${zeroProof}`],
    ["a nonce that goes on", `c=biws,r=abcsrvx,p=${zeroProof}`],
    ["a missing binding", `r=abcsrv,p=${zeroProof}`],
    ["a proof that is no base64", "c=biws,r=abcsrv,p=****"],
    ["a proof with white space", `c=biws,r=abcsrv,p=${zeroProof.slice(0, -1)} `],
    ["a proof without padding", `c=biws,r=abcsrv,p=${zeroProof.slice(0, -1)}`],
    ["a short proof", "c=biws,r=abcsrv,p=AAAA"],
    ["a long proof", `c=biws,r=abcsrv,p=${encodeBase64(new Uint8Array(33))}`],
    ["two proofs", `c=biws,r=abcsrv,p=${zeroProof},p=${zeroProof}`],
    ["something after the proof", `c=biws,r=abcsrv,p=${zeroProof},x=1`],
    ["another client-first-message", "n,,n=user,r=abc"],
  ];
  test.each(finals)("%s in client-final-message", (_, clientFinal) => {
    const server = scramServer({ clientFirst: "n,,n=user,r=abc", verifier, nonce: "srv" });
    advance(server);
    expect(() => advance(server, clientFinal)).toThrow(ProtocolViolation);
  });

  test("but takes extensions that may be ignored, and the flag y", () => {
    const clientFirst = "y,,n=*,r=abc,x=ignored";
    const server = scramServer({ clientFirst, verifier, nonce: "srv" });
    expect(textOf(advance(server))).toStartWith("r=abcsrv,s=");
    const final = advance(server, `c=eSws,r=abcsrv,x=ignored,p=${zeroProof}`);
    expect(final).toEqual({ result: { ok: false } });
  });
});

describe("scramClient refuses", () => {
  const secret = { kind: "password", password: encodeText("pencil") } as const;
  const firsts: [string, string][] = [
    ["an empty message", ""],
    ["a mandatory extension", "m=x,r=abcsrv,s=AAAA,i=4096"],
    ["no nonce", "s=AAAA,i=4096"],
    ["a nonce that does not begin with ours", "r=xyzsrv,s=AAAA,i=4096"],
    ["our own nonce and no more", "r=abc,s=AAAA,i=4096"],
    ["a nonce with a control character", "r=abc\x01,s=AAAA,i=4096"],
    ["no salt", "r=abcsrv,i=4096"],
    ["an empty salt", "r=abcsrv,s=,i=4096"],
    ["a salt that is no base64", "r=abcsrv,s=A!==,i=4096"],
    ["no iteration count", "r=abcsrv,s=AAAA"],
    ["zero iterations", "r=abcsrv,s=AAAA,i=0"],
    ["a negative count", "r=abcsrv,s=AAAA,i=-1"],
    ["a count that is no number", "r=abcsrv,s=AAAA,i=4096x"],
    ["a count in other digits", "r=abcsrv,s=AAAA,i=0x10"],
    ["a count just beyond the limit", "r=abcsrv,s=AAAA,i=1000001"],
    ["a count beyond 32 bits", "r=abcsrv,s=AAAA,i=4294967297"],
    ["a count of a thousand digits", `r=abcsrv,s=AAAA,i=${"9".repeat(1000)}`],
    ["something after the count", "r=abcsrv,s=AAAA,i=4096,x=1"],
    ["a server's nonce without end", `r=abc${"s".repeat(saslMessageSizeMax)},s=AAAA,i=4096`],
  ];
  test.each(firsts)("%s in server-first-message", (_, serverFirst) => {
    const client = scramClient({ secret, nonce: "abc" });
    advance(client);
    expect(() => advance(client, serverFirst)).toThrow(ProtocolViolation);
  });

  const finals: [string, string, typeof ProtocolViolation | typeof AuthenticationFailed][] = [
    ["an empty message", "", ProtocolViolation],
    ["an error", "e=invalid-proof", AuthenticationFailed],
    ["another attribute", "p=AAAA", ProtocolViolation],
    ["a signature that is no base64", "v=****", ProtocolViolation],
    ["a short signature", "v=AAAA", ProtocolViolation],
    ["a wrong signature", `v=${encodeBase64(new Uint8Array(32))}`, AuthenticationFailed],
    [
      "something after the signature",
      `v=${encodeBase64(new Uint8Array(32))},x=1`,
      ProtocolViolation,
    ],
  ];
  test.each(finals)("%s in server-final-message", (_, serverFinal, kind) => {
    const client = scramClient({ secret, nonce: "abc" });
    advance(client);
    advance(client, "r=abcsrv,s=AAAA,i=1");
    expect(() => advance(client, serverFinal)).toThrow(kind);
  });

  test("no iteration count up to the limit", () => {
    const client = scramClient({ secret, nonce: "abc" });
    client.next();
    const step = client.next({ kind: "scram_message", text: "r=abcsrv,s=AAAA,i=1000000" });
    expect(step.value).toMatchObject({ kind: "derive", iterations: 1_000_000 });
  });
});

describe("saslprep", () => {
  const cases: [string, string, string][] = [
    ["leaves ASCII alone, control characters included", "a\x01b", "a\x01b"],
    ["drops a soft hyphen (RFC 4013 example 1)", "I\u00adX", "IX"],
    ["keeps case (RFC 4013 example 3)", "USER\u00e9", "USER\u00e9"],
    ["applies NFKC (RFC 4013 examples 4 and 5)", "\u00aa\u2168", "aIX"],
    ["makes every space a blank", "a\u3000\u00e9", "a \u00e9"],
    ["composes what was decomposed", "e\u0301", "\u00e9"],
    ["keeps a refused character as it is", "\u2168\ue000", "\u2168\ue000"],
    ["keeps a control character beside others as it is", "\u2168\x07", "\u2168\x07"],
    ["keeps a character unknown to Unicode 3.2 as it is", "\u2168\u0221", "\u2168\u0221"],
    ["keeps mixed directions as they are (RFC 4013 example 7)", "\u06271", "\u06271"],
    ["keeps Arabic with Latin as it is", "\u0627\u2168\u0628", "\u0627\u2168\u0628"],
    ["normalises text that is right-to-left throughout", "\ufe8d\ufe8f", "\u0627\u0628"],
    ["keeps a password that would become empty", "\u00ad", "\u00ad"],
  ];
  test.each(cases)("%s", (_, given, prepared) => {
    expect(saslprep(encodeText(given))).toEqual(encodeText(prepared));
  });

  test("what is not UTF-8 stays as it is", () => {
    const latin = Uint8Array.of(0x70, 0xe4, 0x73);
    expect(saslprep(latin)).toEqual(latin);
  });
});

describe("parseVerifier", () => {
  const good = formatVerifier(verifierOf(encodeText("pencil"), 4096));
  test("reads what formatVerifier writes", () => {
    const verifier = parseVerifier(good);
    expect(verifier && formatVerifier(verifier)).toBe(good);
  });
  const bad: [string, string][] = [
    ["another mechanism", good.replace("SCRAM-SHA-256", "SCRAM-SHA-1")],
    ["no iterations", good.replace("4096", "0")],
    ["too many iterations", good.replace("4096", "1000001")],
    ["a missing part", good.slice(0, good.lastIndexOf(":"))],
    ["a short key", `${good.slice(0, good.lastIndexOf(":"))}:AAAA`],
    ["trailing text", `${good} `],
  ];
  test.each(bad)("refuses %s", (_, text) => {
    expect(parseVerifier(text)).toBeUndefined();
  });
});
