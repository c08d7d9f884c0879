/**
 * COPY … FROM STDIN: which nodes read the client's data, and from when to when (manual: "COPY
 * Operations"). Data are passed on before it is certain that a COPY reads them, since PostgreSQL
 * ignores them where none does. What is no data must wait until it is certain.
 */
import type { NodeLink, Owed } from "./replies.ts";

const noLinks: readonly NodeLink[] = [];

export class CopyIn {
  /** Where the client's data go; empty when nothing can be reading. */
  links: readonly NodeLink[] = noLinks;
  /** The answer of the statement that reads them. */
  #owed: Owed | undefined;
  /** A text of several statements: another COPY may follow the one that has ended. */
  #several = false;
  #begun = 0;
  #ended = 0;
  /** A message that changes nothing, sent to find out whether COPY still reads. */
  #probe: Owed | undefined;

  /** The server has said that a COPY reads, and the client has not said that its data have ended. */
  get reading(): boolean {
    return this.#begun > this.#ended;
  }

  /** Of several statements the last may have been the one whose data have ended. */
  get mayBeOver(): boolean {
    return this.#several && !this.reading;
  }

  /** The statement just sent may read data; `several`: it may do so more than once. */
  expect(owed: Owed, links: readonly NodeLink[], several: boolean): void {
    this.links = links;
    this.#owed = owed;
    this.#several = several;
    this.#begun = 0;
    this.#ended = 0;
  }

  /** CopyInResponse came. Returns false when it belongs to a statement of which nothing was expected. */
  began(owed: Owed): boolean {
    if (owed !== this.#owed) return false;
    this.#begun++;
    return true;
  }

  /** CopyDone or CopyFail, or what COPY takes for an error, has been passed on. */
  ended(): void {
    this.#ended++;
    if (!this.#several) this.links = noLinks;
  }

  /** The statement has been answered. */
  settled(owed: Owed): void {
    if (owed !== this.#owed) return;
    this.#owed = undefined;
    this.links = noLinks;
    this.#begun = 0;
  }

  // ---------------------------------------------------------------- a message out of place

  /** In the simple protocol nothing is skipped after an error: what COPY has not read is answered. */
  get needsProbe(): boolean {
    return this.#owed?.kind === "Query";
  }

  get probing(): boolean {
    return this.#probe !== undefined;
  }

  /** `type`: that of the client's message, of which the error is to speak. */
  probe(owed: Owed, type: number): void {
    this.#probe = owed;
    this.#probedType = type;
  }
  #probedType = 0;

  /**
   * The statement has failed. Returns true when it was of the probe: then COPY has read it, and
   * nothing more will come of it. `frame` is the ErrorResponse, and made to speak of the client's
   * message.
   */
  probeRead(owed: Owed, frame: Uint8Array): boolean {
    const probe = this.#probe;
    if (probe === undefined || owed !== this.#owed || !renameType(frame, this.#probedType)) {
      return false;
    }
    probe.voided = true;
    return true;
  }

  /** Nothing is owed any more. */
  drained(): void {
    this.#probe = undefined;
  }
}

const PROTOCOL_VIOLATION = Buffer.from("\0C08P01\0");
/** Whatever the language of the message, it has the type in it. */
const QUERY_TYPE = Buffer.from("0x51");

/** "unexpected message type 0x51 during COPY from stdin": false when the error is another. */
function renameType(frame: Uint8Array, type: number): boolean {
  const bytes = Buffer.from(frame.buffer, frame.byteOffset, frame.length);
  const at = bytes.indexOf(QUERY_TYPE);
  if (at < 0 || !bytes.includes(PROTOCOL_VIOLATION)) return false;
  bytes.write(`0x${type.toString(16).toUpperCase()}`, at, "latin1");
  return true;
}
