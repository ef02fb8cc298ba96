/** Opens an image: store, tag, manifest, and the hot list on its way in the background. */
import { homedir } from "node:os";
import { join } from "node:path";
import {
  type Environment,
  type SettingsTable,
  parseOptions,
  realEnvironment,
  checkSettings,
  setting,
} from "@dmkit/block-io";
import { type ObjectStore, openStore } from "@dmkit/object-store";
import { Blobs } from "../device/blobs.ts";
import { ImageDevice } from "../device/device.ts";
import { NodeCache } from "../device/node-cache.ts";
import { decodeHotList, chunkCount } from "../format/manifest.ts";
import { type ImageOptions, NO_CACHE, imageOptions } from "../options.ts";
import { readManifest, resolveReference } from "./manifests.ts";
import { parseImageReference, printImageReference } from "./reference.ts";

// Chunks of the hot list that are fetched at a time.
const HOT_PARALLEL = 32;

/** Where blobs are kept on this machine unless told otherwise. */
export function defaultCacheFolder(variables: NodeJS.ProcessEnv = process.env): string {
  const base = variables["XDG_CACHE_HOME"];
  return join(
    base !== undefined && base.startsWith("/") ? base : join(homedir(), ".cache"),
    "dmkit",
    "blobs",
  );
}

/** What opening takes beside the options. */
export interface OpenImageContext {
  readonly name?: string | undefined;
  readonly environment?: Environment | undefined;
  /** An open store to use instead of the one the reference names; the device closes it. */
  readonly store?: ObjectStore | undefined;
}

const contextSettings: SettingsTable<OpenImageContext> = {
  name: setting.anyText,
  environment: setting.environment,
  store: setting.object,
};

/** What is to be opened; options that are not given have their defaults. */
export type ImageSettings = Pick<ImageOptions, "image"> & Partial<ImageOptions>;

/** Errors: `EPARSE`, `EINVAL` for options out of range; those of the store; `ENOENT` for an image or tag there is not, `EIO` and `EFORMAT` for a bad manifest. */
export async function openImage(
  settings: ImageSettings,
  context: OpenImageContext = {},
): Promise<ImageDevice> {
  const options = parseOptions(imageOptions, settings, "image");
  const { environment = realEnvironment } = checkSettings(contextSettings, context);
  const reference = parseImageReference(options.image);
  const store = context.store ?? (await openStore(reference.store, { environment, mustExist: true }));
  try {
    const digest = await resolveReference(store, reference);
    const manifest = await readManifest(store, reference.name, digest);
    const folder = options.cache ?? defaultCacheFolder();
    const cache = folder === NO_CACHE ? undefined : new NodeCache(folder, options.cache_size, environment);
    const blobs = new Blobs(store, { memory: options.memory, cache, chunkSize: manifest.chunkSize });
    const release = (): Promise<void> => store.close();
    const { readahead, hot } = options;
    const device = new ImageDevice(context.name ?? options.image, {
      manifest,
      digest,
      pinned: `image:${printImageReference(reference, digest)}`,
      blobs,
      readahead,
      release,
    });
    if (hot && manifest.hotList !== undefined) {
      const chunks = chunkCount(manifest.size, manifest.chunkSize);
      // Only a saving of time: reads do not wait for it, and what fails is fetched when it is read.
      void blobs
        .load(manifest.hotList, (list) => decodeHotList(list, chunks))
        .then((list) => device.warm(list, HOT_PARALLEL))
        .catch(() => {});
    }
    return device;
  } catch (error) {
    await store.close();
    throw error;
  }
}
