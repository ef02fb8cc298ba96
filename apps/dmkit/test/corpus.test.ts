/** The corpus of damaged images: CORPUS.md tells what it is, corpus/run.ts what holds for every image in it. */
import { readFileSync, writeFileSync } from "node:fs";
import { describe, expect, it } from "vitest";
import type { Case } from "./corpus/case.ts";
import { cases } from "./corpus/cases.ts";
import { runCase } from "./corpus/run.ts";
import { list } from "./corpus/list.ts";
import { tempFolder } from "./support.ts";

/** One in so many is given to `dmkit` as a program. */
const PROGRAM = 24;

const expected = ({ found, exits, shows, error, repaired = [], left }: Case): unknown => ({
  found,
  exits,
  shows,
  error,
  repaired,
  left: left ?? found.filter((words) => !repaired.includes(words)),
});

describe("the corpus", () => {
  for (const [index, one] of cases.entries()) {
    it(one.name, async () => {
      const outcome = await runCase(one, tempFolder(), index % PROGRAM === 0);
      expect(outcome).toEqual(expected(one));
    });
  }

  it("has a name for each", () => {
    expect(new Set(cases.map(({ name }) => name)).size).toBe(cases.length);
  });

  it("is listed in CORPUS.md", () => {
    const path = new URL("CORPUS.md", import.meta.url);
    const [text = ""] = readFileSync(path, "utf8").split("<!-- the list -->");
    const wanted = `${text}<!-- the list -->\n\n${list(cases)}`;
    if (process.env["DMKIT_CORPUS"] === "list") writeFileSync(path, wanted);
    expect(readFileSync(path, "utf8")).toBe(wanted);
  });
});
