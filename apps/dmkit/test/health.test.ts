/** How devices are: told by `ls`, `status` and `/healthz`, in the log once, and healed where it can be. */
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type LogLevel, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { NbdServer } from "@dmkit/nbd";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { startMetrics } from "../src/metrics/server.ts";
import type { Snapshot } from "../src/top/snapshot.ts";
import { cli } from "./cli.ts";
import { serve, until } from "./support.ts";

const size = 2 ** 20;

let folder: string;
let manager: DeviceManager;
let logged: { readonly level: LogLevel; readonly message: string; readonly device: unknown }[];

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
  logged = [];
  const logger = {
    log: (level: LogLevel, message: string, fields: Readonly<Record<string, unknown>> = {}): void => {
      if (message.startsWith("a device")) logged.push({ level, message, device: fields["device"] });
    },
  };
  manager = new DeviceManager({ ...realEnvironment, logger });
});

afterEach(async () => {
  await manager.close().catch(() => {});
  rmSync(folder, { recursive: true, force: true });
});

function file(name: string, bytes: number): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, bytes);
  return path;
}

/** Puts a table in place of a device's, under those that stand on it. */
async function exchange(name: string, table: string): Promise<void> {
  // What does not answer cannot be compared with what a cache above relies on.
  await manager.reload(name, table, { force: true });
  await manager.resume(name);
}

async function answer(path: string): Promise<readonly [number, string]> {
  const devices = manager.snapshot();
  const listener = await startMetrics({ host: "127.0.0.1", port: 0 }, () => {
    const rest = {
      time: 0,
      wallTime: 0,
      uptime: 0,
      pid: 1,
      version: "dmkit 1.2.3",
      connections: 0,
      accepted: 0,
      refused: 0,
      bytesInFlight: 0,
      clients: [],
      exports: [],
    };
    const snapshot: Snapshot = { ...rest, devices };
    return snapshot;
  });
  try {
    const response = await fetch(`http://127.0.0.1:${listener.port}${path}`);
    return [response.status, await response.text()];
  } finally {
    await listener.close();
  }
}

describe("a device whose tables do not open", () => {
  it("has failed, and so has what stands on it, until it has one", async () => {
    const path = file("a", size);
    await manager.create("a", `0 2048 linear ${path} 0`);
    await manager.create("above", "0 2048 linear dm:a 0");
    truncateSync(path, 512);
    await manager.reload("a", `0 2048 linear ${path} 0`);
    await expect(manager.resume("a")).rejects.toMatchObject({ code: "EINVAL" });
    const states = (): unknown[] => manager.snapshot().map(({ name, health }) => [name, health.state]);
    expect(states()).toEqual([
      ["a", "failed"],
      ["above", "failed"],
    ]);
    expect((await answer("/healthz"))[1]).toContain("dmkit reload a --table");
    await exchange("a", `0 2048 linear ${file("b", size)} 0`);
    expect(states()).toEqual([
      ["a", "ok"],
      ["above", "ok"],
    ]);
  });
});

