/** Errors of reading the cache device which pass cost nothing, and hide nothing. */
import { expect, it } from "vitest";
import { PassingErrors } from "./support/passing-errors.ts";

const first = Number(process.env["DMKIT_SEED"] ?? Date.now() % 2 ** 31);
console.log(`DMKIT_SEED=${first}`);

it("what is read is right, or an error, and all of it comes back", async () => {
  for (let seed = first; seed < first + 3; seed += 1) {
    const found = await new PassingErrors(seed)
      .carryOut()
      .catch((error: unknown) => `seed ${seed}: ${String(error)}`);
    expect(found).toBeUndefined();
  }
});
