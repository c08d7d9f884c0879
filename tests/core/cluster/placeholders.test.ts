import { describe, expect, test } from "bun:test";
import { type CommandValues, commandLine } from "../../../core/cluster/placeholders.ts";
import { nodeId } from "../../../core/cluster/state.ts";

const node = (id: number) => ({
  id: nodeId(id),
  hostname: "/tmp/pgsock",
  port: 23100 + id,
  dataDirectory: `/tmp/pgsock/pg${id}`,
});

/** The values of the observed runs in spec wire/failover.md section 9. */
const detach1: CommandValues = {
  node: node(1),
  newMain: node(0),
  oldMain: nodeId(0),
  oldPrimary: node(0),
};
const template = "d=%d h=%h p=%p D=%D m=%m H=%H M=%M P=%P r=%r R=%R N=%N S=%S pct=%%";

describe("the words of a command", () => {
  test("are those that the original was seen to write", () => {
    expect(commandLine(template, detach1)).toBe(
      "d=1 h=/tmp/pgsock p=23101 D=/tmp/pgsock/pg1 m=0 H=/tmp/pgsock M=0 P=0 r=23100 R=/tmp/pgsock/pg0 N=/tmp/pgsock S=23100 pct=%",
    );
  });

  test("are -1 and empty words of the shell where there is no such node", () => {
    const none = { ...detach1, newMain: undefined, oldMain: undefined, oldPrimary: undefined };
    expect(commandLine("%m %M %P %H %r %R %N %S", none)).toBe('-1 -1 -1 "" "" "" "" ""');
  });

  const odd: readonly [string, string][] = [
    ["a %z b", "a  b"],
    ["100%", "100"],
    ["%%d", "%d"],
    ["%%%d", "%1"],
    ["no placeholder", "no placeholder"],
    ["%toString%constructor", "oStringonstructor"],
    ['"%d"', '"1"'],
    ["%\nx", "x"],
    ["", ""],
  ];
  test.each(odd)("%p gives %p", (text, words) => {
    expect(commandLine(text.replace("\\n", "\n"), detach1)).toBe(words.replace("\\n", "\n"));
  });

  test("a value with a percent sign is not read again", () => {
    const tricky = { ...detach1, node: { ...node(1), hostname: "%d%%" } };
    expect(commandLine("%h", tricky)).toBe("%d%%");
  });
});
