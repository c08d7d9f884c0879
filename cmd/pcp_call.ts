/**
 * How a pcp program finds its server and its password: options, environment, password file, prompt
 * (spec config/commands.md section 4, wire/files.md section 2).
 */

import { existsSync, readFileSync, statSync } from "node:fs";
import { join } from "node:path";
import { pcpPassword } from "../core/pcp/auth.ts";
import { encodeText } from "../core/wire/text.ts";
import { PcpClient, PcpFailure, type PcpTarget } from "../pcp/client.ts";
import { ownAccount } from "./account.ts";
import type { Values } from "./options.ts";
import { HiddenPrompt } from "./terminal.ts";

/** Options of every pcp program; its own stand between the two halves. */
export const callFlags = {
  username: { short: "U", arg: "NAME", brief: "user name of pcp.conf (default: yours)" },
  host: {
    short: "h",
    arg: "HOSTNAME",
    brief: "host of the server, or the directory of its Unix socket (default: a local socket)",
  },
  port: { short: "p", arg: "PORT", brief: "the server's pcp_port (default: 9898)" },
  "no-password": { short: "w", brief: "never ask for a password" },
  password: { short: "W", brief: "ask for the password, even when a file has it" },
} as const;

export const reportFlags = {
  json: { brief: "print one JSON document; a refusal is one too, and the exit code is 1" },
  debug: { short: "d", brief: "print the packets sent and received" },
  verbose: { short: "v", brief: "print titles" },
  help: { short: "?", brief: "print this help" },
  version: { short: "V", brief: "print the version" },
} as const;

export type CallValues = Values<typeof callFlags>;

/** What of the machine a call depends on; tests give their own. */
export type PcpMachine = {
  readonly env: NodeJS.ProcessEnv;
  readonly account: () => { readonly name: string; readonly home: string } | undefined;
  readonly prompt: Pick<HiddenPrompt, "ask">;
};

export const thisMachine: PcpMachine = {
  env: process.env,
  account: () => ownAccount(),
  prompt: new HiddenPrompt(),
};

const DEFAULT_PORT = 9898;
/** Where a server's socket may be when nobody says: Pgpool's default, then Debian's. */
const SOCKET_DIRS = ["/tmp", "/var/run/postgresql"] as const;

/** Undefined when it is none that PCP may use. */
export function portOf({ port }: CallValues): number | undefined {
  if (port === undefined) return DEFAULT_PORT;
  const number = Number.parseInt(port, 10);
  return number > 1024 && number <= 65_535 ? number : undefined;
}

/** Logs in. @throws PcpFailure */
export async function openCall(
  values: CallValues,
  machine: PcpMachine,
  options: {
    readonly warn: (line: string) => void;
    readonly trace?: ((line: string) => void) | undefined;
  },
): Promise<PcpClient> {
  const port = portOf(values) ?? DEFAULT_PORT;
  const { target, passName } = placeOf(values.host ?? "", port);
  const user = values.username ?? machine.account()?.name;
  if (user === undefined) throw new PcpFailure("the current user has no name: use -U");
  const question = { host: passName, port, user };
  const password = await passwordFor(question, values, machine, options.warn);
  const client = await PcpClient.connect(target, { trace: options.trace });
  try {
    await client.logIn(user, password);
    return client;
  } catch (error) {
    client.abandon();
    throw error;
  }
}

/** `passName` is what the password file calls the host. */
function placeOf(
  host: string,
  port: number,
): { readonly target: PcpTarget; readonly passName: string } {
  if (host !== "" && !host.startsWith("/")) {
    return { target: { kind: "tcp", host, port }, passName: host };
  }
  const pathIn = (dir: string) => `${dir}/.s.PGSQL.${port}`;
  const dir =
    host === "" ? (SOCKET_DIRS.find((one) => existsSync(pathIn(one))) ?? SOCKET_DIRS[0]) : host;
  const passName = host === "" || host === SOCKET_DIRS[0] ? "localhost" : host;
  return { target: { kind: "unix", path: pathIn(dir) }, passName };
}

/** The prompt when it is demanded; else the file; else the prompt unless it is forbidden. */
async function passwordFor(
  question: { readonly host: string; readonly port: number; readonly user: string },
  values: CallValues,
  machine: PcpMachine,
  warn: (line: string) => void,
): Promise<Uint8Array> {
  const ask = async () => encodeText(await machine.prompt.ask("Password: "));
  if (values.password) return await ask();
  const file = readPasswordFile(machine, warn);
  const found = file && pcpPassword(file, question);
  if (found !== undefined) return found;
  return values["no-password"] ? new Uint8Array(0) : await ask();
}

/** Undefined when there is none, or when others could read it. */
function readPasswordFile(
  machine: PcpMachine,
  warn: (line: string) => void,
): Uint8Array | undefined {
  const { PCPPASSFILE: named } = machine.env;
  const home = machine.account()?.home;
  const path = named !== undefined && named !== "" ? named : home && join(home, ".pcppass");
  if (path === undefined || path === "") return undefined;
  try {
    const stat = statSync(path);
    if (!stat.isFile()) {
      warn(`WARNING: password file "${path}" is not a plain file`);
      return undefined;
    }
    if ((stat.mode & 0o077) !== 0) {
      warn(
        `WARNING: password file "${path}" has group or world access; permissions should be u=rw (0600) or less`,
      );
      return undefined;
    }
    return readFileSync(path);
  } catch {
    return undefined; // no file, no passwords
  }
}
