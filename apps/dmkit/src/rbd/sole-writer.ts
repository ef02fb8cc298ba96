/**
 * One writer for an RBD image. RBD itself lets several clients write, in turns, each over what the others keep.
 *
 * Invariants:
 *
 * - who has the image open for writing watches it: while anybody else does, opening it is refused, and of two that open
 *   it at the same moment both see the other one;
 * - who is not seen any more is fenced before the image is written here: the holder of the lock, if it does not watch, and
 *   every server of ours that has ended, are on the cluster's blocklist, so that nothing they have under way lands later;
 * - whoever writes here holds the lock from the moment it opens (captive.ts writes once), so that it can be fenced.
 */
import { type ExecFileException, execFile } from "node:child_process";
import { type BlockIoError, type ErrorCode, refuse, shellQuote } from "@dmkit/block-io";
import { type RbdImage, specOf } from "./reference.ts";

// Milliseconds for one command of Ceph; without a monitor they wait for five minutes.
const PATIENCE = 15_000;

// The status of Ceph's commands is an errno.
const codes: Readonly<Record<number, ErrorCode>> = {
  1: "EPERM",
  2: "ENOENT",
  13: "EACCES",
  110: "ETIMEDOUT",
};

const BLOCK = ["osd", "blocklist", "add"];
const EXCLUSIVE = "exclusive-lock";

interface Watchers {
  readonly watchers: readonly { readonly address: string }[];
}

interface Lock {
  readonly id: string;
  readonly locker: string;
  readonly address: string;
}

/** Looks after the writers of one image. */
export class SoleWriter {
  readonly #image: RbdImage;
  /** Addresses of servers of ours; all but the last one have ended. */
  #ours: string[] = [];
  #fenced: string[] = [];
  /** By us, whether it is done yet or not. */
  #fencing: ReadonlySet<string> = new Set();

  constructor(image: RbdImage) {
    this.#image = image;
  }

