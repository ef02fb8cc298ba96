/**
 * How often tests with random input repeat themselves. Seldom in everyday runs, each of which draws other
 * input; DMKIT_NBD_RUNS=10 makes ten times as many.
 */
export const EFFORT: number = Math.max(1, Number(process.env["DMKIT_NBD_RUNS"] ?? 1) || 1);

/** @param count repetitions of an everyday run. */
export function runs(count: number): number {
  return Math.ceil(count * EFFORT);
}

/** Milliseconds a test may take that needs `everyday` of them for an everyday run; a busy machine takes its time. */
export function timeFor(everyday: number): number {
  return Math.max(180_000, everyday * EFFORT);
}
