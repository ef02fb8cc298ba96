/** FAULTS.md says what is: every mutant it names exists, and every one that exists is named. */
import { readFileSync } from "node:fs";
import { expect, it } from "vitest";
import { mutants } from "../src/testing/mutants.ts";

const text = (name: string): string => readFileSync(new URL(name, import.meta.url), "utf8");

it("names every mutant, and no other", () => {
  const rows = text("FAULTS.md")
    .split("\n")
    .filter((line) => line.startsWith("| ") && !line.startsWith("| fault"));
  const named = rows.flatMap((row) => [...(row.split("|")[2] ?? "").matchAll(/`([a-z0-9-]+)`/g)]);
  const random = mutants.map(({ name }) => name.slice(name.indexOf("!") + 1));
  const directed = ["directed-log.test.ts", "directed-plog.test.ts"].flatMap((name) =>
    [...text(name).matchAll(/(?:fault: |^ +\[?)"([a-z0-9-]+-[a-z0-9-]+)",/gm)].map(([, fault = ""]) => fault),
  );
  const names = named.map(([, name = ""]) => name);
  expect(new Set(names)).toEqual(new Set([...random, ...directed]));
});
