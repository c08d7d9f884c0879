/** A certificate authority of a test, made with openssl: for servers, clients and forgers. */
import { createSign, X509Certificate } from "node:crypto";
import { chmodSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ServerCertificate } from "./certificate.ts";
import { mustRun, type Scope } from "./machine.ts";

export class Authority {
  /** Path of the authority's own certificate. */
  readonly cert: string;
  readonly #key: string;
  readonly #dir: string;
  readonly #scope: Scope;
  #issued = 0;

  private constructor(scope: Scope, dir: string) {
    this.#scope = scope;
    this.#dir = dir;
    this.cert = join(dir, "ca.crt");
    this.#key = join(dir, "ca.key");
  }

  static async create(scope: Scope, name: string): Promise<Authority> {
    const made = new Authority(scope, scope.makeDir(name));
    const files = ["-keyout", made.#key, "-out", made.cert] as const;
    await made.#openssl("req", "-x509", ...newKey, ...files, "-days", "2", "-subj", `/CN=${name}`);
    return made;
  }

  /** Paths of a new key and of a certificate for this name, valid for localhost as well. */
  async issue(commonName: string): Promise<ServerCertificate> {
    const stem = join(this.#dir, String(++this.#issued));
    const key = `${stem}.key`;
    const cert = `${stem}.crt`;
    const extensions = `${stem}.ext`;
    writeFileSync(extensions, "subjectAltName=DNS:localhost,IP:127.0.0.1\n");
    const subject = ["-subj", `/CN=${commonName}`] as const;
    await this.#openssl(
      "req",
      "-new",
      ...newKey,
      "-keyout",
      key,
      "-out",
      `${stem}.csr`,
      ...subject,
    );
    await this.#openssl(
      ...(["x509", "-req", "-in", `${stem}.csr`, "-out", cert, "-days", "2"] as const),
      ...(["-CA", this.cert, "-CAkey", this.#key, "-CAcreateserial"] as const),
      ...["-extfile", extensions],
    );
    chmodSync(key, 0o600);
    return { key, cert };
  }

  /**
   * As `issue`, with a NUL in place of each `_` of the name: what a careless authority could be
   * made to sign. No tool writes one, so it is put into the certificate and signed anew.
   */
  async issueWithNul(commonName: string): Promise<ServerCertificate> {
    const files = await this.issue(commonName);
    const der = Buffer.from(new X509Certificate(readFileSync(files.cert)).raw);
    const name = Buffer.from(commonName);
    // The authority's own name comes first in a certificate, and is another.
    const at = der.indexOf(name);
    for (let i = at; i < at + name.length; i++) if (der[i] === 0x5f) der[i] = 0;
    const headerSize = 4;
    const bodyEnd = headerSize + headerSize + der.readUInt16BE(headerSize + 2);
    const body = der.subarray(headerSize, bodyEnd);
    const signature = createSign("sha256").update(body).sign(readFileSync(this.#key));
    signature.copy(der, der.length - signature.length);
    const base64 = der.toString("base64").replace(/.{64}/g, "$&\n");
    const pem = `-----BEGIN CERTIFICATE-----\n${base64.trimEnd()}\n-----END CERTIFICATE-----\n`;
    writeFileSync(files.cert, pem);
    return files;
  }

  async #openssl(...args: string[]): Promise<void> {
    await mustRun(["openssl", ...args], { owner: this.#scope.owner });
  }
}

const newKey = ["-newkey", "rsa:2048", "-nodes"] as const;
