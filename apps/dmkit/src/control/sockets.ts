/**
 * Where control sockets are: `<runtime folder>/dmkit/<pid>.sock` unless a server was told otherwise, so that the
 * verbs find a server that is the only one, and never take another one for it.
 */
import { lstatSync, readdirSync, rmSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { isAbsolute, join, resolve } from "node:path";
import { BlockIoError, asking, makeFolders } from "@dmkit/block-io";

/** What overrides the default for servers and verbs: a path, or for verbs the process id of a server. */
export const CONTROL_VARIABLE = "DMKIT_CONTROL";

/** The folder of the default sockets: only this user can look into it. */
export function runtimeFolder(): string {
  const { XDG_RUNTIME_DIR: runtime } = process.env;
  // A relative one is no folder that servers and verbs could mean the same by: it is to be taken for none.
  if (runtime !== undefined && isAbsolute(runtime)) return join(runtime, "dmkit");
  return join(tmpdir(), `dmkit-${process.getuid?.() ?? "user"}`);
}

/** The default socket of this process, its folder made. Throws `EACCES` if the folder is somebody else's. */
export function ownSocket(): string {
  const folder = runtimeFolder();
  const hint = "Set XDG_RUNTIME_DIR to a folder of yours, or give a socket of your own: --control PATH";
  const ours = asking({ device: folder, op: "listen", hint }, () => {
    makeFolders(folder, 0o700);
    return isOurs(folder);
  });
  if (ours) return join(folder, `${process.pid}.sock`);
  throw new BlockIoError("others may write to the folder of the control sockets", {
    code: "EACCES",
    device: folder,
    op: "listen",
    hint: "Remove it, or give a socket of your own: --control PATH",
  });
}

/**
 * The socket a verb is to talk to.
 * @param given a path or a process id, from the command line.
 * Throws `ENOENT` if there is no server, `EBUSY` if there are several.
 */
export async function findSocket(given: string | undefined): Promise<string> {
  const wanted = given ?? process.env[CONTROL_VARIABLE];
  if (wanted !== undefined && wanted !== "") {
    return /^\d+$/.test(wanted) ? join(runtimeFolder(), `${wanted}.sock`) : resolve(wanted);
  }
  const [only, ...others] = await liveSockets();
  if (only === undefined) {
    throw new BlockIoError("no dmkit server is running", {
      code: "ENOENT",
      op: "connect",
      hint: "Start one with: dmkit serve, or name its control socket: --control PATH",
    });
  }
  if (others.length === 0) return only.path;
  throw new BlockIoError(`${others.length + 1} dmkit servers are running`, {
    code: "EBUSY",
    op: "connect",
    hint: `Say which by its process id, with -C or, where a command has no such option, ${CONTROL_VARIABLE}=${only.pid}: ${[only, ...others].map(({ pid }) => pid).join(", ")}`,
  });
}

async function liveSockets(): Promise<{ readonly pid: number; readonly path: string }[]> {
  const folder = runtimeFolder();
  const found: { pid: number; path: string }[] = [];
  for (const name of namesIn(folder)) {
    const pid = /^(\d+)\.sock$/.exec(name)?.[1];
    if (pid === undefined) continue;
    const path = join(folder, name);
    if (await answers(path)) found.push({ pid: Number(pid), path });
    // Left by a server that was killed.
    else forget(path);
  }
  return found.toSorted((one, other) => one.pid - other.pid);
}

function forget(path: string): void {
  try {
    rmSync(path, { force: true });
  } catch {
    // It is in nobody's way.
  }
}

/** Whether nobody else could have put something into a folder. */
function isOurs(folder: string): boolean {
  const stat = lstatSync(folder);
  return stat.isDirectory() && stat.uid === process.getuid?.() && (stat.mode & 0o022) === 0;
}

function namesIn(folder: string): readonly string[] {
  try {
    return isOurs(folder) ? readdirSync(folder) : [];
  } catch {
    return [];
  }
}

function answers(path: string): Promise<boolean> {
  return new Promise((settle) => {
    const socket = connect({ path });
    socket.on("connect", () => {
      socket.destroy();
      settle(true);
    });
    socket.on("error", (error: NodeJS.ErrnoException) => settle(error.code !== "ECONNREFUSED"));
  });
}
