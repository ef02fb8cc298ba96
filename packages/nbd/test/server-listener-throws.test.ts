/** A request listener that throws, or a bug while answering, costs one connection and nothing else. */
import { type LogLevel, realEnvironment } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { CMD } from "../src/protocol.ts";
import { ProbeDevice } from "./support/devices.ts";
import { DISK, pattern, serve, until } from "./support/serve.ts";

const turn = () => new Promise<void>((resolve) => setImmediate(resolve));

describe.each(["begin", "end"] as const)("a listener that throws at the %s", (event) => {
  it.each([
    ["an asynchronous request", { type: CMD.READ, length: 4096 }],
    ["a refused request", { type: 99 }],
  ])("of %s ends that connection only", async (_, fields) => {
    let armed = false;
    const logged: { level: LogLevel; fields: Readonly<Record<string, unknown>> | undefined }[] = [];
    const device = new ProbeDevice(DISK);
    device.gate = turn;
    const { client, server } = await serve({
      device,
      environment: {
        ...realEnvironment,
        logger: { log: (level, __, about) => logged.push({ level, fields: about }) },
      },
      onRequest: (told) => {
        if (armed && told.event === event) throw new Error("listener threw");
      },
    });
    const good = await (await client()).go("disk");
    const bad = await (await client()).go("disk");
    armed = true;
    bad.request(fields);
    await bad.closed;
    armed = false;
    expect(logged.filter(({ level }) => level === "error").map(({ fields: about }) => about)).toEqual(
      expect.arrayContaining([expect.objectContaining({ export: "disk", message: "listener threw" })]),
    );
    await until(() => server.statistics().connections === 1);
    expect(await good.write(0, pattern(DISK))).toBe(0);
    expect((await good.readBack(0, DISK)).data.equals(pattern(DISK))).toBe(true);
    // Nothing it held is lost, and the export can go.
    await until(() => server.statistics().bytesInFlight === 0);
    good.close();
    await server.removeExport("disk", "hide");
  });
});

it("a failure while answering ends that connection only", async () => {
  let armed = false;
  const device = new ProbeDevice(DISK);
  const { client, server } = await serve({
    device,
    environment: {
      ...realEnvironment,
      clock: {
        ...realEnvironment.clock,
        now: () => {
          if (armed) throw new Error("a bug");
          return realEnvironment.clock.now();
        },
      },
    },
  });
  const good = await (await client()).go("disk");
  const bad = await (await client()).go("disk");
  const release = device.hold("flush");
  bad.request({ type: CMD.FLUSH });
  await until(() => device.count("flush") === 1);
  armed = true;
  release();
  await bad.closed;
  armed = false;
  await until(() => server.statistics().connections === 1 && server.statistics().bytesInFlight === 0);
  expect(await good.write(0, pattern(DISK))).toBe(0);
});
