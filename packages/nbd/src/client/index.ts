export { type NbdClientStatus, NbdDevice, openNbd } from "./device.ts";
export {
  type NbdExportInfo,
  type NbdQueryOptions,
  listNbdExports,
  nbdInfo,
} from "./info.ts";
export type { NbdClientOptions } from "./client-options.ts";
export { resolveNbdUri, splitNbdUri } from "./uri-options.ts";
export type { ExportList as NbdExportList } from "./wire/handshake.ts";
