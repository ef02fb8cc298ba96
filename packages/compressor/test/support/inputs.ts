/** The inputs of the reference tests: made ones of every kind and length, and real files of this machine. */
import { closeSync, openSync, readFileSync, readSync } from "node:fs";
import { makeSample, sampleKinds, sampleLengths } from "../../src/testing/index.ts";

export interface NamedInput {
  readonly name: string;
  readonly bytes: Buffer;
}

export function corpus(): NamedInput[] {
  const made = sampleKinds.flatMap((kind, which) =>
    sampleLengths.map((length, at) => ({
      name: `${length} bytes of ${kind}`,
      bytes: makeSample(kind, length, at * 16 + which).bytes,
    })),
  );
  return [...made, ...realFiles()];
}

/**
 * Those that are handed to programs, a process for each: long ones of every kind and one in so many of the others; of these
 * a third, unless in the deep tier.
 */
export function some(inputs: readonly NamedInput[], long: number, every: number): NamedInput[] {
  const isDeep = process.env["DMKIT_DEEP"] !== undefined;
  return inputs
    .filter(({ bytes }, n) => bytes.length >= long || n % every === 0)
    .filter((_input, n) => isDeep || n % 3 === 0);
}

/** 128 KiB pieces of machine code, and our own sources as text. */
export function realFiles(): NamedInput[] {
  const pieces = [0, 20_000_000, 60_000_000].map((offset) => {
    const bytes = Buffer.alloc(131072);
    const file = openSync(process.execPath, "r");
    readSync(file, bytes, 0, bytes.length, offset);
    closeSync(file);
    return { name: `the node executable from byte ${offset}`, bytes };
  });
  const sources = ["compressor.ts", "pool.ts", "format/lzo1x-compress.ts", "testing/attack.ts"].map((name) =>
    readFileSync(new URL(`../../src/${name}`, import.meta.url)),
  );
  return [...pieces, { name: "sources", bytes: Buffer.concat(sources).subarray(0, 131072) }];
}
