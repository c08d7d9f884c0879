/**
 * Frames of the PCP protocol (spec wire/pcp.md section 1): a letter, a length that counts itself and
 * the body, the body. Both directions are cut from their streams here, without belief in a length.
 */

import { type ErrorOptions, type ErrorSeverity, PgpoolError } from "../errors.ts";
import { ByteWriter, int32At } from "../wire/bytes.ts";
import { type SizeOf, StreamCutter } from "../wire/cutter.ts";

/** What PCP refuses. `FATAL` ends the connection; after an `ERROR` it goes on. */
export class PcpError extends PgpoolError {
  override readonly severity: ErrorSeverity;

  constructor(message: string, options: ErrorOptions & { readonly severity?: ErrorSeverity } = {}) {
    super(message, options);
    this.severity = options.severity ?? "ERROR";
  }
}

export type PcpFrame = { readonly letter: string; readonly body: Uint8Array };

const HEADER_SIZE = 5;
/** The greatest length word of a request; the real server reads into a buffer of this size. */
export const REQUEST_LENGTH_MAX = 259;
/** Of a reply. Pgpool has no limit; the largest that it ever sends in one frame are some kilobytes. */
export const REPLY_LENGTH_MAX = 16 * 1024 * 1024;

/** Cuts what a client sends. A length that cannot be is a FATAL `PcpError` with Pgpool's texts. */
export const requestCutter = (): StreamCutter => frameCutter(REQUEST_LENGTH_MAX);

/** Cuts what a server sends. */
export const replyCutter = (): StreamCutter => frameCutter(REPLY_LENGTH_MAX);

function frameCutter(lengthMax: number): StreamCutter {
  const sizeOf: SizeOf = (bytes, at) => {
    const length = int32At(bytes, at + 1);
    if (length < 4 || length > lengthMax) {
      const detail = `incorrect packet length (${length})`;
      throw new PcpError("invalid PCP packet", { severity: "FATAL", detail });
    }
    return 1 + length;
  };
  return new StreamCutter(HEADER_SIZE, sizeOf);
}

/** A whole piece of a cutter as a frame; the body is a view. */
export const frameOf = (piece: Uint8Array): PcpFrame => ({
  letter: String.fromCharCode(piece[0] ?? 0),
  body: piece.subarray(HEADER_SIZE),
});

/** The bytes of one frame. `fill` writes the body. */
export function encodeFrame(
  letter: string,
  fill: (body: ByteWriter) => void = () => {},
): Uint8Array {
  const writer = new ByteWriter();
  writer.begin(letter.charCodeAt(0));
  fill(writer);
  return writer.end().take();
}
