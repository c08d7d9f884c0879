/**
 * memcached by way of the library memjs. What it does not do by itself is done here: a limit on time
 * for each operation, whatever becomes of the connection, and a new connection after any failure,
 * so that half an answer is never the beginning of the next one.
 */
import { Client } from "memjs";
import type { SharedMemory } from "./shared_results.ts";

const TIMEOUT_MS = 1000;
/** The library counts its requests in 31 bits. */
const REQUESTS_MAX = 1_000_000_000;
/** Longer lives are moments in time to memcached. */
const LIFE_MAX_SECONDS = 30 * 24 * 3600;

const silent = { log() {} };

export class Memcached implements SharedMemory {
  readonly #server: string;
  #client: Client | undefined;
  #requests = 0;

  constructor(host: string, port: number) {
    this.#server = `${host.includes(":") ? `[${host}]` : host}:${port}`;
  }

  async get(key: string): Promise<Uint8Array | undefined> {
    const { value } = await this.#do((client) => client.get(key));
    return value ?? undefined;
  }

  async set(key: string, value: Uint8Array, seconds: number): Promise<boolean> {
    const expires = Math.min(seconds, LIFE_MAX_SECONDS);
    const bytes = Buffer.from(value.buffer, value.byteOffset, value.length);
    return await this.#do((client) =>
      client.set(key, bytes, { expires }).catch((error: unknown) => {
        // It was answered: memcached does not take so much.
        if (error instanceof Error && /too large|out of memory/i.test(error.message)) return false;
        throw error;
      }),
    );
  }

  async count(key: string, by: 1 | -1): Promise<void> {
    await this.#do((client) =>
      by === 1
        ? client.increment(key, 1, { initial: 1, expires: 0 })
        : client.decrement(key, 1, { initial: 0, expires: 0 }),
    );
  }

  async delete(key: string): Promise<void> {
    await this.#do((client) => client.delete(key));
  }

  close(): void {
    this.#client?.close();
    this.#client = undefined;
  }

  async #do<T>(work: (client: Client) => Promise<T>): Promise<T> {
    if (++this.#requests % REQUESTS_MAX === 0) this.close();
    this.#client ??= Client.create(this.#server, {
      timeout: TIMEOUT_MS / 1000,
      retries: 1, // the first attempt is one: what was counted must not be counted again
      expires: 0,
      keepAlive: true,
      logger: silent,
    });
    const client = this.#client;
    const { promise: late, reject } = Promise.withResolvers<never>();
    const timer = setTimeout(() => reject(new Error(`no answer in ${TIMEOUT_MS} ms`)), TIMEOUT_MS);
    try {
      return await Promise.race([work(client), late]);
    } catch (error) {
      if (this.#client === client) this.close();
      throw error;
    } finally {
      clearTimeout(timer);
    }
  }
}
