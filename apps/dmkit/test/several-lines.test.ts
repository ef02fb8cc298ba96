/**
 * Tables of several lines, one of which is refused: by every target that owns devices, for every reason that shows
 * without writing. Then no other line has written to its devices, in whatever order they are.
 */
import {
  type BlockDevice,
  type DeviceSchemes,
  MemoryDevice,
  codeOf,
  openTable,
  parseTable,
  printTable,
  realEnvironment,
} from "@dmkit/block-io";
import { expect, it } from "vitest";
import { targets } from "../src/targets.ts";

const MIB = 2 ** 20;
const SECTORS = 8192;
const SIZES: Readonly<Record<string, number>> = { small: MIB / 8 };

/** RAM disks by name, which stay as they are when they are closed: `ram:new` is blank, `ram:used…` is not. */
class Shelf {
  readonly devices = new Map<string, MemoryDevice>();
  writes = 0;

  readonly schemes: DeviceSchemes = {
    ram: async (reference) => {
      const name = reference.slice(4);
      const device = this.devices.get(name) ?? new MemoryDevice(SIZES[name] ?? 16 * MIB, { name });
      if (!this.devices.has(name) && name.startsWith("used")) await device.write(0, Buffer.alloc(4096, 0xa5));
      this.devices.set(name, device);
      return this.#counting(device);
    },
  };

  /** Counts requests that write. */
  #counting(device: MemoryDevice): BlockDevice {
    return new Proxy(device, {
      get: (target, name) => {
        if (name === "write" || name === "writeZeroes" || name === "discard") this.writes += 1;
        if (name === "close") return async () => {};
        const value: unknown = Reflect.get(target, name, target);
        return typeof value === "function" ? (value.bind(target) as unknown) : value;
      },
    });
  }
}

/** What is refused, and with which code; the line is one of two. */
const refused: Readonly<Record<string, readonly [line: string, code: string]>> = {
  "striped: no whole chunks": ["striped 3 8 ram:a 0 ram:b 0 ram:c 0", "EINVAL"],
  "log-writes: not blank": ["log-writes ram:a ram:used", "EFORMAT"],
  "writeboost: v2 of another order": ["writeboost 0 ram:a ram:b 4 dialect v2 segment_size_order 4", "EINVAL"],
  "writeboost: not blank": ["writeboost 0 ram:a ram:used", "EFORMAT"],
  "writeboost: too small": ["writeboost 0 ram:a ram:small", "EFORMAT"],
  "cache: not blank": ["cache ram:a ram:used 0 8 256 256", "EFORMAT"],
  "cache: nothing to load": ["cache ram:a ram:b 1", "EFORMAT"],
  "cache: too large": ["cache ram:a ram:b 0 8 65536", "EINVAL"],
  "cache: format v1 writing back": ["cache ram:a ram:b 0 8 256 256 1 2 format v1", "EINVAL"],
  "cow: not blank": ["cow ram:a 0 ram:used ram:c 0", "EFORMAT"],
  "compression: not blank": ["compression ram:used writethrough", "EFORMAT"],
  "compression: longer than the device": ["compression ram:small writethrough", "EINVAL"],
  "compression: an extent of no whole blocks": ["compression ram:b writethrough 2 max_extent 5000", "EINVAL"],
  "compression: options of another format": [
    "compression ram:b writethrough 4 format v1 journal 65536",
    "EINVAL",
  ],
  "tracked: not blank": ["tracked ram:a ram:used", "EFORMAT"],
  "tracked: too small": ["tracked ram:a ram:small", "EINVAL"],
  "tracked: a name that cannot be": ["tracked ram:a ram:b 2 reset a,,b", "EINVAL"],
  "zram: not blank": ["zram lz4 2 backing_dev ram:used", "EFORMAT"],
  "zram: no such algorithm": ["zram lz5", "ENOENT"],
  "zram: too small for snapshots": ["zram lz4 2 snapshot ram:small", "EINVAL"],
};

const lines = Object.entries(refused).flatMap(([name, [line, code]]) => [
  { name: `${name}, last`, table: [`compression ram:new writethrough 2 force 1`, line], code },
  { name: `${name}, first`, table: [line, `writeboost 0 ram:backing ram:new 2 segment_size_order 4`], code },
]);

it.each(lines)("writes nothing: $name", async ({ table, code }) => {
  const shelf = new Shelf();
  const text = table.map((line, index) => `${index * SECTORS} ${SECTORS} ${line}`).join("\n");
  const segments = parseTable(text, targets);
  const opening = openTable(segments, { environment: realEnvironment, schemes: shelf.schemes });
  expect(codeOf(await opening.catch((error: unknown) => error))).toBe(code);
  expect(shelf.writes).toBe(0);
});

it("opens a table of lines that go together, in their order", async () => {
  const shelf = new Shelf();
  const table = `0 ${SECTORS} compression ram:new writethrough\n${SECTORS} ${SECTORS} striped 2 8 ram:a 0 ram:b 0`;
  const segments = parseTable(table, targets);
  const device = await openTable(segments, { environment: realEnvironment, schemes: shelf.schemes });
  expect(device.table).toBe(printTable(segments));
  const [sector, again] = [Buffer.alloc(4096, 7), Buffer.alloc(4096)];
  await device.write(SECTORS * 512, sector);
  await device.read(SECTORS * 512, again);
  expect(again).toEqual(sector);
  await device.close();
});
