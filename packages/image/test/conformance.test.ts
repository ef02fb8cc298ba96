/** An image in a store that is a folder is a block device like any other. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemoryDevice } from "@dmkit/block-io";
import { SeededRandom, conformance } from "@dmkit/block-io/testing";
import { openStore } from "@dmkit/object-store";
import { describe, it } from "vitest";
import { openImage, publish } from "../src/index.ts";

const SIZE = 1024 * 1024 + 512;

conformance(
  "an image",
  async () => {
    const folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
    const source = new MemoryDevice(SIZE);
    // Holes, zeroes, and chunks that are the same.
    await source.write(64 * 1024, new SeededRandom(1).fill(Buffer.alloc(128 * 1024)));
    await source.write(512 * 1024, Buffer.alloc(256 * 1024, "the same again "));
    const store = await openStore(join(folder, "store"));
    await publish(source, store, { name: "disk", tag: "latest", chunkSize: 64 * 1024 });
    await store.close();
    const open = (): ReturnType<typeof openImage> =>
      openImage({ image: `${join(folder, "store")}/disk`, cache: join(folder, "blobs") });
    return { device: await open(), reopen: open, dispose: () => rmSync(folder, { recursive: true }) };
  },
  { describe, it },
);
