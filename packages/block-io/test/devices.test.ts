import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { describe, it } from "vitest";
import { MemoryDevice, MemoryOverlay, openFile } from "../src/index.ts";
import { type Subject, conformance } from "../src/testing/index.ts";

const framework = { describe, it };

conformance("memory", async () => ({ device: new MemoryDevice(1024 * 1024) }), framework);
conformance(
  "memory of 4096-byte blocks",
  async () => ({ device: new MemoryDevice(1024 * 1024 + 4096, { logicalBlockSize: 4096 }) }),
  framework,
);
conformance(
  "what is kept in memory over another device",
  async () => ({ device: new MemoryOverlay(new MemoryDevice(1024 * 1024)) }),
  framework,
);
conformance("file", () => fileSubject(), framework);
conformance("preallocated file", () => fileSubject({ preallocate: true }), framework);
conformance(
  "read-only file",
  async () => {
    const { device, dispose } = await fileSubject();
    await device.write(65_536, Buffer.alloc(65_536, 1));
    const path = device.name;
    await device.close();
    return { device: await openFile(path, { readOnly: true }), dispose: dispose as () => void };
  },
  framework,
);

async function fileSubject(options: { preallocate?: boolean } = {}): Promise<Subject> {
  const folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
  const path = join(folder, "image");
  return {
    device: await openFile(path, { createSize: 1024 * 1024 + 512, ...options }),
    reopen: () => openFile(path),
    dispose: () => rmSync(folder, { recursive: true }),
  };
}
