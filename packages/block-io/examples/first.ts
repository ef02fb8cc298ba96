import {
  TargetRegistry,
  basicTargets,
  openFile,
  openTable,
  parseTable,
  realEnvironment,
} from "@dmkit/block-io";

for (const name of ["a.img", "b.img", "c.img"]) await (await openFile(name, { createSize: 2 ** 20 })).close();
const text = "0 2048 linear a.img 0\n2048 2048 striped 2 8 b.img 0 c.img 0";
const table = parseTable(text, new TargetRegistry(basicTargets));
const device = await openTable(table, { environment: realEnvironment });
await device.write(0, Buffer.alloc(4096, 1), { fua: true });
await device.flush();
await device.close();
