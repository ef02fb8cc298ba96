/**
 * Collection: blobs and manifests that nothing refers to any more are removed.
 *
 * In use are the manifests that a tag says now or has said within the grace time, or that are younger than that, and
 * their pages, chunks and hot lists. (A parent is history: its child has all its own chunks.) Where a tag cannot be read all versions of its image are
 * in use; where a manifest or a page that is in use cannot be, all blobs are.
 *
 * Why nothing that is needed goes:
 * - a blob that is removed was older than the grace time when the list was made, and in no manifest read after that;
 * - a publication relies on a blob it did not upload only if the blob is younger than half the grace time, or in use by its
 *   parent; older ones it uploads again; and once its manifest is there it waits for collections and looks for both again;
 * - whoever makes a tag say an older manifest waits, once the tag is there, for collections that may have read the tags
 *   before, and takes it back where one has taken the manifest; what the tag said until then is still in use;
 * - one collection at a time runs, and one that has taken an hour from its lists gives up: a request that lands late
 *   lands within minutes. The half of the grace time that is left is what a publication has for its upload.
 */
import {
  BlockIoError,
  type Environment,
  type SettingsTable,
  codeOf,
  inParallel,
  randomUuid,
  realEnvironment,
  sleep,
  checkSettings,
  setting,
  workSettings,
} from "@dmkit/block-io";
import type { ObjectStore } from "@dmkit/object-store";
import { Blobs } from "../device/blobs.ts";
import { type Digest, digestsOf } from "../format/digest.ts";
import {
  BLOBS,
  COLLECTIONS,
  IMAGES,
  TAGS,
  blobKey,
  blobOfKey,
  manifestKey,
  manifestOfKey,
  tagKey,
  tagOfKey,
} from "../format/layout.ts";
import { isUnreadable, readManifest, readTagVersion, tagVersion } from "../open/manifests.ts";

/** Milliseconds that a blob nobody refers to is kept at the least. */
export const GRACE: number = 24 * 3_600_000;
// Requests under way at a time.
const PARALLEL = 16;
// A collection that began this long ago has ended, whatever its key says.
const LONGEST = 3_600_000;

/** How a collection runs. */
export interface CollectOptions {
  /** Only says what would be removed. */
  readonly dryRun?: boolean | undefined;
  readonly environment?: Environment | undefined;
  readonly signal?: AbortSignal | undefined;
  readonly progress?: ((progress: { readonly done: number; readonly total: number }) => void) | undefined;
}

const collectSettings: SettingsTable<CollectOptions> = { ...workSettings, dryRun: setting.flag };

/** What a collection removed, or would. */
export interface Collected {
  readonly blobs: number;
  /** Bytes of bodies. */
  readonly bytes: number;
  readonly manifests: number;
  /** Blobs that stay. */
  readonly kept: number;
  /** What could not be read, NAME@DIGEST or NAME:TAG, and why; what it may need stays. */
  readonly unreadable: readonly Unreadable[];
}

/** A version, or a tag, of which it is not known what it needs. */
export interface Unreadable {
  readonly what: string;
  readonly error: unknown;
}

/** `EBUSY` while another collection runs. */
export async function collect(store: ObjectStore, options: CollectOptions = {}): Promise<Collected> {
  const { environment = realEnvironment, dryRun = false } = checkSettings(collectSettings, options);
  const began = environment.clock.wallTime();
  if (dryRun) return await collectNow(store, options, environment, began);
  const running = await runningCollections(store, began);
  const token = randomUuid(environment.random);
  const key = `${COLLECTIONS}${String((running.last ?? 0) + 1).padStart(16, "0")}`;
  if (running.busy.length > 0 || !(await store.create(key, Buffer.from(token)))) {
    throw new BlockIoError("a collection is running in this store", {
      code: "EBUSY",
      device: store.name,
      hint: "Wait for its end; one that was interrupted counts for an hour.",
    });
  }
  try {
    // The clock of the store tells how old its objects are, and ours may be wrong.
    const now = (await store.head(key))?.modified ?? began;
    return await collectNow(store, options, environment, now);
  } finally {
    await store.remove(key);
  }
}

/** Resolves when no collection runs of those that run now: others may begin meanwhile, again and again. */
export async function waitForCollections(
  store: ObjectStore,
  environment: Environment,
  signal: AbortSignal | undefined,
): Promise<void> {
  const now = async (): Promise<readonly string[]> =>
    (await runningCollections(store, environment.clock.wallTime())).busy;
  let waiting = await now();
  if (waiting.length > 0) {
    environment.logger.log(
      "warn",
      "waiting for the end of a collection that runs in the store; one that was killed counts for an hour",
      { device: store.name },
    );
  }
  while (waiting.length > 0) {
    signal?.throwIfAborted();
    await sleep(environment.clock, 5000, signal);
    const running = new Set(await now());
    waiting = waiting.filter((one) => running.has(one));
  }
}

/** Those that run, and the last number that is taken. */
async function runningCollections(
  store: ObjectStore,
  now: number,
): Promise<{ readonly busy: readonly string[]; readonly last: number | undefined }> {
  let last: number | undefined;
  const busy: string[] = [];
  for await (const { key, modified } of store.list(COLLECTIONS)) {
    const number = Number(key.slice(COLLECTIONS.length));
    if (Number.isSafeInteger(number)) last = number;
    // Numbers are used again: its time tells it from the next one.
    if (now - modified < LONGEST) busy.push(`${key} ${modified}`);
  }
  return { busy, last };
}

