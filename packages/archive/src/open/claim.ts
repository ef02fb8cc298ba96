/**
 * Beginning an epoch: from then on nobody before it writes, and what they wrote is known.
 *
 *     1  the record of the next epoch is created; who loses looks again
 *     2  the log is walked from the newest checkpoint on, and each earlier epoch gets a fence at its first missing number
 *     3  if a newer checkpoint has appeared meanwhile, what was taken for the end may have been removed: again from 2
 *
 * A fence takes the place that a late object would need, so what is found in 2 is all there will ever be.
 */
import { type Environment, codeOf, randomDigits } from "@dmkit/block-io";
import type { Archive, Epoch, Walk } from "../device/archive.ts";
import { type Position, epochKey, logKey } from "../format/keys.ts";
import { type Token, encodeEpoch, encodeFence } from "../format/records.ts";

/** Who begins an epoch. */
export interface Claimant {
  readonly token: Token;
  readonly host: string;
  readonly environment: Environment;
  /**
   * What the newest epoch has to be like: rejects for one that is not. Asked again whenever another one was faster.
   */
  readonly check?: (newest: Epoch | undefined) => Promise<void>;
}

/** An epoch that has begun. */
export interface Claim {
  readonly epoch: number;
  readonly nonce: Token;
  /** The log of all epochs before it. */
  readonly before: Walk;
}

/** Begins the next epoch. Errors: what `check` throws, those of the store, `EIO` where objects of the log are lost. */
export async function claim(archive: Archive, { token, host, environment, check }: Claimant): Promise<Claim> {
  const nonce = randomToken(environment);
  const epoch = await begin();
  const fence = encodeFence({ epoch, nonce });
  const seal = (position: Position): Promise<boolean> =>
    archive.store.create(logKey(archive.disk, position), fence).catch((error: unknown) => {
      // What was there when the fence came was collected before it could be looked at.
      if (codeOf(error) === "ENOENT") return false;
      throw error;
    });
  const before = await archive.walk(epoch - 1, seal);
  return { epoch, nonce, before };

  async function begin(): Promise<number> {
    for (;;) {
      const newest = await archive.newestEpoch();
      await check?.(newest);
      const number = (newest?.number ?? 0) + 1;
      const record = encodeEpoch({ token, nonce, time: environment.clock.wallTime(), host });
      if (await archive.store.create(epochKey(archive.disk, number), record)) return number;
    }
  }
}

/** 32 random hexadecimal digits. */
export function randomToken({ random }: Environment): Token {
  return randomDigits(random);
}
