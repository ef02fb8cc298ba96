/** The disk whose power fails: what must survive, what may, and what happens to requests. */
import { describe, expect, it } from "vitest";
import { codeOf } from "../src/index.ts";
import { PowerCut, SeededRandom, contentsOf } from "../src/testing/index.ts";

const full = (letter: string, sectors = 4): Buffer => Buffer.alloc(sectors * 512, letter);

describe("PowerCut", () => {
  it("keeps what was flushed; of the rest each sector is old or new", async () => {
    const survivors = new Set<string>();
    for (let seed = 0; seed < 100; seed += 1) {
      const disk = new PowerCut(full("o"), 3);
      await disk.write(0, full("f", 1));
      await disk.flush();
      await disk.write(512, full("p", 1));
      const cut = await disk.write(1024, full("q", 2)).then(() => "done", codeOf);
      expect(cut).toBe("EIO");
      expect(disk.isOff).toBe(true);
      const left = await contentsOf(disk.survivor(new SeededRandom(seed)));
      survivors.add(left.toString("latin1").replaceAll(/(.)\1{511}/g, "$1"));
    }
    expect([...survivors].sort()).toEqual(["fooo", "fooq", "foqo", "foqq", "fpoo", "fpoq", "fpqo", "fpqq"]);
  });

  it("answers nothing any more, and without a limit never fails", async () => {
    const off = new PowerCut(full("o"), 1);
    await off.write(0, full("x")).catch(() => {});
    for (const request of [() => off.read(0, full("?")), () => off.write(0, full("x")), () => off.flush()]) {
      expect(await request().then(() => "done", codeOf)).toBe("EIO");
    }
    const on = new PowerCut(full("o"), 0);
    for (const letter of ["a", "b"]) await on.write(0, full(letter), { fua: true });
    expect(on.writes).toBe(2);
    expect(on.isOff).toBe(false);
    expect((await contentsOf(on.survivor(new SeededRandom(1)))).equals(full("b"))).toBe(true);
  });
});
