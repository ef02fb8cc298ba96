/** `dmkit cow resize`, as it is typed. */
import { chmodSync, existsSync, readdirSync, statSync, truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { realEnvironment } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { openTableText } from "../src/devices.ts";
import { cli } from "./cli.ts";
import { tempFolder } from "./support.ts";

const MIB = 2 ** 20;

it("makes layers longer and shorter, keeps the old bitmap, and refuses what would lose something", async () => {
  const folder = tempFolder();
  const [base, map, data, next, nextData] = ["base", "map", "data", "next.map", "next.data"].map((name) =>
    join(folder, name),
  ) as [string, string, string, string, string];
  writeFileSync(base, Buffer.alloc(4 * MIB, "base"));
  expect((await cli("cow", "create", map, data, "--base", base)).code).toBe(0);
  expect((await cli("cow", "create", next, nextData, "--on", map)).code).toBe(0);
  const stack = [base, "0", map, data, next, nextData];
  const table = (sectors: number): string =>
    `0 ${sectors} cow ${base} 0 ${map} ${data} 0 ${next} ${nextData} 0`;
  const opened = async (sectors: number): ReturnType<typeof openTableText> =>
    openTableText(table(sectors), realEnvironment);
  const first = await opened(8192);
  await first.write(2 * MIB, Buffer.alloc(4096, 1));
  // Whoever has it open is in the way.
  expect(await cli("cow", "resize", "8M", ...stack)).toMatchObject({ code: 1 });
  await first.close();

  const short = await cli("cow", "resize", "8M", ...stack);
  expect([short.code, short.stderr]).toEqual([1, expect.stringContaining(`truncate -s 8388608 ${base}`)]);
  truncateSync(base, 8 * MIB);
  chmodSync(next, 0o640);
  const kept = join(folder, "old.map");
  expect(await cli("cow", "resize", "8M", ...stack, "--keep", kept)).toMatchObject({
    code: 0,
    stdout: "",
    stderr: "resize: 8 MiB (16384 sectors): 2 of its layers were resized\n",
  });
  expect((statSync(next).mode & 0o777).toString(8)).toBe("640");
  expect((await cli("cow", "check", ...stack)).stdout).toBe("");
  expect((await cli("cow", "info", base, "0", map, data, kept, nextData)).stdout).toContain(
    "made for 8192 sectors",
  );
  expect(await cli("cow", "resize", "8M", ...stack)).toMatchObject({
    code: 0,
    stderr: expect.stringContaining("is of that size already") as string,
  });

  const second = await opened(16_384);
  const bytes = Buffer.alloc(4096);
  await second.read(2 * MIB, bytes);
  expect(bytes.equals(Buffer.alloc(4096, 1))).toBe(true);
  await second.write(7 * MIB, Buffer.alloc(4096, 2));
  await second.close();

  expect((await cli("cow", "resize", "6M", ...stack)).stderr).toContain("--shrink");
  const lossy = await cli("cow", "resize", "6M", "--shrink", ...stack);
  expect([lossy.code, lossy.stderr]).toEqual([1, expect.stringContaining("data behind the new end")]);
  // No layer was changed.
  const third = await opened(16_384);
  await third.writeZeroes(7 * MIB, 4096, { mayUnmap: true });
  await third.close();
  expect((await cli("cow", "resize", "6M", "--shrink", ...stack)).code).toBe(0);
  expect((await cli("cow", "check", ...stack)).stdout).toBe("");
  const last = await opened(12_288);
  await last.read(2 * MIB, bytes);
  expect(bytes.equals(Buffer.alloc(4096, 1))).toBe(true);
  await last.close();
  expect(readdirSync(folder).filter((name) => name.endsWith("part"))).toEqual([]);
});

it("refuses what is no size, no stack, and no file", async () => {
  const folder = tempFolder();
  expect((await cli("cow", "resize", "5", "mem:8M", "a", "b")).code).toBe(2);
  expect((await cli("cow", "resize", "8M", join(folder, "no"), "a", "b")).code).toBe(1);
  const none = await cli("cow", "resize", "8M", "mem:8M", "mem:1M", "mem:8M");
  expect([none.code, none.stderr]).toEqual([1, expect.stringContaining("EFORMAT")]);
  const taken = join(folder, "taken");
  writeFileSync(taken, "");
  expect(await cli("cow", "resize", "8M", "mem:8M", "mem:1M", "mem:8M", "--keep", taken)).toMatchObject({
    code: 1,
    stderr: expect.stringContaining("EEXIST") as string,
  });
  expect(existsSync(`${taken}.dmkit-part`)).toBe(false);
});
