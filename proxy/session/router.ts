/** Placeholder of the seam between a session and routing. */
import type { NodeId } from "../../core/cluster/state.ts";
import type { StatementFacts } from "../../core/sql/facts.ts";

export type CatalogQuestion = { readonly kind: string };
export type Route =
  | {
      readonly kind: "nodes";
      readonly nodes: readonly NodeId[];
      readonly otherNodesSql?: string | undefined;
    }
  | { readonly kind: "proxy"; readonly why: string }
  | { readonly kind: "ask"; readonly questions: readonly CatalogQuestion[] };

export interface SessionRouter {
  readonly failed: boolean;
  facts(sql: string): StatementFacts;
  decide(facts: StatementFacts, sql: string, protocol: "simple" | "extended"): Route;
  noteSent(facts: StatementFacts): void;
  noteDone(facts: StatementFacts, inTransaction: boolean): void;
  noteError(inTransaction: boolean): void;
  questionSql(questions: readonly CatalogQuestion[]): string;
  answered(questions: readonly CatalogQuestion[], rows: readonly Uint8Array[] | undefined): void;
}
