/**
 * `npm run build`: one file, dist/pgpool, that needs neither sources nor node_modules.
 *
 *   bun build.ts [--target=bun-linux-arm64 [--runtime=PATH]] [--outfile=PATH]
 *
 * `--runtime` names the bun executable of the target when it cannot be downloaded.
 */
import { mkdirSync, renameSync, statSync } from "node:fs";
import { dirname, join } from "node:path";
import { parseArgs } from "node:util";
import { sampleScripts } from "./cmd/sample_scripts.ts";

const { values } = parseArgs({
  options: {
    target: { type: "string" },
    runtime: { type: "string" },
    outfile: { type: "string", default: join(import.meta.dir, "dist", "pgpool") },
  },
});

if (values.target !== undefined && !isTarget(values.target)) {
  console.error(`unknown target "${values.target}"; such as bun-linux-x64 or bun-linux-arm64`);
  process.exit(1);
}
/** The SQL parser with its WebAssembly inside, in the place of the one that reads node_modules. */
const embeddedParser: Bun.BunPlugin = {
  name: "embedded parser",
  setup(build) {
    build.onLoad({ filter: /\/cmd\/load_parser\.ts$/ }, () => ({
      contents: `export { loadEmbeddedParser as loadParser } from "../proxy/parser_embedded.ts";`,
      loader: "ts",
    }));
  },
};

/** The scripts of samples/ as texts, in the place of the module that reads them. */
const embeddedScripts: Bun.BunPlugin = {
  name: "embedded scripts",
  setup(build) {
    build.onLoad({ filter: /\/cmd\/sample_scripts\.ts$/ }, () => ({
      contents: `export const sampleScripts = ${JSON.stringify(sampleScripts)};`,
      loader: "ts",
    }));
  },
};

const startedMs = performance.now();
mkdirSync(dirname(values.outfile), { recursive: true });
const unfinished = `${values.outfile}.new.${process.pid}`; // the old one may be running meanwhile
const result = await Bun.build({
  entrypoints: [join(import.meta.dir, "cmd", "main.ts")],
  // bytecode starts faster; with the default format it would bake in the build machine's paths
  format: "esm",
  bytecode: true,
  minify: true,
  target: "bun",
  plugins: [embeddedParser, embeddedScripts],
  compile: {
    outfile: unfinished,
    ...(values.target === undefined ? {} : { target: values.target }),
    ...(values.runtime === undefined ? {} : { executablePath: values.runtime }),
  },
  throw: false,
});
for (const log of result.logs) console.error(String(log));
if (!result.success) process.exit(1);
renameSync(unfinished, values.outfile);
const sizeMb = statSync(values.outfile).size / 1_000_000;
const tookS = (performance.now() - startedMs) / 1000;
console.log(`${values.outfile}: ${sizeMb.toFixed(1)} MB in ${tookS.toFixed(1)} s`);

function isTarget(name: string): name is Bun.Build.CompileTarget {
  return name.startsWith("bun-");
}
