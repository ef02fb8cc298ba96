import { TargetRegistry, openFile, openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { cow } from "@dmkit/cow";

for (const name of ["base.img", "w.map", "w.img"])
  await (await openFile(name, { createSize: 2 ** 24 })).close();
const table = parseTable("0 32768 cow base.img 0 w.map w.img 0", new TargetRegistry([cow]));
const device = await openTable(table, { environment: realEnvironment });
await device.write(0, Buffer.alloc(4096, 1), { fua: true });
console.log(device.status());
await device.close();
