/**
 * Accepts connections, as long as the process has descriptors left for more than them.
 *
 * Invariant: a door leaves `reserve` descriptors to others: to the devices, whose requests must not fail because many
 * clients come, and to the control socket, by which something can be done about it. Clients wait meanwhile, in the
 * socket's own queue: a second descriptor keeps it listening while nothing is accepted. Where there can be none (it
 * takes the package koffi), they are turned away.
 */
import { closeSync } from "node:fs";
import { type Server, type Socket, createServer } from "node:net";
import {
  type Environment,
  type Timer,
  duplicateDescriptor,
  fewDescriptors,
  moreDescriptors,
  mostDescriptors,
} from "@dmkit/block-io";

/** Clients that may wait to be accepted; a burst of more is turned away by the operating system. */
export const BACKLOG = 1024;

// Milliseconds between two looks whether there are descriptors again, and between two words about it in the log.
const LOOK_AGAIN = 100;
const TELL_AGAIN = 60_000;

/** How connections are accepted. */
export interface DoorOptions {
  /** For the log: whose listener it is. */
  readonly what: string;
  readonly environment: Environment;
  /** Descriptors that are left to others. */
  readonly reserve: number;
  readonly accept: (socket: Socket) => void;
}

export class Door {
  readonly #options: DoorOptions;
  /** Replaced with each pause. */
  #server: Server;
  /** Listening, while nothing is accepted. */
  #paused: { readonly fd: number; readonly timer: Timer } | undefined;
  #told = Number.NEGATIVE_INFINITY;

  constructor(options: DoorOptions) {
    this.#options = options;
    this.#server = this.#make();
  }

  /** What is to listen, before the first client comes. */
  get server(): Server {
    return this.#server;
  }

  /** From now on errors are logged; somebody else has been told of those before. */
  opened(): void {
    const { what, environment } = this.#options;
    this.#server.on("error", ({ message }) =>
      environment.logger.log("error", `${what} listener failed`, { message }),
    );
  }

  /** Resolves when it is closed, and those who came in last are gone. */
  close(): Promise<void> {
    this.#paused?.timer.cancel();
    if (this.#paused !== undefined) closeSync(this.#paused.fd);
    this.#paused = undefined;
    return new Promise((settle) => {
      this.#server.close(() => settle());
    });
  }

  #make(): Server {
    // Half-open: a client may close its side and still read its replies. Paused: see intake.ts.
    return createServer({ allowHalfOpen: true, pauseOnConnect: true }, (socket) => this.#enter(socket));
  }

  #enter(socket: Socket): void {
    const { accept, reserve } = this.#options;
    if (!fewDescriptors(reserve)) {
      accept(socket);
      return;
    }
    this.#tell();
    // This one is still let in where others can wait: it has its descriptor already.
    if (this.#pause()) accept(socket);
    else socket.destroy();
  }

  #pause(): boolean {
    const listening = descriptorOf(this.#server);
    const fd = listening === undefined ? undefined : duplicateDescriptor(listening);
    if (fd === undefined) return false;
    this.#server.close();
    this.#wait(fd);
    return true;
  }

  #wait(fd: number): void {
    const timer = this.#options.environment.clock.after(LOOK_AGAIN, () => {
      if (fewDescriptors(this.#options.reserve)) {
        this.#wait(fd);
        return;
      }
      this.#paused = undefined;
      this.#server = this.#make();
      this.opened();
      this.#server.listen({ fd, backlog: BACKLOG });
    });
    this.#paused = { fd, timer };
  }

  #tell(): void {
    const { what, environment, reserve } = this.#options;
    const now = environment.clock.now();
    if (now - this.#told < TELL_AGAIN) return;
    this.#told = now;
    environment.logger.log("warn", `${what} clients are kept waiting: too few open files are left`, {
      limit: mostDescriptors(),
      reserved: reserve,
      hint: moreDescriptors(),
    });
  }
}

/** Node has it, and does not say so in its types. Undefined where it has none. */
function descriptorOf(one: Server): number | undefined {
  const { _handle: handle } = one as Server & { _handle?: { fd?: number } };
  const { fd = -1 } = handle ?? {};
  return fd < 0 ? undefined : fd;
}
