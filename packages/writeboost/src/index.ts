export { type Dialect, dialects } from "./format/checksum.ts";
export { type Identity } from "./format/identity.ts";
export { type OpenOptions, openEmbedded, openWriteboost } from "./open.ts";
export { type DropProgress, WriteboostDevice } from "./device.ts";
export { type Devices } from "./recovery.ts";
export { type FormatOptions, formatCache } from "./format-cache.ts";
export {
  type TunableName,
  type Tunables,
  type WriteboostOptions,
  defaultTunables,
  options,
} from "./options.ts";
export { type Status, parseStatus, printStatus } from "./status.ts";
export { writeboost } from "./target.ts";
