/**
 * Where the bytes of a path come from. A file has many names (links, other paths, a loop device), and a disk is there
 * again as its partitions: two paths are the same bytes where they have the same origin and overlap there.
 *
 * A lock (flock) is on one node: that of a file says nothing to whoever opens a loop device over it, and that of a partition
 * nothing to whoever opens the disk. Invariant: of two processes that open overlapping bytes under two names at once, one at
 * least is refused: each takes the lock of its own name before it looks at the others. Within one process claims decide
 * (claims.ts), so what it has open itself is passed over.
 */
import {
  type BigIntStats,
  closeSync,
  constants,
  fstatSync,
  openSync,
  readFileSync,
  readdirSync,
  realpathSync,
  statSync,
} from "node:fs";
import { join } from "node:path";
import { SECTOR } from "../contract/device.ts";
import { native } from "./native.ts";

export interface Origin {
  /** `file DEVICE:INODE`, or `disk MAJOR:MINOR`; the same for all that stand for it. */
  readonly name: string;
  /** Bytes: where it begins there. */
  readonly offset: number;
}

// A loop device over a partition of a loop device … nobody goes deeper.
const MAX_DEPTH = 8;

/** @param sys where Linux tells of its devices; tests have one of their own. */
export function originOf(stat: BigIntStats, sys = "/sys"): Origin {
  return descend(stat, sys, 0);
}

/** The same text for all that stand for the same bytes. */
export function textOf({ name, offset }: Origin): string {
  return `${name}+${offset}`;
}

/** That of a path; undefined if nothing is there. */
export function originAt(path: string, sys = "/sys"): Origin | undefined {
  const stat = statSync(path, { bigint: true, throwIfNoEntry: false });
  return stat === undefined ? undefined : originOf(stat, sys);
}

function descend(stat: BigIntStats, sys: string, depth: number): Origin {
  if (!stat.isBlockDevice()) return { name: `file ${stat.dev}:${stat.ino}`, offset: 0 };
  return blockOrigin(numbersOf(stat.rdev), sys, depth);
}

function blockOrigin(numbers: string, sys: string, depth: number): Origin {
  const folder = `${sys}/dev/block/${numbers}`;
  const whole: Origin = { name: `disk ${numbers}`, offset: 0 };
  if (depth === MAX_DEPTH) return whole;
  const start = text(`${folder}/start`);
  const disk = text(`${folder}/../dev`);
  if (text(`${folder}/partition`) !== undefined && start !== undefined && disk !== undefined) {
    const { name, offset } = blockOrigin(disk, sys, depth + 1);
    return { name, offset: offset + Number(start) * SECTOR };
  }
  const backing = text(`${folder}/loop/backing_file`);
  const below = backing === undefined ? undefined : statOf(backing);
  if (below === undefined) return whole;
  const { name, offset } = descend(below, sys, depth + 1);
  return { name, offset: offset + Number(text(`${folder}/loop/offset`) ?? 0) };
}

function statOf(path: string): BigIntStats | undefined {
  try {
    return statSync(path, { bigint: true });
  } catch {
    return undefined;
  }
}

function text(path: string): string | undefined {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return undefined;
  }
}

/** `8:1`, as Linux writes a device number. */
function numbersOf(device: bigint): string {
  const major = (device >> 8n) & 0xfffn;
  const minor = (device & 0xffn) | ((device >> 12n) & 0xfff00n);
  return `${major}:${minor}`;
}

/** A name, and the bytes that it stands for at the bottom: of a file, or of a disk. */
interface Node {
  readonly path: string;
  readonly start: number;
  readonly end: number;
}

/** Nodes that this process has open, and how often. */
const held = new Map<string, number>();

/** Says that this process has a node open, until what is returned is called. */
export function holding(stat: BigIntStats): () => void {
  const key = keyOf(stat);
  held.set(key, (held.get(key) ?? 0) + 1);
  return () => {
    const left = (held.get(key) ?? 1) - 1;
    if (left === 0) held.delete(key);
    else held.set(key, left);
  };
}

