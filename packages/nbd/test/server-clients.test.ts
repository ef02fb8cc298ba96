/** Who is there, and what each was answered. */
import { MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { NbdServer, openNbd } from "../src/index.ts";

describe("the clients of a server", () => {
  it("are told by the server, with what they were given, while they are there", async () => {
    const server = new NbdServer();
    server.addExport({ name: "disk", device: new MemoryDevice(2 ** 20) });
    const { port } = await server.listen({ host: "127.0.0.1", port: 0 });
    expect(server.clients()).toEqual([]);
    const one = await openNbd(`nbd://127.0.0.1:${port}/disk`);
    const two = await openNbd(`nbd://127.0.0.1:${port}/disk`);
    await one.write(0, Buffer.alloc(8192));
    await one.read(0, Buffer.alloc(4096));
    const [first, second] = server.clients();
    expect(first).toMatchObject({
      export: "disk",
      address: "127.0.0.1",
      identity: undefined,
      tls: false,
      readOnly: false,
      inFlight: 0,
      requests: 2,
      bytes: 12_288,
      errors: 0,
    });
    expect(second).toMatchObject({ requests: 0, bytes: 0 });
    expect(second?.id).toBeGreaterThan(first?.id ?? 0);
    expect(first?.since).toBeLessThanOrEqual(second?.since ?? 0);
    await one.close();
    await two.close();
    await server.close();
    expect(server.clients()).toEqual([]);
  });
});
