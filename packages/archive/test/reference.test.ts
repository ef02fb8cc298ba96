/** References to archives: where the store, the disk, the moment and the parameters of a bucket are. */
import { describe, expect, it } from "vitest";
import { absoluteArchiveReference, atMoment, parseArchiveReference } from "../src/index.ts";

describe("a reference", () => {
  it.each([
    ["s3://b/p/vm1@7?region=x", { store: "s3://b/p?region=x", disk: "vm1", when: { id: 7 } }],
    ["archive:/disks/vm1", { store: "/disks", disk: "vm1", when: "newest" }],
    // A folder has no parameters.
    ["/a?x/vm1@3", { store: "/a?x", disk: "vm1", when: { id: 3 } }],
    ["/a@b/vm1", { store: "/a@b", disk: "vm1", when: "newest" }],
  ])("%s", (text, meant) => {
    expect(parseArchiveReference(text)).toEqual(meant);
  });

  it("keeps its place and its parameters where another moment is meant, or paths become absolute", () => {
    expect(atMoment("s3://b/vm1@7?region=x", "9")).toBe("s3://b/vm1@9?region=x");
    expect(atMoment("archive:/a?x@y/vm1", "9")).toBe("archive:/a?x@y/vm1@9");
    expect(absoluteArchiveReference("a?x/vm1@3", "/f")).toBe("archive:/f/a?x/vm1@3");
    expect(absoluteArchiveReference("archive:s3://b/vm1@3?ca=c.pem", "/f")).toBe(
      "archive:s3://b/vm1@3?ca=/f/c.pem",
    );
  });
});
