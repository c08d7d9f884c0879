/** Rows as psql shows them, for the few tables that our own commands print. */

/** Column names centred over their values, a line of dashes, one line for each row; no newline at the end. */
export function tableText(table: {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
}): string {
  const { columns, rows } = table;
  const widths = columns.map((name, at) =>
    Math.max(name.length, ...rows.map((row) => (row[at] ?? "").length)),
  );
  const head = columns.map((name, at) => centre(name, widths[at] ?? 0));
  const line = (cells: readonly string[]): string => ` ${cells.join(" | ")}`.trimEnd();
  return [
    line(head),
    widths.map((width) => "-".repeat(width + 2)).join("+"),
    ...rows.map((row) => line(columns.map((_, at) => (row[at] ?? "").padEnd(widths[at] ?? 0)))),
  ].join("\n");
}

function centre(text: string, width: number): string {
  return text.padStart(Math.floor((width + text.length) / 2)).padEnd(width);
}
