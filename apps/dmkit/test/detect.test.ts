/** Which format an image is of where one of them cannot be asked. */
import { BlockIoError, type Detected, type ImageFormat, MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { recognise } from "../src/offline/detect.ts";

const format = (name: string, detect: () => Promise<Detected | undefined>): ImageFormat =>
  ({ name, summary: name, roles: [], detect }) as unknown as ImageFormat;
const says = (name: string, certainty: Detected["certainty"]): ImageFormat =>
  format(name, async () => ({ certainty, role: "device", text: name }));
const fails = (code: "EIO" | "ENOTCONN"): ImageFormat =>
  format("other", async () => {
    throw new BlockIoError("a bad sector", { code });
  });

describe("a format that meets a bad sector", () => {
  const device = new MemoryDevice(4096);

  it("does not keep the one from being found that has its magic", async () => {
    const found = await recognise(device, [fails("EIO"), says("cache", "magic"), fails("EIO")]);
    expect(found.format.name).toBe("cache");
  });

  it("could be the one where nothing has its magic, and other errors are told at once", async () => {
    const opening = recognise(device, [fails("EIO"), says("cache", "plausible")]);
    await expect(opening).rejects.toMatchObject({ code: "EIO" });
    const lost = recognise(device, [says("cache", "magic"), fails("ENOTCONN")]);
    await expect(lost).rejects.toMatchObject({ code: "ENOTCONN" });
  });
});
