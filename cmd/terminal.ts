/** Asking for a secret on the terminal: the prompt is shown, the answer is not. */
import { decodeText } from "../core/wire/text.ts";

/** As much of process.stdin and process.stderr as asking needs. */
export type Terminal = {
  readonly input: Pick<NodeJS.ReadStream, "isTTY" | "on" | "off" | "pause" | "resume"> & {
    setRawMode?(on: boolean): unknown;
  };
  readonly write: (text: string) => void;
  /** Ctrl-C at the prompt. */
  readonly interrupt: () => void;
};

const processTerminal: Terminal = {
  input: process.stdin,
  write: (text) => process.stderr.write(text),
  interrupt: () => process.kill(process.pid, "SIGINT"),
};

const key = { interrupt: 0x03, end: 0x04, backspace: 0x08, newline: 0x0a, enter: 0x0d } as const;
const keyClear = 0x15;
const keyDelete = 0x7f;

export class HiddenPrompt {
  readonly #terminal: Terminal;
  /** Typed ahead of the next question. */
  #ahead: number[] = [];
  #interrupted = false;

  constructor(terminal: Terminal = processTerminal) {
    this.#terminal = terminal;
  }

  /** Whether somebody can be asked. */
  get possible(): boolean {
    return this.#terminal.input.isTTY === true;
  }

  /**
   * Shows the question and returns the line typed, without its newline. Bytes that are not UTF-8
   * are kept (core/wire/text.ts). The end of the input ends the line.
   */
  async ask(question: string): Promise<string> {
    const { input, write, interrupt } = this.#terminal;
    this.#interrupted = false;
    write(question);
    input.setRawMode?.(true);
    try {
      return decodeText(Uint8Array.from(await this.#readLine()));
    } finally {
      input.setRawMode?.(false);
      input.pause();
      write("\n");
      if (this.#interrupted) interrupt(); // not before the terminal is as it was
    }
  }

  #readLine(): Promise<number[]> {
    const { input } = this.#terminal;
    const line: number[] = [];
    return new Promise((resolve) => {
      const finish = () => {
        input.off("data", take);
        input.off("end", finish);
        resolve(line);
      };
      const take = (chunk: Uint8Array) => {
        this.#ahead.push(...chunk);
        if (this.#edit(line)) finish();
      };
      if (this.#edit(line)) return finish();
      input.on("data", take);
      input.on("end", finish);
      input.resume();
    });
  }

  /** Applies what was typed to the line; true when that ended it. */
  #edit(line: number[]): boolean {
    for (let byte = this.#ahead.shift(); byte !== undefined; byte = this.#ahead.shift()) {
      switch (byte) {
        case key.newline:
        case key.enter:
        case key.end:
          return true;
        case key.interrupt:
          this.#interrupted = true;
          return true;
        case key.backspace:
        case keyDelete:
          dropCharacter(line);
          break;
        case keyClear:
          line.length = 0;
          break;
        default:
          line.push(byte);
      }
    }
    return false;
  }
}

/** Removes the last character, which in UTF-8 may be several bytes. */
function dropCharacter(line: number[]): void {
  let byte = line.pop();
  while (byte !== undefined && (byte & 0xc0) === 0x80) byte = line.pop();
}
