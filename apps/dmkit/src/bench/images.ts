/** The files that servers are measured on. */
import { closeSync, existsSync, ftruncateSync, openSync, rmSync } from "node:fs";
import { join } from "node:path";

/** Bytes of every exported device. */
export const DEVICE_SIZE: number = 2 ** 30;

/** The same in sectors, for tables. */
export const SECTORS: number = DEVICE_SIZE / 512;

/** A file in the folder of a group; `prepare` makes it. */
export interface Image {
  readonly path: (folder: string) => string;
  readonly prepare: (folder: string) => void;
}

/** A sparse file, of the common size unless said otherwise; every server gets its own. */
export function image(name: string, size: number = DEVICE_SIZE): Image {
  const path = (folder: string): string => join(folder, name);
  return {
    path,
    prepare(folder) {
      if (existsSync(path(folder))) return;
      const fd = openSync(path(folder), "w");
      ftruncateSync(fd, size);
      closeSync(fd);
    },
  };
}

/** Blank each time it is prepared. */
export function renewed({ path, prepare }: Image): Image {
  return {
    path,
    prepare(folder) {
      rmSync(path(folder), { force: true });
      prepare(folder);
    },
  };
}

/** What makes several of them. */
export function prepareAll(...images: readonly Pick<Image, "prepare">[]): (folder: string) => void {
  return (folder) => {
    for (const { prepare } of images) prepare(folder);
  };
}
