/** A store by its name: `s3://bucket/prefix?…`, or a folder. */
import { stat } from "node:fs/promises";
import { type SettingsTable, refuse, checkSettings, setting } from "@dmkit/block-io";
import { DirectoryTransport } from "./directory.ts";
import { RetryingStore, type RetryingStoreOptions, storeSettings } from "./retrying-store.ts";
import { type CredentialProvider, defaultCredentials } from "./s3/credentials.ts";
import type { ObjectTransport } from "./transport.ts";
import { isS3Uri, parseS3Uri } from "./s3/location.ts";

/** How a store is opened. */
export interface OpenStoreOptions extends RetryingStoreOptions {
  /** For a bucket; from the environment and the AWS profile unless given. */
  readonly credentials?: CredentialProvider | undefined;
  /** A folder that is not there is refused instead of made with the first object. Default false. */
  readonly mustExist?: boolean | undefined;
}

const openSettings: SettingsTable<OpenStoreOptions> = {
  ...storeSettings,
  credentials: setting.call,
  mustExist: setting.flag,
};

/**
 * Opens a store; sends nothing yet. What is needed for buckets is loaded only for a bucket. Throws `EPARSE` for a URI
 * that is none, `ENOENT` for a folder that is not there and must be.
 */
export async function openStore(location: string, options: OpenStoreOptions = {}): Promise<RetryingStore> {
  const { environment, policy, requests } = checkSettings(openSettings, options);
  return new RetryingStore(await openTransport(location, options), { environment, policy, requests });
}

async function openTransport(
  location: string,
  { credentials, requests, environment, mustExist = false }: OpenStoreOptions,
): Promise<ObjectTransport> {
  if (!isS3Uri(location)) {
    if (mustExist) await requireFolder(location);
    return new DirectoryTransport(location, environment);
  }
  const parsed = parseS3Uri(location);
  const { S3Transport } = await import("./s3/transport.ts");
  return new S3Transport(parsed, {
    credentials: credentials ?? defaultCredentials(process.env, environment?.clock),
    connections: requests,
  });
}

async function requireFolder(path: string): Promise<void> {
  const found = await stat(path).catch(() => undefined);
  if (found?.isDirectory() === true) return;
  throw refuse(
    path,
    "ENOENT",
    found === undefined ? "there is no such folder" : "is no folder",
    "A store is a folder that something was published to, or s3://BUCKET[/PREFIX].",
  );
}
