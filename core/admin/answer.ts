/** What pgpool answers itself: the SHOWs of its own, and PGPOOL SHOW, SET and RESET. */

import type { Config } from "../config/schema.ts";
import { resetParameter, setParameter } from "../config/session.ts";
import { PgpoolError } from "../errors.ts";
import { isToldToClient } from "../log.ts";
import type { PgpoolCommand } from "../sql/pgpool_command.ts";
import { commandComplete, noticeResponse, toErrorResponse } from "../wire/backend.ts";
import { pgpoolShow, pgpoolShowAll } from "./pgpool_show.ts";
import {
  showPoolBackendStats,
  showPoolHealthCheckStats,
  showPoolNodes,
  showPoolRouteStats,
} from "./show_nodes.ts";
import { showPoolPools, showPoolProcesses } from "./show_processes.ts";
import { showPoolCache, showPoolCacheStats, showPoolVersion } from "./show_small.ts";
import { showPoolStatus } from "./show_status.ts";
import { encodeTable, type Table } from "./table.ts";
import type { AdminView } from "./view.ts";

const SHOWS = {
  pool_nodes: showPoolNodes,
  pool_version: showPoolVersion,
  pool_status: showPoolStatus,
  pool_processes: showPoolProcesses,
  pool_pools: showPoolPools,
  pool_cache: showPoolCache,
  pool_health_check_stats: showPoolHealthCheckStats,
  pool_backend_stats: showPoolBackendStats,
  pool_route_stats: showPoolRouteStats,
  pool_cache_stats: showPoolCacheStats,
} as const satisfies { readonly [name: string]: (view: AdminView) => Table };

export type PoolShowName = keyof typeof SHOWS;

/** Whether `SHOW name` is ours; the name as the parser down-cased it. */
export const isPoolShowName = (name: string): name is PoolShowName => Object.hasOwn(SHOWS, name);

export type AdminCommand =
  | { readonly kind: "pool_show"; readonly name: PoolShowName }
  // What a session must answer itself, since the answer is about the session, is left out.
  | Exclude<PgpoolCommand, { kind: "explain_route" }>;

export type AdminAnswer =
  | { readonly kind: "table"; readonly table: Table }
  /** `config` is the session's from now on; `notice` is for the client, if it wants notices. */
  | {
      readonly kind: "done";
      readonly tag: "SET" | "RESET";
      readonly config: Config;
      readonly notice: string | undefined;
    }
  /** To be logged as FRONTEND_ERROR. */
  | { readonly kind: "error"; readonly error: PgpoolError };

/** Never throws for what a client wrote: a mistake is an answer too. */
export function answerAdmin(command: AdminCommand, view: AdminView): AdminAnswer {
  try {
    return answer(command, view);
  } catch (error) {
    if (error instanceof PgpoolError) return { kind: "error", error };
    throw error;
  }
}

function answer(command: AdminCommand, view: AdminView): AdminAnswer {
  const { config, base } = view;
  switch (command.kind) {
    case "pool_show":
      return { kind: "table", table: SHOWS[command.name](view) };
    case "show":
      return { kind: "table", table: pgpoolShow(config, command.name) };
    case "show_all":
      return { kind: "table", table: pgpoolShowAll(config) };
    case "set":
      return done("SET", setParameter(config, command.name, command.value));
    case "set_default":
    case "reset":
      return done("SET", resetParameter(config, base, command.name));
    case "reset_all":
      return done("RESET", base);
    case "cache_delete": {
      const deleted = view.deleteCached(command.query);
      const outcome = deleted ? "query cache deleted." : "query cache does not exist for";
      const query = `query: "${command.query}"`;
      return done("SET", config, `${outcome} ${query}`);
    }
  }
}

const done = (tag: "SET" | "RESET", config: Config, notice?: string): AdminAnswer => ({
  kind: "done",
  tag,
  config,
  notice,
});

/** The answer as messages, all but the ReadyForQuery, which always says `I` here. */
export function encodeAnswer(answer: AdminAnswer): Uint8Array {
  switch (answer.kind) {
    case "table":
      return encodeTable(answer.table);
    case "error":
      return toErrorResponse(answer.error);
    case "done": {
      const complete = commandComplete(answer.tag);
      const { notice, config } = answer;
      if (notice === undefined || !isToldToClient("NOTICE", config.client_min_messages)) {
        return complete;
      }
      const told = noticeResponse({ severity: "NOTICE", code: "00000", message: notice });
      const both = new Uint8Array(told.length + complete.length);
      both.set(told);
      both.set(complete, told.length);
      return both;
    }
  }
}
