/** What a running device can be told; the words are the original's, in any case. */
import {
  type Controls,
  type LongWork,
  endable,
  unknownMessage,
  checkSettings,
  workSettings,
} from "@dmkit/block-io";
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
  giveUp(segment: number): Promise<string>;
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

const drop = endable("writes back everything that is dirty now, and answers when it is", dropAll);

export const writeboostControls: Controls<ControlledLog> = {
  tunables: writeboostTunables,
  messages: {
    clear_stats: clearStats,
    clear_stat: clearStats,
    clean: drop,
    drop_caches: drop,
    give_up_segment: {
      arguments: "<id>",
      help: "of a segment that cannot be read, and stops the log: takes what can be had of it, and zeroes for the rest",
      async run(device, args) {
        const [id = ""] = args;
        if (args.length !== 1 || !/^\d{1,15}$/.test(id))
          throw unknownMessage(device.name, ["give_up_segment", ...args], writeboostControls);
        return device.giveUp(Number(id));
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
export async function dropAll(device: ControlledLog, work: LongWork): Promise<void> {
  const { signal, progress } = checkSettings(workSettings, work, "message");
  const first = device.statusData.lastWritebackId;
  await device.dropCaches({
    ...(signal === undefined ? {} : { signal }),
    progress: ({ lastWritebackId, targetId }) =>
      progress?.({ done: lastWritebackId - first, total: targetId - first, unit: "segments" }),
  });
}
