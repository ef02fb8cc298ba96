/** Directed cases: one fault, one scenario in which it shows, and the proof that it would. */
import { describe, expect, it } from "vitest";

export interface Case {
  /** Name of the fault, as FAULTS.md has it. */
  readonly fault: string;
  /** Plays the scenario. Returns what is wrong, if anything; throws where the device does. */
  readonly scenario: () => Promise<readonly string[]>;
  /** Puts the fault in; the result takes it out again. */
  readonly inject: () => () => void;
}

async function violations(scenario: Case["scenario"]): Promise<readonly string[]> {
  try {
    return await scenario();
  } catch (error) {
    return [String(error)];
  }
}

/** Two tests for each case: it passes as it is, and fails with the fault put back in. */
export function directed(cases: readonly Case[]): void {
  describe.each(cases.map((one) => [one.fault, one] as const))("%s", (_name, { scenario, inject }) => {
    it("does not happen", async () => {
      expect(await violations(scenario)).toEqual([]);
    });

    it("is caught when put back in", async () => {
      const undo = inject();
      try {
        expect(await violations(scenario)).not.toEqual([]);
      } finally {
        undo();
      }
    });
  });
}

/** Collects what is not as it should be. */
export class Findings {
  readonly all: string[] = [];

  same(what: string, actual: unknown, expected: unknown): void {
    const [is, should] = [JSON.stringify(actual), JSON.stringify(expected)];
    if (is !== should) this.all.push(`${what}: ${is}, not ${should}`);
  }
}
