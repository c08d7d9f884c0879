/**
 * Statements of our own in the extended protocol, under names out of the way of any client's: a
 * simple query would end what the client has without a name.
 */
import { encodeFrontend } from "../../core/wire/frontend.ts";

export const OWN_NAME = "pgpool_ask";

export const syncMessage = encodeFrontend({ kind: "Sync" });
export const flushMessage = encodeFrontend({ kind: "Flush" });

/** Prepares, runs and forgets a statement of our own: Parse, Bind, Execute, Close, Close. */
export function runOwn(sql: string): Uint8Array {
  return Buffer.concat([
    encodeFrontend({ kind: "Parse", statement: OWN_NAME, sql, parameterTypes: [] }),
    encodeFrontend({
      kind: "Bind",
      portal: OWN_NAME,
      statement: OWN_NAME,
      parameterFormats: [],
      parameters: [],
      resultFormats: [],
    }),
    encodeFrontend({ kind: "Execute", portal: OWN_NAME, rowsMax: 0 }),
    encodeFrontend({ kind: "Close", target: "P", name: OWN_NAME }),
    encodeFrontend({ kind: "Close", target: "S", name: OWN_NAME }),
  ]);
}

export const forgetOwn = Buffer.concat([
  encodeFrontend({ kind: "Close", target: "P", name: OWN_NAME }),
  encodeFrontend({ kind: "Close", target: "S", name: OWN_NAME }),
]);

/** The same, up to a ReadyForQuery, whatever one before it that failed has left. */
export const runOwnSync = (sql: string): Uint8Array =>
  Buffer.concat([forgetOwn, runOwn(sql), syncMessage]);
