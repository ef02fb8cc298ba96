/** Servers on sockets in a directory of their own, and clients for them; all gone after each test. */
import { mkdtemp, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BlockDevice, type Environment, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { onTestFinished } from "vitest";
import type { ExportOptions } from "../../src/server/exports/export.ts";
import { NbdServer, type NbdServerOptions } from "../../src/server.ts";
import { RawClient } from "./raw-client.ts";

export interface Served {
  readonly server: NbdServer;
  readonly path: string;
  readonly device: BlockDevice;
  readonly client: () => Promise<RawClient>;
}

/** Runs after the test, last registered first. */
export function atEnd(work: () => Promise<void> | void): void {
  onTestFinished(async () => work());
}

export async function temporaryDirectory(): Promise<string> {
  const directory = await mkdtemp(join(tmpdir(), "dmkit-nbd-"));
  atEnd(() => rm(directory, { recursive: true, force: true }));
  return directory;
}

export const DISK = 1024 * 1024;

export interface ServeOptions extends NbdServerOptions {
  readonly device?: BlockDevice;
  readonly export?: Partial<ExportOptions>;
}

/** Serves one device as "disk". */
export async function serve({
  device = new MemoryDevice(DISK),
  export: exported,
  ...options
}: ServeOptions = {}): Promise<Served> {
  const server = new NbdServer(options);
  server.addExport({ name: "disk", device, ...exported });
  const path = join(await temporaryDirectory(), "s");
  await server.listen({ path });
  const clients: RawClient[] = [];
  atEnd(async () => {
    for (const client of clients) client.close();
    await server.close({ timeout: 100 });
  });
  const client = async (): Promise<RawClient> => {
    const connected = await RawClient.connect({ path });
    clients.push(connected);
    return connected;
  };
  return { server, path, device, client };
}

/** A world in which seconds pass in some milliseconds, for tests of time limits. */
export const hurried: Environment = {
  ...realEnvironment,
  clock: {
    ...realEnvironment.clock,
    now: () => realEnvironment.clock.now() * 50,
    after: (milliseconds, callback) => realEnvironment.clock.after(milliseconds / 50, callback),
  },
};

/** Bytes that differ from place to place. */
export function pattern(length: number, seed = 1): Buffer {
  const bytes = Buffer.alloc(length);
  let state = seed * 2654435761;
  for (let at = 0; at < length; at += 1) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    bytes[at] = state >>> 24;
  }
  return bytes;
}

/** Waits until `condition` holds, turn by turn of the event loop. The test's own time limit ends it. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await new Promise((resolve) => setTimeout(resolve, 1));
}