  /** Before a server of ours is started: nobody else is there, nor comes back. Errors: `EBUSY`, `ENOTSUP`, those of Ceph. */
  async prepare(): Promise<void> {
    const { reference } = this.#image;
    const { features } = await infoOf(this.#image);
    if (!features.includes(EXCLUSIVE)) {
      const hint = `Turn it on: ${typed(this.#image, "rbd", "feature", "enable", specOf(this.#image), EXCLUSIVE)}`;
      throw refuse(reference, "ENOTSUP", "has no exclusive lock: a lost writer could not be fenced", hint);
    }
    // Locks first: who takes one after that is among those that watch.
    const locks = await rbd<readonly Lock[]>(this.#image, "lock", "ls");
    const watching = await this.#watching();
    const others = watching.filter((address) => !this.#ours.includes(address));
    if (others.length > 0) throw this.#busy(`is open for writing at ${others.join(", ")}`, others);
    const byHand = locks.find(({ id }) => !id.startsWith("auto "));
    if (byHand !== undefined) {
      const hint = `If nobody needs it: ${typed(this.#image, "rbd", "lock", "rm", specOf(this.#image), byHand.id, byHand.locker)}`;
      throw refuse(reference, "EBUSY", `is locked by hand, as ${byHand.id}`, hint);
    }
    const gone = new Set([...this.#ours, ...locks.map(({ address }) => address)]);
    this.#fencing = gone;
    for (const address of gone) await run(this.#image, "ceph", [...BLOCK, address]);
    this.#fenced.push(...gone);
    this.#ours = [];
  }

  /** When the server has opened the image, before anybody uses it. Errors: `EBUSY`, those of Ceph. */
  async confirm(): Promise<void> {
    const watching = await this.#watching();
    this.#ours = watching.length === 1 ? watching : [];
    if (watching.length === 1) return;
    throw this.#busy(`was opened by another one at the same moment: ${watching.join(", ")}`, []);
  }

  /** Whether somebody has fenced the server of ours that runs; false where Ceph does not answer. */
  async isFenced(): Promise<boolean> {
    const listed = await run(this.#image, "ceph", ["osd", "blocklist", "ls"]).catch(() => "");
    // An address and a time in each line.
    const addresses = new Set(listed.split("\n").map((line) => line.split(" ")[0] ?? ""));
    return this.#ours.some((address) => addresses.has(address) && !this.#fencing.has(address));
  }

  async #watching(): Promise<string[]> {
    const { watchers } = await rbd<Watchers>(this.#image, "status");
    return watchers.map(({ address }) => address).filter((address) => !this.#fenced.includes(address));
  }

  #busy(reason: string, others: readonly string[]): BlockIoError {
    const fence = others.map((address) => typed(this.#image, "ceph", ...BLOCK, address)).join("; ");
    const hint =
      fence === ""
        ? "Start one of them again."
        : `Stop it first. One that is dead is let go of after 30 seconds, or at once: ${fence}`;
    return refuse(this.#image.reference, "EBUSY", reason, hint);
  }
}

/** What an image is like. Errors: `ENOENT`, those of Ceph. */
export function infoOf(image: RbdImage): Promise<{ readonly features: readonly string[] }> {
  return rbd(image, "info");
}

async function rbd<T>(image: RbdImage, ...verb: string[]): Promise<T> {
  return JSON.parse(await run(image, "rbd", [...verb, specOf(image), "--format", "json"])) as T;
}

/** What says which cluster it is, and who asks. */
function whose({ conf, id }: RbdImage): readonly string[] {
  return [...(conf === undefined ? [] : ["--conf", conf]), ...(id === undefined ? [] : ["--id", id])];
}

/** A command as somebody can type it. */
function typed(image: RbdImage, program: string, ...args: readonly string[]): string {
  const words = [program, ...whose(image), ...args];
  return words.map((word) => (/^--[a-z]+$/.test(word) ? word : shellQuote(word))).join(" ");
}

function run(image: RbdImage, program: string, args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    // Its own signals are not for it: Ctrl-C is ours to deal with.
    execFile(
      program,
      [...whose(image), ...args],
      { timeout: PATIENCE, killSignal: "SIGKILL" },
      (error, stdout, stderr) => {
        if (error === null) resolve(stdout);
        else reject(failure(image, [program, ...args], error, stderr));
      },
    );
  });
}

const ELSEWHERE = "A ceph.conf elsewhere is named with ?conf=FILE.";

function failure(
  image: RbdImage,
  [program = "", ...args]: readonly string[],
  error: ExecFileException,
  stderr: string,
): BlockIoError {
  const { reference } = image;
  if (error.code === "ENOENT")
    return refuse(reference, "ENOENT", `${program} is not installed`, "Install ceph-common.");
  if (error.killed === true) {
    const hint = `Look at the cluster with: ${typed(image, "ceph", "-s")}. ${ELSEWHERE}`;
    return refuse(reference, "ETIMEDOUT", `Ceph has not answered for ${PATIENCE / 1000} seconds`, hint);
  }
  const look = `Try it: ${typed(image, program, ...args)}`;
  const said = lastLine(stderr) ?? `${program} ${args.join(" ")} ended with ${String(error.code)}`;
  const code = codes[Number(error.code)] ?? "EIO";
  // With the status of an image that is missing, too.
  if (code !== "EACCES" && /couldn't (?:connect|initialize rados)|unable to open config/.test(stderr))
    return refuse(reference, "ENOTCONN", `Ceph cannot be reached: ${said}`, `${look}. ${ELSEWHERE}`);
  const make = `Make it: ${typed(image, "rbd", "create", "--size", "SIZE", "POOL/IMAGE")}`;
  return refuse(reference, code, said, code === "ENOENT" ? make : look);
}

/** The last line that a program said to us, without what Ceph's library logs, be it in the middle of that line. */
export function lastLine(text: string): string | undefined {
  const lines = text.split("\n").map((line) => line.replace(/\r|\d{4}-\d\d-\d\dT\d\d:.*/g, "").trim());
  return lines.findLast((line) => line !== "");
}
