import { openFile } from "@dmkit/block-io";
import { openEmbedded } from "@dmkit/writeboost";

const backing = await openFile("disk.img", { createSize: 2 ** 26 });
const cache = await openFile("cache.img", { createSize: 2 ** 26 });
const device = await openEmbedded(backing, cache);
await device.write(0, Buffer.alloc(4096, 1));
await device.flush();
await device.close();
for (const file of [cache, backing]) await file.close();
