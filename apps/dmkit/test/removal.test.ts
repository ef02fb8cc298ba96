/** Devices whose storage does not answer: removed by force, and waited for at the end together with all others. */
import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import {
  type BlockDevice,
  BlockIoError,
  type Environment,
  GuardedDevice,
  MemoryDevice,
  makeGate,
  plainLimits,
  realEnvironment,
  linear,
} from "@dmkit/block-io";
import { ManualClock } from "@dmkit/block-io/testing";
import { NbdServer, openNbd } from "@dmkit/nbd";
import { afterEach, beforeEach, describe, expect, it } from "vitest";
import { controlMethods } from "../src/control/methods.ts";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { Moments } from "../src/moment/moments.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { openedAs } from "../src/manager/device/opened-table.ts";
import { Stack } from "../src/serve/stack.ts";
import { readStackFile } from "../src/stack-file/read/read.ts";
import { cli } from "./cli.ts";
import { main, serve, tempFolder, until } from "./support.ts";

/** Answers nothing until it is told to. */
class Dead extends GuardedDevice {
  readonly #gate = makeGate();

  constructor() {
    super("dead", 2 ** 20, plainLimits);
  }

  /** The storage is back. */
  revive(): void {
    this.#gate.open();
  }

  protected override doRead(): Promise<void> {
    return this.#gate.promise;
  }

  protected override doWrite(): Promise<void> {
    return this.#gate.promise;
  }

  protected override doFlush(): Promise<void> {
    return this.#gate.promise;
  }
}

const image = { target: linear, words: (): string[] => ["dead", "0"] };
const zeroes = "0 2048 linear mem:1M 0";

let manager: DeviceManager;
let dead: Dead;
let device: BlockDevice;
let folder: string;

beforeEach(async () => {
  folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
  manager = new DeviceManager(realEnvironment);
  dead = new Dead();
  device = await manager.adopt("a", openedAs(dead, image));
});

afterEach(async () => {
  dead.revive();
  await manager.close();
  rmSync(folder, { recursive: true, force: true });
});

/** Whether it is over after a few turns of the event loop, and timers of a few milliseconds. */
async function isOver(work: Promise<unknown>): Promise<boolean> {
  const late = new Promise<boolean>((resolve) => setTimeout(resolve, 30, false));
  return Promise.race([work.then(() => true), late]);
}

