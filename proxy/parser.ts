/**
 * From SQL to facts. PostgreSQL's own grammar runs as WebAssembly, at 10 µs and more a statement,
 * so it is asked once per shape: facts are remembered by exact text first, then by the text with
 * its constants made equal (core/sql/shape.ts), and so is what replication puts into it. The memories
 * compare whole texts, never hashes, since a client could make two texts collide to have one routed
 * as the other.
 */

import { readFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import createModule, {
  type InstantiateWasm,
  type PgQueryModule,
} from "libpg-query/wasm/libpg-query.js";
import {
  factsOf,
  type ParseOutcome,
  type StatementFacts,
  statementsOf,
} from "../core/sql/facts.ts";
import { pgpoolCommandOf } from "../core/sql/pgpool_command.ts";
import type { RewriteContext, Rewriting } from "../core/sql/rewrite.ts";
import { RewritingPattern } from "../core/sql/rewrite_pattern.ts";
import { planRewriting } from "../core/sql/rewrite_plan.ts";
import { type Shape, shapeOf } from "../core/sql/shape.ts";
import type { TableColumns } from "../core/sql/table_columns.ts";
import { TokenText, tokensOf } from "../core/sql/tokens.ts";
import { TwoGenerations } from "./cache/two_generations.ts";
import { withLessMemory } from "./wasm_memory.ts";

/** Characters. Longer texts are not looked at: they go to the primary. */
const TEXT_LENGTH_MAX = 1024 * 1024;
/** Characters of a text without its constants that the grammar is given: some 10 ms of its time. */
const PARSE_LENGTH_MAX = 64 * 1024;
/** Longer texts are remembered by their shape only. */
const TEXT_REMEMBERED_MAX = 4096;

const CACHED_TEXTS_MAX = 8192;
const CACHED_SHAPES_MAX = 4096;
/** Of each memory. A character may take two bytes; facts are counted at a flat rate. */
const CACHE_BYTES_MAX = 8 * 1024 * 1024;
const FACTS_BYTES = 500;

/**
 * Trees are garbage at once, and the engine lets hundreds of megabytes of it gather while nothing
 * but new statements come; told to collect, it stays below a hundred and is faster for it.
 */
const PARSES_PER_COLLECTION = 4096;
const collectGarbage = (): void => {
  if (typeof Bun !== "undefined") Bun.gc(false);
};

export type ParserOptions = {
  /** Where libpg-query.wasm is; by default in the installed package. */
  readonly wasmPath?: string;
};

/** Of a shape that leaves nothing out, with the tables as they were. */
type KnownRewriting = {
  readonly fills: readonly (TableColumns | undefined)[];
  readonly pattern: RewritingPattern;
};
/** Of one shape: databases may have tables of the same name. */
const VARIANTS_MAX = 4;
/** What an edit takes, with its pieces. */
const EDIT_BYTES = 300;

export class StatementParser {
  readonly #compiled: WebAssembly.Module;
  #grammar: Grammar | undefined;
  #reloading: Promise<void> | undefined;
  readonly #byText = newMemory(CACHED_TEXTS_MAX);
  readonly #byShape = newMemory(CACHED_SHAPES_MAX);
  readonly #rewritings = new TwoGenerations<readonly KnownRewriting[]>({
    countMax: CACHED_SHAPES_MAX,
    weightMax: CACHE_BYTES_MAX,
    weigh: (shape, variants) =>
      variants.reduce(
        (sum, { pattern }) => sum + FACTS_BYTES + EDIT_BYTES * pattern.editCount,
        2 * shape.length,
      ),
  });
  readonly #newcomers = new Newcomers();
  #parses = 0;

  private constructor(compiled: WebAssembly.Module, grammar: Grammar) {
    this.#compiled = compiled;
    this.#grammar = grammar;
  }

  /** Takes some tens of milliseconds: begin early, await late. */
  static async load(options: ParserOptions = {}): Promise<StatementParser> {
    const path = options.wasmPath ?? defaultWasmPath();
    const compiled = await WebAssembly.compile(withLessMemory(await readFile(path)));
    return new StatementParser(compiled, await Grammar.instantiate(compiled));
  }

  /**
   * Facts of a text as a client sent it. Never throws: what cannot be parsed is "unparsable", which
   * routes to the primary. `standardStrings`: the session's standard_conforming_strings is on.
   */
  facts(sql: string, standardStrings = true): StatementFacts {
    const known = this.#byText.get(sql);
    if (known !== undefined && standardStrings) return known;
    return this.#factsBehindText(sql, standardStrings);
  }

  #factsBehindText(sql: string, standardStrings: boolean): StatementFacts {
    // With backslash escapes in plain strings our lexical rules do not hold.
    if (!standardStrings && sql.includes("\\")) {
      return pgpoolCommandOf(sql) === undefined ? unreadable : factsOf(sql, overlong);
    }
    if (sql.length > TEXT_LENGTH_MAX) return factsOf(sql, overlong);
    // The grammar takes a C string and would not see what follows.
    if (sql.includes("\0")) return unreadable;
    const shape = shapeOf(sql);
    if (!shape.shareable) return this.#remember(sql, this.#factsOf(sql, shape));
    const known = this.#byShape.get(shape.text);
    if (known === undefined) {
      const facts = this.#factsOf(shape.text, shape);
      if (facts !== undefined) this.#byShape.set(shape.text, facts);
      return facts ?? unreadable;
    }
    return this.#newcomers.isBack(sql) ? this.#remember(sql, known) : known;
  }

  #remember(sql: string, facts: StatementFacts | undefined): StatementFacts {
    if (facts !== undefined && sql.length <= TEXT_REMEMBERED_MAX) this.#byText.set(sql, facts);
    return facts ?? unreadable;
  }

  /** Undefined when the grammar is not there at the moment: nothing may be remembered. */
  #factsOf(text: string, shape: Shape): StatementFacts | undefined {
    const outcome = this.#parse(text, shape.multiStatement);
    return outcome === undefined ? undefined : factsOf(text, outcome);
  }

  /** Facts of this very text, past all memory: what remembered facts must equal. */
  factsAfresh(sql: string): StatementFacts {
    return this.#factsOf(sql, shapeOf(sql)) ?? unreadable;
  }

  /**
   * What to put into this text for replication; undefined is nothing (core/sql/rewrite.ts). Places
   * in it are wanted, so the text itself is parsed, however long, if none of its shape was before.
   * `context` must know a table by the same object for as long as the same is true of it.
   */
  rewriting(sql: string, facts: StatementFacts, context: RewriteContext): Rewriting | undefined {
    const text = new TokenText(sql);
    const shape = shapeOf(sql);
    const fills = facts.fills.map((table) => context.columnsOf(table));
    const variants = (shape.shareable ? this.#rewritings.get(shape.text) : undefined) ?? [];
    const known = variants.find((each) => each.fills.every((table, i) => table === fills[i]));
    if (known?.pattern.tokenCount === text.tokens.length) return known.pattern.appliedTo(text);
    const rewriting = this.#rewritingOf(text, context);
    if (rewriting === "unread") return undefined;
    // Of the names in EXECUTE nothing is known here; and shapes leave out what lists repeat.
    const isGeneral =
      shape.shareable && facts.executed.length === 0 && rewriting?.general !== false;
    if (isGeneral && tokensOf(shape.text).length === text.tokens.length) {
      const pattern = new RewritingPattern(text, rewriting);
      const others = variants.filter((each) => each !== known).slice(0, VARIANTS_MAX - 1);
      this.#rewritings.set(shape.text, [{ fills, pattern }, ...others]);
    }
    return rewriting;
  }

  /** Past all memory: what `rewriting` must equal. */
  rewritingAfresh(sql: string, context: RewriteContext): Rewriting | undefined {
    const rewriting = this.#rewritingOf(new TokenText(sql), context);
    return rewriting === "unread" ? undefined : rewriting;
  }

  #rewritingOf(text: TokenText, context: RewriteContext): Rewriting | "unread" | undefined {
    const outcome = this.#parse(text.sql, false, TEXT_LENGTH_MAX);
    if (outcome?.kind !== "tree") return "unread";
    return planRewriting(text, statementsOf(outcome.tree), context);
  }

  #parse(
    text: string,
    multiStatement: boolean,
    lengthMax = PARSE_LENGTH_MAX,
  ): ParseOutcome | undefined {
    if (text === "") return { kind: "error", message: "empty" };
    if (text.length > lengthMax) return { kind: "too_long", multiStatement };
    if (this.#grammar === undefined) {
      this.#reload();
      return undefined;
    }
    if (++this.#parses % PARSES_PER_COLLECTION === 0) collectGarbage();
    try {
      return this.#grammar.parse(text);
    } catch {
      // Expressions nested too deeply exhaust its stack and leave it in an unknown state. The text
      // counts as unparsable; others do too until a fresh instance is there.
      this.#reload();
      return { kind: "error", message: "too complex" };
    }
  }

  #reload(): void {
    this.#grammar = undefined;
    this.#reloading ??= Grammar.instantiate(this.#compiled)
      .then((grammar) => {
        this.#grammar = grammar;
        // The instance that was given up holds tens of megabytes.
        collectGarbage();
      })
      // Out of memory, then: the next statement tries again, and until one succeeds the primary
      // gets everything that is not remembered.
      .catch(() => undefined)
      .finally(() => {
        this.#reloading = undefined;
      });
  }

  /** For tests and memory accounts. `bytes` is an estimate, of all memories together. */
  get remembered(): { readonly texts: number; readonly shapes: number; readonly bytes: number } {
    const facts = this.#byText.weight + this.#byShape.weight + this.#newcomers.bytes;
    const bytes = facts + this.#rewritings.weight;
    return { texts: this.#byText.size, shapes: this.#byShape.size, bytes };
  }

  /** How often PostgreSQL's grammar has been asked. */
  get parses(): number {
    return this.#parses;
  }

  /** Resolves when the grammar can be used, after it had to be loaded again. */
  async ready(): Promise<void> {
    await this.#reloading;
  }
}

