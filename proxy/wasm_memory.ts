/**
 * libpg_query's module asks for 128 MiB at once. It never touches most of that, but the JavaScript
 * engine takes the whole for live data (twice), and lets as much garbage gather before it collects.
 * So the module is told to begin with less; it grows by itself where it needs more.
 */

/** Of 64 KiB. 40 MiB: its static data and its stack end at 33 MiB, the rest is heap to begin with. */
const INITIAL_PAGES = 640;

const MEMORY_SECTION = 5;
const HEADER_LENGTH = 8;

/** A copy with a smaller initial memory; the module itself if it is not as we know it. */
export function withLessMemory(module: Uint8Array): Uint8Array<ArrayBuffer> {
  const copy = new Uint8Array(module);
  const at = memorySection(copy);
  if (at === undefined) return copy;
  // One memory, with or without a maximum, then its initial pages.
  if (copy[at] !== 1 || (copy[at + 1] ?? 2) > 1) return copy;
  const initial = readLeb128(copy, at + 2);
  if (initial.value <= INITIAL_PAGES || initial.length !== 2) return copy;
  copy[at + 2] = 0x80 | (INITIAL_PAGES & 0x7f);
  copy[at + 3] = INITIAL_PAGES >> 7;
  return copy;
}

/** Where the contents of the memory section begin (WebAssembly specification, "Binary Format"). */
function memorySection(bytes: Uint8Array): number | undefined {
  let at = HEADER_LENGTH;
  while (at < bytes.length) {
    const size = readLeb128(bytes, at + 1);
    const contents = at + 1 + size.length;
    if (bytes[at] === MEMORY_SECTION) return contents;
    at = contents + size.value;
  }
  return undefined;
}

function readLeb128(bytes: Uint8Array, at: number): { value: number; length: number } {
  let value = 0;
  let length = 0;
  for (;;) {
    const byte = bytes[at + length] ?? 0;
    value += (byte & 0x7f) * 2 ** (7 * length);
    length++;
    if (byte < 0x80) return { value, length };
  }
}
