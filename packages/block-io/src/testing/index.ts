export { BadSectors } from "./bad-sectors.ts";
export { type Subject, type TestFramework, conformance } from "./conformance.ts";
export { ManualClock, manualEnvironment, settle } from "./manual-clock.ts";
export { PowerCut, contentsOf } from "./power-cut.ts";
export { bigEndian, crc32cByHand, littleEndian } from "./numbers.ts";
export { SeededRandom } from "./random.ts";
export * from "./sim/index.ts";
