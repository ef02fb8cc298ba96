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
 *       | simple reply or chunks ... ------->   |   chunks.ts: structured and extended replies
 *       |            ... until DISC ...
 *
 * The byte diagrams are at the head of each file. Decoders never trust a length: they compare it with what
 * is there, without adding, before they use it, and throw `EPROTO` (or return false on the hot path).
 *
 * TLS begins between two options, by STARTTLS, and changes no byte here; see ../tls/.
 * EXTENDED_HEADERS, in the handshake, makes all headers of requests and replies 32 bytes long, with 64 bits of length.
 */
export * from "./protocol/constants.ts";
export * from "./protocol/handshake.ts";
export * from "./protocol/options.ts";
export * from "./protocol/transmission.ts";
export * from "./protocol/chunks.ts";
export * from "./protocol/errno.ts";
export { clipText, protocolError } from "./protocol/text.ts";
