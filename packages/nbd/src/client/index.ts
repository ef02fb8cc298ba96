export { type NbdClientStatus, NbdDevice, openNbd } from "./device.ts";
export { type NbdExportInfo, type NbdQueryOptions, listNbdExports, nbdInfo } from "./info.ts";
export type { NbdClientOptions } from "./options.ts";
