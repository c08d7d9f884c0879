/**
 * Statements of our own on the session's connections, in turn with the client's: the client sees
 * nothing of their answers but an error, which is then the answer to its own statement.
 */
import type { Protocol } from "../routing/route.ts";
import type { Desk } from "./desk.ts";
import { valuesOf } from "./messages.ts";
import { flushMessage, forgetOwn, runOwn, syncMessage } from "./own_messages.ts";
import { FAILED, type NodeLink, type Owed } from "./replies.ts";
import type { CatalogQuestion } from "./router.ts";

const noLinks: readonly NodeLink[] = [];

/** Marks the end of what a simple query waits for: an error before it is the answer to the query. */
export const AWAITED = "awaited";

/** Marks answers to a statement of ours. */
export type Asking = { readonly kind: "ask"; failed(): void; answered(): void };

export const isAsking = (subject: unknown): subject is Asking =>
  typeof subject === "object" && subject !== null && "kind" in subject && subject.kind === "ask";

export class Questions {
  readonly #session: Desk;
  /** Where one of ours has failed, and may have left its name. */
  readonly #left = new Set<NodeLink>();

  constructor(session: Desk) {
    this.#session = session;
  }

  /**
   * Asks the catalog on the session's own connection, where uncommitted objects are seen. Always
   * stalls: the statement that needs the answer is read again when it is there. Should asking fail
   * (a cancel request, statement_timeout), then the statement has failed with the same error.
   */
  catalog(questions: readonly CatalogQuestion[], protocol: Protocol, mayLook: boolean): false {
    const { router } = this.#session;
    const link = this.#linkToAsk(questions);
    if (!this.#isFree(link)) return this.#session.waitDrained();
    return this.row(link, router.questionSql(questions, mayLook), protocol, (values) =>
      router.answered(questions, values, link.id),
    );
  }

  /** The same for a question to be put to one node: `answered` is given the columns of its row. */
  row(
    link: NodeLink,
    sql: string,
    protocol: Protocol,
    answered: (values: readonly (string | null)[] | undefined) => void,
  ): false {
    const session = this.#session;
    if (!this.#isFree(link)) return session.waitDrained();
    const rows: Uint8Array[] = [];
    const asking: Asking = {
      kind: "ask",
      failed: () => {
        if (protocol === "extended") session.discarding = true;
      },
      answered: () => answered(valuesOf(rows[0])),
    };
    this.#expect(link, sql, asking).collect = (row) => rows.push(row.slice());
    const messages = [runOwn(sql)];
    if (link.inSegment) messages.push(flushMessage);
    else {
      const subject = protocol === "simple" ? AWAITED : asking;
      session.replies.expect("Sync", link, noLinks, subject).silent = true;
      messages.push(syncMessage);
    }
    session.out.send(link, Buffer.concat(messages));
    return false;
  }

  /** Runs `sql` within the segment; a simple query would end it. `done` hears when it has succeeded. */
  run(link: NodeLink, sql: string, done: () => void): void {
    this.#expect(link, sql, { kind: "ask", failed: () => {}, answered: done });
    this.#session.out.send(link, runOwn(sql));
  }

  failed(link: NodeLink, asking: Asking): void {
    this.#left.add(link);
    asking.failed();
  }

  #isFree(link: NodeLink): boolean {
    const session = this.#session;
    return session.replies.empty && session.mayFollow(session.linksOf([link.id]), link);
  }

  /** What is owed for `runOwn`. Returns the answer to its Execute. */
  #expect(link: NodeLink, sql: string, asking: Asking): Owed {
    const { observer, replies } = this.#session;
    observer?.toNode(link.id, sql);
    this.#clear(link);
    const expect = (kind: "Parse" | "Bind" | "Execute" | "Close") => {
      const owed = replies.expect(kind, link, noLinks, asking);
      owed.silent = true;
      owed.errorsShow = true;
      return owed;
    };
    expect("Parse");
    expect("Bind");
    const answer = expect("Execute");
    // In a transaction the portal would outlive its statement, in the way of the next question.
    expect("Close");
    expect("Close");
    return answer;
  }

  #clear(link: NodeLink): void {
    if (!this.#left.delete(link)) return;
    const { replies, out } = this.#session;
    for (let i = 0; i < 2; i++) replies.expect("Close", link, noLinks, undefined).silent = true;
    out.send(link, forgetOwn);
  }

  #linkToAsk(questions: readonly CatalogQuestion[]): NodeLink {
    const { router, replies, writeLink } = this.#session;
    const node = router.askedNode(questions);
    const link = node === undefined ? undefined : replies.links[node];
    return link === undefined || link.skipping || link.status === FAILED ? writeLink : link;
  }
}
