/** `format --force`: what a format refuses has written nothing, also where it is too large to be tried out in memory. */
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BlockIoError, type ImageFormat, codeOf, realEnvironment } from "@dmkit/block-io";
import { afterAll, expect, it } from "vitest";
import { formatImage } from "../src/offline/format-image.ts";
import { toy } from "./toy-format.ts";

const folder = mkdtempSync(join(tmpdir(), "dmkit-force-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Refused by the second attempt: the first one is told that there is not the memory for it. */
function late(): ImageFormat {
  let attempts = 0;
  return {
    ...toy(),
    async format({ device }) {
      attempts += 1;
      if (attempts === 1) throw new BlockIoError("too much to keep", { code: "ENOMEM" });
      await device?.read(0, Buffer.alloc(512));
      throw new BlockIoError("not like this", { code: "EINVAL" });
    },
  };
}

function swap(): { readonly path: string; readonly contents: () => Buffer } {
  const path = join(folder, "swap");
  writeFileSync(path, `${"\0".repeat(4086)}SWAPSPACE2`);
  truncateSync(path, 65_536);
  return { path, contents: () => readFileSync(path) };
}

const request = (format: ImageFormat, path: string) =>
  ({ format, references: { device: path }, options: {}, force: true }) as const;

it("erases no signature of a device that the format refuses", async () => {
  const { path, contents } = swap();
  const before = contents();
  const refused = formatImage(request(late(), path), [], { environment: realEnvironment });
  expect(codeOf(await refused.catch((error: unknown) => error))).toBe("EINVAL");
  expect(contents().equals(before)).toBe(true);
});

it("erases those of a device that is written, wherever they are", async () => {
  const { path, contents } = swap();
  await formatImage(request(toy(), path), [], { environment: realEnvironment });
  expect(contents().includes("SWAPSPACE2")).toBe(false);
  expect(contents().toString("latin1", 0, 8)).toBe("TOYMAGIC");
});
