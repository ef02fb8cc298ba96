/** Which format an image is of where one of them cannot be asked. */
import {
  BlockIoError,
  type Detected,
  type ImageFormat,
  MemoryDevice,
  encodeUnfinished,
} from "@dmkit/block-io";
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

it("is none on a device that was given up, which is said, unless something is on it since", async () => {
  const device = new MemoryDevice(2 ** 21);
  await device.write(0, encodeUnfinished());
  await device.write(4096, Buffer.concat([Buffer.from("dmkitWB1"), Buffer.alloc(504)]));
  await expect(recognise(device, [])).rejects.toMatchObject({
    code: "EFORMAT",
    reason: expect.stringContaining("counts as blank"),
  });
  await device.write(1024, Buffer.concat([Buffer.alloc(56), Buffer.from("53ef", "hex"), Buffer.alloc(454)]));
  await expect(recognise(device, [])).rejects.toMatchObject({
    reason: expect.stringContaining("none of the known"),
  });
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
