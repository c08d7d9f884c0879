/** The transports, each against the same checks, on the runtimes they are for. */
import { afterAll, beforeAll, describe, test } from "bun:test";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { bunTransport } from "../../proxy/transport/bun.ts";
import { type Certificates, makeCertificates } from "./certificates.ts";
import { checks } from "./transport_checks.ts";

let root = "";
let certificates: Certificates;

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "transport-"));
  certificates = makeCertificates(root);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

for (const transport of [bunTransport]) {
  describe(`${transport.name} transport`, () => {
    for (const check of checks) {
      test(check.title, { timeout: 90_000 }, async () => {
        const directory = mkdtempSync(join(root, "check-"));
        await check.run({ transport, certificates, directory });
      });
    }
  });
}
