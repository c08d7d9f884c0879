import { describe, expect, test } from "bun:test";
import { EventEmitter } from "node:events";
import { HiddenPrompt, type Terminal } from "../../cmd/terminal.ts";
import { encodeText } from "../../core/wire/text.ts";

/** A terminal whose keys the test presses. */
class FakeInput extends EventEmitter {
  isTTY = true;
  raw = false;
  pause = () => this;
  resume = () => this;
  setRawMode(on: boolean): this {
    this.raw = on;
    return this;
  }
  press(keys: string | Uint8Array): void {
    this.emit("data", typeof keys === "string" ? encodeText(keys) : keys);
  }
}

function fakeTerminal() {
  const input = new FakeInput();
  const shown: string[] = [];
  const interrupts: string[] = [];
  const terminal = {
    input: input as unknown as Terminal["input"],
    write: (text: string) => shown.push(text),
    interrupt: () => {
      interrupts.push(input.raw ? "raw" : "restored");
    },
  };
  return { input, shown, prompt: new HiddenPrompt(terminal), interrupts };
}

describe("HiddenPrompt", () => {
  const typed: [string, string, string][] = [
    ["a line", "secret\r", "secret"],
    ["a line of a pasted text", "secret\n", "secret"],
    ["backspace", "secx\x7fret\r", "secret"],
    ["backspace over a character of several bytes", "pä鍵\x08\x7fx\r", "px"],
    ["backspace at the beginning", "\x7f\x7fa\r", "a"],
    ["Ctrl-U", "wrong\x15right\r", "right"],
    ["Ctrl-D", "abc\x04", "abc"],
    ["nothing", "\r", ""],
    ["blanks", " a b \r", " a b "],
  ];
  test.each(typed)("%s", async (_, keys, answer) => {
    const { input, prompt, shown } = fakeTerminal();
    const asking = prompt.ask("password: ");
    expect(input.raw).toBe(true);
    for (const key of keys) input.press(key);
    expect(await asking).toBe(answer);
    expect(input.raw).toBe(false);
    expect(shown).toEqual(["password: ", "\n"]);
  });

  test("what is typed ahead answers the next question", async () => {
    const { input, prompt } = fakeTerminal();
    const first = prompt.ask("db password: ");
    input.press("one\ntwo\n");
    expect([await first, await prompt.ask("encryption key: ")]).toEqual(["one", "two"]);
  });

  test("characters cut between two reads are whole", async () => {
    const { input, prompt } = fakeTerminal();
    const asking = prompt.ask("? ");
    const bytes = encodeText("鍵\r");
    for (const byte of bytes) input.press(Uint8Array.of(byte));
    expect(await asking).toBe("鍵");
  });

  test("Ctrl-C interrupts and leaves the terminal as it was", async () => {
    const { input, prompt, interrupts } = fakeTerminal();
    const asking = prompt.ask("? ");
    input.press("abc\x03");
    await asking;
    expect([interrupts, input.listenerCount("data")]).toEqual([["restored"], 0]);
  });

  test("the end of the input ends the line", async () => {
    const { input, prompt } = fakeTerminal();
    const asking = prompt.ask("? ");
    input.press("abc");
    input.emit("end");
    expect(await asking).toBe("abc");
  });
});