/**
 * Texts of known shape that were met once, one to a slot. Only one that comes back while it is
 * there is worth a place in the memory of texts: SQL full of constants never does, and would
 * otherwise push out what is used.
 */
class Newcomers {
  readonly #slots: (string | undefined)[] = new Array(1024).fill(undefined);

  /** Of the texts that wait. */
  get bytes(): number {
    return this.#slots.reduce((sum, text) => sum + 2 * (text?.length ?? 0), 0);
  }

  isBack(text: string): boolean {
    const { length } = text;
    if (length > TEXT_REMEMBERED_MAX) return false;
    // Any spread will do: two texts in one slot only delay each other's admission.
    let slot = length;
    for (let at = length - 1; at >= 0 && at >= length - 12; at--) {
      slot = (slot * 31 + text.charCodeAt(at)) & 0x3ff;
    }
    if (this.#slots[slot] === text) return true;
    this.#slots[slot] = text;
    return false;
  }
}

const overlong: ParseOutcome = { kind: "too_long", multiStatement: true };
const unreadable = factsOf("?", { kind: "error", message: "unreadable" });

function newMemory(countMax: number): TwoGenerations<StatementFacts> {
  return new TwoGenerations({
    countMax,
    weightMax: CACHE_BYTES_MAX,
    weigh: (text) => 2 * text.length + FACTS_BYTES,
  });
}

/** Not where the bundler ran: a compiled binary passes the path of its embedded copy. */
function defaultWasmPath(): string {
  return fileURLToPath(import.meta.resolve("libpg-query/wasm/libpg-query.wasm"));
}

const encoder = new TextEncoder();

/** One instance of libpg_query. Its raw calls are used, since the package's wrapper makes much garbage. */
class Grammar {
  readonly #wasm: PgQueryModule;

