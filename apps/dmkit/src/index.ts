/** What the app can do for programs: opening devices as the command line does, and copying between them. */
export { type CopyOptions, type CopyResult, copyDevice } from "./copy.ts";
export { openReference, openTableText, schemes } from "./devices.ts";
export { targets } from "./targets.ts";
