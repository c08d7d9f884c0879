/**
 * Stop, reload and log rotation, whoever asks for them: a signal, `pgpool stop`, or PCP (spec
 * config/commands.md section 1). A stop may be asked for again, and harder.
 */
import type { Log, ProcessControl, StopMode } from "../core/ports.ts";

/** What is stopped, reloaded and rotated. */
export type Server = {
  readonly log: Log;
  /** Nobody else is let in. Resolves when the sockets are closed and their files gone. */
  readonly closeDoors: () => Promise<void>;
  /** Resolves when the last client has left. */
  readonly untilEmpty: () => Promise<void>;
  /** Tells all clients that the server stops, and hangs up. */
  readonly endClients: () => void;
  /** May throw for what is wrong in the files; what was in force then stays in force. */
  readonly reload: () => void;
  /** False when there are no log files of our own. */
  readonly rotateLog: () => boolean;
};

const signalNumbers = { smart: 15, fast: 2, immediate: 3 } as const;

export class ServerControl implements ProcessControl {
  /** Resolves when the server may end. */
  readonly stopped: Promise<void>;
  readonly #server: Server;
  #mode: StopMode | undefined;
  #end: () => void = () => undefined;
  #fail: (error: unknown) => void = () => undefined;

  constructor(server: Server) {
    this.#server = server;
    this.stopped = new Promise((resolve, reject) => {
      this.#end = resolve;
      this.#fail = reject;
    });
  }

  /** Whether a stop has been asked for. */
  get stopping(): boolean {
    return this.#mode !== undefined;
  }

  /**
   * Smart waits for the clients, fast tells them to go and waits until they have been told, immediate
   * does not wait. A fast stop asked for twice is an immediate one.
   */
  stop(mode: StopMode): void {
    const before = this.#mode;
    const now = harder(before, mode);
    if (now === before) return;
    this.#mode = now;
    const { log, closeDoors, untilEmpty, endClients } = this.#server;
    log.write("LOG", `exit handler called (signal: ${signalNumbers[now]})`);
    log.write("LOG", `shutting down by signal ${signalNumbers[now]}`);
    if (before === undefined) log.write("LOG", "terminating all child processes");
    const closed = before === undefined ? closeDoors() : Promise.resolve();
    closed
      .then(async () => {
        // It may have become a harder one meanwhile, which then does the rest.
        if (this.#mode !== now) return;
        if (now !== "smart") endClients();
        if (now !== "immediate") await untilEmpty();
        this.#end();
      })
      .catch(this.#fail);
  }

  reload(): void {
    try {
      this.#server.reload();
    } catch (error) {
      // A mistake in a file must not end the server.
      const detail = error instanceof Error ? error.message : String(error);
      this.#server.log.write("WARNING", "reload failed", { detail });
    }
  }

  rotateLog(): boolean {
    return this.#server.rotateLog();
  }

  /** SIGUSR1 rotates, as it makes Pgpool-II's logger process do; SIGUSR2 must not end us. */
  obeySignals(): void {
    process.on("SIGTERM", () => this.stop("smart"));
    process.on("SIGINT", () => this.stop("fast"));
    process.on("SIGQUIT", () => this.stop("immediate"));
    process.on("SIGHUP", () => this.reload());
    process.on("SIGUSR1", () => void this.rotateLog());
    process.on("SIGUSR2", () => undefined);
  }
}

const hardness = { smart: 0, fast: 1, immediate: 2 } as const;

function harder(before: StopMode | undefined, asked: StopMode): StopMode {
  if (before === undefined) return asked;
  if (before === "fast" && asked === "fast") return "immediate";
  return hardness[asked] > hardness[before] ? asked : before;
}
