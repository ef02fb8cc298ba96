import { openFile } from "@dmkit/block-io";
import { openTracked } from "@dmkit/tracked";

const disk = await openFile("disk.img", { createSize: 2 ** 24 });
const device = await openTracked(disk, await openFile("disk.map", { createSize: 2 ** 20 }));
const backup = await openFile("backup.img", { createSize: device.size });
if (device.epochs.length === 0) await device.begin("0"); // disk and backup are the same: empty
await device.write(2 ** 20, Buffer.alloc(4096, 1));

const last = device.epochs[0]?.name ?? "";
await device.begin(String(Number(last) + 1)); // what is written from here on is for the next backup
const changed = device.descriptions.find(({ name }) => name === `qemu:dirty-bitmap:${last}`);
for (let at = 0; at < device.size; at += 2 ** 16) {
  for await (const { status } of changed?.describe(at, 2 ** 16) ?? []) {
    const bytes = Buffer.alloc(2 ** 16);
    if (status === 1) await device.read(at, bytes).then(() => backup.write(at, bytes));
  }
}
await backup.flush();
await device.drop(last);
for (const one of [device, backup]) await one.close();
