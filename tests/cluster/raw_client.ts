/** A PostgreSQL client that logs in and queries like any other, and can misbehave like none. */
import { createHash, createHmac, pbkdf2Sync, randomBytes } from "node:crypto";
import { connect as netConnect } from "node:net";
import { connect as tlsConnect } from "node:tls";
import { type BoundValue, bind, describePortal, execute, parse, sync } from "./messages.ts";
import {
  cString,
  type ErrorFields,
  errorFields,
  frame,
  int32s,
  type RawFrame,
  RawPeer,
  sslRequest,
  startupPacket,
} from "./raw_peer.ts";

export type QueryResult = {
  readonly columns: readonly string[];
  readonly rows: readonly (readonly (string | null)[])[];
  readonly tags: readonly string[];
  readonly errors: readonly ErrorFields[];
  readonly notices: readonly ErrorFields[];
  /** Transaction status of the ReadyForQuery; undefined when the connection ended instead. */
  readonly status: string | undefined;
};

export type LoginResult = {
  readonly error: ErrorFields | undefined;
  readonly parameters: ReadonlyMap<string, string>;
  readonly key: { readonly pid: number; readonly secret: Buffer } | undefined;
  /** Types of all messages received, e.g. "RSSSKZ". */
  readonly sequence: string;
};

export type Target = { readonly host: string; readonly port: number } | { readonly path: string };

export type Login = {
  readonly user: string;
  readonly database?: string;
  readonly password?: string;
  /** Further start-up parameters. */
  readonly parameters?: Readonly<Record<string, string>>;
  /** Default 3.0. */
  readonly version?: number;
};

export class RawClient extends RawPeer {
  /** Every wait of this client is bounded by `deadlineMs`. */
  static async connect(target: Target, deadlineMs = 10_000): Promise<RawClient> {
    const socket =
      "path" in target ? netConnect(target.path) : netConnect(target.port, target.host);
    await new Promise<void>((resolve, reject) => {
      socket.once("connect", () => resolve());
      socket.once("error", reject);
    });
    return new RawClient(socket, deadlineMs);
  }

  /** Connects and logs in; an error in the login is thrown. */
  static async login(target: Target, login: Login, deadlineMs = 10_000): Promise<RawClient> {
    const client = await RawClient.connect(target, deadlineMs);
    const { error } = await client.login(login);
    if (error === undefined) return client;
    client.destroy();
    throw new Error(`${error.S} ${error.C}: ${error.M} ${error.D ?? ""}`);
  }

  /** Logged in while `body` runs. */
  static async session<T>(
    target: Target,
    login: Login,
    body: (client: RawClient) => Promise<T>,
  ): Promise<T> {
    return (await RawClient.login(target, login)).during(body);
  }

  /** Says goodbye after `body`. */
  async during<T>(body: (client: RawClient) => Promise<T>): Promise<T> {
    try {
      const result = await body(this);
      await this.terminate();
      return result;
    } finally {
      this.destroy();
    }
  }

  /** Asks for TLS; "S" means that the connection is encrypted from now on. */
  async requestTls(): Promise<string> {
    this.send(sslRequest);
    const answer = (await this.bytes(1)).toString("latin1");
    if (answer === "S") await this.upgrade();
    return answer;
  }

  async upgrade(): Promise<void> {
    await this.replaceSocket(async (plain) => {
      const secure = tlsConnect({ socket: plain, rejectUnauthorized: false });
      await new Promise<void>((resolve, reject) => {
        secure.once("secureConnect", () => resolve());
        secure.once("error", reject);
      });
      return secure;
    });
  }

  /** The whole dialogue from the start-up packet to ReadyForQuery or to the error. */
  async login(login: Login): Promise<LoginResult> {
    const database = login.database ?? login.user;
    this.send(startupPacket({ user: login.user, database, ...login.parameters }, login.version));
    const parameters = new Map<string, string>();
    let key: LoginResult["key"];
    let scram: ScramClient | undefined;
    let sequence = "";
    for (;;) {
      const received = await this.next();
      if (received === undefined) return { error: { M: "closed" }, parameters, key, sequence };
      sequence += received.type;
      const { body } = received;
      if (received.type === "R") scram = this.#authenticate(body, login, scram);
      else if (received.type === "S") {
        const [name = "", value = ""] = body.toString("utf8").split("\0");
        parameters.set(name, value);
      } else if (received.type === "K")
        key = { pid: body.readUInt32BE(0), secret: body.subarray(4) };
      else if (received.type === "E")
        return { error: errorFields(body), parameters, key, sequence };
      else if (received.type === "Z") return { error: undefined, parameters, key, sequence };
    }
  }