async function collectNow(
  store: ObjectStore,
  { signal, progress, dryRun = false }: CollectOptions,
  environment: Environment,
  now: number,
): Promise<Collected> {
  const began = environment.clock.now();
  const oldest = now - GRACE;
  // The candidates first, then who uses them: what begins to be used in between is seen.
  const candidates = new Map<Digest, number>();
  let all = 0;
  for await (const { key, size, modified } of store.list(BLOBS, "", { signal })) {
    const digest = blobOfKey(key);
    if (digest === undefined) continue;
    all += 1;
    if (modified < oldest) candidates.set(digest, size);
  }
  const { used, unused, unreadable } = await manifests(store, oldest, signal);
  const blobs = new Blobs(store, { memory: 8 << 20 });
  // Most versions of an image have most pages in common.
  const seen = new Set<Digest>();
  try {
    await inParallel(used, PARALLEL, async ({ image, digest }) => {
      try {
        for await (const blob of blobsOf(store, blobs, { image, digest }, seen)) candidates.delete(blob);
      } catch (error) {
        if (!isUnreadable(error)) throw error;
        unreadable.push({ what: `${image}@${digest}`, error });
        // Which blobs it needs is not known.
        candidates.clear();
      }
    });
  } finally {
    await blobs.close();
  }
  let done = 0;
  let bytes = 0;
  const total = candidates.size;
  const late = (): void => {
    signal?.throwIfAborted();
    if (environment.clock.now() - began < LONGEST) return;
    throw new BlockIoError("the collection took an hour and ends here", {
      code: "ETIMEDOUT",
      device: store.name,
      hint: "Run it again: it goes on where it ended.",
    });
  };
  // Manifests first: without one its blobs are not in use, and not the other way round.
  for (const { image, digest } of unused) {
    late();
    if (!dryRun) await store.remove(manifestKey(image, digest), { signal });
  }
  await inParallel(candidates, PARALLEL, async ([digest, size]) => {
    late();
    if (!dryRun) {
      // Uploaded again since the list was made: somebody wants it.
      const now = await store.head(blobKey(digest), { signal });
      if (now === undefined || now.modified >= oldest) return;
      await store.remove(blobKey(digest), { signal });
    }
    done += 1;
    bytes += size;
    progress?.({ done, total });
  });
  return { blobs: done, bytes, manifests: unused.length, kept: all - done, unreadable };
}

interface Named {
  readonly image: string;
  readonly digest: Digest;
}

async function manifests(
  store: ObjectStore,
  oldest: number,
  signal: AbortSignal | undefined,
): Promise<{
  readonly used: readonly Named[];
  readonly unused: readonly Named[];
  readonly unreadable: Unreadable[];
}> {
  const found: (Named & { readonly modified: number })[] = [];
  for await (const { key, modified } of store.list(IMAGES, "", { signal })) {
    const named = manifestOfKey(key);
    if (named !== undefined) found.push({ ...named, modified });
  }
  // In the order of their versions.
  const tags: NonNullable<ReturnType<typeof tagOfKey>>[] = [];
  for await (const { key, modified } of store.list(TAGS, "", { signal })) {
    const next = tagOfKey(key);
    if (next === undefined) continue;
    const last = tags.at(-1);
    if (last?.image === next.image && last.tag === next.tag && modified < oldest) tags.pop();
    tags.push(next);
  }
  const tagged = new Set<string>();
  const unreadable: Unreadable[] = [];
  const held = new Set<string>();
  for (const { image, tag, version } of tags) {
    try {
      tagged.add(`${image}/${(await readTagVersion(store, image, tag, version)).digest}`);
    } catch (error) {
      if (codeOf(error) === "ENOENT") continue; // The tag was taken away since.
      if (!isUnreadable(error)) throw error;
      unreadable.push({ what: `${image}:${tag}`, error });
      held.add(image);
    }
  }
  const isUsed = ({ image, digest, modified }: (typeof found)[number]): boolean =>
    modified >= oldest || held.has(image) || tagged.has(`${image}/${digest}`);
  return { used: found.filter(isUsed), unused: found.filter((manifest) => !isUsed(manifest)), unreadable };
}

/** Every blob that a manifest needs, without those of pages that were `seen`, which grows. */
async function* blobsOf(
  store: ObjectStore,
  blobs: Blobs,
  { image, digest }: Named,
  seen: Set<Digest>,
): AsyncGenerator<Digest> {
  const { hotList, pages } = await readManifest(store, image, digest);
  if (hotList !== undefined) yield hotList;
  for (const page of pages) {
    if (page === undefined || seen.has(page)) continue;
    const table = await blobs.load(page, (table) => Buffer.from(table));
    seen.add(page);
    yield page;
    yield* digestsOf(table);
  }
}

/** Takes a tag away, with all its versions; the image stays until a collection. True if there was one. */
export async function removeTag(store: ObjectStore, image: string, tag: string): Promise<boolean> {
  const version = await tagVersion(store, image, tag);
  // From the first on: as long as the highest is there, it is in force.
  for (let n = 1; n <= version; n += 1) await store.remove(tagKey(image, tag, n));
  return version > 0;
}
