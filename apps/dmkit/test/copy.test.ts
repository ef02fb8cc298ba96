/** Whole images into devices and new files: any size and alignment, and nothing left behind that looks complete. */
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  existsSync,
  mkdirSync,
  readFileSync,
  readdirSync,
  statSync,
  symlinkSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import {
  BlockIoError,
  type Extent,
  GuardedDevice,
  MemoryDevice,
  ZeroDevice,
  openFile,
  plainLimits,
  realEnvironment,
} from "@dmkit/block-io";
import { ManualClock, SeededRandom } from "@dmkit/block-io/testing";
import { NbdServer } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { copyDevice } from "../src/copy.ts";
import { withDestination, writeWholeFile } from "../src/destination.ts";
import { cli } from "./cli.ts";
import { cleanUp, main, run, tempFolder, until } from "./support.ts";

const MIB = 2 ** 20;

/** The URI of a device that is served from this process. */
async function served(device: GuardedDevice): Promise<string> {
  const server = new NbdServer();
  server.addExport({ name: "", device });
  const listener = await server.listen({ path: join(tempFolder(), "sock") });
  cleanUp(() => server.close({ timeout: 0 }));
  return listener.uri();
}

/** Reads ones up to 1 MiB; what comes then is up to the test. */
class Behind extends GuardedDevice {
  asked = 0;
  readonly #then: () => Promise<void>;

  constructor(behind: () => Promise<void>) {
    super("behind", 16 * MIB, plainLimits);
    this.#then = behind;
  }

  protected override doRead(offset: number, into: Buffer): Promise<void> {
    into.fill(1);
    if (offset < MIB) return Promise.resolve();
    this.asked += 1;
    return this.#then();
  }

  protected override doWrite(): Promise<void> {
    return Promise.resolve();
  }

  protected override doFlush(): Promise<void> {
    return Promise.resolve();
  }

  protected override doClose(): Promise<void> {
    return Promise.resolve();
  }
}

const failing = (): Behind =>
  new Behind(() => Promise.reject(new BlockIoError("worn out", { code: "EIO", op: "read" })));
const hanging = (): Behind => new Behind(() => new Promise(() => {}));

describe("copyDevice", () => {
  /** Holes and data take turns, a sector each. */
  class Sectors extends MemoryDevice {
    protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
      for (let at = offset; at < offset + length; at += 512) {
        yield { offset: at, length: 512, kind: at % 1024 === 0 ? "hole" : "data" };
      }
    }
  }

  it("copies any size and any holes to a device of larger blocks, and nothing behind the end", async () => {
    const random = new SeededRandom(1);
    for (const blank of [true, false]) {
      const source = new Sectors(64 * 1024 + 512);
      for (let at = 512; at < source.size; at += 1024) {
        await source.write(at, random.fill(Buffer.alloc(512)));
      }
      const destination = new MemoryDevice(72 * 1024, { logicalBlockSize: 4096 });
      if (!blank) await destination.write(0, Buffer.alloc(destination.size, 7));
      await copyDevice(source, destination, { requestSize: 4096, destinationIsZero: blank });
      const expected = Buffer.alloc(destination.size, blank ? 0 : 7);
      await source.read(0, expected.subarray(0, source.size));
      const copied = Buffer.alloc(destination.size);
      await destination.read(0, copied);
      expect(copied.equals(expected)).toBe(true);
    }
  });

  it("leaves out what is zero within a request", async () => {
    class Data extends MemoryDevice {
      protected override async *doExtents(offset: number, length: number): AsyncIterable<Extent> {
        yield { offset, length, kind: "data" };
      }
    }
    const source = new Data(MIB + 512);
    const part = new SeededRandom(2).fill(Buffer.alloc(MIB / 4));
    await source.write(MIB / 4, part);
    await source.write(MIB, part.subarray(0, 512));
    for (const blank of [true, false]) {
      const destination = new MemoryDevice(MIB + 512);
      if (!blank) await destination.write(0, Buffer.alloc(destination.size, 7));
      const left = (MIB * 3) / 4;
      expect(await copyDevice(source, destination, { destinationIsZero: blank })).toEqual({
        copied: MIB / 4 + 512,
        zeroed: blank ? 0 : left,
        skipped: blank ? left : 0,
      });
      const [from, to] = [Buffer.alloc(source.size), Buffer.alloc(source.size)];
      await source.read(0, from);
      await destination.read(0, to);
      expect(to.equals(from)).toBe(true);
    }
  });

  it("takes large steps where zeroing is fast", async () => {
    const GIB = 1024 ** 3;
    const zeroed: number[] = [];
    class Fast extends ZeroDevice {
      protected override doWriteZeroes(_offset?: number, length = 0): Promise<void> {
        zeroed.push(length);
        return super.doWriteZeroes();
      }
    }
    await copyDevice(new ZeroDevice(32 * GIB + 512), new Fast(40 * GIB));
    expect(zeroed).toEqual([16 * GIB, 16 * GIB, 512]);
  });
});

