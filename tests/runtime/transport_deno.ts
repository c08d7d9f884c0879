/**
 * The transport checks without a test framework: for a runtime that lacks bun:test. Prints one line
 * per check, `ok`, `lacks` or `FAILED`, and ends with an exit code.
 */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import process from "node:process";
import { nodeTransport } from "../../proxy/transport/node.ts";
import { makeCertificates } from "./certificates.ts";
import { checks } from "./transport_checks.ts";

const root = mkdtempSync(join(tmpdir(), "transport-"));
const only = process.argv[2];
let failed = 0;
try {
  const certificates = makeCertificates(root);
  for (const check of checks) {
    if (only !== undefined && !check.title.includes(only)) continue;
    if (check.denoLacks !== undefined) {
      console.log(`lacks ${check.title}: ${check.denoLacks}`);
      continue;
    }
    const directory = mkdtempSync(join(root, "check-"));
    try {
      await check.run({ transport: nodeTransport, certificates, directory });
      console.log(`ok ${check.title}`);
    } catch (error) {
      failed += 1;
      console.log(`FAILED ${check.title}`, error);
    }
  }
} finally {
  rmSync(root, { recursive: true, force: true });
}
process.exit(failed === 0 ? 0 : 1);
