import { openFile } from "@dmkit/block-io";
import { openTracked } from "@dmkit/tracked";

const disk = await openFile("disk.img", { createSize: 2 ** 24 });
const device = await openTracked(disk, await openFile("disk.map", { createSize: 2 ** 20 }));
await device.begin("monday");
await device.write(2 ** 20, Buffer.alloc(4096, 1), { fua: true });
console.log(device.list());
for (const one of device.descriptions)
  for await (const { length, status } of one.describe(0, device.size)) console.log(one.name, length, status);
await device.close();
