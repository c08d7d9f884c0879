/**
 * The data types of the protocol (manual, "Message Data Types"): a writer that builds messages and a
 * reader that believes no length before it has checked it.
 */

import { ProtocolViolation } from "../errors.ts";
import { decodeText, encodeText, encodeTextInto } from "./text.ts";

const EMPTY = new Uint8Array(0);
const INT32_MAX = 0x7fff_ffff;
/** Longer texts are encoded apart, so that the threefold room of UTF-8's worst case stays small. */
const TEXT_IN_PLACE_MAX = 1024;
const ASCII_LOOP_MAX = 64;
const TAKE_BY_COPY_MAX = 512;

/** Big-endian, signed. The caller has checked that four bytes are there. */
export function int32At(bytes: Uint8Array, at: number): number {
  return (
    ((bytes[at] as number) << 24) |
    ((bytes[at + 1] as number) << 16) |
    ((bytes[at + 2] as number) << 8) |
    (bytes[at + 3] as number)
  );
}

/**
 * Builds messages one after another in a single growing buffer:
 * `writer.begin(type).cstring(…).end()` as often as wanted, then `take()`.
 */
export class ByteWriter {
  #bytes: Uint8Array;
  #length = 0;
  /** Where the open message's length word stands; -1 while none is open. */
  #lengthAt = -1;

  constructor(capacity = 256) {
    this.#bytes = new Uint8Array(capacity);
  }

  /** Bytes written since the last `take`. */
  get length(): number {
    return this.#length;
  }

