// Writes two extents of 128 KiB to a device whose algorithm needs two threads at once, and prints what became of it.
import { MemoryDevice, parseOptions, realEnvironment } from "@dmkit/block-io";
import { compressionOptions, openCompression } from "@dmkit/compression";
import { registerBackend } from "@dmkit/compressor";
import { rendezvous } from "./rendezvous.mjs";

registerBackend(rendezvous);
const lower = new MemoryDevice(8 * 2 ** 20);
const options = parseOptions(compressionOptions, {
  device: "lower",
  algorithm: "rendezvous",
  max_extent: 131_072,
});
const context = {
  name: "compression",
  size: 2 ** 20,
  environment: realEnvironment,
  lower: async () => lower,
};
const device = await openCompression(options, context);
const data = Buffer.alloc(2 * 131_072, "two by t");
await device.write(0, data);
await device.flush();
const into = Buffer.alloc(data.length);
await device.read(0, into);
console.log(into.equals(data) ? device.status().replace(/ Meta.*/, "") : "other bytes");
await device.close();
