/** The transports, each against the same checks, on the runtimes they are for. */
import { afterAll, beforeAll, describe, expect, test } from "bun:test";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { bunTransport } from "../../proxy/transport/bun.ts";
import { nodeTransport } from "../../proxy/transport/node.ts";
import { type Certificates, makeCertificates } from "./certificates.ts";
import { checks } from "./transport_checks.ts";

let root = "";
let certificates: Certificates;

beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), "transport-"));
  certificates = makeCertificates(root);
});
afterAll(() => rmSync(root, { recursive: true, force: true }));

for (const transport of [bunTransport, nodeTransport]) {
  describe(`${transport.name} transport`, () => {
    for (const check of checks) {
      test(check.title, { timeout: 90_000 }, async () => {
        const directory = mkdtempSync(join(root, "check-"));
        await check.run({ transport, certificates, directory });
      });
    }
  });
}

const deno = fileURLToPath(new URL("../../node_modules/.bin/deno", import.meta.url));

test.skipIf(!existsSync(deno))(
  "the node transport passes under Deno every check that Deno can",
  { timeout: 180_000 },
  async () => {
    const script = fileURLToPath(new URL("./transport_deno.ts", import.meta.url));
    const child = spawn(deno, ["run", "-A", script], { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    child.stdout.on("data", (chunk) => {
      output += chunk;
    });
    child.stderr.on("data", (chunk) => {
      output += chunk;
    });
    const code = await new Promise((resolve) => child.once("close", resolve));
    const passed = output.split("\n").filter((line) => line.startsWith("ok ")).length;
    expect({ code, passed, output: code === 0 ? "" : output }).toEqual({
      code: 0,
      passed: checks.filter((check) => check.denoLacks === undefined).length,
      output: "",
    });
  },
);
