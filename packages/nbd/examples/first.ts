import { MemoryDevice } from "@dmkit/block-io";
import { NbdServer, openNbd } from "@dmkit/nbd";

const server = new NbdServer();
server.addExport({ name: "disk", device: new MemoryDevice(64 * 1024 * 1024) });
const listener = await server.listen({ path: "disk.sock" });
const device = await openNbd(listener.uri("disk")); // nbd+unix:///disk?socket=…
await device.write(0, Buffer.alloc(4096, 1), { fua: true });
await device.close();
await server.close();
