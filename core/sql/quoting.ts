/** Constants and names as SQL. */

/** A string constant, right whether standard_conforming_strings is on or off. */
export function literal(text: string): string {
  const quoted = text.replaceAll("'", "''");
  return quoted.includes("\\") ? `E'${quoted.replaceAll("\\", "\\\\")}'` : `'${quoted}'`;
}

export const quoteName = (name: string): string => `"${name.replaceAll('"', '""')}"`;
