/**
 * The scripts of samples/ by name. The build puts their texts in this file's place, so that the binary
 * carries them.
 */
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { type SampleScripts, sampleScriptNames } from "./sample_script_names.ts";

export const sampleScripts: SampleScripts = Object.fromEntries(
  sampleScriptNames.map((name) => [
    name,
    readFileSync(fileURLToPath(import.meta.resolve(`../samples/${name}`)), "utf8"),
  ]),
) as Record<keyof SampleScripts, string>;
