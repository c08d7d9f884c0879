/**
 * The language of tests/golden/*.txt. A line says who does something; what follows from it, up to
 * an empty line, is the record: what each node was sent and what the client was told, in order, as
 * PQtrace prints it. `GOLDEN=write bun test tests/golden` writes the records anew, for review.
 *
 *     nodes 2, setting = value, …    a new session; node 0 is the primary, reads go to node 1; `mode`
 *                                    is the clustering mode
 *     client Q SELECT 1 | S          what the client says, in one chunk
 *     client/3 Q SELECT 1            the same in pieces of three bytes
 *     client cancels                 by a request on another connection
 *     node 1                         a node answers what it has received
 *     node 1/3, node 1 one           in pieces of three bytes; one message only
 *     node 1 says Notice text        what nobody asked for
 *     node 1 is detached             by an operator, while it works
 *     node 0 is gone, is back        its connection is closed; there is a new one
 *     node 0 is alive, is down       whether the server that said goodbye still takes connections
 *     failover, primary 1            the control plane looks for a primary; it has found one
 *     nodes                          all of them, until nobody has anything to say
 *
 * Messages: Q sql, P name sql, B portal statement values…, D S|P name, E portal rows, C S|P name,
 * S, H, X, d data, c, f reason, F, raw hex. A name is in quotes: "" is the unnamed one.
 */

import { encodeBackend } from "../../core/wire/backend.ts";
import { FrameDecoder } from "../../core/wire/frame.ts";
import { encodeFrontend } from "../../core/wire/frontend.ts";
import { encodeText } from "../../core/wire/text.ts";
import { traceBackend, traceFrontend } from "../../core/wire/trace.ts";
import { concat, Stage, type StageNode } from "./stage.ts";

/** Runs one file and returns it as it should read. */
export function perform(text: string): string {
  const shown: string[] = [];
  let play = new Play();
  for (const paragraph of text.trimEnd().split("\n\n")) {
    const lines = paragraph.split("\n");
    const orders = lines.filter((line) => line !== "" && !line.startsWith("  "));
    const record: string[] = [];
    for (const order of orders) {
      record.push(order);
      if (order.startsWith("#")) continue;
      if (order.startsWith("nodes ")) play = new Play(order.slice("nodes ".length));
      else play.obey(order);
      record.push(...play.takeRecord());
    }
    shown.push(record.join("\n"));
  }
  return `${shown.join("\n\n")}\n`;
}

class Play {
  readonly #stage: Stage;
  #record: string[] = [];
  readonly #decoders = new Map<string, FrameDecoder>();
  #dropped = 0;
  #ended = false;

  constructor(setup = "2") {
    const [count, ...settings] = setup.split(",").map((part) => part.trim());
    const pairs = settings.map((setting) => setting.split("=").map((word) => word.trim()));
    const { mode, ...others } = Object.fromEntries(pairs);
    this.#stage = new Stage({
      nodes: Number(count),
      mode,
      settings: others,
      onNode: (id, bytes) => this.#note(`to ${id}`, bytes, traceFrontend),
      onClient: (bytes) => this.#note("client", bytes, traceBackend),
    });
  }

  obey(order: string): void {
    const [who = "", rest = ""] = split(order, " ");
    const [actor = "", size] = who.split("/");
    switch (actor) {
      case "client":
        this.#client(rest, size === undefined ? undefined : Number(size));
        break;
      case "node":
        this.#node(rest);
        break;
      case "nodes":
        this.#stage.settle();
        break;
      case "failover":
        this.#stage.failOver();
        break;
      case "primary":
        this.#stage.promote(this.#nodeAt(rest));
        break;
      default:
        throw new Error(`nobody is called ${actor}`);
    }
  }

  /** What has happened since, indented; what the session itself decided comes last. */
  takeRecord(): string[] {
    this.#stage.runTasks();
    const { dropped, ended, noted } = this.#stage;
    this.#record.push(...noted.splice(0));
    for (const line of dropped.slice(this.#dropped)) this.#record.push(`dropped ${line}`);
    this.#dropped = dropped.length;
    if (ended !== undefined && !this.#ended) {
      this.#ended = true;
      this.#record.push(`ended ${ended.kind}${ended.kind === "broken" ? `: ${ended.why}` : ""}`);
    }
    return this.#record.splice(0).map((line) => `  ${line}`);
  }

  #client(words: string, size: number | undefined): void {
    const { client, session } = this.#stage;
    if (words === "reads slowly") {
      client.full = true;
    } else if (words === "has read") {
      client.full = false;
      session.clientDrained();
      this.#pauses();
    } else if (words === "cancels") {
      session.cancelWaiting();
      this.#pauses();
    } else if (words === "leaves") {
      session.end({ kind: "broken", why: "the client closed the connection" });
    } else {
      const bytes = concat(words.split(" | ").map(messageOf));
      this.#stage.say(bytes, size);
      this.#pauses();
    }
  }

  #node(words: string): void {
    const [name = "", what = ""] = split(words, " ");
    const [id = "", size] = name.split("/");
    const node = this.#nodeAt(id);
    const pieces = size === undefined ? undefined : Number(size);
    const [verb = "", rest = ""] = split(what, " ");
    switch (verb) {
      case "":
        this.#stage.hear(node, undefined, pieces);
        break;
      case "one":
        this.#stage.hear(node, 1, pieces);
        break;
      case "works":
        node.work();
        break;
      case "says":
        node.put(saidBy(rest));
        this.#stage.hear(node, 0, pieces);
        break;
      case "adds":
        // Arrives together with what the node says next.
        node.work();
        node.put(saidBy(rest));
        this.#stage.arrive(node);
        break;
      case "is":
        this.#isNow(node, rest);
        break;
      case "reads":
        node.sink.full = true;
        break;
      case "has":
        node.sink.full = false;
        this.#stage.session.nodeDrained();
        break;
      default:
        throw new Error(`no node can ${verb}`);
    }
    this.#pauses();
  }

  #isNow(node: StageNode, what: string): void {
    const { session } = this.#stage;
    if (what === "gone") {
      node.gone = true;
      session.nodeLost(node.link, "server closed the connection unexpectedly");
    } else if (what === "detached") session.retire(node.link);
    else if (what === "back") this.#stage.renew(node.id);
    else session.verdict(node.link, what === "alive");
  }

  /** Who is not read from at the moment. */
  #pauses(): void {
    const { client, nodes } = this.#stage;
    const paused = nodes.filter((node) => node.sink.paused).map((node) => `node ${node.id}`);
    if (client.paused) paused.unshift("client");
    if (paused.length > 0) this.#record.push(`paused ${paused.join(", ")}`);
  }

  #nodeAt(id: string): StageNode {
    const node = this.#stage.nodes[Number(id)];
    if (node === undefined) throw new Error(`there is no node ${id}`);
    return node;
  }

  #note(who: string, bytes: Uint8Array, trace: typeof traceBackend): void {
    const decoder = this.#decoders.get(who) ?? new FrameDecoder({ bodySizeMax: 0x3fff_ffff });
    this.#decoders.set(who, decoder);
    let count = 0;
    for (const frame of decoder.push(bytes.slice())) {
      const line = trace(frame).slice(2).replaceAll("\t", " ");
      this.#record.push(`${who}  ${line.replace(catalogQuestion, "$1 …")}`);
      count++;
    }
    if (count === 0) this.#record.push(`${who}  … ${bytes.length} bytes`);
  }
}

