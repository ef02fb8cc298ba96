/**
 * What a program gives functions and classes beside devices: every name that is misspelt is refused, and every value that is
 * nonsense, before anything is done.
 *
 * The list below is compared with what the packages export: whoever adds a function that takes options adds it here.
 */
import { existsSync, readFileSync, readdirSync } from "node:fs";
import { dirname, join, resolve } from "node:path";
import { Duplex } from "node:stream";
import * as archive from "@dmkit/archive";
import * as cache from "@dmkit/assoc-cache";
import * as blockIo from "@dmkit/block-io";
import * as compression from "@dmkit/compression";
import * as cow from "@dmkit/cow";
import * as image from "@dmkit/image";
import * as nbd from "@dmkit/nbd";
import * as objects from "@dmkit/object-store";
import * as tracked from "@dmkit/tracked";
import * as writeboost from "@dmkit/writeboost";
import { describe, expect, it } from "vitest";
import { copyDevice, openTableText } from "../src/index.ts";

const { MemoryDevice, realEnvironment: environment } = blockIo;
const device = (): blockIo.BlockDevice => new MemoryDevice(2 ** 20);
const stack = (): cow.StackDevices => ({ base: device(), baseOffset: 0, layers: [], sectors: 8 });
const layer = (): cow.LayerDevices => ({ bitmap: device(), data: device(), offset: 0 });
const cowDevice = (): Promise<cow.CowDevice> => cow.openStack({ ...stack(), layers: [layer()] });
const files = { bitmap: "/nowhere/map", data: "/nowhere/data" };
const transport = new objects.DirectoryTransport("/nowhere");
const store = new objects.RetryingStore(transport);
const disk = new archive.Archive(store, "disk");
const context: blockIo.OpenContext = { name: "one", size: 2 ** 20, environment, lower: async () => device() };
const nobody = "nbd+unix:///?socket=/nowhere/socket";

/** Takes options, which may be anything. A generator does nothing before it is asked. */
type Call = (options: never) => unknown;
const first = (items: AsyncIterable<unknown>): Promise<unknown> => items[Symbol.asyncIterator]().next();

/** Runs `call` with an open device, and closes it. */
async function closing<Device extends { close(): Promise<void> }>(
  opening: Promise<Device>,
  call: (device: Device) => Promise<unknown>,
): Promise<void> {
  const opened = await opening;
  try {
    await call(opened);
  } finally {
    await opened.close();
  }
}

