export { cow } from "./target.ts";
export { type CowOptions, cowOptions } from "./options.ts";
export { CowDevice } from "./device.ts";
export { type OpenStackOptions, type StackDevices, openStack } from "./open-stack.ts";
export type { NewLayer } from "./freeze.ts";
export { type LayerDevices, findIdentity, readIdentity } from "./layer.ts";
export type { Identity, IdentityBlock, Uuid } from "./format/identity.ts";
export { type AliasedBlockSize, aliasedBlockSizes } from "./format/aliased.ts";
export { bitmapDeviceSize, bitmapLength, identityOffset } from "./format/geometry.ts";
