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

/** RowDescription, DataRows and CommandComplete; ReadyForQuery is the caller's. */
export function encodeTable({ columns, rows }: Table): Uint8Array {
  const writer = new ByteWriter();
  writeBackend(writer, { kind: "RowDescription", fields: columns.map(fieldOf) });
  for (const row of rows) {
    writeBackend(writer, { kind: "DataRow", values: row.map(encodeText) });
  }
  writeBackend(writer, { kind: "CommandComplete", tag: `SELECT ${rows.length}` });
  return writer.take();
}

/** No table, no type, and numbers that begin with 0: so Pgpool describes its columns. */
const fieldOf = (name: string, columnNumber: number): RowField => ({
  name,
  tableId: 0,
  columnNumber,
  typeId: 0,
  typeSize: -1,
  typeModifier: 0,
  format: 0,
});
