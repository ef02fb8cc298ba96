/** The static list of targets a program knows. */
import { didYouMean } from "../bytes/text.ts";
import { BlockIoError } from "../contract/errors.ts";
import type { UriScheme } from "../below/schemes.ts";
import type { ImageFormat } from "./image.ts";
import type { AnyTarget } from "./target.ts";
import type { VersionStore } from "./versions.ts";

/** The targets that tables may name. */
export class TargetRegistry {
  readonly #targets = new Map<string, AnyTarget>();
  readonly #listed: AnyTarget[] = [];

  /** @param targets any `Target<…>`; throws if two of them share a name. */
  constructor(targets: readonly AnyTarget[]) {
    for (const target of targets) {
      this.#listed.push(target);
      for (const name of [target.name, ...(target.aliases ?? [])]) {
        if (this.#targets.has(name)) throw new Error(`two targets are named ${name}`);
        this.#targets.set(name, target);
      }
    }
  }

  /** In the order they were given. */
  list(): readonly AnyTarget[] {
    return this.#listed;
  }

  /** The formats of those that have images, loaded. */
  images(): Promise<readonly ImageFormat[]> {
    return Promise.all(this.#listed.flatMap((target) => target.image?.() ?? []));
  }

  /** What keeps versions of devices under a reference, loaded; undefined: the reference means a device, or nothing. */
  async versionsOf(reference: string): Promise<VersionStore | undefined> {
    return this.#listed.find(({ versions }) => versions?.takes(reference))?.versions?.load();
  }

  /** The URI schemes of all of them. */
  get schemes(): Readonly<Record<string, UriScheme>> {
    return Object.assign({}, ...this.#listed.map(({ schemes }) => schemes)) as Record<string, UriScheme>;
  }

  /** By name or alias; throws `EPARSE` with the known names. */
  get(name: string): AnyTarget {
    const target = this.#targets.get(name);
    if (target !== undefined) return target;
    throw new BlockIoError(`there is no target "${name}"`, {
      code: "EPARSE",
      op: "parse",
      hint: `${didYouMean(name, this.#targets.keys())}Known targets: ${this.#listed.map((known) => known.name).join(", ")}.`,
    });
  }
}
