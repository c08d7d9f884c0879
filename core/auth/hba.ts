/**
 * pool_hba.conf: from text to rules (spec wire/files.md 4). A file with one bad line is refused as
 * a whole, with every complaint of all lines, so that one look at the log repairs it.
 * hba_match.ts says which rule meets a client.
 */
import { type HbaOptions, hbaOptionProblem, ldapProblem, readHbaOption } from "./hba_options.ts";
import {
  type HbaField,
  type HbaLine,
  type HbaMessage,
  type HbaToken,
  hbaContext,
  type ReadFile,
  tokenizeHba,
} from "./hba_tokens.ts";
import { type IpRange, maskOfBits, parseIpAsWritten } from "./ip.ts";

export type HbaConnectionType = "local" | "host" | "hostssl" | "hostnossl";

export const hbaMethods = [
  "trust",
  "reject",
  "cert",
  "password",
  "md5",
  "scram-sha-256",
  "pam",
  "ldap",
] as const;
export type HbaMethod = (typeof hbaMethods)[number];

export type HbaAddress =
  | { readonly kind: "all" }
  | { readonly kind: "samehost" }
  | { readonly kind: "samenet" }
  | { readonly kind: "range"; readonly range: IpRange }
  /** A host name, or with a leading dot the end of one. */
  | { readonly kind: "name"; readonly name: string };

export type HbaRule = {
  /** Of the file, for log messages. */
  readonly line: number;
  readonly type: HbaConnectionType;
  readonly databases: readonly HbaToken[];
  readonly users: readonly HbaToken[];
  /** Undefined for `local`. */
  readonly address: HbaAddress | undefined;
  readonly method: HbaMethod;
  readonly options: HbaOptions;
};

export type HbaFile =
  /** `messages` are remarks: the file is in force. */
  | {
      readonly ok: true;
      readonly rules: readonly HbaRule[];
      readonly messages: readonly HbaMessage[];
    }
  | { readonly ok: false; readonly messages: readonly HbaMessage[] };

/**
 * Reads the file at `path` whose text is `text`. `readFile` is asked for files that it includes.
 * `tlsEnabled` is the parameter `ssl`: without it a `hostssl` rule is remarked upon.
 */
export function parseHba(
  text: string,
  options: { readonly path: string; readonly readFile: ReadFile; readonly tlsEnabled: boolean },
): HbaFile {
  const { path, readFile } = options;
  const messages: HbaMessage[] = [];
  const lines = tokenizeHba(text, { path, readFile, messages, depth: 0 });
  const rules: HbaRule[] = [];
  for (const line of lines) {
    const record = new RecordReader(line, { path, messages });
    const rule = record.read(options.tlsEnabled);
    if (rule !== undefined) rules.push(rule);
  }
  if (lines.length === 0 && !messages.some((message) => message.fatal)) {
    const message = `configuration file "${path}" contains no entries`;
    messages.push({ message, context: "", fatal: true });
  }
  return messages.some((message) => message.fatal)
    ? { ok: false, messages }
    : { ok: true, rules, messages };
}

/** Reads one record's fields from left to right; the first fault ends it. */
class RecordReader {
  readonly #line: HbaLine;
  readonly #messages: HbaMessage[];
  readonly #context: string;
  #at = 0;

  constructor(line: HbaLine, file: { readonly path: string; readonly messages: HbaMessage[] }) {
    this.#line = line;
    this.#messages = file.messages;
    this.#context = hbaContext(file.path, line.number);
  }

