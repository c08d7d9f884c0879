/**
 * Scenarios as text: what is done, then `---`, then what came of it. `GOLDEN=write` writes the second
 * half anew, to be reviewed as a change of behaviour.
 */
import { expect, test } from "bun:test";
import { readdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { STRICT_LEASE } from "../../../watchdog/node.ts";
import { disagreement, Invariants } from "./invariants.ts";
import { World } from "./world.ts";

const folder = join(import.meta.dirname, "scenarios");
const { GOLDEN } = process.env;
const DIVIDER = "---\n";

type Script = { readonly world: World; readonly run: (seconds: number) => void };

function scriptOf(first: string): Script {
  const match = /^seed (\d+), (\d+) nodes, (lease|no lease)$/.exec(first);
  if (match === null) throw new Error(`"seed N, N nodes, lease|no lease" is wanted: ${first}`);
  const [, seed, nodes, lease] = match;
  const world = new World({
    seed: Number(seed),
    nodes: Number(nodes),
    backends: 2,
    lease: lease === "lease" ? STRICT_LEASE : undefined,
    drift: 0,
    asBytes: true,
  });
  const invariants = new Invariants(world, Number.POSITIVE_INFINITY);
  let overlapMs = 0;
  const run = (seconds: number) => {
    world.time.run(world.time.now + seconds * 1000, () => invariants.check());
    if (invariants.longestOverlapMs > overlapMs) {
      overlapMs = invariants.longestOverlapMs;
      world.tell(`two led at a time, for ${(overlapMs / 1000).toFixed(1)} s`);
    }
  };
  return { world, run };
}

function command({ world, run }: Script, line: string): void {
  const [verb = "", ...words] = line.split(" ");
  const numbers = words.map(Number);
  for (const id of ["start", "crash", "pause", "resume", "stop"].includes(verb) ? numbers : []) {
    if (verb === "crash") world.crash(id, false);
    else world[verb as "start" | "pause" | "resume" | "stop"](id);
  }
  switch (verb) {
    case "run":
      run(numbers[0] ?? 0);
      break;
    case "isolate":
      for (const { id } of world.hosts) {
        if (numbers.includes(id)) continue;
        for (const cut of numbers) {
          world.network.cut(cut, id);
          world.network.cut(id, cut);
        }
      }
      world.tell(`n${numbers.join(" n")} cut off`);
      break;
    case "heal":
      world.network.heal();
      world.tell("all links are whole");
      break;
    case "fail":
      for (const backend of numbers) world.backendsUp[backend] = false;
      world.tell(`backend ${numbers.join(" ")} fails`);
      break;
    case "agree":
      world.tell(disagreement(world) ?? "all agree");
  }
}

test.each(readdirSync(folder).map((name) => [name]))("%s", (name) => {
  const path = join(folder, name);
  const [todo = "", expected = ""] = readFileSync(path, "utf8").split(DIVIDER);
  const [first = "", ...lines] = todo
    .split("\n")
    .filter((line) => line !== "" && !line.startsWith("#"));
  const script = scriptOf(first);
  for (const line of lines) command(script, line);
  const story = `${script.world.story.join("\n")}\n`;
  if (GOLDEN === "write") writeFileSync(path, `${todo}${DIVIDER}${story}`);
  else expect(story).toBe(expected);
});
