import { TargetRegistry, openFile, openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { assocCache } from "@dmkit/assoc-cache";

for (const name of ["disk.img", "cache.img"]) await (await openFile(name, { createSize: 2 ** 24 })).close();
const table = parseTable("0 16384 cache disk.img cache.img 0 8 1024 64 1", new TargetRegistry([assocCache]));
const device = await openTable(table, { environment: realEnvironment });
await device.write(0, Buffer.alloc(4096, 1), { fua: true });
console.log(device.status());
await device.close();
