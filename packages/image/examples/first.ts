import { openFile } from "@dmkit/block-io";
import { openImage, publish } from "@dmkit/image";
import { openStore } from "@dmkit/object-store";

const source = await openFile("golden.img", { createSize: 2 ** 24 });
const store = await openStore("./images"); // or s3://disks
const { digest } = await publish(source, store, { name: "golden", tag: "latest" });
for (const done of [source, store]) await done.close();
const disk = await openImage({ image: `./images/golden@${digest}`, cache: "none" });
await disk.read(0, Buffer.alloc(4096));
await disk.close();
