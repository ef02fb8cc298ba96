/** What all connections of a server share, and what a connection's two phases have in common. */
import type { Environment } from "@dmkit/block-io";
import type { ByteBudget } from "./io/budget.ts";
import type { ExportDirectory } from "./exports/exports.ts";
import type { ChunkOrigin } from "./io/intake.ts";
import type { RequestLog } from "./requests/request-log.ts";
import type { ServerLimits } from "./limits.ts";
import type { SizedBufferPool } from "./io/buffer-pool.ts";

export interface ServerContext {
  readonly environment: Environment;
  readonly limits: ServerLimits;
  readonly budget: ByteBudget;
  readonly buffers: SizedBufferPool;
  readonly exports: ExportDirectory;
  readonly log: RequestLog | undefined;
  /** The server is being shut down. */
  readonly stopping: boolean;
}

/** Handshake or transmission: what a connection does with what arrives. */
export interface Phase {
  /** Takes a chunk, and holds its origin if it keeps the chunk. */
  receive(chunk: Buffer, origin: ChunkOrigin): void;
  /** Memory for the next bytes, if they should go to a certain place. */
  space(): Buffer | undefined;
  /** So many bytes have been put there. */
  filled(count: number): void;
  /** The client will send nothing more. */
  ended(): void;
  /** The server is being shut down. */
  stop(): void;
  /** Why the client should be dropped, if it should. @param now milliseconds. */
  stalled(now: number): string | undefined;
  /** The stream is gone. */
  closed(): void;
}
