/** Checks that any backend can be put to, ours and yours; they need no test framework. */
export { type AttackOptions, type AttackResult, attackBackend } from "./attack.ts";
export { type Sample, type SampleKind, makeSample, sampleKinds, sampleLengths } from "./corpus.ts";
export { SeededRandom } from "./random.ts";
export { checkRoundTrip } from "./round-trip.ts";