  #authenticate(body: Buffer, login: Login, scram?: ScramClient): ScramClient | undefined {
    const password = login.password ?? "";
    const rest = body.subarray(4);
    switch (body.readUInt32BE(0)) {
      case 3:
        this.send(frame("p", cString(password)));
        return undefined;
      case 5:
        this.send(frame("p", cString(md5Response(login.user, password, rest))));
        return undefined;
      case 10: {
        const client = new ScramClient(password);
        const first = Buffer.from(client.first());
        this.send(frame("p", cString("SCRAM-SHA-256"), int32s(first.length), first));
        return client;
      }
      case 11:
        this.send(frame("p", Buffer.from(scram?.final(rest.toString("utf8")) ?? "")));
        return scram;
      default: // 0 is AuthenticationOk, 12 the server's proof: nothing to answer
        return scram;
    }
  }

  /** A simple query with all its answers. */
  async query(sql: string): Promise<QueryResult> {
    this.send(frame("Q", cString(sql)));
    return gatherResult(await this.until("Z"));
  }

  /** One statement with parameters by the extended protocol, as drivers send it. */
  async extended(sql: string, values: readonly BoundValue[] = []): Promise<QueryResult> {
    this.send(parse("", sql), bind("", values), describePortal(), execute(), sync);
    return gatherResult(await this.until("Z"));
  }

  /** A simple query that must succeed, as objects by column name. */
  async rows(sql: string): Promise<Record<string, string | null>[]> {
    const result = await this.query(sql);
    const error = result.errors[0];
    if (error !== undefined) throw new Error(`${error.C} ${error.M} in: ${sql}`);
    if (result.status === undefined) throw new Error(`the connection ended during: ${sql}`);
    return result.rows.map((row) =>
      Object.fromEntries(result.columns.map((column, i) => [column, row[i] ?? null])),
    );
  }

  /** Says goodbye and waits for the server to close. */
  async terminate(): Promise<void> {
    this.send(frame("X"));
    await this.closed();
  }
}

/** Sorts the messages of one query into rows, tags, errors and notices. */
export function gatherResult(frames: readonly RawFrame[]): QueryResult {
  const result = {
    columns: [] as string[],
    rows: [] as (string | null)[][],
    tags: [] as string[],
    errors: [] as ErrorFields[],
    notices: [] as ErrorFields[],
    status: undefined as string | undefined,
  };
  for (const { type, body } of frames) {
    if (type === "T") result.columns = columnNames(body);
    else if (type === "D") result.rows.push(dataRow(body));
    else if (type === "C") result.tags.push(body.toString("utf8", 0, body.length - 1));
    else if (type === "E") result.errors.push(errorFields(body));
    else if (type === "N") result.notices.push(errorFields(body));
    else if (type === "Z") result.status = body.toString("latin1", 0, 1);
  }
  return result;
}

function columnNames(body: Buffer): string[] {
  const names: string[] = [];
  let at = 2;
  for (let i = body.readUInt16BE(0); i > 0; i--) {
    const end = body.indexOf(0, at);
    names.push(body.toString("utf8", at, end));
    at = end + 19;
  }
  return names;
}

function dataRow(body: Buffer): (string | null)[] {
  const values: (string | null)[] = [];
  let at = 2;
  for (let i = body.readUInt16BE(0); i > 0; i--) {
    const size = body.readInt32BE(at);
    at += 4;
    values.push(size < 0 ? null : body.toString("utf8", at, at + size));
    at += Math.max(size, 0);
  }
  return values;
}

const md5 = (...parts: (string | Uint8Array)[]): string => {
  const hash = createHash("md5");
  for (const part of parts) hash.update(part);
  return hash.digest("hex");
};

/** What a client answers to AuthenticationMD5Password. */
export function md5Response(user: string, password: string, salt: Uint8Array): string {
  return `md5${md5(md5(password, user), salt)}`;
}

/** The client's half of SCRAM-SHA-256 (RFC 5802), without channel binding. */
class ScramClient {
  readonly #password: string;
  readonly #firstBare = `n=,r=${randomBytes(18).toString("base64")}`;

  constructor(password: string) {
    this.#password = password;
  }

  first(): string {
    return `n,,${this.#firstBare}`;
  }

  final(serverFirst: string): string {
    const attributes = new Map(serverFirst.split(",").map((a) => [a.slice(0, 1), a.slice(2)]));
    const salt = Buffer.from(attributes.get("s") ?? "", "base64");
    const salted = pbkdf2Sync(this.#password, salt, Number(attributes.get("i")), 32, "sha256");
    const hmac = (key: Uint8Array, text: string) => createHmac("sha256", key).update(text).digest();
    const clientKey = hmac(salted, "Client Key");
    const storedKey = createHash("sha256").update(clientKey).digest();
    const withoutProof = `c=biws,r=${attributes.get("r")}`;
    const signature = hmac(storedKey, `${this.#firstBare},${serverFirst},${withoutProof}`);
    const proof = clientKey.map((byte, i) => byte ^ (signature[i] ?? 0));
    return `${withoutProof},p=${Buffer.from(proof).toString("base64")}`;
  }
}
