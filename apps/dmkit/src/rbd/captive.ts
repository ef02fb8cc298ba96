/**
 * A qemu-nbd of our own that serves one RBD image on a private unix socket, started again when it ends.
 *
 *      starting ──→ serving ──→ ended ──→ starting …
 *          └───── refused: another one writes (EBUSY) ──→ given up
 *
 * Invariants:
 *
 * - its socket gets the name that clients know only when nobody else has the image open, and the lock is ours;
 * - it does not outlive this process: it ends with its last client, and we are one as long as we live. Until we are, for
 *   half a second, an exit of ours ends it, but no SIGKILL does. It is ended by its number, and what is not there any more
 *   is not signalled.
 */
import { type ChildProcess, spawn } from "node:child_process";
import { existsSync, mkdtempSync, renameSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BlockDevice,
  type BlockIoError,
  type Environment,
  type Health,
  asking,
  codeOf,
  healthy,
  refuse,
  sleep,
  toBlockIoError,
} from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import type { RbdImage } from "./reference.ts";
import { SoleWriter, infoOf, lastLine } from "./sole-writer.ts";

// Milliseconds: for opening an image, between looks, between attempts to start it again.
const PATIENCE = 30_000;
const LOOK = 20;
const PAUSE = 500;

/** Those that run, for an exit that closes nothing. */
const children = new Set<ChildProcess>();
process.on("exit", () => {
  for (const child of children) child.kill("SIGTERM");
});

interface Running {
  readonly child: ChildProcess;
  readonly ended: Promise<void>;
  /** What it has said. */
  readonly stderr: () => string;
  /** Keeps it alive. */
  client: BlockDevice | undefined;
}

/** A qemu-nbd that serves an image. */
export class CaptiveServer {
  readonly #image: RbdImage;
  readonly #sole: SoleWriter | undefined;
  readonly #environment: Environment;
  readonly #folder: string;
  #running: Running | undefined;
  #restarting: Promise<void> | undefined;
  #trouble: BlockIoError | undefined;
  #isClosed = false;

  private constructor(image: RbdImage, readOnly: boolean, environment: Environment) {
    this.#image = image;
    this.#sole = readOnly ? undefined : new SoleWriter(image);
    this.#environment = environment;
    const device = image.reference;
    this.#folder = asking({ device, op: "open" }, () => mkdtempSync(join(tmpdir(), "dmkit-rbd-")));
  }

  /** Errors: `ENOENT`, `EBUSY`, `ENOTSUP`, `ETIMEDOUT`, those of Ceph. */
  static async start(image: RbdImage, readOnly: boolean, environment: Environment): Promise<CaptiveServer> {
    const server = new CaptiveServer(image, readOnly, environment);
    try {
      await server.#start();
      return server;
    } catch (error) {
      await server.close();
      throw toBlockIoError(error, { device: image.reference, op: "open" });
    }
  }