describe("a cache that lost its cache device", () => {
  const mib = 2048;
  it.each([
    ["cache", "cache dm:disk dm:ssd 0 8 1024", "degraded"],
    ["writeboost", "writeboost 0 dm:disk dm:ssd", "failed"],
  ])("is not ok: %s", async (_, line, state) => {
    const ssd = file("ssd", 32 * size);
    await manager.create("disk", `0 ${mib} linear ${file("disk", size)} 0`);
    await manager.create("ssd", `0 ${32 * mib} linear ${ssd} 0`);
    const device = await manager.create("fast", `0 ${mib} ${line}`);
    expect(manager.snapshotOf("fast").health).toEqual({ state: "ok" });
    expect(await answer("/healthz")).toEqual([200, "ok\n"]);
    await exchange("ssd", `0 ${32 * mib} flakey ${ssd} 0 0 86400`);
    // Something has to be asked of it.
    await device.write(0, Buffer.alloc(4096, 1)).catch(() => {});
    await device.read(8192, Buffer.alloc(4096)).catch(() => {});
    await device.flush().catch(() => {});
    await until(() => manager.snapshotOf("fast").health.state !== "ok", "trouble");
    const { health } = manager.snapshotOf("fast");
    expect(health).toMatchObject({
      state,
      since: expect.any(Number),
      why: expect.any(String),
      help: expect.any(String),
    });
    const [status, text] = await answer("/healthz");
    expect(status).toBe(503);
    expect(text).toMatch(new RegExp(`^fast is ${state} since .*: .*\n  .*\n$`));
    expect(text).toContain(`  ${health.help}\n`);
    const since = `dmkit_device_health_since_timestamp_seconds{device="fast"} ${(health.since ?? 0) / 1000}\n`;
    expect((await answer("/metrics"))[1]).toContain(since);
    expect(await answer("/livez")).toEqual([200, "ok\n"]);
    expect((await answer("/metrics"))[1]).toContain(`dmkit_device_health{device="fast",health="${state}"} 1`);
    // However often somebody looks, it is logged once.
    manager.watchHealth();
    expect(logged).toEqual([
      { level: state === "failed" ? "error" : "warn", message: `a device is ${state}`, device: "fast" },
    ]);
    expect(manager.snapshotOf("fast").health.since).toBe(health.since);
  });
});

describe("a device over a server that went away", () => {
  it("is degraded, and so is what stands on it; both are well again when the server is back", async () => {
    const path = join(folder, "low.sock");
    const start = async (): Promise<NbdServer> => {
      const server = new NbdServer();
      server.addExport({ name: "", device: new MemoryDevice(size) });
      await server.listen({ path });
      return server;
    };
    const first = await start();
    await manager.create("low", `0 2048 linear nbd+unix:///?socket=${path} 0`);
    await manager.create("high", "0 8 linear dm:low 0");
    await first.close();
    await until(() => manager.snapshotOf("low").health.state === "degraded", "the loss");
    expect(manager.snapshotOf("low").health.why).toMatch(/requests wait up to 30 s for the server/);
    expect(manager.snapshotOf("high").health.why).toMatch(/^dm:low: .*requests wait/);
    const second = await start();
    await until(() => manager.snapshotOf("high").health.state === "ok", "the server");
    manager.watchHealth();
    expect(logged.map(({ message, device }) => `${String(device)}: ${message}`).toSorted()).toEqual([
      "high: a device is degraded",
      "high: a device is ok again",
      "low: a device is degraded",
      "low: a device is ok again",
    ]);
    await manager.close();
    await second.close();
  });
});

describe("ls, status and top", () => {
  it("tell how a device is, since when, why, and what to do", async () => {
    const control = join(folder, "c.sock");
    const ssd = file("ssd", 32 * size);
    const server = await serve(["-C", control, "mem:1M"]);
    const verb = (...words: string[]): ReturnType<typeof cli> => cli(...words, "-C", control);
    for (const words of [
      ["create", "ssd", "-t", `0 65536 linear ${ssd} 0`],
      ["create", "disk", "-t", "0 2048 writeboost 0 mem:1M dm:ssd"],
      ["reload", "--force", "ssd", "-t", `0 65536 flakey ${ssd} 0 0 86400`],
      ["resume", "ssd"],
      ["export", "add", "d", "disk"],
    ]) {
      expect(await verb(...words)).toMatchObject({ code: 0, stderr: "" });
    }
    // Its plain reads go past the cache device; what is written does not.
    const source = join(folder, "source");
    writeFileSync(source, Buffer.alloc(65_536, 1));
    const writing = await cli("copy", source, server.uri.replace("/?", "/d?"));
    expect(writing.code).toBe(1);
    // One after the other: they print in this process.
    const list = await verb("ls");
    const status = await verb("status", "disk");
    const top = await verb("top", "--once");
    expect(top.stdout).toMatch(/^disk is failed since \d{4}-.*: .*\n {2}Repair .*$/m);
    expect(list.stdout).toMatch(/^disk .*FAILED$/m);
    expect(status.stderr).toMatch(/^disk is failed since \d{4}-.*: .*\n {2}Repair .*\n$/);
    await until(() => server.stderr().includes('a device is failed device="disk"'), "the log");
  });
});
