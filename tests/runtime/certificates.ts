/** Throw-away certificates for one test run, made by openssl in a directory the caller owns. */
import { execFileSync } from "node:child_process";
import { readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";

export type Pair = { readonly key: string; readonly cert: string };

export type Certificates = {
  readonly ca: string;
  /** Signs nothing the tests trust. */
  readonly otherCa: string;
  /** For localhost and good.example. */
  readonly server: Pair;
  /** CN=alice, signed by `ca`. */
  readonly client: Pair;
  /** CN="alice\0.evil": a name that a C string would cut short. */
  readonly clientWithNul: Pair;
  /** CN=alice, signed by `ca` and revoked by `crl`. */
  readonly revoked: Pair;
  readonly crl: string;
  /** CN=alice, signed by `otherCa`. */
  readonly stranger: Pair;
  /** The server's key, encrypted with `passphrase`. */
  readonly encryptedKey: string;
  readonly passphrase: string;
};

export function makeCertificates(directory: string): Certificates {
  const openssl = (...args: string[]) =>
    execFileSync("openssl", args, { cwd: directory, stdio: ["ignore", "pipe", "ignore"] });
  const read = (name: string) => readFileSync(join(directory, name), "utf8");
  const pair = (name: string): Pair => ({ key: read(`${name}.key`), cert: read(`${name}.crt`) });

  const newKey = (name: string) =>
    openssl(
      "genpkey",
      "-algorithm",
      "EC",
      "-pkeyopt",
      "ec_paramgen_curve:P-256",
      "-out",
      `${name}.key`,
    );
  const authority = (name: string) => {
    newKey(name);
    openssl(
      "req",
      "-x509",
      "-new",
      "-key",
      `${name}.key`,
      "-subj",
      `/CN=${name}`,
      "-days",
      "2",
      "-out",
      `${name}.crt`,
    );
  };
  const issue = (
    name: string,
    commonName: string,
    by: string,
    extension = "basicConstraints=CA:FALSE",
  ) => {
    newKey(name);
    openssl(
      "req",
      "-new",
      "-key",
      `${name}.key`,
      "-subj",
      `/CN=${commonName}`,
      "-out",
      `${name}.csr`,
    );
    writeFileSync(join(directory, `${name}.ext`), extension);
    openssl(
      ...["x509", "-req", "-in", `${name}.csr`, "-CA", `${by}.crt`, "-CAkey", `${by}.key`],
      ...["-CAcreateserial", "-days", "2", "-extfile", `${name}.ext`, "-out", `${name}.crt`],
    );
  };

  authority("ca");
  authority("other");
  issue("server", "localhost", "ca", "subjectAltName=DNS:localhost,DNS:good.example");
  issue("alice", "alice", "ca");
  issue("revoked", "alice", "ca");
  issue("stranger", "alice", "other");
  issue("nul", "alice@.evil", "ca");
  putNulInName(directory, openssl);
  revoke(directory, openssl);
  openssl(
    "pkcs8",
    "-topk8",
    "-in",
    "server.key",
    "-out",
    "encrypted.key",
    "-passout",
    "pass:open sesame",
  );
  return {
    ca: read("ca.crt"),
    otherCa: read("other.crt"),
    server: pair("server"),
    client: pair("alice"),
    clientWithNul: pair("nul"),
    revoked: pair("revoked"),
    crl: read("ca.crl"),
    stranger: pair("stranger"),
    encryptedKey: read("encrypted.key"),
    passphrase: "open sesame",
  };
}

type Openssl = (...args: string[]) => Uint8Array;

/** openssl takes no NUL on its command line: the request is patched, then signed again by the authority. */
function putNulInName(directory: string, openssl: Openssl): void {
  const tbs = join(directory, "nul.crt");
  const der = openssl("x509", "-in", "nul.crt", "-outform", "DER");
  const patched = Uint8Array.from(der);
  const at = Buffer.from(patched).indexOf("alice@.evil");
  patched[at + "alice".length] = 0;
  writeFileSync(join(directory, "nul.der"), resign(patched, directory, openssl));
  openssl("x509", "-inform", "DER", "-in", "nul.der", "-out", tbs);
}

/** Replaces the signature of a certificate whose signed part was changed, keeping the algorithm. */
function resign(der: Uint8Array, directory: string, openssl: Openssl): Uint8Array {
  const outer = headerBytes(der, 0);
  const signed = headerBytes(der, outer.header);
  const toBeSigned = der.subarray(outer.header, outer.header + signed.header + signed.body);
  const algorithm = headerBytes(der, outer.header + toBeSigned.length);
  const algorithmAt = outer.header + toBeSigned.length;
  writeFileSync(join(directory, "nul.tbs"), toBeSigned);
  const signature = openssl("dgst", "-sha256", "-sign", "ca.key", "nul.tbs");
  const body = Buffer.concat([
    toBeSigned,
    der.subarray(algorithmAt, algorithmAt + algorithm.header + algorithm.body),
    Buffer.from([0x03, signature.length + 1, 0x00]),
    signature,
  ]);
  return Buffer.concat([Buffer.from([0x30, 0x82, body.length >> 8, body.length & 0xff]), body]);
}

function headerBytes(der: Uint8Array, at: number): { header: number; body: number } {
  const first = der[at + 1] ?? 0;
  if (first < 0x80) return { header: 2, body: first };
  const count = first & 0x7f;
  let body = 0;
  for (let i = 0; i < count; i++) body = body * 256 + (der[at + 2 + i] ?? 0);
  return { header: 2 + count, body };
}

function revoke(directory: string, openssl: Openssl): void {
  writeFileSync(join(directory, "index.txt"), "");
  writeFileSync(
    join(directory, "ca.cnf"),
    "[ca]\ndefault_ca=d\n[d]\ndatabase=index.txt\ndefault_md=sha256\ndefault_crl_days=2\n",
  );
  const authority = ["-config", "ca.cnf", "-keyfile", "ca.key", "-cert", "ca.crt"];
  openssl("ca", ...authority, "-revoke", "revoked.crt");
  openssl("ca", ...authority, "-gencrl", "-out", "ca.crl");
}