/** By package: what is exported, and how it is called. What has to be there is given. */
const calls: Readonly<Record<string, Readonly<Record<string, Call>>>> = {
  archive: {
    "new Archive": (options) => new archive.Archive(store, "disk", options),
    attachTo: (options) => archive.attachTo(store, "disk", {} as never, options),
    collectArchive: (options) => archive.collectArchive(disk, options),
    makeCheckpoint: (options) => archive.makeCheckpoint(disk, "/nowhere", options),
    openArchive: (options) => archive.openArchive("/nowhere/disk", environment, "disk", options),
    replayOnto: (options) => archive.replayOnto(disk, {} as never, device(), "newest", options),
    withArchive: (options) =>
      archive.withArchive({ store: "/nowhere", disk: "disk" }, () => Promise.resolve(), options),
  },
  "assoc-cache": {
    "AssocCacheDevice.clean": (options) =>
      closing(
        cache.assocCache.open(blockIo.parseOptions(cache.cacheOptions, { source: "a", cache: "b" }), {
          ...context,
          lower: async () => new MemoryDevice(2 ** 30),
        }),
        (opened) => (opened as cache.AssocCacheDevice).clean(options),
      ),
    check: (options) => first(cache.check(device(), undefined, options)),
    importV1: (options) => cache.importV1(device(), device(), options),
    repair: (options) => cache.repair(device(), undefined, options),
    writeDirty: (options) => cache.writeDirty(device(), device(), options),
  },
  "block-io": {
    "GuardedTarget.message": (options) =>
      closing(openTableText("0 8 delay mem:4K 0 1", environment), (table) =>
        table.message(["read"], options),
      ),
    "LowerDevices.openOne": (options) => blockIo.LowerDevices.openOne("x", "owns", {}, environment, options),
    "new LowerDevices": (options) => new blockIo.LowerDevices({}, environment, options),
    "LowerDevices.open": (options) => new blockIo.LowerDevices({}, environment).open("x", "owns", options),
    "new MemoryDevice": (options) => new MemoryDevice(512, options),
    "GuardedDevice.write": (options) => device().write(0, Buffer.alloc(512), options),
    "GuardedDevice.writeZeroes": (options) => device().writeZeroes(0, 512, options),
    openFile: (options) => blockIo.openFile("/nowhere/file", options),
    openPath: (options) => blockIo.openPath("/nowhere/file", options),
    openTable: (options: object) => blockIo.openTable([], { environment, ...options }),
  },
  compression: {
    check: (options) => first(compression.check(device(), options)),
    openCompression: (options) => compression.openCompression({} as never, context, options),
    recompress: (options: object) =>
      compression.recompress(device(), device(), { format: "v2", ...options } as never, { environment }),
    repair: (options) => compression.repair(device(), undefined, options),
  },
  cow: {
    "CowDevice.count": (options) => closing(cowDevice(), (opened) => opened.count(options)),
    "CowDevice.deleteSnapshot": (options) =>
      closing(cowDevice(), (opened) => opened.deleteSnapshot("one", options)),
    "CowDevice.merge": (options) => closing(cowDevice(), (opened) => opened.merge(1, options)),
    check: (options) => first(cow.check(stack(), options)),
    checkResize: (options) => cow.checkResize(layer(), 8, options),
    commitLayer: (options) => cow.commitLayer(stack(), 1, options),
    commitTop: (options) => cow.commitTop(stack(), options),
    createLayer: (options: object) => cow.createLayer(layer(), { sectors: 8, ...options }),
    createLayerFiles: (options: object) => cow.createLayerFiles(files, { sectors: 8, ...options }),
    deleteSnapshot: (options) => cow.deleteSnapshot(stack(), "one", options),
    diff: (options) => first(cow.diff(stack(), 1, 1, options)),
    flatten: (options) => cow.flatten(stack(), device(), options),
    makeSnapshot: (options) => cow.makeSnapshot(stack(), "one", files, options),
    openStack: (options) => cow.openStack(stack(), options),
    pair: (options) => cow.pair(stack(), options),
    rebase: (options) => cow.rebase(stack(), stack(), options),
    resizeLayer: (options) => cow.resizeLayer(layer(), device(), 8, options),
    revertToSnapshot: (options) => cow.revertToSnapshot(stack(), "one", files, options),
    squash: (options) => cow.squash(stack(), 1, 2, options),
    stackInfo: (options) => cow.stackInfo(stack(), options),
  },
  image: {
    collect: (options) => image.collect(store, options),
    openImage: (options) => image.openImage({ image: "/nowhere/one" }, options),
    parseTagReference: (options) => image.parseTagReference("/nowhere/one:new", options),
    publish: (options: object) => image.publish(device(), store, { name: "one", tag: "new", ...options }),
    verifyImage: (options) => first(image.verifyImage(store, "one", "0".repeat(64), options)),
  },
  nbd: {
    "new Access": (options) => new nbd.Access(options),
    "new NbdServer": (options) => new nbd.NbdServer(options),
    "NbdServer.addExport": (options: object) =>
      new nbd.NbdServer().addExport({ name: "", device: device(), ...options }),
    "NbdServer.close": (options) => new nbd.NbdServer().close(options),
    "NbdServer.listen": (options: object) =>
      new nbd.NbdServer().listen({ path: "/nowhere/socket", ...options }),
    "NbdServer.serveStream": (options) => new nbd.NbdServer().serveStream(new Duplex(), options),
    checkServerTls: (options: object) => nbd.checkServerTls({ mode: "off", ...options } as never),
    listen: (options: object) => nbd.listenStreams({ path: "/nowhere/socket", ...options }, {} as never),
    listNbdExports: (options) => nbd.listNbdExports(nobody, options),
    nbdInfo: (options) => nbd.nbdInfo(nobody, options),
    openNbd: (options) => nbd.openNbd(nobody, options),
  },
  "object-store": {
    "new RetryingStore": (options) => new objects.RetryingStore(transport, options),
    "RetryingStore.create": (options) => store.create("key", Buffer.alloc(0), options),
    "RetryingStore.get": (options) => store.get("key", options),
    "RetryingStore.head": (options) => store.head("key", options),
    "RetryingStore.list": (options) => first(store.list("key", "", options)),
    "RetryingStore.put": (options) => store.put("key", Buffer.alloc(0), options),
    "RetryingStore.remove": (options) => store.remove("key", options),
    getVerified: (options) => objects.getVerified(store, "key", (body) => body, options),
    openStore: (options) => objects.openStore("/nowhere", options),
  },
  tracked: { openTracked: (options) => tracked.openTracked(device(), device(), options) },
  writeboost: {
    "WriteboostDevice.dropCaches": (options) =>
      closing(writeboost.openEmbedded(device(), new MemoryDevice(2 ** 23)), (opened) =>
        opened.dropCaches(options),
      ),
    dumpImage: (options: object) => writeboost.dumpImage({ cache: device() }, { environment, ...options }),
    restore: (options: object) => writeboost.restore({ cache: device() }, {}, { environment, ...options }),
    formatCache: (options: object) =>
      writeboost.formatCache(device(), undefined, { order: 4, dialect: "classic", ...options } as never),
    openAt: (options) => writeboost.openAt({ backing: device(), cache: device() }, 1, options),
    openEmbedded: (options) => writeboost.openEmbedded(device(), device(), options),
    openWriteboost: (options) =>
      writeboost.openWriteboost({ backing: device(), cache: device() } as never, options),
    repair: (options: object) => writeboost.repair({ cache: device() }, { environment, ...options }),
    replay: (options) => writeboost.replay(device(), device(), options),
    viewRange: (options) => writeboost.viewRange({ backing: device(), cache: device() }, options),
  },
  dmkit: {
    copyDevice: (options) => copyDevice(device(), device(), options),
    openTableText: (options) => openTableText("0 8 zero", environment, options),
  },
};

