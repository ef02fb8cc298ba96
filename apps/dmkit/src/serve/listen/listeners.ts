/** Where a server listens: a unix socket, TCP, sockets handed over by the service manager, or stdin/stdout. */
import { chownSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join, resolve } from "node:path";
import { BlockIoError, asking } from "@dmkit/block-io";
import { type ListenOptions, type ListenPolicy, NBD_PORT } from "@dmkit/nbd";
import { accessOf } from "../../stack-file/access.ts";
import type { PlannedListener } from "../../stack-file/plan.ts";
import type { User } from "../process/privileges.ts";

/** The first file descriptor a service manager hands over (sd_listen_fds). */
const FIRST_ACTIVATED = 3;

/** The policy is for all of these, but for addresses: those are of TCP ports. */
export interface WhereToListen extends ListenPolicy {
  readonly unix?: string | undefined;
  readonly port?: number | undefined;
  readonly bind: string;
  readonly allowRemote: boolean;
  /** Of the unix socket. */
  readonly mode?: number | undefined;
  readonly group?: string | undefined;
  /** Serve one client on stdin and stdout. */
  readonly single: boolean;
  /** A private socket in a folder of its own, for `--run`. */
  readonly isPrivate: boolean;
}

export interface Listeners {
  readonly listen: readonly ListenOptions[];
  /** Makes sockets in the file system, and the folder that was made for one, somebody else's: a command runs as they. */
  giveTo(user: User): void;
  /** Removes what was made for listening, as far as that can be removed. */
  dispose(): void;
}

/** How many sockets the service manager handed over to this very process. Clears the variables. */
export function activatedSockets(environment: NodeJS.ProcessEnv): number {
  const { LISTEN_PID: pid, LISTEN_FDS: count } = environment;
  delete environment["LISTEN_PID"];
  delete environment["LISTEN_FDS"];
  delete environment["LISTEN_FDNAMES"];
  if (count === undefined || pid !== String(process.pid)) return 0;
  const sockets = /^\d{1,3}$/.test(count) ? Number(count) : Number.NaN;
  if (sockets >= 1) return sockets;
  throw new BlockIoError(`LISTEN_FDS is "${count}"`, {
    code: "EPARSE",
    op: "listen",
    hint: "The service manager must pass the number of sockets, at least 1.",
  });
}

/**
 * Decides where to listen: at sockets that were handed over, whose clients would wait for ever otherwise, and where the
 * command line says; without either: at the fallback.
 */
export function chooseListeners(where: WhereToListen, activated: number, fallback: ListenOptions): Listeners {
  const nothing = (): void => {};
  if (where.single) return { listen: [], giveTo: nothing, dispose: nothing };
  const listen: ListenOptions[] = [];
  let made: string | undefined;
  const { allow, mode, group } = where;
  if (where.unix !== undefined) listen.push({ path: resolve(where.unix), mode, group });
  if (where.port !== undefined)
    listen.push({ host: where.bind, port: where.port, allowRemote: where.allowRemote, allow });
  if (listen.length === 0 && where.isPrivate) {
    const hint = "Set TMPDIR to a folder that can be written to, or name a socket: --unix PATH";
    const folder = asking({ device: tmpdir(), op: "listen", hint }, () =>
      mkdtempSync(join(tmpdir(), "dmkit-")),
    );
    listen.push({ path: join(folder, "socket") });
    made = folder;
  }
  for (let index = 0; index < activated; index += 1) listen.push({ fd: FIRST_ACTIVATED + index });
  const { tls, identities, writers } = where;
  const policy = { tls, identities, writers };
  const all = (listen.length > 0 ? listen : [fallback]).map((one) => ({ ...one, ...policy }));
  return {
    listen: all,
    giveTo({ uid, gid }) {
      const sockets = all.flatMap((one) => ("path" in one && one.path !== undefined ? [one.path] : []));
      // Members of a group that was given may go on.
      for (const path of made === undefined ? sockets : [made, ...sockets])
        chownSync(path, uid, group === undefined ? gid : -1);
    },
    dispose() {
      try {
        if (made !== undefined) rmSync(made, { recursive: true, force: true });
      } catch {
        // Whoever the server has become may not: what it was for is over, and its result counts.
      }
    },
  };
}

/** Whether somebody else than a stack file says where to listen. */
export function isTold(
  { unix, port, isPrivate, single }: Pick<WhereToListen, "unix" | "port" | "isPrivate" | "single">,
  activated: number,
): boolean {
  return activated > 0 || unix !== undefined || port !== undefined || isPrivate || single;
}

/** A place as a stack file has it. Undefined for what is no port. */
export function plannedAs(place: ListenOptions, where: WhereToListen): PlannedListener | undefined {
  if (!("port" in place)) return undefined;
  const { host = "127.0.0.1", port = NBD_PORT, allowRemote = false } = place;
  const { tls } = where;
  return { host, port, allowRemote, ...(tls === undefined ? {} : { tls }), ...accessOf(where) };
}
