/** Two login dialogues face to face, or one against a list of frames: no socket, no clock. */
import type { AuthDialogue, AuthReply, BackendSecret } from "../../../core/auth/dialogue.ts";
import { deriveScramKeys } from "../../../core/auth/scram_keys.ts";
import { PgpoolError } from "../../../core/errors.ts";
import { toErrorResponse } from "../../../core/wire/backend.ts";
import { type Frame, FrameDecoder } from "../../../core/wire/frame.ts";

/** One dialogue, run as far as what has been received allows. */
export class Side<Result> {
  readonly #dialogue: AuthDialogue<Result>;
  readonly #secret: BackendSecret | undefined;
  readonly #decoder = new FrameDecoder({ bodySizeMax: 100_000 });
  readonly #inbox: Frame[] = [];
  #waiting = false;
  #started = false;
  /** Everything sent and not taken yet. */
  outbox: Uint8Array[] = [];
  derivations = 0;
  end: { readonly result: Result } | { readonly error: unknown } | undefined;

  /** `secret` answers the dialogue when it asks what to give a backend. */
  constructor(dialogue: AuthDialogue<Result>, secret?: BackendSecret) {
    this.#dialogue = dialogue;
    this.#secret = secret;
  }

  receive(bytes: Uint8Array): void {
    this.#inbox.push(...this.#decoder.push(bytes));
  }

  run(): this {
    try {
      while (this.end === undefined) {
        const reply = this.#nextReply();
        if (reply === undefined) return this;
        this.#step(reply);
      }
    } catch (error) {
      this.end = { error };
    }
    return this;
  }

  #pending: AuthReply | undefined;

  #nextReply(): AuthReply | "start" | undefined {
    if (!this.#started) return "start";
    if (!this.#waiting) return this.#pending;
    const frame = this.#inbox.shift();
    return frame && { kind: "received", frame };
  }

  #step(reply: AuthReply | "start"): void {
    this.#started = true;
    this.#waiting = false;
    const step = reply === "start" ? this.#dialogue.next() : this.#dialogue.next(reply);
    if (step.done) {
      this.end = { result: step.value };
      return;
    }
    const effect = step.value;
    switch (effect.kind) {
      case "send":
        this.outbox.push(effect.bytes);
        this.#pending = { kind: "sent" };
        return;
      case "receive":
        this.#waiting = true;
        return;
      case "derive":
        this.derivations++;
        this.#pending = { kind: "derived", keys: deriveScramKeys(effect) };
        return;
      case "secret":
        if (this.#secret === undefined) throw new Error("nobody told this side a secret");
        this.#pending = { kind: "secret", secret: this.#secret };
    }
  }

  take(): Uint8Array[] {
    const sent = this.outbox;
    this.outbox = [];
    return sent;
  }

  /** The result; throws what ended the dialogue otherwise. */
  get result(): Result {
    if (this.end === undefined) throw new Error("the dialogue waits for its peer");
    if ("error" in this.end) throw this.end.error;
    return this.end.result;
  }

  get error(): PgpoolError {
    if (this.end !== undefined && "error" in this.end && this.end.error instanceof PgpoolError) {
      return this.end.error;
    }
    throw new Error("the dialogue did not fail with an error of ours", { cause: this.end });
  }
}

/**
 * Lets both talk until neither has more to say. A server that fails tells the client so, as a
 * listener would. `heard` is called with every message, for tests that listen or tamper.
 */
export function meet<S, C>(
  server: Side<S>,
  client: Side<C>,
  heard: (from: "server" | "client", bytes: Uint8Array) => Uint8Array = (_, bytes) => bytes,
): void {
  let told = false;
  for (;;) {
    const fromServer = server.run().take();
    if (server.end !== undefined && "error" in server.end && !told) {
      told = true;
      if (server.end.error instanceof PgpoolError) {
        fromServer.push(toErrorResponse(server.end.error));
      }
    }
    for (const bytes of fromServer) client.receive(heard("server", bytes));
    const fromClient = client.run().take();
    for (const bytes of fromClient) server.receive(heard("client", bytes));
    if (fromServer.length + fromClient.length === 0) return;
  }
}

/** A server's dialogue against what a client sends, whatever it is asked. */
export function against<R>(dialogue: AuthDialogue<R>, ...messages: readonly Uint8Array[]): Side<R> {
  const side = new Side(dialogue);
  for (const message of messages) side.receive(message);
  return side.run();
}