/** What takes something of such a name, and why it is not asked here. */
const others: ReadonlyMap<string, string> = new Map([
  ["assoc-cache: AssocCacheDevice.setPolicy", "a word"],
  ["assoc-cache: AssocCacheDevice.writeHome", "as clean, where there is anything to be cleaned"],
  ["block-io: ByteAccess.write", "hands them on to the device"],
  ["block-io: ByteAccess.writeZeroes", "hands them on to the device"],
  ["block-io: TableDevice.message", "hands them on to the target"],
  ["block-io: checkSettings", "takes any"],
  ["block-io: endable", "a function that takes them"],
  ["block-io: new FlakeyDevice", "options of a target: see program-options.test.ts"],
  ["zram: openZram", "options of a target: see program-options.test.ts"],
  ["compressor: createCompressor", "knows no block-io: see options.test.ts there"],
  ["compressor: new Compressor", "what createCompressor has made of them"],
  ["nbd: new NbdDevice", "what openNbd has made of them"],
  ["nbd: checkNames", "whether names go together, of what is looked at elsewhere"],
  ["writeboost: WriteboostDevice.writeHome", "as dropCaches"],
  ["writeboost: new WriteboostDevice", "what openWriteboost has made of them"],
  ["writeboost: friendlyTunables", "any that are given"],
]);

