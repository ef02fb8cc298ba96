/**
 * Becoming another user when all is open that only root may open.
 *
 * Order: the groups first, the user last, since only root may change any of them. Then it is checked that the way back is
 * shut; a server for which it is open does not go on.
 */
import { readFileSync } from "node:fs";
import { BlockIoError, asking, didYouMean } from "@dmkit/block-io";

/** Whom to become. */
export interface User {
  readonly uid: number;
  readonly gid: number;
  /** For the other groups that are the user's; undefined where the system knows none of that number. */
  readonly name: string | undefined;
}

/** What a process can be asked and told: not everything of it is among the types of Node. */
export interface Credentials {
  getuid(): number;
  geteuid(): number;
  getgid(): number;
  getegid(): number;
  setuid(uid: number): void;
  setgid(gid: number): void;
  setgroups(groups: readonly number[]): void;
  initgroups(user: string, gid: number): void;
}

const own = process as unknown as Credentials;

/**
 * Looks them up, before anything is opened.
 * @param user name or number; @param group the same; left out: the user's own.
 * Errors: `EPERM` for who is not root, `ENOENT`, `EINVAL` for root itself.
 */
export function lookUpUser(
  user: string,
  group: string | undefined,
  system: Pick<Credentials, "geteuid"> = own,
  files: { readonly passwd: string; readonly group: string } = {
    passwd: "/etc/passwd",
    group: "/etc/group",
  },
): User {
  if (system.geteuid() !== 0) {
    const hint = "Start it as root; or leave --user out: it runs as whoever starts it.";
    throw problem("EPERM", "only root can become another user", hint);
  }
  const line = find(files.passwd, "user", user);
  const [name, , uid = user, own] = line ?? [];
  const gid = group === undefined ? own : (find(files.group, "group", group)?.[2] ?? group);
  if (gid === undefined) {
    throw problem(
      "ENOENT",
      `user ${user} is not in ${files.passwd}, so it has no group`,
      "Add --group GROUP.",
    );
  }
  if (Number(uid) === 0) {
    const hint = "Name another user, or leave --user out.";
    throw problem("EINVAL", `user ${user} is root, whose rights would stay`, hint);
  }
  return { uid: Number(uid), gid: Number(gid), name };
}

/** The fields of a line; undefined for a number that has none. Throws `ENOENT` for a name that has none. */
function find(path: string, what: string, wanted: string): readonly string[] | undefined {
  const isNumber = /^\d{1,10}$/.test(wanted);
  const lines = asking({ device: path, op: "open" }, () => readFileSync(path, "utf8"))
    .split("\n")
    .map((line) => line.split(":"))
    .filter((fields) => fields.length >= 4 && /^\d{1,10}$/.test(fields[2] ?? ""));
  const found = lines.find(([name, , number]) => (isNumber ? number : name) === wanted);
  if (found !== undefined || isNumber) return found;
  const meant = didYouMean(
    wanted,
    lines.map(([name = ""]) => name),
  );
  throw problem("ENOENT", `there is no ${what} ${wanted} in ${path}`, `${meant}A number is taken as well.`);
}

/** Throws `EPERM` where that fails, or could be taken back: the process must not go on then. */
export function becomeUser({ uid, gid, name }: User, system: Credentials = own): void {
  const failed = (why: string, cause?: unknown): BlockIoError =>
    problem("EPERM", `cannot become user ${name ?? uid}: ${why}`, "Nothing is served.", cause);
  try {
    if (name === undefined) system.setgroups([gid]);
    else system.initgroups(name, gid);
    system.setgid(gid);
    system.setuid(uid);
  } catch (error) {
    throw failed((error as Error).message, error);
  }
  const now = [system.getuid(), system.geteuid(), system.getgid(), system.getegid()];
  if (now.join() !== [uid, uid, gid, gid].join()) throw failed(`it is ${now.join(", ")} now`);
  if (succeeds(() => system.setuid(0))) throw failed("it could become root again");
}

function succeeds(work: () => void): boolean {
  try {
    work();
    return true;
  } catch {
    return false;
  }
}

function problem(
  code: "EPERM" | "ENOENT" | "EINVAL",
  reason: string,
  hint: string,
  cause?: unknown,
): BlockIoError {
  return new BlockIoError(reason, { code, hint, cause });
}
