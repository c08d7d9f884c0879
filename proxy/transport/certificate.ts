/**
 * Reads one thing out of an X.509 certificate: the subject's common name, byte for byte. The
 * runtimes' own accessors differ about names that occur twice or hold a NUL, and this name decides
 * who a client is (`cert` in pool_hba.conf), so all transports read it here.
 *
 * Source: RFC 5280 section 4.1, X.690 (DER).
 */

const sequence = 0x30;
const set = 0x31;
const objectIdentifier = 0x06;
const explicitVersion = 0xa0;
/** id-at-commonName, 2.5.4.3 (RFC 5280 appendix A.1). */
const commonName = [0x55, 0x04, 0x03];

const bmpString = 0x1e;
const universalString = 0x1c;
const teletexString = 0x14;

type Element = { readonly tag: number; readonly body: Uint8Array };

/**
 * The first common name of the subject (the one OpenSSL's `X509_NAME_get_text_by_NID` gives), NUL
 * and all. Undefined when the subject has none or the bytes are not a certificate.
 */
export function subjectCommonName(certificateDer: Uint8Array): string | undefined {
  const subject = subjectOf(certificateDer);
  if (subject === undefined) return undefined;
  for (const relativeName of elements(subject)) {
    if (relativeName.tag !== set) continue;
    for (const attribute of elements(relativeName.body)) {
      const [type, value] = elements(attribute.body);
      if (type?.tag !== objectIdentifier || value === undefined) continue;
      if (sameBytes(type.body, commonName)) return stringOf(value);
    }
  }
  return undefined;
}

/** TBSCertificate is [version], serial number, signature algorithm, issuer, validity, subject, … */
function subjectOf(certificateDer: Uint8Array): Uint8Array | undefined {
  const [certificate] = elements(certificateDer);
  if (certificate?.tag !== sequence) return undefined;
  const [toBeSigned] = elements(certificate.body);
  if (toBeSigned?.tag !== sequence) return undefined;
  const fields = elements(toBeSigned.body);
  const subject = fields[fields[0]?.tag === explicitVersion ? 5 : 4];
  return subject?.tag === sequence ? subject.body : undefined;
}

/** The elements laid end to end in `bytes`; those before the first malformed one. */
function elements(bytes: Uint8Array): readonly Element[] {
  const found: Element[] = [];
  let at = 0;
  while (at + 2 <= bytes.length) {
    const header = headerAt(bytes, at);
    if (header === undefined || header.end > bytes.length) break;
    found.push({ tag: bytes[at] ?? 0, body: bytes.subarray(header.start, header.end) });
    at = header.end;
  }
  return found;
}

function headerAt(bytes: Uint8Array, at: number): { start: number; end: number } | undefined {
  const first = bytes[at + 1] ?? 0;
  if (first < 0x80) return { start: at + 2, end: at + 2 + first };
  const count = first & 0x7f;
  // DER forbids the indefinite form (0), and no certificate needs more than four bytes of length.
  if (count === 0 || count > 4) return undefined;
  let length = 0;
  for (let i = 0; i < count; i++) length = length * 256 + (bytes[at + 2 + i] ?? 0);
  const start = at + 2 + count;
  return { start, end: start + length };
}

function stringOf(value: Element): string {
  switch (value.tag) {
    case bmpString:
      return fromUnits(value.body, 2);
    case universalString:
      return fromUnits(value.body, 4);
    case teletexString:
      return fromUnits(value.body, 1);
    default:
      return new TextDecoder("utf-8", { ignoreBOM: true }).decode(value.body);
  }
}

function fromUnits(bytes: Uint8Array, unitBytes: 1 | 2 | 4): string {
  let text = "";
  for (let at = 0; at + unitBytes <= bytes.length; at += unitBytes) {
    let code = 0;
    for (let i = 0; i < unitBytes; i++) code = code * 256 + (bytes[at + i] ?? 0);
    text += code > 0x10ffff ? "\ufffd" : String.fromCodePoint(code);
  }
  return text;
}

function sameBytes(a: Uint8Array, b: readonly number[]): boolean {
  return a.length === b.length && b.every((byte, i) => a[i] === byte);
}
