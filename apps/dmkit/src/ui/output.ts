/**
 * Standard output and standard error, whose readers may go away or be full.
 *
 * Invariants:
 *
 * - it ends nothing that is under way: what is being written to a device is finished, and a server goes on serving.
 *   Whoever prints for as long as somebody reads asks {@link outputLost}, or is told by it;
 * - standard error: what cannot be told is lost, and the next line is tried again;
 * - standard output: a command whose reader has gone ends quietly, with the status that shells have for SIGPIPE. What
 *   could not be written for another reason is an error: a dump on a full disk is no dump.
 */
import { fstatSync, writeSync } from "node:fs";
import { Socket } from "node:net";
import type { Writable } from "node:stream";
import { codeOf, refuse } from "@dmkit/block-io";
import { compareCodes, exitCodes, failureCodes, printError } from "./terminal.ts";

/** 128 and the number of SIGPIPE. */
const READER_GONE = 141;

/** Whether anything was printed, as far as can be known: of what goes into a pipe. */
export function hasPrinted(): boolean {
  return !(process.stdout instanceof Socket) || process.stdout.bytesWritten > 0;
}

const losing = new AbortController();

/** Is aborted when nothing that is printed can arrive any more, with the first error. */
export const outputLost: AbortSignal = losing.signal;

/** To be called once, before anything is printed. */
export function watchOutputs(): void {
  process.stderr.on("error", () => {});
  process.stdout.on("error", (error) => losing.abort(error));
  for (const stream of [process.stdout, process.stderr]) writeWhole(stream, stream.fd);
}

/** What Node makes of a file takes no notice of a write that was cut short because the disk is full. */
function writeWhole(stream: Writable, fd: number): void {
  // Terminals, too. (A pipe must not be asked what it is: after `fstat` of one, Node 20 resolves no links.)
  if (stream instanceof Socket || !fstatSync(fd).isFile()) return;
  // oxlint-disable-next-line no-underscore-dangle -- what a stream calls its way out
  stream._write = (chunk: Buffer | string, encoding, written) => {
    const bytes = typeof chunk === "string" ? Buffer.from(chunk, encoding) : chunk;
    try {
      for (let at = 0; at < bytes.length; ) at += writeSync(fd, bytes, at);
    } catch (error) {
      written(error as Error);
      return;
    }
    written();
  };
}

/**
 * What a command ends with, all having been printed.
 * @param command its name. @param code what it ends with if all of that has arrived.
 */
export function statusOf(command: string | undefined, code: number): number {
  if (!outputLost.aborted) return code;
  const loss = outputLost.reason as NodeJS.ErrnoException;
  // On a server's standard output there may be a client, that has gone.
  if (command === "serve" && ["EPIPE", "ECONNRESET"].includes(loss.code ?? "")) return code;
  if (loss.code === "EPIPE") {
    // The status of fsck is its result, and made of bits. That of compare is what it had printed, too.
    const isTold = code === exitCodes.ok || (command === "compare" && code === compareCodes.differ);
    return isTold && command !== "fsck" ? READER_GONE : code;
  }
  const { message } = loss;
  printError(refuse("standard output", codeOf(loss), message, undefined, "write"));
  const { error } = failureCodes(command);
  return command === "fsck" ? code | error : Math.max(code, error);
}
