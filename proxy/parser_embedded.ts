/**
 * The parser for a compiled binary, which carries the WebAssembly inside. Bun only: Deno rejects
 * `type: "file"`, so nothing but the binary's entry point imports this file.
 */

import wasmPath from "libpg-query/wasm/libpg-query.wasm" with { type: "file" };
import { StatementParser } from "./parser.ts";

export const loadEmbeddedParser = (): Promise<StatementParser> =>
  StatementParser.load({ wasmPath });
