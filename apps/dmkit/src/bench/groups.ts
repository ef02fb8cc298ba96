/** Which of our devices is measured against which peers. */
import { closeSync, existsSync, ftruncateSync, openSync } from "node:fs";
import { join } from "node:path";
import { type DeviceGroup, dmkit, nbdkit, qemuNbd } from "./servers.ts";

/** Bytes of every exported device. */
export const DEVICE_SIZE: number = 2 ** 30;

/** A sparse file of the common size; every server gets its own. */
function image(name: string): { path: (folder: string) => string; prepare: (folder: string) => void } {
  const path = (folder: string): string => join(folder, name);
  return {
    path,
    prepare(folder) {
      if (existsSync(path(folder))) return;
      const fd = openSync(path(folder), "w");
      ftruncateSync(fd, DEVICE_SIZE);
      closeSync(fd);
    },
  };
}

const ours = image("dmkit.img");
const kits = image("nbdkit.img");
const qemus = image("qemu.img");

export const groups: readonly DeviceGroup[] = [
  {
    name: "memory",
    servers: [
      dmkit("dmkit mem:", () => ["mem:1G"]),
      nbdkit("nbdkit memory", () => ["memory", "1G"]),
      nbdkit("nbdkit null", () => ["null", "1G"]),
    ],
  },
  {
    name: "file",
    servers: [
      dmkit("dmkit file", (folder) => [ours.path(folder)], ours.prepare),
      nbdkit("nbdkit file", (folder) => ["file", kits.path(folder)], kits.prepare),
      qemuNbd("qemu-nbd raw", (folder) => ["-f", "raw", qemus.path(folder)], qemus.prepare),
    ],
  },
];
