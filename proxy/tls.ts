/**
 * From the `ssl_*` parameters to what a transport needs, checked early: a bad key is found when the
 * configuration is read and not by the first client. Files are read by the caller.
 *
 * Source: spec wire/client-auth.md section 5.
 */
import { createPrivateKey, type KeyObject, X509Certificate } from "node:crypto";
import { createSecureContext } from "node:tls";
import type { Config } from "../core/config/schema.ts";
import type { ClientTls, ServerTls } from "./transport/conn.ts";

/** The parameters this file reads. */
export type TlsConfig = Pick<
  Config,
  | "ssl_key"
  | "ssl_cert"
  | "ssl_ca_cert"
  | "ssl_ca_cert_dir"
  | "ssl_crl_file"
  | "ssl_ciphers"
  | "ssl_prefer_server_ciphers"
  | "ssl_ecdh_curve"
  | "ssl_dh_params_file"
>;

export type TlsExtras = {
  /** What ssl_passphrase_command printed, without its line end. */
  readonly passphrase?: string | undefined;
  /** The texts of the files in ssl_ca_cert_dir. Must be given when that parameter is set. */
  readonly caDirectory?: readonly string[] | undefined;
};

/** Gives the text of a file named in the configuration; throws when it cannot. */
export type ReadFile = (name: string) => string;

/**
 * TLS towards clients. Throws an Error that names the parameter at fault; the caller logs it as a
 * warning and answers SSLRequest with `N`.
 */
export function serverTlsOf(
  config: TlsConfig,
  readFile: ReadFile,
  extras: TlsExtras = {},
): ServerTls {
  const cert = textOf("ssl_cert", config.ssl_cert, readFile);
  const key = textOf("ssl_key", config.ssl_key, readFile);
  checkPair(cert, key, extras.passphrase);
  const optional = (name: "ssl_crl_file" | "ssl_dh_params_file") =>
    config[name] === "" ? undefined : textOf(name, config[name], readFile);
  const tls: ServerTls = {
    key,
    cert,
    passphrase: extras.passphrase,
    ca: authoritiesOf(config, readFile, extras),
    crl: optional("ssl_crl_file"),
    ciphers: config.ssl_ciphers || undefined,
    honorCipherOrder: config.ssl_prefer_server_ciphers,
    ecdhCurve: config.ssl_ecdh_curve || undefined,
    dhparam: optional("ssl_dh_params_file"),
  };
  checkRest(tls);
  return tls;
}

/**
 * TLS towards servers: verified against the authorities when there are any, without regard to the
 * host name and without a certificate of our own, as Pgpool. Throws as `serverTlsOf`; carrying on
 * without the authorities would trust every server.
 */
export function clientTlsOf(
  config: TlsConfig,
  readFile: ReadFile,
  extras: TlsExtras = {},
): ClientTls {
  return { ca: authoritiesOf(config, readFile, extras) };
}

/** The authorities of ssl_ca_cert and ssl_ca_cert_dir as one text; undefined when neither is set. */
function authoritiesOf(
  config: TlsConfig,
  readFile: ReadFile,
  extras: TlsExtras,
): string | undefined {
  const texts: string[] = [];
  if (config.ssl_ca_cert !== "") texts.push(textOf("ssl_ca_cert", config.ssl_ca_cert, readFile));
  if (config.ssl_ca_cert_dir !== "") {
    const found = extras.caDirectory?.filter((text) => certificatesIn(text).length > 0) ?? [];
    if (found.length === 0) {
      throw new Error(`ssl_ca_cert_dir "${config.ssl_ca_cert_dir}": no certificate was read`);
    }
    texts.push(...found);
  }
  if (texts.length === 0) return undefined;
  const all = texts.join("\n");
  const certificates = certificatesIn(all);
  if (certificates.length === 0) {
    throw new Error(`ssl_ca_cert "${config.ssl_ca_cert}": there is no certificate in it`);
  }
  for (const pem of certificates) certificateOf("ssl_ca_cert", pem);
  return all;
}

function textOf(parameter: string, name: string, readFile: ReadFile): string {
  if (name === "") throw new Error(`${parameter} is not set`);
  try {
    return readFile(name);
  } catch (error) {
    throw fault(parameter, error);
  }
}

function checkPair(cert: string, key: string, passphrase: string | undefined): void {
  const [leaf, ...chain] = certificatesIn(cert);
  if (leaf === undefined) throw new Error("ssl_cert: there is no certificate in it");
  for (const pem of chain) certificateOf("ssl_cert", pem);
  const privateKey = privateKeyOf(key, passphrase);
  if (!certificateOf("ssl_cert", leaf).checkPrivateKey(privateKey)) {
    throw new Error("ssl_key does not belong to the certificate in ssl_cert");
  }
}

function privateKeyOf(key: string, passphrase: string | undefined): KeyObject {
  if (/ENCRYPTED/.test(key) && passphrase === undefined) {
    throw new Error("ssl_key is encrypted, and there is no passphrase for it");
  }
  try {
    return createPrivateKey(
      passphrase === undefined ? { key, format: "pem" } : { key, format: "pem", passphrase },
    );
  } catch (error) {
    throw fault("ssl_key", error);
  }
}

/**
 * One context for each of the rest, so that a refusal can name its parameter. Not every runtime
 * refuses everything here (see the transports): what passes may still have no effect.
 */
function checkRest(tls: ServerTls): void {
  const attempts: readonly (readonly [string, Parameters<typeof createSecureContext>[0]])[] = [
    ["ssl_ciphers", { ciphers: tls.ciphers }],
    ["ssl_ecdh_curve", { ecdhCurve: tls.ecdhCurve }],
    ["ssl_crl_file", { ca: tls.ca, crl: tls.crl }],
    ["ssl_dh_params_file", { dhparam: tls.dhparam }],
  ];
  for (const [parameter, options] of attempts) {
    try {
      createSecureContext(options);
    } catch (error) {
      throw fault(parameter, error);
    }
  }
}

function certificatesIn(text: string): readonly string[] {
  return text.match(/-----BEGIN CERTIFICATE-----[^-]*-----END CERTIFICATE-----/g) ?? [];
}

function certificateOf(parameter: string, pem: string): X509Certificate {
  try {
    return new X509Certificate(pem);
  } catch (error) {
    throw fault(parameter, error);
  }
}

function fault(parameter: string, cause: unknown): Error {
  const reason = cause instanceof Error ? cause.message : String(cause);
  return new Error(`${parameter}: ${reason}`, { cause });
}
