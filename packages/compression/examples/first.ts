import { TargetRegistry, openFile, openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { compression } from "@dmkit/compression";

for (const name of ["packed.img"]) await (await openFile(name, { createSize: 2 ** 24 })).close();
const table = parseTable(
  "0 16384 compression packed.img writeback 5 2 algorithm lz4",
  new TargetRegistry([compression]),
);
const device = await openTable(table, { environment: realEnvironment });
await device.write(0, Buffer.alloc(4096, 1), { fua: true });
console.log(device.status());
await device.close();
