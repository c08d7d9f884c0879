/** The SQL parser for this process: carried inside the compiled binary, else from node_modules. */
import { StatementParser } from "../proxy/parser.ts";
import { isCompiled } from "./self.ts";

/** Takes some tens of milliseconds: begin early, await late. */
export async function loadParser(): Promise<StatementParser> {
  if (!isCompiled) return await StatementParser.load();
  // Imported here and not above, because only Bun can load the file that embeds.
  const { loadEmbeddedParser } = await import("../proxy/parser_embedded.ts");
  return await loadEmbeddedParser();
}
