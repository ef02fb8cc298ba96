/** What a client can be told. Ranges and defaults: options.ts. */
import type { BlockIoError, Environment } from "@dmkit/block-io";

export interface NbdClientOptions {
  /** Clock, random numbers and log; the real ones unless given. */
  readonly environment?: Environment | undefined;
  /** What errors and messages call it. Default: its URI. */
  readonly name?: string | undefined;
  /**
   * Asked each time the connection is lost, with the reason: the error for which there is no use in waiting, with which all
   * requests fail from then on; undefined: it is waited for as `reconnect` says. It must not reject.
   */
  readonly lost?: ((reason: BlockIoError) => Promise<BlockIoError | undefined>) | undefined;
  /** Never write, whatever the server allows. */
  readonly readOnly?: boolean | undefined;
  /** Connections to use if the server keeps several consistent: 1 … 16. Default 1. */
  readonly connections?: number | undefined;
  /** Seconds a request may wait for a lost server to come back; 0 or "off": not at all. Default 30. */
  readonly reconnect?: number | "off" | undefined;
  /**
   * Bytes of unflushed writes to keep, so that they can be repeated when the server comes back without them:
   * 0 (keep none: a loss with unflushed writes makes the device fail) or 1 MiB … 4 GiB. Default 0. When half
   * of it is in use the device flushes by itself.
   */
  readonly replayBuffer?: number | undefined;
  /** Seconds for a connection and its handshake, at least 0.001. Default 10. */
  readonly connectTimeout?: number | undefined;
  /** Requests in flight at once, over all connections: 1 … 65536. Default 128. */
  readonly maxInFlight?: number | undefined;
  /** Bytes of payload in flight at once: 64 KiB … 1 GiB. Default 32 MiB. One request is always let through. */
  readonly maxInFlightBytes?: number | undefined;
  /** Leave out the last bytes of an export whose size is not a multiple of the block size. */
  readonly wholeBlocks?: boolean | undefined;
  /** The server stores every write before it answers, although it says so neither by FLUSH nor by FUA. */
  readonly writeThrough?: boolean | undefined;
}
