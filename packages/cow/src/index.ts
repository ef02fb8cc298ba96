export { cow } from "./target.ts";
export { type CowOptions, cowOptions } from "./options.ts";
export { CowDevice } from "./device/device.ts";
export { type OpenStackOptions, openStack } from "./open/open.ts";
export type { StackDevices } from "./device/layer/stack-devices.ts";
export { commitLayer } from "./offline/chain/commit-layer.ts";
export type { WithBitmap } from "./device/layer/freezing.ts";
export type { NewLayer } from "./device/parts.ts";
export { type LayerDevices, findIdentity, readIdentity } from "./device/layer/layer.ts";
export { BASE_UUID, type Identity, type IdentityBlock } from "./format/identity.ts";
export type { Sample } from "./format/samples.ts";
export type { Uuid } from "./format/uuid.ts";
export { type AliasedBlockSize, aliasedBlockSizes } from "./format/aliased.ts";
export { bitmapDeviceSize, bitmapLength, identityOffset } from "./format/geometry.ts";
export { type CreateOptions, createLayer } from "./offline/create/create.ts";
export {
  type LayerFileOptions,
  type LayerFiles,
  createBitmapFile,
  createLayerFiles,
  refuseOldFiles,
} from "./offline/create/files.ts";
export { type LayerInfo, type StackInfo, stackInfo } from "./offline/info.ts";
export { type CommitOptions, commitTop } from "./offline/commit.ts";
export { type FlattenOptions, flatten } from "./offline/flatten.ts";
export { type PairOptions, pair } from "./offline/pair.ts";
export { type ResizeOptions, checkResize, layersToResize, resizable, resizeLayer } from "./offline/resize.ts";
export {
  type NewTopOptions,
  deleteSnapshot,
  makeSnapshot,
  revertToSnapshot,
  snapshotsOf,
  tableOf,
  upToSnapshot,
} from "./offline/chain/snapshots.ts";
export type { Snapshot } from "./format/snapshot.ts";
export type { Snapshots } from "./core/snapshots.ts";
export { squash } from "./offline/squash.ts";
export { type RebaseOptions, rebase } from "./offline/rebase.ts";
export { type ChangedRange, diff, exportDiff } from "./offline/diff.ts";
export { type Problem, type ProblemKind, check } from "./offline/check.ts";
export { cowImages } from "./image.ts";
export { labelledSize } from "./format/label.ts";
export type { StackingProblem } from "./core/stacking.ts";
export type { ChainOptions } from "./offline/chain/chain.ts";
export type { WorkOptions } from "./device/copy/work.ts";