  /** Opens a message. Without a type it is one of the start-up packets, which have none. */
  begin(type?: number): this {
    if (this.#lengthAt >= 0) throw new Error("begin() inside a message that was not ended");
    if (type !== undefined) this.int8(type);
    this.#lengthAt = this.#length;
    return this.int32(0);
  }

  /** Closes the message by filling in its length, which counts itself and not the type. */
  end(): this {
    const at = this.#lengthAt;
    if (at < 0) throw new Error("end() without begin()");
    const size = this.#length - at;
    if (size > INT32_MAX) throw new RangeError(`message of ${size} bytes`);
    this.#putInt32(at, size);
    this.#lengthAt = -1;
    return this;
  }

  /** Also takes unsigned values: the bits are the same. */
  int8(value: number): this {
    fits(value, -0x80, 0xff);
    this.#reserve(1);
    this.#bytes[this.#length++] = value;
    return this;
  }

  /** Also takes unsigned values: counts go up to 65,535. */
  int16(value: number): this {
    fits(value, -0x8000, 0xffff);
    this.#reserve(2);
    this.#bytes[this.#length++] = value >> 8;
    this.#bytes[this.#length++] = value;
    return this;
  }

  /** Also takes unsigned values: OIDs are such. */
  int32(value: number): this {
    fits(value, -0x8000_0000, 0xffff_ffff);
    this.#reserve(4);
    this.#putInt32(this.#length, value);
    this.#length += 4;
    return this;
  }

  /** Text and the zero byte that ends it. A zero inside would end it early: a `ProtocolViolation`. */
  cstring(text: string): this {
    if (text.length <= ASCII_LOOP_MAX && this.#asciiCstring(text)) return this;
    if (text.includes("\0")) throw new ProtocolViolation("zero byte inside a string");
    if (text.length > TEXT_IN_PLACE_MAX) return this.bytes(encodeText(text)).int8(0);
    this.#reserve(text.length * 3 + 1);
    const target = this.#bytes.subarray(this.#length);
    const written = encodeTextInto(text, target);
    if (written === undefined) return this.bytes(encodeText(text)).int8(0);
    this.#length += written;
    return this.int8(0);
  }

  bytes(bytes: Uint8Array): this {
    this.#reserve(bytes.length);
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
    return this;
  }

  /** Int32 length and bytes; length -1 for `null`, which is SQL's NULL. */
  value(value: Uint8Array | null): this {
    return value === null ? this.int32(-1) : this.int32(value.length).bytes(value);
  }

  /** Everything written so far. The memory is the caller's; the writer starts afresh. */
  take(): Uint8Array {
    if (this.#lengthAt >= 0) throw new Error("take() inside a message that was not ended");
    const length = this.#length;
    this.#length = 0;
    // A copy of little is cheaper than a view, and leaves the writer its memory.
    if (length <= TAKE_BY_COPY_MAX) return this.#bytes.slice(0, length);
    const taken = this.#bytes.subarray(0, length);
    this.#bytes = EMPTY;
    return taken;
  }

  /** Names and tags are short and ASCII: a loop costs a quarter of a call to the encoder. */
  #asciiCstring(text: string): boolean {
    this.#reserve(text.length + 1);
    const bytes = this.#bytes;
    let at = this.#length;
    for (let i = 0; i < text.length; i++) {
      const code = text.charCodeAt(i);
      if (code === 0 || code > 0x7f) return false;
      bytes[at++] = code;
    }
    bytes[at++] = 0;
    this.#length = at;
    return true;
  }

  #putInt32(at: number, value: number): void {
    this.#bytes[at] = value >> 24;
    this.#bytes[at + 1] = value >> 16;
    this.#bytes[at + 2] = value >> 8;
    this.#bytes[at + 3] = value;
  }

  #reserve(size: number): void {
    const wanted = this.#length + size;
    if (wanted <= this.#bytes.length) return;
    const grown = new Uint8Array(Math.max(wanted, this.#bytes.length * 2, 256));
    grown.set(this.#bytes.subarray(0, this.#length));
    this.#bytes = grown;
  }
}

/** A value that does not fit would be cut to other bits, and the stream with it. */
function fits(value: number, min: number, max: number): void {
  if (Number.isInteger(value) && value >= min && value <= max) return;
  throw new RangeError(`${value} does not fit the field`);
}

/**
 * Reads one message's body from front to back. Every failure is a `ProtocolViolation` with the
 * message text PostgreSQL has for it. What `bytes` and `value` return are views into the body.
 */
export class ByteReader {
  readonly #bytes: Uint8Array;
  readonly #name: string;
  #at = 0;

  /** `name` is the message's, for the error's detail. */
  constructor(body: Uint8Array, name = "message") {
    this.#bytes = body;
    this.#name = name;
  }

  get remaining(): number {
    return this.#bytes.length - this.#at;
  }

  /** An unsigned byte: the protocol uses single bytes for characters and codes. */
  int8(): number {
    const at = this.#advance(1);
    return this.#bytes[at] as number;
  }

  int16(): number {
    return (this.uint16() << 16) >> 16;
  }

  /** For counts: PostgreSQL and libpq take the manual's Int16 counts as unsigned. */
  uint16(): number {
    const at = this.#advance(2);
    return ((this.#bytes[at] as number) << 8) | (this.#bytes[at + 1] as number);
  }

  int32(): number {
    return int32At(this.#bytes, this.#advance(4));
  }

  /** For OIDs. */
  uint32(): number {
    return this.int32() >>> 0;
  }

  cstring(): string {
    // Statements and portals are mostly unnamed; a call to the decoder costs 100 ns even for "".
    if (this.#bytes[this.#at] === 0) {
      this.#at++;
      return "";
    }
    const end = this.#bytes.indexOf(0, this.#at);
    if (end < 0) throw this.#violation("invalid string in message", "no terminator");
    const text = decodeText(this.#bytes.subarray(this.#at, end));
    this.#at = end + 1;
    return text;
  }

  bytes(length: number): Uint8Array {
    if (length < 0) throw this.#violation("invalid length in message", `length ${length}`);
    const at = this.#advance(length);
    return this.#bytes.subarray(at, at + length);
  }

  /** Int32 length and that many bytes; `null` for length -1. */
  value(): Uint8Array | null {
    const length = this.int32();
    return length === -1 ? null : this.bytes(length);
  }

  /** An Int16 count and so many items. Grows by what is really there, whatever the count says. */
  list<T>(item: (reader: this) => T): T[] {
    const items: T[] = [];
    for (let count = this.uint16(); count > 0; count--) items.push(item(this));
    return items;
  }

  /** All that is left. */
  rest(): Uint8Array {
    return this.bytes(this.remaining);
  }

  /** A message must end where its fields do. */
  end(): void {
    if (this.remaining > 0) {
      throw this.#violation("invalid message format", `${this.remaining} bytes too many`);
    }
  }

  #advance(size: number): number {
    const at = this.#at;
    if (size > this.#bytes.length - at) {
      throw this.#violation("insufficient data left in message", `${size} bytes wanted`);
    }
    this.#at = at + size;
    return at;
  }

  #violation(message: string, what: string): ProtocolViolation {
    const place = `at byte ${this.#at} of ${this.#bytes.length}`;
    return new ProtocolViolation(message, { detail: `${this.#name}: ${what} ${place}` });
  }
}
