/** What a running device can be told; the words are the original's, in any case. */
import { type Controls, type MessageOptions, unknownMessage } from "@dmkit/block-io";
import { writeboostTunables } from "../../options.ts";

/** Says how far writing back everything is. */
export interface DropProgress {
  readonly dirtyBlocks: number;
  readonly lastWritebackId: number;
  readonly targetId: number;
}

/** A running device, as its messages see it. */
export interface ControlledLog {
  readonly name: string;
  readonly statusData: { readonly lastWritebackId: number };
  clearStatistics(): void;
  dropCaches(options: { signal?: AbortSignal; progress?: (progress: DropProgress) => void }): Promise<void>;
  endDrops(): void;
  info(): object;
}

const clearStats = {
  arguments: "",
  help: "sets the counters of requests to 0",
  run(device: ControlledLog): string {
    device.clearStatistics();
    return "";
  },
};

export const writeboostControls: Controls<ControlledLog> = {
  tunables: writeboostTunables,
  messages: {
    clear_stats: clearStats,
    clear_stat: clearStats,
    drop_caches: {
      arguments: "[stop]",
      long: true,
      help: "writes back everything that is dirty now, and answers when it is; stop: ends that",
      async run(device, args, { signal, progress }) {
        const [word, ...more] = args.map((arg) => arg.toLowerCase());
        if (word === "stop" && more.length === 0) device.endDrops();
        else if (word !== undefined) {
          throw unknownMessage(device.name, ["drop_caches", ...args], writeboostControls);
        } else {
          await dropAll(device, { signal, progress });
        }
        return "";
      },
    },
    info: {
      arguments: "",
      readOnly: true,
      help: "answers with the geometry, the memory in use and errors, as JSON",
      run: (device) => JSON.stringify(device.info()),
    },
  },
};

/** Writes back everything that is dirty now. Errors: those of `dropCaches`. */
export async function dropAll(
  device: ControlledLog,
  { signal, progress }: Pick<MessageOptions, "signal" | "progress">,
): Promise<void> {
  const first = device.statusData.lastWritebackId;
  await device.dropCaches({
    ...(signal === undefined ? {} : { signal }),
    progress: ({ lastWritebackId, targetId }) =>
      progress?.({ done: lastWritebackId - first, total: targetId - first, unit: "segments" }),
  });
}
