/**
 * The SQL parser for this process, with its WebAssembly from node_modules. The build puts
 * proxy/parser_embedded.ts in this file's place: the binary carries its own, and Deno, which cannot
 * read the import that embeds, never meets it.
 */
import { StatementParser } from "../proxy/parser.ts";

/** Takes some tens of milliseconds: begin early, await late. */
export const loadParser = (): Promise<StatementParser> => StatementParser.load();
