/** Texts cut to a size in bytes, which is how Pgpool's fixed buffers cut them. */

const encoder = new TextEncoder();

/** At most `sizeMax` bytes of UTF-8; a character is never cut in two. */
export function cutBytes(text: string, sizeMax: number): string {
  if (text.length * 3 <= sizeMax) return text;
  const { read } = encoder.encodeInto(text, new Uint8Array(sizeMax));
  return text.slice(0, read);
}
