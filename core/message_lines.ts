/**
 * Lines of `log_client_messages` and `log_backend_messages` (spec config/logging.md section 4): a
 * message by its name, and what it names.
 */

import { BACKEND, FRONTEND } from "./wire/codes.ts";
import { decodeText } from "./wire/text.ts";

export type MessageLine = { readonly message: string; readonly detail: string | undefined };

const frontendNames = new Map<number, string>(
  Object.entries(FRONTEND).map(([name, type]) => [type, name]),
);
const backendNames = new Map<number, string>(
  Object.entries(BACKEND).map(([name, type]) => [
    type,
    name === "Authentication" ? "AuthenticationRequest" : name,
  ]),
);

/**
 * What is logged of the frame at [at, end) that a client sent; undefined for a type that is none.
 * CopyData is counted by whoever receives it: see `copyDataLine`.
 */
export function clientMessageLine(
  bytes: Uint8Array,
  at: number,
  end: number,
): MessageLine | undefined {
  const type = bytes[at];
  const name = type === undefined ? undefined : frontendNames.get(type);
  if (name === undefined) return undefined;
  const body = bytes.subarray(at + 5, end);
  return { message: `${name} message from frontend.`, detail: detailOf(type, body) };
}

/** For a row of CopyData messages, when something else comes. */
export const copyDataLine = (count: number): MessageLine => ({
  message: "CopyData message from frontend.",
  detail: `count: ${count}`,
});

function detailOf(type: number | undefined, body: Uint8Array): string | undefined {
  switch (type) {
    case FRONTEND.Query:
      return `query: "${string(body, 0)}"`;
    case FRONTEND.Parse:
      return `statement: "${string(body, 0)}", query: "${string(body, 1)}"`;
    case FRONTEND.Bind:
      return `portal: "${string(body, 0)}", statement: "${string(body, 1)}"`;
    case FRONTEND.Execute:
      return `portal: "${string(body, 0)}"`;
    case FRONTEND.Describe:
    case FRONTEND.Close: {
      const kind = body[0] === 0x53 ? "statement" : "portal";
      return `${kind}: "${string(body.subarray(1), 0)}"`;
    }
    case FRONTEND.FunctionCall: {
      const view = new DataView(body.buffer, body.byteOffset, body.byteLength);
      return body.length < 4 ? undefined : `oid: "${view.getUint32(0)}"`;
    }
    default:
      return undefined;
  }
}

/** The string number `index` of those that stand at the beginning, as far as there is one. */
function string(body: Uint8Array, index: number): string {
  let from = 0;
  for (let left = index; left > 0; left--) {
    const zero = body.indexOf(0, from);
    if (zero < 0) return "";
    from = zero + 1;
  }
  const end = body.indexOf(0, from);
  return decodeText(body.subarray(from, end < 0 ? body.length : end));
}

/**
 * log_backend_messages = terse: what a node repeats is counted and told when it says something else.
 * Upstream loses the count of a session that ends; here `rest` tells it.
 */
export class BackendMessageLines {
  readonly #last: ({ readonly type: number; count: number } | undefined)[] = [];

  verbose(node: number, type: number): string | undefined {
    const name = backendNames.get(type);
    return name === undefined ? undefined : `${name} message from backend ${node}`;
  }

  terse(node: number, type: number): readonly string[] {
    const last = this.#last[node];
    if (last?.type === type) {
      last.count++;
      return none;
    }
    this.#last[node] = { type, count: 0 };
    const line = this.verbose(node, type);
    const before = repeated(node, last);
    return line === undefined ? before : [...before, line];
  }

  rest(): readonly string[] {
    return this.#last.splice(0).flatMap((last, node) => repeated(node, last));
  }
}

const none: readonly string[] = [];

function repeated(
  node: number,
  last: { readonly type: number; readonly count: number } | undefined,
): readonly string[] {
  const name = last === undefined || last.count === 0 ? undefined : backendNames.get(last.type);
  if (name === undefined || last === undefined) return none;
  return [`last ${name} message from backend ${node} repeated ${last.count} times`];
}
