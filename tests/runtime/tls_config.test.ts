import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { clientTlsOf, serverTlsOf, type TlsConfig, type TlsExtras } from "../../proxy/tls.ts";
import { subjectCommonName } from "../../proxy/transport/certificate.ts";
import { type Certificates, makeCertificates } from "./certificates.ts";

let directory = "";
let certificates: Certificates;
let files: Record<string, string> = {};

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), "tls-"));
  certificates = makeCertificates(directory);
  files = {
    key: certificates.server.key,
    cert: certificates.server.cert,
    ca: certificates.ca,
    crl: certificates.crl,
    encrypted: certificates.encryptedKey,
    "other.key": certificates.client.key,
    garbage: "-----BEGIN NOTHING-----\n",
    broken: "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n",
  };
});
afterAll(() => rmSync(directory, { recursive: true, force: true }));

const initial: TlsConfig = {
  ssl_key: "key",
  ssl_cert: "cert",
  ssl_ca_cert: "",
  ssl_ca_cert_dir: "",
  ssl_crl_file: "",
  ssl_ciphers: "HIGH:MEDIUM:+3DES:!aNULL",
  ssl_prefer_server_ciphers: false,
  ssl_ecdh_curve: "prime256v1",
  ssl_dh_params_file: "",
};

function read(name: string): string {
  const text = files[name];
  if (text === undefined) throw new Error(`no such file ${name}`);
  return text;
}

describe("serverTlsOf", () => {
  test("the initial parameters with a good pair make a context", () => {
    const tls = serverTlsOf(initial, read);
    expect(tls.cert).toBe(certificates.server.cert);
    expect(tls.key).toBe(certificates.server.key);
    expect(tls.ca).toBeUndefined();
    expect(tls.honorCipherOrder).toBe(false);
  });

  test("authorities and revocations are passed on", () => {
    const tls = serverTlsOf({ ...initial, ssl_ca_cert: "ca", ssl_crl_file: "crl" }, read);
    expect(tls.ca).toBe(certificates.ca);
    expect(tls.crl).toBe(certificates.crl);
  });

  test("an encrypted key needs its passphrase", () => {
    const config = { ...initial, ssl_key: "encrypted" };
    expect(() => serverTlsOf(config, read)).toThrow("ssl_key is encrypted");
    expect(() => serverTlsOf(config, read, { passphrase: "wrong" })).toThrow("ssl_key: ");
    const tls = serverTlsOf(config, read, { passphrase: certificates.passphrase });
    expect(tls.passphrase).toBe(certificates.passphrase);
  });

  const faults: readonly (readonly [string, Partial<TlsConfig>, string])[] = [
    ["no key", { ssl_key: "" }, "ssl_key is not set"],
    ["no certificate", { ssl_cert: "" }, "ssl_cert is not set"],
    ["a missing key file", { ssl_key: "nowhere" }, "ssl_key: no such file"],
    ["a key that is none", { ssl_key: "garbage" }, "ssl_key: "],
    ["a certificate that is none", { ssl_cert: "garbage" }, "ssl_cert: there is no certificate"],
    ["a certificate that is broken", { ssl_cert: "broken" }, "ssl_cert: "],
    ["the key of another", { ssl_key: "other.key" }, "does not belong"],
    ["an authority that is none", { ssl_ca_cert: "garbage" }, "ssl_ca_cert"],
    ["an authority that is broken", { ssl_ca_cert: "broken" }, "ssl_ca_cert: "],
    ["revocations that are none", { ssl_crl_file: "garbage" }, "ssl_crl_file: "],
    ["ciphers nobody knows", { ssl_ciphers: "NONSENSE" }, "ssl_ciphers: "],
    ["a curve nobody knows", { ssl_ecdh_curve: "nonsense" }, "ssl_ecdh_curve: "],
    ["a directory nobody read", { ssl_ca_cert_dir: "ca.d" }, "ssl_ca_cert_dir"],
  ];
  test.each(faults)("%s is refused by name", (_, wrong, text) => {
    expect(() => serverTlsOf({ ...initial, ...wrong }, read)).toThrow(text);
  });
});

describe("clientTlsOf", () => {
  test("without authorities any server is taken, and our own pair is not presented", () => {
    expect(clientTlsOf(initial, read)).toEqual({ ca: undefined });
  });

  test("authorities come from the file and from the directory", () => {
    const config = { ...initial, ssl_ca_cert: "ca", ssl_ca_cert_dir: "ca.d" };
    const extras: TlsExtras = { caDirectory: [certificates.otherCa, "README"] };
    expect(clientTlsOf(config, read, extras).ca).toBe(
      `${certificates.ca}\n${certificates.otherCa}`,
    );
  });

  test("authorities that cannot be read are an error, not trust in everyone", () => {
    expect(() => clientTlsOf({ ...initial, ssl_ca_cert: "nowhere" }, read)).toThrow("ssl_ca_cert");
    expect(() => clientTlsOf({ ...initial, ssl_ca_cert_dir: "ca.d" }, read)).toThrow();
  });
});

describe("subjectCommonName", () => {
  const der = (pem: string) =>
    new Uint8Array(Buffer.from(pem.replace(/-----[^-]*-----|\s/g, ""), "base64"));

  test("the whole name is read, NUL and what follows included", () => {
    expect(subjectCommonName(der(certificates.client.cert))).toBe("alice");
    expect(subjectCommonName(der(certificates.clientWithNul.cert))).toBe("alice\0.evil");
  });

  test("any cut or changed certificate yields a name or undefined, never an exception", () => {
    const whole = der(certificates.client.cert);
    for (let length = 0; length < whole.length; length++) {
      expect(subjectCommonName(whole.subarray(0, length))).toBeUndefined();
    }
    for (let at = 0; at < whole.length; at++) {
      for (const byte of [0x00, 0x7f, 0x80, 0x84, 0xff]) {
        const changed = whole.slice();
        changed[at] = byte;
        expect(["string", "undefined"]).toContain(typeof subjectCommonName(changed));
      }
    }
  });
});
