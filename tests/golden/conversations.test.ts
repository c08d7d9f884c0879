/** Conversations as text, for people to review: see conversation.ts for the language. */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { perform } from "./conversation.ts";

const directory = join(import.meta.dirname, "conversations");

for (const file of readdirSync(directory).sort()) {
  test(`${file.replace(/\.txt$/, "").replaceAll("_", " ")} go as written`, () => {
    const path = join(directory, file);
    const text = readFileSync(path, "utf8");
    const performed = perform(text);
    const { GOLDEN } = process.env;
    if (GOLDEN === "write") writeFileSync(path, performed);
    else expect(performed).toBe(text);
  });
}
