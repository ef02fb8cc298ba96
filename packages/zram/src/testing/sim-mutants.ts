/** The invariants of this package, each broken once; test/FAULTS.md has the table. */
import { Bitmap } from "@dmkit/block-io";
import { type SimTarget, mutant, replaced } from "@dmkit/block-io/testing";
import { PageTable } from "../core/page-table.ts";
import { Pages } from "../core/pages.ts";
import { SlabStore } from "../core/slab-store.ts";
import { zramWithSnapshot } from "./sim-targets.ts";

type Put = Pages["put"];

function broken(name: string, owner: object, key: string, make: (original: never) => unknown): SimTarget {
  return mutant(zramWithSnapshot, name, () => replaced(owner, key, make as (original: unknown) => unknown));
}

export const zramMutants: readonly SimTarget[] = [
  broken(
    "drops-before-it-stores",
    Pages.prototype,
    "put",
    (original: Put) =>
      function (this: Pages, ...args: Parameters<Put>): boolean {
        this.drop(args[0]);
        return original.apply(this, args);
      },
  ),
  broken(
    "replaces-in-any-class",
    SlabStore.prototype,
    "replace",
    () =>
      function (this: SlabStore, address: number, bytes: Buffer, length: number): boolean {
        bytes.copy(this.get(address, length), 0, 0, length);
        return true;
      },
  ),
  broken("frees-nothing", SlabStore.prototype, "free", () => () => {}),
  broken("compacts-without-telling", PageTable.prototype, "setAddress", () => () => {}),
  broken(
    "ignores-the-limit",
    SlabStore.prototype,
    "put",
    (original: SlabStore["put"]) =>
      function (this: SlabStore, ...args: Parameters<SlabStore["put"]>): number {
        const { limit } = this;
        this.limit = Number.POSITIVE_INFINITY;
        const address = original.apply(this, args);
        this.limit = limit;
        return address;
      },
  ),
  broken("backing-blocks-are-not-taken", Bitmap.prototype, "set", () => () => {}),
  broken(
    "miscounts-same-filled-pages",
    Pages.prototype,
    "putSame",
    (original: Pages["putSame"]) =>
      function (this: Pages, ...args: Parameters<Pages["putSame"]>): void {
        original.apply(this, args);
        this.stored += this.same % 2;
      },
  ),
  broken(
    "keeps-the-object-of-what-it-drops",
    Pages.prototype,
    "drop",
    () =>
      function (this: Pages, page: number): void {
        this.table.setAbsent(page);
      },
  ),
];