const all = Object.entries(calls).flatMap(([name, own]) =>
  Object.entries(own).map(([what, call]) => [`${name}: ${what}`, call] as const),
);

async function refusal(
  call: Call,
  options: unknown,
): Promise<{ code?: unknown; message: string; hint?: string }> {
  try {
    await call(options as never);
  } catch (error) {
    return error as Error & { code?: unknown };
  }
  return { message: "nothing was refused" };
}

it.each(all)("%s refuses what it does not know, and nonsense", async (_, call) => {
  const { code, message, hint = "" } = await refusal(call, { nonsense: 1 });
  expect({ code, message }).toEqual({
    code: "EINVAL",
    message: expect.stringMatching(/there is no option nonsense/),
  });
  const names = /Options: (.*?)\.?$/.exec(hint)?.[1]?.split(", ") ?? [];
  expect(names).not.toEqual([]);
  for (const name of names) {
    // Nothing takes a symbol, and no range has these numbers in it.
    for (const value of [Symbol("nonsense"), Number.NaN, -0.5]) {
      const refused = await refusal(call, { [name]: value });
      expect({ name, value, code: refused.code, message: refused.message }).toMatchObject({
        code: "EINVAL",
        message: expect.stringMatching(new RegExp(name)),
      });
    }
  }
});

/** What may be options, by the name of its type. */
const OPTIONS = /\b\w*(?:Options|Settings|Policy|Work)\b|\{ (?:readonly )?\w+\?:/;

/** The functions, classes (as `new NAME`) and methods (as `CLASS.NAME`) a package exports that take options. */
function takers(folder: string): string[] {
  const found = new Set<string>();
  const look = (file: string, names: ReadonlySet<string> | undefined): void => {
    const text = readFileSync(file, "utf8");
    for (const [, list, from = ""] of text.matchAll(/^export (?:\{([^}]*)\}|\*) from "(\..*?)"/gms)) {
      const plain = list?.split(",").flatMap((one) => {
        const [name = ""] = one.trim().split(" as ");
        return name === "" || name.startsWith("type ") ? [] : [name];
      });
      look(resolve(dirname(file), from), plain && new Set(plain));
    }
    const isOurs = (name: string): boolean => names === undefined || names.has(name);
    for (const [, name = "", takes = ""] of text.matchAll(
      /^export (?:async )?function\*? (\w+)(?:<.*?>)?\((.*?)\n?\): /gms,
    ))
      if (isOurs(name) && OPTIONS.test(takes)) found.add(name);
    for (const [body, name = ""] of text.matchAll(/^export (?:abstract )?class (\w+).*?^\}/gms)) {
      if (!isOurs(name)) continue;
      for (const [, method = "", takes = ""] of body.matchAll(
        /^ {2}(?!private|protected|#)(?:static |async |override )*\*?(\w+)\(([^;]*?)\)(?:: [^\n]*)? \{$/gm,
      ))
        if (OPTIONS.test(takes)) found.add(method === "constructor" ? `new ${name}` : `${name}.${method}`);
    }
  };
  look(join(folder, "index.ts"), new Set());
  return [...found].toSorted();
}

describe("what stands in the list", () => {
  const root = resolve(import.meta.dirname, "../../..");

  it.each(Object.keys(calls))("is all that %s exports", (name) => {
    const folder = join(root, name === "dmkit" ? "apps" : "packages", name, "src");
    expect(takers(folder).filter((one) => !others.has(`${name}: ${one}`))).toEqual(
      Object.keys(calls[name] ?? {}).toSorted(),
    );
  });

  it("is of all packages", () => {
    const packages = readdirSync(join(root, "packages")).filter((one) =>
      existsSync(join(root, "packages", one, "package.json")),
    );
    const without = packages.filter((one) => !Object.hasOwn(calls, one));
    for (const one of without)
      expect(takers(join(root, "packages", one, "src")).filter((it) => !others.has(`${one}: ${it}`))).toEqual(
        [],
      );
  });
});
