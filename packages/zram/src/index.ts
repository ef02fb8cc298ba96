export { ZramDevice } from "./device/device.ts";
export { openZram } from "./open/open.ts";
export { type ZramOptions, zramOptions } from "./options.ts";
export { zram } from "./target.ts";
