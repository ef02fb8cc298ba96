export { type Subject, type TestFramework, conformance } from "./conformance.ts";
export { SeededRandom } from "./random.ts";
export * from "./sim/index.ts";