describe("a device whose storage does not answer", () => {
  it("is given up by force: its name is free, nothing reaches it, and the end of the server waits for it", async () => {
    const writing = device.write(0, Buffer.alloc(512));
    expect(await manager.remove("a", { force: true, patience: 1 })).toBe(false);
    expect(manager.names).toEqual([]);
    expect(manager.leaving).toEqual(["a"]);
    await expect(device.read(0, Buffer.alloc(512))).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await manager.create("a", zeroes);
    // The new one is not the old one.
    expect(await manager.remove("a", { force: true, patience: 1000 })).toBe(true);
    expect(manager.leaving).toEqual(["a"]);
    const ending = manager.close();
    expect(await isOver(ending)).toBe(false);
    dead.revive();
    await writing;
    await ending;
    expect(manager.leaving).toEqual([]);
  });

  it("is given up by force while it is being removed in order, suspended, or its table exchanged", async () => {
    const removing = manager.remove("a");
    expect(await isOver(removing)).toBe(false);
    await expect(manager.create("a", zeroes)).rejects.toMatchObject({ code: "EEXIST" });
    expect(await manager.remove("a", { force: true, patience: 1 })).toBe(false);
    await manager.create("a", zeroes);

    const second = new Dead();
    await manager.adopt("b", openedAs(second, image));
    const suspending = manager.suspend("b");
    expect(await isOver(suspending)).toBe(false);
    expect(await manager.remove("b", { force: true, patience: 1 })).toBe(false);

    const path = join(folder, "new.img");
    writeFileSync(path, "");
    truncateSync(path, 2 ** 20);
    const third = new Dead();
    await manager.adopt("c", openedAs(third, image));
    await manager.reload("c", `0 2048 linear ${path} 0`);
    const resuming = manager.resume("c");
    expect(await isOver(resuming)).toBe(false);
    expect(await manager.remove("c", { force: true, patience: 1 })).toBe(false);
    expect(manager.names).toEqual(["a"]);

    for (const one of [dead, second, third]) one.revive();
    await removing;
    await suspending.catch(() => {});
    // A table that came too late is not left open.
    await expect(resuming).rejects.toMatchObject({ code: "ESHUTDOWN" });
    await manager.create("d", `0 2048 linear ${path} 0`);
  });

  it("goes on when the client cancels a suspension or is gone, and is suspended no less than it was", async () => {
    const suspended = (signal: AbortSignal): Promise<unknown> =>
      manager.suspend("a", { signal }).catch((error: unknown) => error);
    const writing = device.write(0, Buffer.alloc(512));
    const cancel = new AbortController();
    const [first, behind] = [suspended(cancel.signal), suspended(cancel.signal)];
    expect(await isOver(first)).toBe(false);
    cancel.abort();
    // At once, though the storage is silent.
    expect(await first).toMatchObject({
      code: "ECANCELED",
      message: expect.stringContaining("a goes on as soon as the requests in flight are answered"),
    });
    expect(await behind).toMatchObject({ message: expect.stringContaining("nothing has changed") });
    const later = device.write(512, Buffer.alloc(512));
    expect(await isOver(later)).toBe(false);
    dead.revive();
    await writing;
    await later;
    expect(manager.snapshotOf("a").state).toBe("live");

    const second = new Dead();
    const other = await manager.adopt("b", openedAs(second, image));
    const before = other.write(0, Buffer.alloc(512));
    await manager.suspend("b", { flush: false });
    const again = new AbortController();
    const waiting = manager.suspend("b", { signal: again.signal }).catch((error: unknown) => error);
    expect(await isOver(waiting)).toBe(false);
    again.abort();
    expect(await waiting).toMatchObject({
      message: expect.stringContaining("b stays suspended; to let requests go on: dmkit resume b"),
    });
    second.revive();
    await before;
    await manager.resume("b");
    await other.write(0, Buffer.alloc(512));
  });

  it("is not given up under a device that stands on it", async () => {
    await manager.create("high", "0 8 linear dm:a 0");
    await expect(manager.remove("a", { force: true, patience: 1 })).rejects.toMatchObject({ code: "EBUSY" });
    expect(manager.names).toEqual(["a", "high"]);
  });

  it("tells that what stands on it was given up, and is in no list", async () => {
    await manager.create("high", "0 8 linear dm:a 0");
    const reading = manager.device("high").read(0, Buffer.alloc(512));
    expect(await manager.remove("high", { force: true, patience: 1 })).toBe(false);
    await expect(manager.remove("a", { force: true, patience: 1 })).rejects.toMatchObject({
      code: "EBUSY",
      reason: expect.stringContaining("device high, which was given up"),
      hint: expect.not.stringContaining("ls --tree"),
    });
    dead.revive();
    await reading;
  });

  it("keeps no other device from being closed, and takes no new users while it is given up", async () => {
    const going = manager.remove("a", { force: true, patience: 20 });
    expect(() => manager.exported("a", "e", false)).toThrow(expect.objectContaining({ code: "EBUSY" }));
    expect(await going).toBe(false);
    let closed = false;
    class Watched extends Dead {
      protected override async doClose(): Promise<void> {
        closed = true;
      }
    }
    const well = new Watched();
    well.revive();
    await manager.adopt("low", openedAs(well, image));
    await manager.create("high", "0 8 linear dm:low 0");
    const second = new Dead();
    await manager.adopt("other", openedAs(second, image));
    const ending = manager.close();
    expect(await isOver(ending)).toBe(false);
    expect(closed).toBe(true);
    expect(manager.leaving).toEqual(["a", "other"]);
    second.revive();
    dead.revive();
    await ending;
  });

  it("tells who asks for its files that it has them still", async () => {
    const path = join(folder, "a.img");
    writeFileSync(path, "");
    truncateSync(path, 2 ** 20);
    const clock = new ManualClock();
    const devices = new DeviceManager({ ...realEnvironment, clock });
    await devices.create("late", `0 2048 delay ${path} 0 60000`);
    const reading = devices.device("late").read(0, Buffer.alloc(512));
    await until(() => clock.pending > 0, "the read");
    const removed: boolean[] = [];
    void devices.remove("late", { force: true, patience: 1 }).then((whole) => removed.push(whole));
    await until(() => {
      clock.advance(1);
      return removed.length > 0;
    }, "the end of the patience");
    expect(removed).toEqual([false]);
    const refused = devices.create("late", `0 2048 linear ${path} 0`);
    await expect(refused).rejects.toMatchObject({
      code: "EBUSY",
      reason: expect.stringContaining("was removed and is not closed yet"),
    });
    await until(() => {
      clock.advance(60_000);
      return devices.leaving.length === 0;
    }, "the device");
    await reading;
    await devices.close();
  });
});

