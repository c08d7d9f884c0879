/**
 * pgpool_status: which nodes were up when pgpool last said so (spec wire/files.md section 6). One
 * line a node: `up`, `down` or `unused`; the old binary form is understood.
 */

export type RecordedStatus = "up" | "down" | "unused";

/** The binary form of very old versions: 128 native four-byte integers, indexed by node id. */
const BINARY_NODES = 128;
const BINARY_SIZE = BINARY_NODES * 4;

export type StatusFile = {
  /** By node id, one for each configured backend. Undefined when the file is worthless: no node is up in it. */
  readonly statuses: readonly RecordedStatus[] | undefined;
  /** Lines that said none of the three words. */
  readonly invalidLines: number;
};

/** A line that is not understood, and a backend without a line, is unused. */
export function parseStatusFile(content: Uint8Array, backendCount: number): StatusFile {
  const binary = parseBinary(content);
  const lines =
    binary ??
    new TextDecoder()
      .decode(content)
      .split("\n")
      .filter((line) => line !== "");
  const words = lines.map(wordOf);
  const statuses = Array.from({ length: backendCount }, (_, id) => words[id] ?? "unused");
  return {
    statuses: statuses.includes("up") ? statuses : undefined,
    invalidLines: words.filter((word) => word === undefined).length,
  };
}

function parseBinary(content: Uint8Array): readonly RecordedStatus[] | undefined {
  if (content.length < BINARY_SIZE) return undefined;
  const view = new DataView(content.buffer, content.byteOffset, BINARY_SIZE);
  const statuses: RecordedStatus[] = [];
  for (let id = 0; id < BINARY_NODES; id++) {
    const code = view.getInt32(id * 4, true);
    if (code < 0 || code > 3) return undefined;
    statuses.push(code === 3 ? "down" : code === 0 ? "unused" : "up");
  }
  return statuses.some((status) => status !== "unused") ? statuses : undefined;
}

/** By prefix and in any case, as Pgpool reads it. */
function wordOf(line: string): RecordedStatus | undefined {
  const text = line.toLowerCase();
  if (text.startsWith("up")) return "up";
  if (text.startsWith("down")) return "down";
  if (text.startsWith("unused")) return "unused";
  return undefined;
}

export function formatStatusFile(statuses: readonly RecordedStatus[]): string {
  return statuses.map((status) => `${status}\n`).join("");
}