/**
 * The name under which another process has bytes of an open node locked; undefined where none has. Backing files of other loop
 * devices are compared by path and not asked for: a file system that does not answer would stop us all.
 */
export function lockedElsewhere(
  path: string,
  stat: BigIntStats,
  exclusive: boolean,
  sys = "/sys",
): string | undefined {
  const own = ownNode(path, stat, sys);
  if (own === undefined) return undefined;
  return nodesOf(own.bottom, sys).find(
    (node) =>
      node.path !== own.node.path &&
      node.start < own.node.end &&
      own.node.start < node.end &&
      isLocked(node.path, exclusive, stat),
  )?.path;
}

/** Where the bytes of a node are, and the node by the name that the system has for it. */
function ownNode(path: string, stat: BigIntStats, sys: string): { node: Node; bottom: string } | undefined {
  try {
    if (!stat.isBlockDevice()) {
      const real = realpathSync(path);
      return { node: { path: real, start: 0, end: Infinity }, bottom: real };
    }
    const folder = realpathSync(`${sys}/dev/block/${numbersOf(stat.rdev)}`);
    const isPart = text(`${folder}/partition`) !== undefined;
    const disk = isPart ? join(folder, "..") : folder;
    const bottom = text(`${disk}/loop/backing_file`) ?? deviceOf(disk);
    const all = [...blockNodes(disk, Number(text(`${disk}/loop/offset`) ?? 0))];
    const node = all.find((one) => one.path === deviceOf(folder));
    return node && { node, bottom };
  } catch {
    // What the system does not tell of cannot be asked for.
    return undefined;
  }
}

/** All names of bytes of a file, or of a disk. */
function nodesOf(bottom: string, sys: string): Node[] {
  const nodes: Node[] = [];
  const name = bottom.startsWith("/dev/")
    ? `${sys}/block/${bottom.slice(5).replaceAll("/", "!")}`
    : undefined;
  const disk = name !== undefined && text(`${name}/dev`) !== undefined ? name : undefined;
  if (disk === undefined) nodes.push({ path: bottom, start: 0, end: Infinity });
  else nodes.push(...blockNodes(disk, 0));
  for (const loop of entries(`${sys}/block`).filter((one) => one.startsWith("loop"))) {
    const folder = `${sys}/block/${loop}`;
    if (text(`${folder}/loop/backing_file`) !== bottom) continue;
    nodes.push(...blockNodes(folder, Number(text(`${folder}/loop/offset`) ?? 0)));
  }
  return nodes;
}

/** A disk and its partitions. @param start bytes at the bottom where it begins. */
function* blockNodes(folder: string, start: number): Generator<Node> {
  const node = (at: string, offset: number): Node => ({
    path: deviceOf(at),
    start: offset,
    end: offset + Number(text(`${at}/size`) ?? 0) * SECTOR,
  });
  yield node(folder, start);
  for (const name of entries(folder)) {
    const part = join(folder, name);
    if (text(`${part}/partition`) === undefined) continue;
    yield node(part, start + Number(text(`${part}/start`) ?? 0) * SECTOR);
  }
}

/** The node of a device by its folder in /sys, where a slash in the name is written as an exclamation mark. */
function deviceOf(folder: string): string {
  return `/dev/${realpathSync(folder).split("/").at(-1)?.replaceAll("!", "/")}`;
}

function isLocked(path: string, exclusive: boolean, own: BigIntStats): boolean {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
  } catch {
    return false;
  }
  try {
    const stat = fstatSync(fd, { bigint: true });
    const key = keyOf(stat);
    if (key === keyOf(own) || held.has(key)) return false;
    return native()?.tryLock(fd, exclusive) === false;
  } catch {
    return false;
  } finally {
    closeSync(fd);
  }
}

function keyOf({ dev, ino }: BigIntStats): string {
  return `${dev}:${ino}`;
}

function entries(folder: string): string[] {
  try {
    return readdirSync(folder);
  } catch {
    return [];
  }
}
