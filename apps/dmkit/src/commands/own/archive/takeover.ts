/**
 * `dmkit archive takeover`: a disk goes on here, from its archive alone.
 *
 *     1  the folder       made, or found empty: nothing of a disk that is there already is touched
 *     2  the epoch        begun, with a token that was made just now: whoever wrote until then is refused from here on
 *     3  layer.map, .img  a cow layer over the image of the newest checkpoint, and the log replayed onto it
 *     4  cache.img        a new write cache with that token: it goes on where the log ends
 *     5  disk.yaml        a stack file that serves the disk
 *
 * What does not come to its end leaves the folder empty, unless the process is killed: the archive has all of it, and it
 * is begun again.
 */
import { hostname } from "node:os";
import { readdirSync, rmSync, writeFileSync } from "node:fs";
import { join, resolve } from "node:path";
import {
  type BlockDevice,
  type OfflineWork,
  SECTOR,
  asking,
  makeFolders,
  openFile,
  quoteTableWord,
  refuse,
  shellQuote,
} from "@dmkit/block-io";
import {
  type Archive,
  type LocalLog,
  absoluteArchiveReference,
  attachArchive,
  baseReference,
  claim,
  parseDiskReference,
  randomToken,
  replayOnto,
  withArchive,
} from "@dmkit/archive";
import { createLayerFiles } from "@dmkit/cow";
import { openWriteboost } from "@dmkit/writeboost";
import { openTableText } from "../../../devices.ts";
import { interruptible, print, printJson, tellCancelled } from "../../../offline/work.ts";
import { exitCodes } from "../../../ui/terminal.ts";
import { commandEnvironment } from "../../../ui/command-environment.ts";

interface TakeoverFlags {
  readonly cacheSize: number;
  readonly json: boolean;
  readonly quiet: boolean;
}

const environment = commandEnvironment;

export async function takeOver(
  text: string,
  to: string,
  { cacheSize, json, quiet }: TakeoverFlags,
): Promise<number> {
  const disk = absoluteArchiveReference(text, process.cwd()).slice("archive:".length);
  const reference = parseDiskReference(disk);
  const folder = resolve(to);
  const result = await interruptible("takeover", quiet || json, (work) =>
    withArchive(reference, (archive) => takeInto(folder, archive, { disk, cacheSize }, work), {
      signal: work.signal,
    }),
  );
  if (result === "cancelled") return tellCancelled("takeover");
  const { epoch, id } = result.value;
  const stack = join(folder, "disk.yaml");
  if (json) printJson({ disk: reference.disk, epoch, id, stack });
  else {
    print(`${reference.disk} goes on here behind segment ${id}, in epoch ${epoch}\n`);
    if (!quiet) process.stderr.write(`Serve it with: dmkit serve ${shellQuote(stack)}\n`);
  }
  return exitCodes.ok;
}

/** What is taken over, as a stack file names it, and bytes of its new cache. */
interface Wanted {
  readonly disk: string;
  readonly cacheSize: number;
}

/** Paths of what is made. */
interface Made {
  readonly map: string;
  readonly data: string;
  readonly cache: string;
  readonly stack: string;
}

/** All of it, or an empty folder. */
async function takeInto(
  folder: string,
  archive: Archive,
  wanted: Wanted,
  work: OfflineWork,
): Promise<{ readonly epoch: number; readonly id: number }> {
  const { size } = await archive.record();
  requireEmpty(folder);
  const made = {
    map: join(folder, "layer.map"),
    data: join(folder, "layer.img"),
    cache: join(folder, "cache.img"),
    stack: join(folder, "disk.yaml"),
  };
  await createLayerFiles({ bitmap: made.map, data: made.data }, { sectors: size / SECTOR, environment });
  try {
    return await take(archive, made, wanted, work);
  } catch (error) {
    for (const file of [made.map, made.data, made.cache]) rmSync(file, { force: true });
    process.stderr.write("dmkit: whoever wrote the disk until now may have been ended by this\n");
    throw error;
  }
}

async function take(
  archive: Archive,
  { map, data, cache, stack }: Made,
  { disk, cacheSize }: Wanted,
  { signal, progress }: OfflineWork,
): Promise<{ readonly epoch: number; readonly id: number }> {
  const reference = parseDiskReference(disk);
  const { size } = await archive.record();
  const token = randomToken(environment);
  const { epoch, before } = await claim(archive, { token, host: hostname(), environment });
  const image = `image:${baseReference(reference.store, reference.disk, before)}`;
  const words = ["cow", image, "0", map, data, "0"].map(quoteTableWord);
  const backing = await openTableText(`0 ${size / SECTOR} ${words.join(" ")}`, environment);
  try {
    await replayOnto(archive, before, backing, "newest", {
      signal,
      progress: ({ done, total }) => progress?.(done, total),
    });
    await makeCache(backing, cache, { disk, token, cacheSize, signal });
  } finally {
    await backing.close();
  }
  writeFileSync(stack, stackFile({ disk, image, name: reference.disk }));
  return { epoch, id: before.end.id };
}

function requireEmpty(folder: string): void {
  asking({ device: folder, op: "open" }, () => makeFolders(folder, 0o700));
  if (readdirSync(folder).length === 0) return;
  throw refuse(
    folder,
    "EEXIST",
    "is not empty",
    "Give a new folder: what is there may be of another disk. What a takeover that was killed left has no disk.yaml, and can be removed.",
  );
}

/** The first opening: from here on the archive knows this cache. */
async function makeCache(
  backing: BlockDevice,
  path: string,
  { disk, token, cacheSize, signal }: Wanted & Pick<OfflineWork, "signal"> & { readonly token: string },
): Promise<void> {
  const cache = await openFile(path, { createSize: cacheSize, environment });
  try {
    const attach = (local: LocalLog): ReturnType<typeof attachArchive> => attachArchive(disk, local, signal);
    const devices = { backing, cache, plog: undefined };
    const device = await openWriteboost(devices, { archive: { attach, token }, environment });
    await device.close();
  } finally {
    await cache.close();
  }
}

/** JSON strings are YAML. */
function stackFile({
  disk,
  image,
  name,
}: {
  readonly disk: string;
  readonly image: string;
  readonly name: string;
}): string {
  const text = JSON.stringify;
  return `# made by dmkit archive takeover
devices:
  base:
    target: cow
    base: ${text(image)}
    layers: [{ bitmap: layer.map, data: layer.img }]
  disk:
    target: writeboost
    backing: base
    cache: cache.img
    archive: ${text(disk)}
exports:
  ${text(name)}: disk
`;
}
