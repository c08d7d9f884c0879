/** TLS files for servers under test, made with openssl. */
import { join } from "node:path";
import { mustRun, type Scope } from "./machine.ts";

export type ServerCertificate = { readonly key: string; readonly cert: string };
const made = new WeakMap<Scope, Promise<ServerCertificate>>();

/** A self-signed certificate for localhost (both are paths), made once in a scope. */
export function serverCertificate(scope: Scope): Promise<ServerCertificate> {
  const known = made.get(scope);
  if (known !== undefined) return known;
  const files = make(scope);
  made.set(scope, files);
  return files;
}

async function make(scope: Scope): Promise<ServerCertificate> {
  const dir = scope.makeDir("tls");
  const files = { key: join(dir, "server.key"), cert: join(dir, "server.crt") };
  await mustRun(
    [
      ...(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes"] as const),
      ...["-keyout", files.key, "-out", files.cert, "-days", "2", "-subj", "/CN=localhost"],
    ],
    { owner: scope.owner },
  );
  return files;
}
