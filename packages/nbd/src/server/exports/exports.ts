/** The exports of a server, by name. */
import { BlockIoError, refuse } from "@dmkit/block-io";
import { Export, type ExportOptions, type RemovalMode, removalModes } from "./export.ts";
import { knownNames } from "../../protocol/text.ts";
import { invalid, shown } from "../limits.ts";
import type { Peer } from "./access.ts";

export class ExportDirectory {
  readonly #exports: Map<string, Export> = new Map();
  /** Removed, and not unused yet. */
  readonly #leaving: Set<Export> = new Set();
  /** The name that "" stands for; without one, the first export that is not hidden. */
  #defaultName: string | undefined;

  constructor(defaultName?: string) {
    this.#defaultName = defaultName;
  }

  /** In the order they were added. */
  get all(): readonly Export[] {
    return [...this.#exports.values()];
  }

  /** Those that were removed while clients used them, until the last one is gone. */
  get leaving(): readonly Export[] {
    return [...this.#leaving];
  }

  /** Throws `EEXIST` if there is an export of that name already. */
  add(options: ExportOptions): Export {
    if (this.#exports.has(options.name)) {
      throw new BlockIoError(`there is an export named ${JSON.stringify(options.name)} already`, {
        code: "EEXIST",
        op: "listen",
      });
    }
    const exported = new Export(options);
    this.#exports.set(exported.name, exported);
    return exported;
  }

  /** The export a client means by `name`, if there is one for it. */
  find(name: string, peer: Peer): Export | undefined {
    const exported = this.#named(name);
    return exported?.isFor(peer) === true ? exported : undefined;
  }

  /** Whether there are exports, or is an entrance, for those only who say who they are. */
  asksForNames({ entrance }: Peer): boolean {
    return entrance?.asksForNames === true || this.all.some(({ policy }) => policy.asksForNames);
  }

  /** What a client is told of, in the order it was added. */
  listedFor(peer: Peer): readonly Export[] {
    return this.all.filter((exported) => !exported.policy.hidden && exported.isFor(peer));
  }

  #named(name: string): Export | undefined {
    const exported = this.#exports.get(name);
    if (exported !== undefined || name !== "") return exported;
    if (this.#defaultName !== undefined) return this.#exports.get(this.#defaultName);
    // To be hidden is to be asked for by name.
    return this.all.find(({ policy }) => !policy.hidden);
  }

  /**
   * Resolves when the server does not use the device any more. Without an export of the name, those are meant that had
   * it and have clients still: who was let stay can be sent away later.
   */
  async remove(name: string, mode: RemovalMode): Promise<void> {
    if (!removalModes.includes(mode))
      throw invalid(`there is no mode of removal ${shown(mode)}`, `Modes: ${removalModes.join(", ")}.`);
    const present = this.#exports.get(name);
    const meant = present === undefined ? this.leaving.filter((one) => one.name === name) : [present];
    if (meant.length === 0) {
      throw new BlockIoError(`there is no export named ${JSON.stringify(name)}`, {
        code: "ENOENT",
        op: "close",
        hint: knownNames(name, [...this.#exports.keys()]),
      });
    }
    const users = meant.reduce((sum, { clients }) => sum + clients.size, 0);
    if (mode === "safe" && users > 0) {
      throw refuse(
        undefined,
        "EBUSY",
        `export ${JSON.stringify(name)} is in use by ${users} connections`,
        "Disconnect them, or remove the export with mode hide, soft or hard.",
        "close",
      );
    }
    this.#exports.delete(name);
    await Promise.all(meant.map((exported) => this.#letGo(exported, mode)));
  }

  async #letGo(exported: Export, mode: RemovalMode): Promise<void> {
    if (mode === "soft" || mode === "hard") exported.stopping = true;
    if (mode === "hard") {
      for (const client of exported.clients) client.drop("its export was removed");
    }
    this.#leaving.add(exported);
    await exported.unused();
    this.#leaving.delete(exported);
  }
}
