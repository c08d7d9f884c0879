/** Fuzzers of statement analysis: whatever text comes, it is answered, and by the right facts. */

import fc from "fast-check";
import { shapeOf } from "../../core/sql/shape.ts";
import { StatementParser } from "../../proxy/parser.ts";
import { sqlFromTokens, sqlWithConstants } from "../core/sql/texts.ts";
import { type Fuzzer, fuzzer } from "./fuzzer.ts";

const parser = StatementParser.load();

const anyText = fc.oneof(
  fc.string({ unit: "binary", maxLength: 200 }),
  sqlFromTokens,
  fc.tuple(sqlWithConstants, fc.string(), sqlWithConstants).map((parts) => parts.join("")),
);

export const sqlFuzzers: readonly Fuzzer[] = [
  fuzzer({
    name: "facts",
    claim: "any text has facts, and nothing is thrown",
    runs: 20_000,
    input: anyText,
    check: async (sql) => {
      const facts = (await parser).facts(sql);
      if (!["primary", "either", "both"].includes(facts.destination)) throw new Error(sql);
    },
  }),
  fuzzer({
    name: "shape",
    claim: "a text and its shape have the same facts",
    runs: 20_000,
    input: fc.oneof(sqlWithConstants, sqlFromTokens),
    check: async (sql) => {
      const shape = shapeOf(sql);
      if (!shape.shareable) return;
      const known = await parser;
      const [text, shaped] = [known.factsAfresh(sql), known.factsAfresh(shape.text)];
      if (!Bun.deepEquals(text, shaped)) throw new Error(shape.text);
    },
  }),
];
