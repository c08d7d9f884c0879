/** A statement's way through a session's routing, with a catalog that answers at once. */
import type { StatementFacts } from "../../../core/sql/facts.ts";
import type { CatalogQuestion } from "../../../proxy/routing/catalog_lookups.ts";
import type { Route, SessionRouter } from "../../../proxy/session/router.ts";

/** Every table is ordinary, no function writes. */
const harmless = ({ kind }: CatalogQuestion): string => (kind === "temporary" ? "-" : "e");

/** Decides and notes, as when the statement is sent and succeeds outside of a transaction. */
export function routed(
  router: SessionRouter,
  sql: string,
  facts: StatementFacts,
  onAsk: () => void = () => {},
): Route {
  let route = router.decide(facts, sql, "simple");
  while (route.kind === "ask") {
    onAsk();
    router.questionSql(route.questions);
    router.answered(route.questions, route.questions.map(harmless));
    route = router.decide(facts, sql, "simple");
  }
  router.noteSent(facts);
  router.noteReady("I");
  router.noteDone(facts, []);
  return route;
}