describe("requests in flight", () => {
  /** Reads take as long as it is told, one after the other; the clock is its own. */
  class Timed extends GuardedDevice {
    readonly clock = new ManualClock();
    most = 0;
    underWay = 0;
    /** Under way when the last came. */
    last = 0;
    readonly #milliseconds: (offset: number) => number;

    constructor(milliseconds: (offset: number) => number) {
      super("timed", 64 * 4096, plainLimits);
      this.#milliseconds = milliseconds;
    }

    protected override async doRead(offset: number, into: Buffer): Promise<void> {
      this.underWay += 1;
      this.last = this.underWay;
      this.most = Math.max(this.most, this.underWay);
      await new Promise((resolve) => setImmediate(resolve));
      this.clock.advance(this.#milliseconds(offset));
      into.fill(1);
      this.underWay -= 1;
    }

    protected override doWrite(): Promise<void> {
      return Promise.resolve();
    }

    protected override doFlush(): Promise<void> {
      return Promise.resolve();
    }
  }

  it.each([
    ["few where they are short", 1, 16, 4],
    ["as many as allowed where they are long", 20, 16, 16],
    ["no more than allowed", 20, 2, 2],
    ["one by one if told so", 1, 1, 1],
  ])("are %s", async (_name, milliseconds, requests, most) => {
    const source = new Timed(() => milliseconds);
    const destination = new MemoryDevice(source.size);
    const { clock } = source;
    const { copied } = await copyDevice(source, destination, { requestSize: 4096, requests, clock });
    expect([copied, source.most]).toEqual([source.size, most]);
  });

  it("become fewer again", async () => {
    const source = new Timed((offset) => (offset < 16 * 4096 ? 20 : 0));
    await copyDevice(source, new MemoryDevice(source.size), { requestSize: 4096, clock: source.clock });
    expect(source.most).toBeGreaterThan(4);
    expect(source.last).toBeLessThanOrEqual(4);
  });
});

describe("a server that is there for one client", () => {
  it("is asked once by info and by fsck", async () => {
    for (const command of ["info", "fsck"]) {
      const server = new NbdServer();
      server.addExport({ name: "", device: new MemoryDevice(MIB) });
      const listener = await server.listen({ path: join(tempFolder(), "sock") });
      cleanUp(() => server.close({ timeout: 0 }));
      // What fsck does not know is an error, but was looked at.
      const { code, stdout } = await cli(command, listener.uri());
      expect(code).toBe(command === "info" ? 0 : 8);
      if (command === "info") expect(stdout).toContain("extended headers: true");
      expect([command, server.statistics().accepted]).toEqual([command, 1]);
    }
  });
});

describe("info", () => {
  it("tells what an export takes, not how it was opened to look at it, and of a file nothing that only writing shows", async () => {
    for (const readOnly of [false, true]) {
      const server = new NbdServer();
      server.addExport({ name: "", device: new MemoryDevice(MIB), readOnly });
      const listener = await server.listen({ path: join(tempFolder(), "sock") });
      cleanUp(() => server.close({ timeout: 0 }));
      expect((await cli("info", listener.uri())).stdout).toContain(`read only: ${String(readOnly)}\n`);
    }
    const path = join(tempFolder(), "disk.img");
    writeFileSync(path, Buffer.alloc(MIB));
    const { stdout } = await cli("info", path);
    expect(stdout).toContain("extents: true");
    expect(stdout).not.toMatch(/read only|discard:|zero/);
  });
});

describe("a new file", () => {
  it("has its name when it is complete", async () => {
    const folder = tempFolder();
    const path = join(folder, "new");
    const options = { size: MIB, environment: realEnvironment, overwrite: true };
    const result = await withDestination(path, options, async ({ device, blank }) => {
      expect([blank, device.name, existsSync(path)]).toEqual([true, path, false]);
      await device.write(0, Buffer.alloc(512, 5));
      // Nobody else writes it meanwhile.
      await expect(withDestination(path, options, async () => {})).rejects.toMatchObject({ code: "EBUSY" });
      return 1;
    });
    expect(result).toBe(1);
    expect(readdirSync(folder)).toEqual(["new"]);
    expect(readFileSync(path).subarray(0, 512)).toEqual(Buffer.alloc(512, 5));
  });

  it("takes no name that is taken, and what was written stays", async () => {
    const folder = tempFolder();
    const path = join(folder, "new");
    const writing = withDestination(
      path,
      { size: MIB, environment: realEnvironment, overwrite: true },
      async ({ device }) => {
        await device.write(0, Buffer.alloc(512, 5));
        writeFileSync(path, "mine");
      },
    );
    await expect(writing).rejects.toMatchObject({ code: "EEXIST" });
    expect(readFileSync(path, "utf8")).toBe("mine");
    expect(readFileSync(`${path}.dmkit-part`)[0]).toBe(5);
  });

  it("replaces what a crash has left, and goes on in it only if told so", async () => {
    const folder = tempFolder();
    const path = join(folder, "new");
    const part = `${path}.dmkit-part`;
    const options = { size: 4096, environment: realEnvironment, overwrite: true };
    const resumed = { ...options, resume: true };
    await expect(withDestination(path, resumed, async () => {})).rejects.toMatchObject({ code: "ENOENT" });
    for (const resume of [true, false]) {
      writeFileSync(part, Buffer.alloc(4096, 9));
      await withDestination(path, { ...options, resume }, async ({ device, blank }) => {
        expect(blank).toBe(!resume);
        const found = Buffer.alloc(512);
        await device.read(0, found);
        expect(found).toEqual(Buffer.alloc(512, resume ? 9 : 0));
        throw new BlockIoError("no more", { code: "EIO" });
      }).catch(() => {});
      expect(readdirSync(folder)).toEqual([]);
    }
    writeFileSync(part, Buffer.alloc(512));
    await expect(withDestination(path, resumed, async () => {})).rejects.toMatchObject({ code: "EINVAL" });
  });

  it("is not made behind a link to nothing", async () => {
    const folder = tempFolder();
    const path = join(folder, "new");
    symlinkSync("nowhere", path);
    const options = { size: MIB, environment: realEnvironment, overwrite: true };
    await expect(withDestination(path, options, async () => {})).rejects.toMatchObject({ code: "ENOENT" });
    expect(readdirSync(folder)).toEqual(["new"]);
  });

  it("of a text replaces another only when asked to, and not by half of it", () => {
    const folder = tempFolder();
    const path = join(folder, "text");
    writeWholeFile(path, "one");
    expect(() => writeWholeFile(path, "two")).toThrow(/EEXIST/);
    writeWholeFile(path, "three", { replaces: () => true });
    mkdirSync(`${path}.dmkit-part`);
    expect(() => writeWholeFile(path, "four", { replaces: () => true })).toThrow();
    expect(readFileSync(path, "utf8")).toBe("three");
  });
});

describe("what a command leaves behind", () => {
  it("is no new file when it fails", async () => {
    const uri = await served(failing());
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    expect(await cli("copy", "-q", uri, at("new"))).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("(EIO)"),
    });
    await cli("cow", "create", at("map"), at("img"), "--size", "16M");
    const before = readdirSync(folder).toSorted();
    expect(await cli("cow", "flatten", "-q", at("new"), uri, at("map"), at("img"))).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("(EIO)"),
    });
    expect(readdirSync(folder).toSorted()).toEqual(before);
    // One that was there stays.
    writeFileSync(at("old"), "");
    truncateSync(at("old"), 16 * MIB);
    expect(await cli("copy", "-q", uri, at("old"))).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("(EIO)"),
    });
    expect(statSync(at("old")).size).toBe(16 * MIB);
  });

  it("is no new file when there is no room for it", async () => {
    const folder = tempFolder();
    writeFileSync(join(folder, "source"), "");
    truncateSync(join(folder, "source"), 4 * MIB);
    const command = `ulimit -f 1024; exec "$0" "$@"`;
    const args = [process.execPath, main, "copy", "-q", join(folder, "source"), join(folder, "new")];
    const { code, stderr } = await run("/bin/sh", ["-c", command, ...args]);
    expect([code, stderr.includes("ENOSPC")]).toEqual([1, true]);
    expect(readdirSync(folder)).toEqual(["source"]);
  });

  it("is no new file when signals end it, though its source hangs", async () => {
    const device = hanging();
    const uri = await served(device);
    const folder = tempFolder();
    const child = spawn(process.execPath, [main, "copy", "-q", uri, join(folder, "new")], {
      stdio: "ignore",
    });
    await until(() => device.asked > 0, "the copy");
    expect(readdirSync(folder)).toEqual(["new.dmkit-part"]);
    child.kill("SIGTERM");
    const again = setInterval(() => child.kill("SIGTERM"), 50);
    const [code] = (await once(child, "close")) as [number];
    clearInterval(again);
    expect(code).toBe(143);
    expect(readdirSync(folder)).toEqual([]);
  });

  it("is not written over by flatten, which takes the base for it where it was forgotten", async () => {
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    writeFileSync(at("base"), Buffer.alloc(64 * 1024, "base"));
    writeFileSync(at("other"), Buffer.alloc(64 * 1024));
    await cli("cow", "create", at("w.map"), at("w.img"), "--size", "64K");
    const words = ["cow", "flatten", "-q", at("base"), at("other"), at("w.map"), at("w.img")];
    expect(await cli(...words)).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/\(EFORMAT\)[^]*--force/),
    });
    expect(readFileSync(at("base")).equals(Buffer.alloc(64 * 1024, "base"))).toBe(true);
    expect((await cli(...words, "--force")).code).toBe(0);
    expect(readFileSync(at("base")).equals(Buffer.alloc(64 * 1024))).toBe(true);
  });

  it("is the part of a flatten that was interrupted, which goes on in it", async () => {
    /** Interrupts us when somebody looks at its second half. */
    class Interrupting extends ZeroDevice {
      armed = true;

      protected override doExtents(offset: number, length: number): AsyncIterable<Extent> {
        if (this.armed && offset >= this.size / 2) process.emit("SIGINT");
        return super.doExtents(offset, length);
      }
    }
    const device = new Interrupting(2 ** 30);
    const base = await served(device);
    const folder = tempFolder();
    const at = (name: string): string => join(folder, name);
    await cli("cow", "create", at("map"), at("img"), "--size", "1G");
    const stack = [base, at("map"), at("img")];
    const interrupted = await cli("cow", "flatten", "-q", at("new"), ...stack);
    expect(interrupted.code).toBe(130);
    expect(readdirSync(folder).toSorted()).toEqual(["img", "map", "new.dmkit-part"]);
    // Where it stopped is not looked at again.
    const mark = await openFile(at("new.dmkit-part"));
    await mark.write(0, Buffer.alloc(512, 6));
    await mark.close();
    device.armed = false;
    const [, from = ""] = /--from (\d+)/.exec(interrupted.stderr) ?? [];
    expect((await cli("cow", "flatten", "-q", "--from", from, at("new"), ...stack)).code).toBe(0);
    expect(readdirSync(folder).toSorted()).toEqual(["img", "map", "new"]);
    const flat = await openFile(at("new"), { readOnly: true });
    const start = Buffer.alloc(512);
    await flat.read(0, start);
    await flat.close();
    expect(start).toEqual(Buffer.alloc(512, 6));
    expect(await cli("cow", "flatten", "--from", from, at("other"), ...stack)).toMatchObject({
      code: 1,
      stderr: expect.stringContaining("(ENOENT)"),
    });
  });
});
