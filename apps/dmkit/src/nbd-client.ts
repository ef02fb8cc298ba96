/** The NBD client by itself, to be imported by a call: who opens no NBD device does not load it. */
export { openNbd } from "@dmkit/nbd";