  read(tlsEnabled: boolean): HbaRule | undefined {
    const type = this.#readType(tlsEnabled);
    const databases = type && this.#field("end-of-line before database specification");
    const users = databases && this.#field("end-of-line before role specification");
    if (type === undefined || databases === undefined || users === undefined) return undefined;
    this.#remarkGroups(databases, users);
    const address = type === "local" ? undefined : this.#readAddress();
    if (type !== "local" && address === undefined) return undefined;
    const method = this.#readMethod();
    const options = method && this.#readOptions(method);
    if (method === undefined || options === undefined) return undefined;
    return { line: this.#line.number, type, databases, users, address, method, options };
  }

  #readType(tlsEnabled: boolean): HbaConnectionType | undefined {
    const token = this.#single("", "multiple values specified for connection type");
    switch (token?.text) {
      case "local":
      case "host":
      case "hostnossl":
        return token.text;
      case "hostssl":
        if (!tlsEnabled) {
          this.#remark(
            "hostssl record cannot match because SSL is disabled",
            "Set ssl = on in pgpool.conf.",
          );
        }
        return token.text;
      case undefined:
        return undefined;
      default:
        return this.#refuse(`invalid connection type "${token?.text}"`);
    }
  }

  /** They match nobody, and neither does anything after them in their field. */
  #remarkGroups(databases: HbaField, users: HbaField): void {
    const groups = [
      ...databases.filter(({ text }) => text === "samegroup" || text === "samerole"),
      ...users.filter(({ text }) => text.startsWith("+")),
    ];
    for (const { text, quoted } of groups) {
      if (!quoted) this.#remark(`group token "${text}" is not supported and never matches`);
    }
  }

  #readAddress(): HbaAddress | undefined {
    const token = this.#single(
      "end-of-line before IP address specification",
      "multiple values specified for host address",
    );
    if (token === undefined) return undefined;
    if (!token.quoted) {
      const { text } = token;
      if (text === "all" || text === "samehost" || text === "samenet") return { kind: text };
    }
    const [host = "", bits] = splitOnce(token.text, "/");
    const address = parseIpAsWritten(host);
    if (address === undefined) {
      if (bits === undefined) return { kind: "name", name: host };
      return this.#refuse(`specifying both host name and CIDR mask is invalid: "${token.text}"`);
    }
    if (bits === undefined) return this.#readMask(address);
    const mask = /^[0-9]{1,3}$/.test(bits) ? maskOfBits(Number(bits), address.length) : undefined;
    if (mask === undefined) return this.#refuse(`invalid CIDR mask in address "${token.text}"`);
    return { kind: "range", range: { address, mask } };
  }

  #readMask(address: Uint8Array): HbaAddress | undefined {
    const token = this.#single(
      "end-of-line before netmask specification",
      "multiple values specified for netmask",
      "Specify an address range in CIDR notation, or provide a separate netmask.",
    );
    if (token === undefined) return undefined;
    const mask = parseIpAsWritten(token.text);
    if (mask === undefined) {
      return this.#refuse(`invalid IP mask "${token.text}": Name or service not known`);
    }
    if (mask.length !== address.length) return this.#refuse("IP address and mask do not match");
    return { kind: "range", range: { address, mask } };
  }

  #readMethod(): HbaMethod | undefined {
    const token = this.#single(
      "end-of-line before authentication method",
      "multiple values specified for authentication type",
      "Specify exactly one authentication type per line.",
    );
    if (token === undefined) return undefined;
    const method = hbaMethods.find((name) => name === token.text);
    return method ?? this.#refuse(`invalid authentication method "${token.text}"`);
  }

  #readOptions(method: HbaMethod): HbaOptions | undefined {
    const options = new Map<string, string>();
    for (const token of this.#line.fields.slice(this.#at).flat()) {
      const option = readHbaOption(token.text);
      if (option === undefined) {
        return this.#refuse(`authentication option not in name=value format: ${token.text}`);
      }
      const problem = hbaOptionProblem(option, method);
      if (problem?.fatal === true) return this.#refuse(problem.message);
      if (problem !== undefined) this.#remark(problem.message);
      options.set(option.name, option.value);
    }
    const missing = method === "ldap" ? ldapProblem(options) : undefined;
    return missing === undefined ? options : this.#refuse(missing);
  }

  #field(whenMissing: string): HbaField | undefined {
    const field = this.#line.fields[this.#at++];
    return field ?? this.#refuse(whenMissing);
  }

  #single(whenMissing: string, whenSeveral: string, hint?: string): HbaToken | undefined {
    const field = this.#line.fields[this.#at++];
    if (field === undefined) return this.#refuse(whenMissing, hint);
    return field.length === 1 ? field[0] : this.#refuse(whenSeveral, hint);
  }

  #refuse(message: string, hint?: string): undefined {
    this.#messages.push({ message, hint, context: this.#context, fatal: true });
  }

  #remark(message: string, hint?: string): void {
    this.#messages.push({ message, hint, context: this.#context, fatal: false });
  }
}

function splitOnce(text: string, separator: string): [string, string | undefined] {
  const at = text.indexOf(separator);
  return at < 0 ? [text, undefined] : [text.slice(0, at), text.slice(at + 1)];
}
