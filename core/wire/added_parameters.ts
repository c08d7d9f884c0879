/**
 * The messages of the extended protocol for a statement that was given parameters of the proxy's
 * own, behind those of the client (core/sql/rewrite.ts): it must never hear of them.
 */

import type { BackendMessage } from "./backend.ts";
import type { FrontendMessage } from "./frontend.ts";
import { encodeText } from "./text.ts";

type Parse = Extract<FrontendMessage, { readonly kind: "Parse" }>;
type Bind = Extract<FrontendMessage, { readonly kind: "Bind" }>;
type ParameterDescription = Extract<BackendMessage, { readonly kind: "ParameterDescription" }>;

/** The types that the client gave stay; those of added parameters the server finds by itself. */
export const parseWithText = (parse: Parse, sql: string): Parse => ({ ...parse, sql });

/** `first`: the number of the first added parameter, as `withParameters` gave it. */
export function bindWithValues(
  bind: Bind,
  first: number,
  values: readonly (string | null)[],
): Bind {
  const given = first - 1;
  // A client that binds too few is told so by the server, which counts the added ones too.
  if (bind.parameters.length !== given) return bind;
  return {
    ...bind,
    parameterFormats: [...formatsOf(bind, given), ...values.map(() => TEXT)],
    parameters: [
      ...bind.parameters,
      ...values.map((value) => (value === null ? null : encodeText(value))),
    ],
  };
}

const TEXT = 0;

/** None means text for all, one is for all: written out, since others follow. */
function formatsOf({ parameterFormats }: Bind, count: number): readonly number[] {
  if (parameterFormats.length > 1) return parameterFormats;
  return new Array<number>(count).fill(parameterFormats[0] ?? TEXT);
}

/** What the client may know of the parameters: its own. */
export function describedWithout(
  description: ParameterDescription,
  first: number,
): ParameterDescription {
  return { ...description, parameterTypes: description.parameterTypes.slice(0, first - 1) };
}
