export { MAX_KEY, checkKey, checkPrefix } from "./key.ts";
export type { BodyMemory, GetOptions, ObjectEntry, ObjectRange, ObjectStore, StoreOptions } from "./store.ts";
export {
  type Attempt,
  type Created,
  type Failure,
  type ListPage,
  type ObjectTransport,
  failed,
  succeeded,
} from "./transport.ts";
export {
  type RetryPolicy,
  type RetryingStoreOptions,
  RetryingStore,
  defaultRetryPolicy,
} from "./retrying-store.ts";
export { DirectoryTransport } from "./directory.ts";
export { type S3Location, isS3Uri, parseS3Uri, splitParameters } from "./s3/location.ts";
export { type CredentialProvider, type Credentials, defaultCredentials } from "./s3/credentials.ts";
export { type OpenStoreOptions, openStore } from "./open.ts";
export { probeConditionalCreate } from "./probe.ts";
export { getVerified } from "./verified.ts";
