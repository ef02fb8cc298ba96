export { ZramDevice } from "./device.ts";
export { openZram } from "./open.ts";
export { type ZramOptions, zramOptions } from "./options.ts";
export { zram } from "./target.ts";