/** How the catalogs are asked is shown by the tests of proxy/cache. */
const catalogQuestion = /^\d+ (Parse {2}"pgpool_ask") "SELECT .*/;

function saidBy(words: string): Uint8Array {
  const [kind, rest = ""] = split(words, " ");
  const [name = "", value = ""] = split(rest, " ");
  switch (kind) {
    case "Notice":
      return encodeBackend({ kind: "NoticeResponse", fields: report("NOTICE", "00000", rest) });
    case "Notification":
      return encodeBackend({
        kind: "NotificationResponse",
        processId: 9,
        channel: name,
        payload: value,
      });
    case "ParameterStatus":
      return encodeBackend({ kind: "ParameterStatus", name, value });
    case "ERROR":
    case "FATAL":
      return encodeBackend({ kind: "ErrorResponse", fields: report(kind, name, value) });
    case "Row":
      return encodeBackend({ kind: "DataRow", values: [encodeText("x".repeat(Number(name)))] });
    case "raw":
      return Uint8Array.from(Buffer.from(rest.replaceAll(" ", ""), "hex"));
    default:
      throw new Error(`nobody says ${kind}`);
  }
}

function report(severity: string, code: string, message: string) {
  const fields = { S: severity, V: severity, C: code, M: message };
  return Object.entries(fields).map(([field, value]) => ({ code: field, value }));
}

/** The first word and the rest. */
function split(text: string, separator: string): readonly string[] {
  const at = text.indexOf(separator);
  return at < 0 ? [text] : [text.slice(0, at), text.slice(at + separator.length)];
}

function messageOf(text: string): Uint8Array {
  const [letter = "", rest = ""] = split(text.trim(), " ");
  const words = rest.split(" ").filter((word) => word !== "");
  const name = (index: number) => (words[index] ?? '""').replaceAll('"', "");
  const target = words[0] === "P" ? "P" : "S";
  switch (letter) {
    case "Q":
      return encodeFrontend({ kind: "Query", sql: rest });
    case "P": {
      const [, sql = ""] = split(rest, " ");
      return encodeFrontend({ kind: "Parse", statement: name(0), sql, parameterTypes: [] });
    }
    case "B":
      return encodeFrontend({
        kind: "Bind",
        portal: name(0),
        statement: name(1),
        parameterFormats: [],
        parameters: words.slice(2).map(encodeText),
        resultFormats: [],
      });
    case "D":
      return encodeFrontend({ kind: "Describe", target, name: name(1) });
    case "C":
      return encodeFrontend({ kind: "Close", target, name: name(1) });
    case "E":
      return encodeFrontend({ kind: "Execute", portal: name(0), rowsMax: Number(words[1] ?? 0) });
    case "S":
      return encodeFrontend({ kind: "Sync" });
    case "H":
      return encodeFrontend({ kind: "Flush" });
    case "X":
      return encodeFrontend({ kind: "Terminate" });
    case "d":
      return encodeFrontend({ kind: "CopyData", data: encodeText(`${rest}\n`) });
    case "c":
      return encodeFrontend({ kind: "CopyDone" });
    case "f":
      return encodeFrontend({ kind: "CopyFail", reason: rest });
    case "F":
      return encodeFrontend({
        kind: "FunctionCall",
        functionId: 1,
        argumentFormats: [],
        arguments: [],
        resultFormat: 0,
      });
    case "raw":
      return Uint8Array.from(Buffer.from(rest.replaceAll(" ", ""), "hex"));
    default:
      throw new Error(`no message is called ${letter}`);
  }
}
