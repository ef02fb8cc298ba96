/** What means the same for all devices. */
import { describe, expect, it } from "vitest";
import { joinFacts, watchedFacts } from "../src/contract/facts.ts";

describe("watched facts", () => {
  it("of several devices are added up, or the least or most of them is told", () => {
    const one = { errors: 1, last_flush: 10, oldest_dirty_seconds: 3, policy: "x", frames: 9 };
    const two = { errors: 2, last_flush: 20, oldest_dirty_seconds: 5, dirty_bytes: 7 };
    expect(joinFacts([one, two, {}])).toEqual({
      errors: 3,
      last_flush: 10,
      oldest_dirty_seconds: 5,
      dirty_bytes: 7,
    });
    expect(joinFacts([])).toEqual({});
  });

  it("that are one metric differ in a label, and have one type and one help", () => {
    const all = Object.values(watchedFacts);
    for (const metric of new Set(all.map((fact) => fact.metric))) {
      const facts = all.filter((fact) => fact.metric === metric);
      expect(new Set(facts.map(({ type, help }) => `${type} ${help}`)).size).toBe(1);
      expect(new Set(facts.map(({ labels }) => JSON.stringify(labels))).size).toBe(facts.length);
    }
  });
});
