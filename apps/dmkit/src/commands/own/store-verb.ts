/** What the commands about an object store have in common. */
import { type ObjectStore, openStore } from "@dmkit/object-store";
import type { Command } from "commander";

export interface StoreFlags {
  readonly json: boolean;
  readonly quiet: boolean;
}

/** A subcommand of `parent` with the options every one of them has. */
export function storeVerb(parent: Command, name: string, summary: string): Command {
  return parent
    .command(name)
    .description(summary)
    .option("--json", "print JSON", false)
    .option("-q, --quiet", "show no progress", false);
}

/** Runs `work` with a store that has to be there. */
export async function withStore<T>(location: string, work: (store: ObjectStore) => Promise<T>): Promise<T> {
  const store = await openStore(location, { mustExist: true });
  try {
    return await work(store);
  } finally {
    await store.close();
  }
}
