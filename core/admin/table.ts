/** Rows of our own as they go over the wire (spec config/show.md section 1). */

import { type RowField, writeBackend } from "../wire/backend.ts";
import { ByteWriter } from "../wire/bytes.ts";
import { encodeText } from "../wire/text.ts";

/** All values are text, and none is NULL. */
export type Table = {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly string[])[];
};

/** One column: its name, and how it prints one thing. */
export type Column<T> = readonly [name: string, print: (thing: T) => string | number];

/** Prints each thing by each column. */
export function tableOf<T>(columns: readonly Column<T>[], things: readonly T[]): Table {
  return {
    columns: columns.map(([name]) => name),
    rows: things.map((thing) => columns.map(([, print]) => String(print(thing)))),
  };
}

/** How values go over the wire; a text is the same bytes in either format. */
export type TextType = { readonly typeId: number; readonly format: 0 | 1 };

/** No type: so Pgpool describes its columns. */
const untyped: TextType = { typeId: 0, format: 0 };

/** RowDescription, DataRows and CommandComplete; ReadyForQuery is the caller's. */
export function encodeTable({ columns, rows }: Table, type: TextType = untyped): Uint8Array {
  const writer = new ByteWriter();
  writeColumns(writer, columns, type);
  writeRows(writer, rows);
  writeBackend(writer, { kind: "CommandComplete", tag: `SELECT ${rows.length}` });
  return writer.take();
}

export function writeColumns(writer: ByteWriter, columns: readonly string[], type: TextType): void {
  const fields = columns.map((name, columnNumber) => fieldOf(name, columnNumber, type));
  writeBackend(writer, { kind: "RowDescription", fields });
}

export function writeRows(writer: ByteWriter, rows: Table["rows"]): void {
  for (const row of rows) {
    writeBackend(writer, { kind: "DataRow", values: row.map(encodeText) });
  }
}

/** No table, and numbers that begin with 0: so Pgpool describes its columns. */
const fieldOf = (name: string, columnNumber: number, { typeId, format }: TextType): RowField => ({
  name,
  tableId: 0,
  columnNumber,
  typeId,
  typeSize: -1,
  typeModifier: typeId === 0 ? 0 : -1,
  format,
});