  private constructor(wasm: PgQueryModule) {
    this.#wasm = wasm;
  }

  static async instantiate(compiled: WebAssembly.Module): Promise<Grammar> {
    const wasm = await new Promise<PgQueryModule>((resolve, reject) => {
      // The module's own promise never settles when instantiation fails, hence the outer one.
      const instantiateWasm: InstantiateWasm = (imports, receive) => {
        WebAssembly.instantiate(compiled, imports).then(receive).catch(reject);
        return {};
      };
      createModule({ instantiateWasm }).then(resolve, reject);
    });
    return new Grammar(wasm);
  }

  /** Throws when the instance can no longer be trusted. */
  parse(sql: string): ParseOutcome {
    const wasm = this.#wasm;
    const room = 3 * sql.length;
    const text = wasm._malloc(room + 1);
    if (text === 0) throw new Error("libpg_query is out of memory");
    const { written } = encoder.encodeInto(sql, wasm.HEAPU8.subarray(text, text + room));
    wasm.HEAPU8[text + written] = 0;
    const result = wasm._wasm_parse_query_raw(text);
    try {
      return result === 0 ? { kind: "error", message: "no result" } : this.#read(result);
    } finally {
      wasm._free(text);
      if (result !== 0) wasm._wasm_free_parse_result(result);
    }
  }

  /** `result` points to { char *tree; char *stderr; PgQueryError *error }. */
  #read(result: number): ParseOutcome {
    const wasm = this.#wasm;
    const tree = wasm.getValue(result, "i32");
    const error = wasm.getValue(result + 8, "i32");
    if (error !== 0) {
      const message = wasm.getValue(error, "i32");
      return { kind: "error", message: message === 0 ? "" : wasm.UTF8ToString(message) };
    }
    if (tree === 0) return { kind: "error", message: "no tree" };
    return { kind: "tree", tree: JSON.parse(wasm.UTF8ToString(tree)) };
  }
}
