/**
 * A target the app has never heard of, given to it where `targets.ts` stands: it has everything its own targets have.
 * Nothing of it is in apps/dmkit/src.
 */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { TargetRegistry } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { expose } from "../src/metrics/exposition.ts";
import type { Snapshot } from "../src/top/snapshot.ts";
import { ControlClient } from "../src/control/client.ts";
import { targets } from "../src/targets.ts";
import { cliWith } from "./cli.ts";
import { cleanUp, tempFolder } from "./support.ts";
import { toy } from "./toy/toy-target.ts";

const known = new TargetRegistry([...targets.list(), toy]);

async function run(...args: string[]): Promise<{ code: number | null; stdout: string; stderr: string }> {
  return cliWith(async () => known, ...args);
}

async function ok(...args: string[]): Promise<string> {
  const { code, stdout, stderr } = await run(...args);
  expect([code, stderr], args.join(" ")).toEqual([0, ""]);
  return stdout;
}

function disk(name: string): string {
  const path = join(tempFolder(), name);
  writeFileSync(path, "");
  truncateSync(path, 64 * 512);
  return path;
}

describe("a target of somebody else's", () => {
  it("is listed with its options, tunables and messages", async () => {
    expect(await ok("targets")).toContain("counts requests behind a stamp");
    const told = await ok("targets", "toy");
    expect(told).toMatch(/limit +what counts as small \(0 … 100 sectors, default 10; by message as well\)/);
    expect(told).toMatch(/forget +counts from nothing/);
    // The app itself does not know it.
    expect((await cliWith(undefined, "targets", "toy")).code).toBe(2);
  });

  it("has images: format, info, fsck, map, dump, restore and replay", async () => {
    const image = disk("image");
    await ok("format", "toy", image, "-q", "-o", "stamp=7");
    expect(JSON.parse(await ok("info", "--json", image))).toMatchObject({
      contents: { kind: "image", format: "toy", facts: { stamp: 7 } },
    });
    expect(await ok("fsck", image)).toContain("toy on image: clean");
    expect(await ok("map", image)).toMatch(/T.*\n(.|\n)*stamp/);
    await ok("dump", image, "-o", `${image}.json`);
    expect((await run("replay", "--help")).stdout).toMatch(/--marks <value> +toy: how many/);
    await ok("format", "toy", image, "-q", "--force", "-o", "stamp=100");
    const worn = await run("fsck", image);
    expect([worn.code, worn.stdout]).toEqual([
      4,
      expect.stringContaining("error: device:stamp: the stamp is worn"),
    ]);
    expect((await run("fsck", image, "--repair", "-q")).code).toBe(1);
    await ok("restore", `${image}.json`, image, "--force", "-q");
    expect(JSON.parse(await ok("dump", image))).toMatchObject({ format: "toy", dump: { stamp: 7 } });
  });

  it("has defaults, conflicts and a length in stack files", async () => {
    const image = disk("image");
    const file = join(tempFolder(), "stack.yaml");
    const check = async (text: string, ...flags: string[]): ReturnType<typeof run> => {
      writeFileSync(file, `devices: { disk: { target: toy, device: ${image}${text} } }\nexports: [disk]\n`);
      return run("stack", "check", file, ...flags);
    };
    const { stdout } = await check("");
    expect(stdout).toContain(`0 63 toy ${image} 2 limit 20`);
    expect((await check(", limit: 0, mood: wild")).stderr).toContain("wild without a limit");
    expect((await check(", limit: 101")).stderr).toContain("0 … 100 sectors");
    const old = join(tempFolder(), "old.yaml");
    writeFileSync(old, `devices: { disk: { target: toy, device: ${image} } }\nexports: [disk]\n`);
    expect((await check(", limit: 5", "--against", old)).stdout).toContain("reload device disk: 0 * toy");
  });

  it("is served: table, status, messages, top and metrics", async () => {
    const folder = tempFolder();
    const image = disk("image");
    const [control, socket, end] = ["control", "nbd", "end"].map((name) => join(folder, name));
    const file = join(folder, "stack.yaml");
    writeFileSync(file, `devices: { disk: { target: toy, device: ${image} } }\nexports: [disk]\n`);
    const serve = ["serve", file, "-U", `${socket}`, "-C", `${control}`, "-q"];
    // What the target knows to do about it.
    const refused = await run(...serve);
    expect([refused.code, refused.stderr]).toEqual([1, expect.stringContaining(`dmkit format toy ${image}`)]);
    await ok("format", "toy", image, "-q");
    const serving = run(...serve, "--run", `while [ ! -e ${end} ]; do sleep 0.02; done`);
    cleanUp(async () => {
      writeFileSync(`${end}`, "");
      await serving;
    });
    const server = await answering(`${control}`);
    cleanUp(() => server.close());
    const at = ["-C", `${control}`];
    expect(await ok("table", "disk", ...at)).toBe(`0 63 toy ${image} 2 limit 20\n`);
    await ok("message", ...at, "disk", "limit", "1");
    expect(await ok("table", "disk", ...at)).toBe(`0 63 toy ${image} 2 limit 1\n`);
    expect((await run("message", ...at, "disk", "limit", "101")).stderr).toContain("0 … 100 sectors");
    const client = await openNbd(`nbd+unix:///disk?socket=${socket}`);
    for (const length of [512, 8192, 8192, 512, 8192]) await client.read(0, Buffer.alloc(length));
    await client.close();
    expect(await ok("status", "disk", ...at)).toBe("0 63 toy 2/5\n");
    const [{ segments }] = JSON.parse(await ok("status", "--json", "disk", ...at)) as [
      { segments: unknown[] },
    ];
    const fields = { limit: 1, requests: 5, small: 2, hits: 2, misses: 3 };
    expect(segments).toMatchObject([{ target: "toy", fields }]);
    expect(JSON.parse(await ok("top", "--once", "--json", ...at))).toMatchObject({
      devices: [{ name: "disk", hits: 0.4 }],
    });
    const { text } = await expose(await server.call<Snapshot>("statistics", {}));
    expect(text).toContain('dmkit_device_cache_hits_total{device="disk"} 2');
    expect(await ok("ls", "--tree", ...at)).toContain(image);
    await ok("message", ...at, "disk", "forget");
    // An exchange of tables, with what was set by message.
    await ok("reload", "disk", ...at, "-t", (await ok("table", "disk", ...at)).trim());
    await ok("resume", "disk", ...at);
    expect(await ok("status", "disk", ...at)).toBe("0 63 toy 0/0\n");
    expect(await ok("table", "disk", ...at)).toBe(`0 63 toy ${image} 2 limit 1\n`);
  });
});

/** The control socket of a server that is being started. */
async function answering(path: string): Promise<ControlClient> {
  for (let tries = 0; ; tries += 1) {
    try {
      return await ControlClient.connect(path);
    } catch (error) {
      if (tries > 500) throw error;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }
}
