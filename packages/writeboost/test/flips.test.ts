/** Rot is refused, reported or harmless. DMKIT_FLIPS sets how many bits are flipped; `npm run deep` flips most. */
import { isDeep } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import { flipBits } from "./support/flips.ts";

const flips = Number(process.env["DMKIT_FLIPS"] ?? (isDeep ? 2000 : 400));
const seed = Number(process.env["DMKIT_SEED"] ?? 1);

it(`${flips} flipped bits (seed ${seed}): none changes what is read without a word`, async () => {
  const { silent } = await flipBits(flips, seed);
  expect(silent).toEqual([]);
}, 600_000);
