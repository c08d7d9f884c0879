/**
 * PostgreSQL in containers, by way of testcontainers: a process of its own network, started from an
 * image that tests/cluster/postgres_image made, with the test's directory mounted at its own name.
 * Everything else about such a server is as with a process of this machine.
 */
import { existsSync, readFileSync } from "node:fs";
import { type ProcessOptions, type Running, untilAnswering, untilEnded } from "./machine.ts";

const { DOCKER_HOST, PGPOOL_TEST_IMAGE = "localhost/pgpool-test-postgres:latest" } = process.env;

/** Whether somebody may serve the Docker API: DOCKER_HOST, or the socket of an engine. */
const mayHaveEngine = (DOCKER_HOST ?? "") !== "" || existsSync("/var/run/docker.sock");

/** Loaded when it is needed: it brings hundreds of modules along. */
async function testcontainers() {
  // Its helper container that cleans up would have to be fetched. Here scopes clean up; and a server
  // whose directory has gone ends by itself, and its container with it.
  Object.assign(process.env, { TESTCONTAINERS_RYUK_DISABLED: "true" });
  return await import("testcontainers");
}

/** The engine's client; undefined when none answers. */
async function engine() {
  if (!mayHaveEngine) return undefined;
  const { getContainerRuntimeClient } = await testcontainers();
  try {
    return (await getContainerRuntimeClient()).container.dockerode;
  } catch {
    return undefined; // a socket without an engine behind it
  }
}

/** The image with PostgreSQL, if an engine answers that has it. */
export async function containerImage(): Promise<string | undefined> {
  try {
    await (await engine())?.getImage(PGPOOL_TEST_IMAGE).inspect();
  } catch {
    return undefined;
  }
  return mayHaveEngine ? PGPOOL_TEST_IMAGE : undefined;
}

export type ContainerOptions = ProcessOptions & {
  readonly image: string;
  /** Mounted at the same name, so that paths mean the same in and out of the container. */
  readonly mount: string;
  /** Listened at within, and reached at the same number of this machine. */
  readonly port?: number | undefined;
};

/** A server in a container. It writes its log into the mounted directory. */
export class ServerContainer implements Running {
  readonly name: string;
  readonly logPath: string;
  readonly pid: number;
  readonly ended: Promise<string>;
  readonly #kill: (signal: NodeJS.Signals) => Promise<void>;
  #end: string | undefined;

  private constructor(
    options: ContainerOptions,
    pid: number,
    exit: Promise<string>,
    kill: (signal: NodeJS.Signals) => Promise<void>,
  ) {
    this.name = options.name;
    this.logPath = options.logPath;
    this.pid = pid;
    this.#kill = kill;
    this.ended = exit.then((end) => {
      this.#end = end;
      return end;
    });
  }

  static async start(options: ContainerOptions): Promise<ServerContainer> {
    const { GenericContainer, Wait } = await testcontainers();
    const { image, mount, owner, port, logPath } = options;
    const begin = `echo started; exec "$@" >> '${logPath}' 2>&1`;
    let made = new GenericContainer(image)
      .withBindMounts([{ source: mount, target: mount }])
      .withWorkingDir(mount)
      .withAutoRemove(true)
      .withCommand(["sh", "-c", begin, "sh", ...options.argv])
      .withWaitStrategy(Wait.forLogMessage("started"));
    if (owner !== undefined) made = made.withUser(`${owner.uid}:${owner.gid}`);
    if (port !== undefined) made = made.withExposedPorts({ container: port, host: port });
    const id = (await made.start()).getId();
    const container = (await engine())?.getContainer(id);
    if (container === undefined) throw new Error("the container engine has gone");
    const exit = container.wait().then(
      async ({ StatusCode: code }: { readonly StatusCode: number }) => {
        await container.remove({ force: true }).catch(() => undefined); // it removed itself
        return endOf(code);
      },
      () => "gone", // it had ended, and was removed, before it could be waited for
    );
    const { State } = await container.inspect();
    return new ServerContainer(options, State.Pid, exit, async (signal) => {
      await container.kill({ signal }).catch(() => undefined); // it has just ended
    });
  }

  get end(): string | undefined {
    return this.#end;
  }

  get running(): boolean {
    return this.#end === undefined;
  }

  log(): string {
    return existsSync(this.logPath) ? readFileSync(this.logPath, "utf8") : "";
  }

  signal(signal: NodeJS.Signals): void {
    if (this.running) void this.#kill(signal);
  }

  async stop(signal: NodeJS.Signals, deadlineMs = 30_000): Promise<string> {
    if (this.running) await this.#kill(signal);
    return await untilEnded(this, signal, deadlineMs, () => this.#kill("SIGKILL"));
  }

  untilReady(probe: () => Promise<boolean>, deadlineMs = 30_000): Promise<void> {
    return untilAnswering(this, probe, deadlineMs);
  }
}

/** A shell's way to tell of signals, which Docker shares. */
const endOf = (code: number): string => (code > 128 ? `signal ${code - 128}` : `exit ${code}`);