  /** Where it is found; the file is there while it serves. */
  get uri(): string {
    return uriOf(join(this.#folder, "nbd.sock"));
  }

  health(): Health {
    if (this.#trouble === undefined) return healthy;
    const { reason, hint } = this.#trouble;
    return { state: this.#isOver ? "failed" : "degraded", why: reason, help: hint };
  }

  /** Another one has the image, or may have it. */
  get #isOver(): boolean {
    return codeOf(this.#trouble) === "EBUSY";
  }

  /** Asked when it is lost: why there is no use in waiting for it, or undefined. It is not started again then. */
  async whyNever(): Promise<BlockIoError | undefined> {
    if (this.#isClosed || (await this.#sole?.isFenced()) !== true) return undefined;
    const reason =
      "is fenced here: this client is on the cluster's blocklist, and another machine may have the image";
    const hint =
      "End this server. What it had written and not flushed is lost; what a cache on it holds stays there: serve it again when no other machine has the image.";
    this.#trouble = refuse(this.#image.reference, "EBUSY", reason, hint);
    return this.#trouble;
  }

  /** Ends the process, and waits until it has. */
  async close(): Promise<void> {
    this.#isClosed = true;
    await this.#end();
    await this.#restarting;
    await this.#end();
    rmSync(this.#folder, { recursive: true, force: true });
  }

  async #start(): Promise<void> {
    await (this.#sole?.prepare() ?? infoOf(this.#image));
    const [socket, pidFile] = [join(this.#folder, "new.sock"), join(this.#folder, "pid")];
    for (const path of [socket, pidFile]) rmSync(path, { force: true });
    const running = this.#spawn(socket, pidFile);
    this.#running = running;
    try {
      await this.#opened(running, pidFile);
      await this.#sole?.confirm();
      running.client = await this.#hold(socket);
      renameSync(socket, join(this.#folder, "nbd.sock"));
    } catch (error) {
      await this.#end();
      throw error;
    }
    this.#trouble = undefined;
    void running.ended.then(() => {
      // What another one writes is not written over by what we have left.
      if (this.#isClosed || this.#isOver) return;
      const said = lastLine(running.stderr());
      const reason = `qemu-nbd has ended${said === undefined ? "" : `: ${said}`}`;
      this.#trouble = refuse(this.#image.reference, "ENOTCONN", reason, "It is being started again.");
      this.#restarting = this.#restart();
    });
  }

  #spawn(socket: string, pidFile: string): Running {
    const { pool, namespace, image, snapshot, conf, id } = this.#image;
    const options = Object.entries({ driver: "rbd", pool, namespace, image, snapshot, conf, user: id })
      .filter(([, value]) => value !== undefined)
      .map(([key, value]) => `${key}=${String(value).replaceAll(",", ",,")}`);
    const mode = this.#sole === undefined ? ["--read-only"] : ["--cache=none", "--discard=unmap"];
    const where = ["--socket", socket, "--pid-file", pidFile, "--shared=16"];
    // In a session of its own: Ctrl-C in our terminal must not end it before we have flushed.
    const child = spawn("qemu-nbd", [...where, ...mode, "--image-opts", options.join(",")], {
      detached: true,
      stdio: ["ignore", "ignore", "pipe"],
    });
    children.add(child);
    let text = "";
    child.stderr?.on("data", (part: Buffer) => (text = (text + part.toString()).slice(-4096)));
    const ended = new Promise<void>((resolve) => {
      child.on("error", (error) => {
        text += error.message;
        resolve();
      });
      child.on("exit", () => resolve());
    }).finally(() => children.delete(child));
    return { child, ended, stderr: () => text, client: undefined };
  }

  /** It writes the file with its number when the image is open. */
  async #opened(running: Running, pidFile: string): Promise<void> {
    let isEnded = false;
    void running.ended.then(() => (isEnded = true));
    for (let waited = 0; !existsSync(pidFile); waited += LOOK) {
      if (isEnded) throw this.#refusal(running.stderr());
      if (waited >= PATIENCE) {
        const reason = `qemu-nbd has not opened the image within ${PATIENCE / 1000} seconds`;
        throw refuse(this.#image.reference, "ETIMEDOUT", reason, "Look at the cluster with: ceph -s");
      }
      await sleep(this.#environment.clock, LOOK);
    }
  }

  #refusal(said: string): BlockIoError {
    const { reference } = this.#image;
    if (said.includes("spawn qemu-nbd")) {
      return refuse(
        reference,
        "ENOENT",
        "qemu-nbd is not installed",
        "Install qemu-utils and qemu-block-extra.",
      );
    }
    if (/Unknown driver|rbd.*not found/i.test(said)) {
      return refuse(reference, "ENOTSUP", "qemu-nbd has no driver for RBD", "Install qemu-block-extra.");
    }
    const reason = lastLine(said) ?? "qemu-nbd has ended";
    return refuse(reference, "EIO", reason, "Look at the cluster with: ceph -s");
  }

  /** The first client. It takes the lock of the image, which comes with the first write: the same bytes once more. */
  async #hold(socket: string): Promise<BlockDevice> {
    const client = await openNbd(uriOf(socket), { environment: this.#environment, reconnect: "off" });
    if (this.#sole === undefined || client.size === 0) return client;
    try {
      const first = Buffer.alloc(Math.max(512, client.limits.logicalBlockSize));
      await client.read(0, first);
      await client.write(0, first);
      await client.flush();
      return client;
    } catch (error) {
      await client.close();
      throw error;
    }
  }

  async #restart(): Promise<void> {
    while (!this.#isClosed) {
      try {
        await this.#running?.client?.close().catch(() => {});
        this.#running = undefined;
        await this.#start();
        return;
      } catch (error) {
        this.#trouble = toBlockIoError(error, { device: this.#image.reference, op: "open" });
        if (this.#isOver) return;
      }
      await sleep(this.#environment.clock, PAUSE);
    }
  }

  async #end(): Promise<void> {
    const running = this.#running;
    if (running === undefined) return;
    await running.client?.close().catch(() => {});
    const { child, ended } = running;
    if (child.pid !== undefined && child.exitCode === null && child.signalCode === null)
      child.kill("SIGTERM");
    await ended;
    if (this.#running === running) this.#running = undefined;
  }
}

function uriOf(socket: string): string {
  return `nbd+unix:///?socket=${encodeURIComponent(socket)}`;
}
