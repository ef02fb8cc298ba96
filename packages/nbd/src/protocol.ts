/**
 * The wire format of the Network Block Device protocol (fixed newstyle), both directions, without I/O.
 *
 *     server                                  client
 *       | greeting ------------------------->   |
 *       |   <------------------- client flags   |   handshake.ts: frames
 *       |   <------------------------- option   |   options.ts:   what is inside them
 *       | option reply ... ----------------->   |
 *       |            ... until GO or EXPORT_NAME succeeds, or ABORT ...
 *       |   <------------------------ request   |   transmission.ts: requests, simple replies
 *       | simple reply or chunks ... ------->   |   chunks.ts: structured replies
 *       |            ... until DISC ...
 *
 * The byte diagrams are at the head of each file. Decoders never trust a length: they compare it with what
 * is there, without adding, before they use it, and throw `EPROTO` (or return false on the hot path).
 *
 * TLS begins between two options, by STARTTLS, and changes no byte here; see ../tls/.
 *
 * Later: extended headers (their magic numbers, option, chunk and flag have their places in constants.ts; their requests of
 * 32 bytes belong in transmission.ts and their chunks of 32 bytes in chunks.ts).
 */
export * from "./protocol/constants.ts";
export * from "./protocol/handshake.ts";
export * from "./protocol/options.ts";
export * from "./protocol/transmission.ts";
export * from "./protocol/chunks.ts";
export * from "./protocol/errno.ts";
export { clipText, protocolError } from "./protocol/text.ts";
