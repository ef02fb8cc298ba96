/** Pictures: cells show the most noteworthy, count bytes, and stay legible from 1 MiB to 100 GiB. */
import { mkdirSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import type { ImageMap, MapRange } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { decode } from "fast-png";
import { describe, expect, it } from "vitest";
import { layOut, share, undrawn } from "../src/offline/map/cells.ts";
import { drawHtml } from "../src/offline/map/html.ts";
import { drawPng } from "../src/offline/map/png.ts";
import { drawText } from "../src/offline/map/text.ts";

const MIB = 2 ** 20;
const GIB = 2 ** 30;

const legend: ImageMap["legend"] = {
  superblock: { meaning: "superblock", character: "S", colour: "#7048e8", weight: 5 },
  clean: { meaning: "clean segment", character: "=", colour: "#69db7c", weight: 1 },
  dirty: { meaning: "dirty segment", character: "#", colour: "#f08c00", weight: 3 },
  bad: { meaning: "torn or damaged segment", character: "!", colour: "#e03131", weight: 6 },
};

/** A log that has wrapped around, as a cache would have it. */
function cacheMap(size: number, segment: number): ImageMap {
  const random = new SeededRandom(size);
  const count = Math.floor(size / segment) - 1;
  const ranges: MapRange[] = [{ offset: 0, length: Math.min(segment, 4096), kind: "superblock" }];
  for (let slot = 0; slot < count; slot += 1) {
    const share = slot / count;
    if (share > 0.55 && share < 0.7) continue;
    const kind = random.chance(2 / count) ? "bad" : share < 0.25 || share > 0.8 ? "dirty" : "clean";
    ranges.push({ offset: (slot + 1) * segment, length: Math.floor(segment * 0.9), kind });
  }
  return { strips: [{ title: "ssd.img", size, ranges }], legend };
}

/** Three layers of one size, one over the other. */
function stackMap(size: number): ImageMap {
  const random = new SeededRandom(3);
  const strips = ["layer 2 (top)", "layer 1, frozen", "base golden.img"].map((title, index) => {
    const ranges: MapRange[] = [];
    for (let at = 0; at < size; ) {
      const length = (1 + random.below(600)) * MIB;
      if (index === 2 || random.chance(0.3))
        ranges.push({
          offset: at,
          length: Math.min(length, size - at),
          kind: index === 0 ? "dirty" : "clean",
        });
      at += length;
    }
    return { title, size, ranges };
  });
  return { strips, legend };
}

describe("cells", () => {
  it("show the highest weight and count every byte", () => {
    const ranges = [
      { offset: 0, length: 1024, kind: "clean" },
      { offset: 1024, length: 512, kind: "bad" },
      { offset: 4096, length: 512, kind: "dirty" },
    ];
    const picture = layOut({ strips: [{ title: "", size: 4 * MIB, ranges }], legend }, 64, 16);
    const [grid] = picture.grids;
    if (grid === undefined) throw new Error("no grid");
    expect(grid.cellBytes).toBe(4096);
    expect([...grid.shown.subarray(0, 3)]).toEqual([3, 2, -1]);
    expect([...grid.totals]).toEqual([0, 1024, 512, 512]);
    expect(undrawn(grid)).toBe(4 * MIB - 2048);
  });

  it("have round sizes, at least a sector, and fit the grid", () => {
    for (const size of [512, 10 * 512, MIB, 3 * MIB + 512, GIB + 4096, 100 * GIB, 2 ** 50]) {
      const [grid] = layOut({ strips: [{ title: "", size, ranges: [] }], legend }, 128, 64).grids;
      expect(Math.log2(grid?.cellBytes ?? 0) % 1).toBe(0);
      expect(grid?.cellBytes).toBeGreaterThanOrEqual(512);
      expect(grid?.rows).toBeLessThanOrEqual(64);
      expect((grid?.count ?? 0) * (grid?.cellBytes ?? 0)).toBeGreaterThanOrEqual(size);
    }
  });

  it("never call something nothing, or not all of it all", () => {
    expect(share(0, 100)).toBe("0 %");
    expect(share(1, 1e9)).toBe("< 0.1 %");
    expect(share(1e9 - 1, 1e9)).toBe("> 99.9 %");
    expect(share(12, 100)).toBe("12 %");
  });
});

describe("pictures", () => {
  const pictures: Record<string, ImageMap> = {
    small: cacheMap(MIB, 8192),
    large: cacheMap(100 * GIB, 512 * 1024),
    stack: stackMap(100 * GIB),
  };
  // To look at them: DMKIT_PICTURES=folder.
  const folder = process.env["DMKIT_PICTURES"];

  for (const [name, map] of Object.entries(pictures)) {
    it(`${name}: text, PNG and HTML`, () => {
      const rows = (all: number): number => Math.floor(all / map.strips.length);
      const text = drawText(layOut(map, 64, rows(32)));
      const png = drawPng(`writeboost: ${name}.img`, layOut(map, 128, rows(64)));
      const html = drawHtml(`writeboost: ${name}.img`, layOut(map, 128, rows(64)));
      expect(text.split("\n").every((line) => line.length <= 100)).toBe(true);
      const decoded = decode(png);
      expect(decoded.width).toBeLessThanOrEqual(1400);
      expect(decoded.height).toBeLessThanOrEqual(1400);
      expect(html).not.toMatch(/https?:|src=|<script/);
      if (folder === undefined) return;
      mkdirSync(folder, { recursive: true });
      writeFileSync(join(folder, `${name}.png`), png);
      writeFileSync(join(folder, `${name}.html`), html);
      writeFileSync(join(folder, `${name}.txt`), text);
    });
  }

  it("show one bad segment in 100 GiB", () => {
    const [grid] = layOut(pictures["large"] as ImageMap, 64, 32).grids;
    expect([...(grid?.shown ?? [])]).toContain(3);
  });

  it("take no orders from names", () => {
    const strips = [{ title: '<script>alert("x")</script>\u001b[31m', size: MIB, ranges: [] }];
    const html = drawHtml("<b>", layOut({ strips, legend }, 128, 8));
    expect(html).not.toContain("<script");
    expect(html).not.toContain("<b>");
    expect(drawText(layOut({ strips, legend }, 64, 8))).not.toContain("\u001b");
  });
});
