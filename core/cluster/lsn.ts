/** Positions in the WAL, as PostgreSQL writes them. */

/** "X/Y" in bytes; undefined for anything else. */
export function lsnOf(text: string | undefined): bigint | undefined {
  const match = /^([0-9A-F]+)\/([0-9A-F]+)$/i.exec(text ?? "");
  if (match === null) return undefined;
  return (BigInt(`0x${match[1]}`) << 32n) + BigInt(`0x${match[2]}`);
}
