/** What a program gives the server and cannot be is refused, with what is allowed; nothing waits for it for ever. */
import { MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { type ExportOptions, type ListenOptions, NbdServer, type NbdServerOptions } from "../src/index.ts";

const device = new MemoryDevice(4096);
const refused = { code: "EINVAL", hint: expect.stringMatching(/\S/) };

describe("a server refuses", () => {
  it("limits there are not", () => {
    const options = { limits: { foo: 1 } } as unknown as NbdServerOptions;
    expect(() => new NbdServer(options)).toThrow(
      expect.objectContaining({ ...refused, hint: expect.stringContaining("connections, ") }),
    );
    expect(() => new NbdServer({ limits: { connections: "9" as unknown as number } })).toThrow(
      expect.objectContaining({ code: "EINVAL" }),
    );
  });

  it.each([
    { maxConnections: 0 },
    { maxConnections: -1 },
    { maxConnections: Number.NaN },
    { maxConnections: 1.5 },
    { name: undefined },
    { description: 7 },
  ])("exports that let nobody in, or cannot be told: %o", (extra) => {
    const server = new NbdServer();
    const options = { name: "disk", device, ...extra } as unknown as ExportOptions;
    expect(() => server.addExport(options)).toThrow(expect.objectContaining(refused));
    expect(server.exports()).toEqual([]);
    server.addExport({ name: "disk", device, maxConnections: 1 });
  });

  it("removals in no known mode, and keeps the export", async () => {
    const server = new NbdServer();
    server.addExport({ name: "disk", device });
    await expect(server.removeExport("disk", "foo" as "safe")).rejects.toMatchObject(refused);
    expect(server.exports().map(({ leaving }) => leaving)).toEqual([false]);
    await server.removeExport("disk");
  });

  it.each([
    { path: "" },
    { path: 5 },
    { path: "a\0b" },
    { port: -1 },
    { port: "x" },
    { port: 65_536 },
    { port: 0, host: "" },
    { port: 0, allowRemote: "yes" },
    { fd: -1 },
    { fd: "3" },
    { path: "/s", port: 1 },
    { prot: 1 },
    null,
  ])("to listen at %o", async (where) => {
    const server = new NbdServer();
    await expect(server.listen(where as unknown as ListenOptions)).rejects.toMatchObject(refused);
    await server.close();
  });

  it.each([Number.NaN, -1, Number.POSITIVE_INFINITY])(
    "to close in %s milliseconds, and closes then",
    async (timeout) => {
      const server = new NbdServer();
      await expect(server.close({ timeout })).rejects.toMatchObject(refused);
      await server.close({ timeout: 0 });
    },
  );
});