describe("a stack file that is read again", () => {
  it("does not wait for ever for a device that is not in it any more", async () => {
    const path = join(folder, "s.yaml");
    const clock = new ManualClock();
    const environment: Environment = { ...realEnvironment, clock };
    const devices = new DeviceManager(environment);
    const server = new NbdServer();
    const exports = new ExportManager(server, devices, environment);
    const table = "0 2048 delay mem:1M 0 0 0 60000";
    writeFileSync(path, `devices: { slow: { table: ${table} } }\n`);
    const stack = new Stack(readStackFile(path), {
      devices,
      exports,
      server,
      environment,
      readOnly: false,
      usual: undefined,
    });
    await stack.open();
    writeFileSync(path, "devices: { other: mem:1M }\n");
    const reloading = stack.reload();
    await until(() => clock.pending > 1, "the end of the device");
    clock.advance(10_000);
    const report = (await reloading).join("\n");
    expect(report).toMatch(/^failed: .*slow.*still being closed/m);
    expect(report).toContain("device other created");
    // It is gone by the next time, and no mistake.
    await until(() => {
      clock.advance(60_000);
      return devices.leaving.length === 0;
    }, "the device");
    expect((await stack.reload()).join("\n")).not.toContain("failed");
    await devices.close();
  });
});

describe("a server with dead storage", () => {
  it("gives a device up when told so, and ends within its time however often it is not answered", async () => {
    const control = join(tempFolder(), "c.sock");
    const table = ["-t", "0 2048 delay mem:1M 0 60000"];
    const server = await serve(["-C", control, "--shutdown-timeout", "1", ...table]);
    const client = await openNbd(server.uri, { reconnect: 0 });
    const writing = client.write(0, Buffer.alloc(512)).catch((error: unknown) => error);
    const given = await cli("remove", "--force", "--timeout", "0", "default", "-C", control);
    expect(given).toMatchObject({ code: 0, stderr: expect.stringContaining("its storage does not answer") });
    expect(await writing).toMatchObject({ name: "BlockIoError" });
    expect((await cli("create", "default", ...table, "-C", control)).code).toBe(0);
    expect(await server.stop()).toBe(1);
    expect(server.stderr()).toMatch(/device default did not close within 1 s.*ETIMEDOUT/);
    await client.close().catch(() => {});
  });

  it("ends within its time while a device is being opened", async () => {
    const at = tempFolder();
    const path = join(at, "stack.yaml");
    writeFileSync(
      path,
      "files: [{ file: made.img, create: 4K }]\ndevices:\n  slow: { table: 0 65536 delay mem:32M 0 60000 }\n  disk: { target: writeboost, backing: dm:slow, cache: mem:16M }\nexports:\n  disk: disk\n",
    );
    const child = spawn(process.execPath, [main, "serve", path, "--shutdown-timeout", "1"], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let stderr = "";
    child.stderr.on("data", (chunk: Buffer) => (stderr += chunk.toString()));
    // The file is made just before the devices are opened.
    await until(() => existsSync(join(at, "made.img")), "the file");
    await new Promise((resolve) => setTimeout(resolve, 300));
    child.kill("SIGTERM");
    const code = await new Promise((resolve) => child.on("close", resolve));
    // On a busy machine the signal may come before it has begun to open the device: then all is in order.
    expect([0, 1]).toContain(code);
    if (code === 1) expect(stderr).toMatch(/did not close within 1 s.*ETIMEDOUT/);
  });

  it("ends although threads of the pool wait for a system call that does not return", async () => {
    const fifo = join(tempFolder(), "fifo");
    execFileSync("mkfifo", [fifo]);
    const script = `
      const { endProcess } = await import("@dmkit/block-io");
      (await import("node:fs")).open(process.argv[1], "r", () => {});
      setTimeout(() => endProcess(7), 50);`;
    const child = spawn(process.execPath, ["--conditions=none", "--input-type=module", "-e", script, fifo], {
      cwd: join(import.meta.dirname, ".."),
      stdio: ["ignore", "inherit", "inherit"],
    });
    expect(await new Promise((resolve) => child.on("close", resolve))).toBe(7);
  });
});

describe("a device that cannot save what it has", () => {
  /** It has no space, when it is told so. */
  class Narrow extends MemoryDevice {
    isFull = false;

    protected override doWrite(offset: number, from: Buffer): Promise<void> {
      const error = new BlockIoError("no space left", { code: "ENOSPC" });
      return this.isFull ? Promise.reject(error) : super.doWrite(offset, from);
    }
  }

  const zram = "0 512 zram lz4 2 snapshot dm:narrow\n512 8 zero";

  async function byteOf(name: string): Promise<number | undefined> {
    const block = Buffer.alloc(512);
    await manager.device(name).read(0, block);
    return block[0];
  }

  it("is not removed, and goes on, until there is room; or it is lost by force", async () => {
    const narrow = new Narrow(2 ** 21, { name: "narrow" });
    const words = (): string[] => ["narrow", "0"];
    await manager.adopt("narrow", openedAs(narrow, { target: linear, words }));
    const disk = await manager.create("z", zram);
    await disk.write(0, Buffer.alloc(512, 7));
    narrow.isFull = true;
    await expect(manager.remove("z")).rejects.toMatchObject({ code: "ENOSPC", device: "z" });
    expect(manager.snapshotOf("z")).toMatchObject({ state: "live" });
    expect(await byteOf("z")).toBe(7);
    await disk.write(0, Buffer.alloc(512, 8));
    narrow.isFull = false;
    await manager.remove("z");
    await manager.create("z", zram);
    expect(await byteOf("z")).toBe(8);
    await manager.device("z").write(0, Buffer.alloc(512, 9));
    narrow.isFull = true;
    await expect(manager.remove("z", { force: true })).rejects.toMatchObject({ code: "ENOSPC" });
    narrow.isFull = false;
    await manager.create("z", zram);
    expect(await byteOf("z")).toBe(8);
  });

  it("keeps its exports where another device stands on it, whatever the force", async () => {
    const server = new NbdServer({ environment: realEnvironment });
    const exports = new ExportManager(server, manager, realEnvironment);
    const remove = controlMethods({
      devices: manager,
      exports,
      snapshot: () => expect.unreachable(),
      reloadStack: undefined,
      history: () => undefined,
      moments: new Moments(manager, realEnvironment),
    }).get("remove");
    const context = { signal: new AbortController().signal, progress: () => {} };
    await manager.create("low", "0 2048 zero");
    await manager.create("top", "0 8 linear dm:low 0", { readOnly: true });
    exports.add({ name: "e", device: "low", readOnly: true });
    await expect(remove?.({ name: "low", force: true }, context)).rejects.toMatchObject({ code: "EBUSY" });
    expect(exports.snapshot()).toMatchObject([{ name: "e", leaving: false }]);
    await manager.remove("top");
    expect(await remove?.({ name: "low", force: true }, context)).toEqual({ closed: true });
    expect(exports.snapshot()).toEqual([]);
    await server.close();
  });

  it("is not removed where its last flush has lost nothing yet", async () => {
    class Waiting extends MemoryDevice {
      isFull = true;

      protected override doFlush(): Promise<void> {
        const error = new BlockIoError("no space left", { code: "ENOSPC", lossless: true });
        return this.isFull ? Promise.reject(error) : super.doFlush();
      }
    }
    const waiting = new Waiting(2 ** 20);
    await manager.adopt("w", openedAs(waiting, image));
    await manager.device("w").write(0, Buffer.alloc(512, 7));
    await expect(manager.remove("w")).rejects.toMatchObject({ code: "ENOSPC" });
    expect(await byteOf("w")).toBe(7);
    // Nor is it the second time, where nothing lets requests go on in between.
    await manager.suspend("w", { flush: false });
    await expect(manager.remove("w")).rejects.toMatchObject({ code: "ENOSPC" });
    await expect(manager.remove("w")).rejects.toMatchObject({ code: "ENOSPC" });
    await manager.resume("w");
    expect(await byteOf("w")).toBe(7);
    waiting.isFull = false;
    await manager.remove("w");
  });
});
