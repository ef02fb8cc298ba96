import { TargetRegistry, openTable, parseTable, realEnvironment } from "@dmkit/block-io";
import { zram } from "@dmkit/zram";

const table = parseTable("0 2097152 zram lz4", new TargetRegistry([zram]));
const device = await openTable(table, { environment: realEnvironment });
await device.write(0, Buffer.alloc(4096, 1), { fua: true });
console.log(device.status());
await device.close();
