/** What a driver got, step by step, as lines of text that two runs can be compared by. */

export class Transcript {
  readonly lines: string[] = [];

  /** Values of any kind; bytes, dates and big numbers are written out so that they differ if they do. */
  say(step: string, value: unknown): void {
    this.lines.push(`${step}: ${JSON.stringify(value, plain)}`);
  }

  /** Runs what must fail, and says how. */
  async fails(step: string, work: () => Promise<unknown>): Promise<void> {
    try {
      this.say(step, { unexpected: await work() });
    } catch (error) {
      const { code, message, severity } = error as {
        code?: string;
        message?: string;
        severity?: string;
      };
      this.say(step, { code, message, severity });
    }
  }
}

function plain(this: unknown, key: string, value: unknown): unknown {
  // JSON.stringify has already called toJSON of what it hands over, so the original is looked at.
  const original = (this as Record<string, unknown>)[key];
  if (original instanceof Uint8Array) return `bytes ${Buffer.from(original).toString("hex")}`;
  if (original instanceof Date) return `date ${original.toISOString()}`;
  if (typeof value === "bigint") return `${value}n`;
  if (value === undefined) return "undefined";
  if (typeof value === "string" && value.length > 300) {
    return `${value.slice(0, 20)}… ${value.length} characters, hash ${Bun.hash(value)}`;
  }
  return value;
}
