/**
 * The conformance suite: what every BlockDevice must do, whatever it is made of. It is rerun on every device,
 * every target and on stacks of them, gated by what the device claims of itself in `limits`.
 */
import { concurrency, lifecycle, refusals } from "./conformance/behaviour.ts";
import { contents, zeroing } from "./conformance/contents.ts";
import type { Checks, Subject } from "./conformance/subject.ts";
import { unreadable } from "./conformance/unreadable.ts";

export type { Subject };

/** The two functions the suite needs of a test framework; vitest, jest, mocha and node:test all have them. */
export interface TestFramework {
  readonly describe: (name: string, body: () => void) => unknown;
  readonly it: (name: string, body: () => Promise<void>) => unknown;
}

/** Seed of the random checks; set DMKIT_SEED to run again what failed. */
function seed(): number {
  const given = Number(process.env["DMKIT_SEED"]);
  return Number.isSafeInteger(given) && given > 0
    ? given
    : 1 + ((process.pid * 7919 + process.hrtime()[1]) % 1_000_000);
}

/** Registers the suite: one test for each check, each on a fresh device from `open`. */
export function conformance(
  name: string,
  open: () => Promise<Subject>,
  { describe, it }: TestFramework,
): void {
  const groups: readonly Checks[] = [contents, zeroing, refusals, concurrency, lifecycle, unreadable];
  describe(`${name} conforms`, () => {
    for (const group of groups) {
      for (const [title, check] of Object.entries(group)) {
        it(title, async () => {
          const chosen = seed();
          const subject = await open();
          try {
            if (subject.excludes?.includes(title) !== true) await check(subject, chosen);
          } catch (error) {
            if (error instanceof Error) error.message += `\n  (run again with DMKIT_SEED=${chosen})`;
            throw error;
          } finally {
            await subject.device.close();
            await subject.dispose?.();
          }
        });
      }
    }
  });
}
