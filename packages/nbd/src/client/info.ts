/** Questions to a server that end before transmission: what exports are there, and what are they like? */
import { type BlockIoError, type Environment, realEnvironment, refuse } from "@dmkit/block-io";
import { FLAG } from "../protocol.ts";
import { type NbdUri, formatNbdUri, parseNbdUri } from "../uri.ts";
import { type ExportInfo, type ExportList, Handshake } from "./wire/handshake.ts";
import { named } from "./named.ts";
import type { NbdClientOptions } from "./client-options.ts";
import { queryTimeoutOf } from "./options.ts";
import { Transport } from "./wire/transport.ts";
import { splitNbdUri } from "./uri-options.ts";

export type NbdQueryOptions = Pick<NbdClientOptions, "environment" | "connectTimeout">;

/** An export as its server describes it. */
export interface NbdExportInfo {
  readonly name: string;
  readonly description: string | undefined;
  /** Bytes. */
  readonly size: number;
  /** Transmission flags as sent; the fields below are taken from them. */
  readonly flags: number;
  readonly readOnly: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canWriteZeroes: boolean;
  readonly canFastZero: boolean;
  readonly canMultiConn: boolean;
  readonly isRotational: boolean;
  /** Bytes; undefined where the server tells no block sizes. */
  readonly blockSizes:
    | { readonly minimum: number; readonly preferred: number; readonly maximumPayload: number }
    | undefined;
  readonly structuredReplies: boolean;
  readonly extendedHeaders: boolean;
  /** Names of metadata contexts. */
  readonly contexts: readonly string[];
}

/**
 * The exports a server lists, 100,000 at most. Rejects with `EPERM` or `ENOTSUP` if it does not, and with the reason if it
 * cannot be reached.
 */
export function listNbdExports(target: string | NbdUri, options: NbdQueryOptions = {}): Promise<ExportList> {
  return withHandshake(target, options, (handshake) => {
    if (handshake.fixedNewstyle) return handshake.list();
    throw refuse(undefined, "ENOTSUP", "the server is too old to list its exports", undefined);
  });
}

/** What an export is like. Rejects with `ENOENT` for an unknown export. */
export function nbdInfo(target: string | NbdUri, options: NbdQueryOptions = {}): Promise<NbdExportInfo> {
  return withHandshake(target, options, async (handshake, { exportName }) => {
    const modern = handshake.fixedNewstyle;
    const structuredReplies = modern && (await handshake.structuredReplies());
    const extendedHeaders = modern && (await handshake.extendedHeaders());
    const contexts = structuredReplies || extendedHeaders ? await handshake.contextNames(exportName) : [];
    const asked = modern ? await handshake.info(exportName) : undefined;
    // nbd-server opens its file only at GO, and says 0 bytes before.
    const info = asked === undefined || asked.size === 0 ? await handshake.go(exportName) : asked;
    return { ...describe(exportName, info), structuredReplies, extendedHeaders, contexts };
  });
}

function describe(
  exportName: string,
  { size, flags, blockSizes, name, description }: ExportInfo,
): Omit<NbdExportInfo, "structuredReplies" | "extendedHeaders" | "contexts"> {
  const has = (flag: number): boolean => (flags & flag) !== 0;
  return {
    name: name ?? exportName,
    description,
    size,
    flags,
    readOnly: has(FLAG.READ_ONLY),
    canFlush: has(FLAG.SEND_FLUSH),
    canFua: has(FLAG.SEND_FUA),
    canTrim: has(FLAG.SEND_TRIM),
    canWriteZeroes: has(FLAG.SEND_WRITE_ZEROES),
    canFastZero: has(FLAG.SEND_FAST_ZERO),
    canMultiConn: has(FLAG.CAN_MULTI_CONN),
    isRotational: has(FLAG.ROTATIONAL),
    blockSizes: blockSizes && {
      minimum: blockSizes.minimum,
      preferred: blockSizes.preferred,
      maximumPayload: blockSizes.maximumPayload,
    },
  };
}

async function withHandshake<T>(
  target: string | NbdUri,
  options: NbdQueryOptions,
  ask: (handshake: Handshake, uri: NbdUri) => Promise<T>,
): Promise<T> {
  const uri = typeof target === "string" ? parseNbdUri(splitNbdUri(target).uri) : target;
  const timeout = queryTimeoutOf(options);
  const environment: Environment = options.environment ?? realEnvironment;
  const attempt = new AbortController();
  const timer = environment.clock.after(timeout, () => {
    attempt.abort(
      refuse(undefined, "ETIMEDOUT", `no answer within ${timeout / 1000} seconds`, undefined, "connect"),
    );
  });
  let handshake: Handshake | undefined;
  try {
    const transport = await Transport.open(uri.address, attempt.signal);
    handshake = new Handshake(transport);
    attempt.signal.addEventListener("abort", () => transport.fail(attempt.signal.reason as BlockIoError));
    await handshake.begin(uri);
    return await ask(handshake, uri);
  } catch (error) {
    throw named(error, formatNbdUri(uri));
  } finally {
    timer.cancel();
    handshake?.leave();
  }
}
