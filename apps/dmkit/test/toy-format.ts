/**
 * A format for tests. Sector 0 starts with its magic; the first byte of each later sector says what is wrong there:
 * `E` an error, `W` a warning, `I` a note, `U` an error nobody can repair; zero: nothing.
 */
import {
  type BlockDevice,
  BlockIoError,
  type ImageDevices,
  type ImageFormat,
  type ImageProblem,
  type OfflineWork,
  SECTOR,
} from "@dmkit/block-io";

const wrong = {
  E: { severity: "error", repair: "it is zeroed" },
  W: { severity: "warning", repair: "it is zeroed" },
  I: { severity: "info", repair: "it is zeroed" },
  U: { severity: "error", advice: "restore a backup" },
} as const;

export function toyImage(sectors: number, problems: string): Buffer {
  const image = Buffer.alloc(sectors * SECTOR);
  image.write("TOYMAGIC", 0);
  for (const [index, letter] of problems.split("").entries()) image.write(letter, (index + 1) * SECTOR);
  return image;
}

async function sector(device: BlockDevice, number: number): Promise<string> {
  const bytes = Buffer.alloc(SECTOR);
  await device.read(number * SECTOR, bytes);
  return bytes.toString("latin1").replaceAll("\0", "");
}

function deviceOf({ device }: ImageDevices): BlockDevice {
  if (device === undefined) throw new Error("no device");
  return device;
}

async function* check(devices: ImageDevices, work: OfflineWork): AsyncIterable<ImageProblem> {
  const device = deviceOf(devices);
  const sectors = device.size / SECTOR;
  for (let number = 1; number < sectors; number += 1) {
    work.signal?.throwIfAborted();
    work.progress?.(number, sectors);
    const letter = await sector(device, number);
    if (!Object.hasOwn(wrong, letter)) continue;
    const text = `sector ${number} holds ${letter}`;
    const location = `sector ${number}`;
    yield {
      kind: `toy-${letter.toLowerCase()}`,
      role: "device",
      location,
      offset: number * SECTOR,
      text,
      ...wrong[letter as keyof typeof wrong],
    };
  }
}

export function toy(name = "toy", certainty: "magic" | "plausible" = "magic"): ImageFormat {
  return {
    name,
    summary: "for tests",
    roles: [
      { name: "device", required: true, help: "the image" },
      { name: "mate", required: name === "pair", help: "another device" },
    ],
    async detect(device) {
      const known = device.size >= SECTOR && (await sector(device, 0)).startsWith("TOYMAGIC");
      return known ? { certainty, role: "device", text: `${name} image` } : undefined;
    },
    async info(devices) {
      return { sectors: deviceOf(devices).size / SECTOR };
    },
    check,
    async repair(devices, work) {
      const [repaired, left]: [ImageProblem[], ImageProblem[]] = [[], []];
      const found: ImageProblem[] = [];
      for await (const problem of check(devices, work)) found.push(problem);
      for (const problem of found) {
        work.signal?.throwIfAborted();
        if (problem.repair === undefined) left.push(problem);
        else {
          await deviceOf(devices).write(problem.offset ?? 0, Buffer.alloc(SECTOR));
          await deviceOf(devices).flush();
          repaired.push(problem);
        }
      }
      return { repaired, left };
    },
    async dump(devices) {
      const device = deviceOf(devices);
      const sectors: string[] = [];
      for (let at = 0; at < device.size / SECTOR; at += 1) sectors.push(await sector(device, at));
      return { sectors };
    },
    // Writes as it goes: what is wrong further down is noticed late, as in a careless format.
    async restore(devices, dump) {
      const { sectors } = dump as { sectors: string[] };
      for (const [number, text] of sectors.entries()) {
        if (typeof text !== "string") throw new BlockIoError("no text", { code: "EINVAL" });
        const bytes = Buffer.alloc(SECTOR);
        bytes.write(text, "latin1");
        await deviceOf(devices).write(number * SECTOR, bytes);
      }
    },
    async map(devices) {
      const device = deviceOf(devices);
      return {
        strips: [
          { title: device.name, size: device.size, ranges: [{ offset: 0, length: SECTOR, kind: "head" }] },
        ],
        legend: { head: { meaning: "head", character: "H", colour: "#7048e8", weight: 1 } },
      };
    },
    formatOptions: { count: { type: "integer", min: 0, max: 4, default: 0, help: "errors to begin with" } },
    async format(devices, options) {
      await deviceOf(devices).write(0, toyImage(8, "E".repeat(Number(options["count"] ?? 0))));
    },
  };
}
