#!/usr/bin/env node
/** `npm run sim` of this package. Format 1 is run only when named: it loses data, or is kept from it. */
import { simMain } from "@dmkit/block-io/testing";
import {
  fading,
  formatOne,
  formatOneClosed,
  formatOneRaw,
  formatOneRawOrdered,
  formatOneRawThrough,
  formatOneSmall,
  formatTwo,
  wide,
} from "./sim-targets.ts";

const hidden = [
  formatOne,
  formatOneClosed,
  formatOneSmall,
  formatOneRaw,
  formatOneRawThrough,
  formatOneRawOrdered,
];
process.exitCode = await simMain([formatTwo, wide, fading], process.argv.slice(2), undefined, hidden);
