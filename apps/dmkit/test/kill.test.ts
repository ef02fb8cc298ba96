/**
 * SIGKILL in the middle of work, and start again: nothing that a client was promised is lost. A real server, a
 * real client, real files; the client's record is judged by the oracle of the simulation.
 *
 * DMKIT_KILL_ROUNDS sets the rounds of each stack; `npm run deep` does more of them.
 */
import { truncateSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { realEnvironment } from "@dmkit/block-io";
import { type ServedDevice, isDeep, killRounds } from "@dmkit/block-io/testing";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { serve, tempFolder } from "./support.ts";

const rounds = Number(process.env["DMKIT_KILL_ROUNDS"] ?? (isDeep ? 20 : 2));
const seed = Number(process.env["DMKIT_SEED"] ?? 1 + (Date.now() % 1_000_000));
const SECTORS = 4096;
const MINUTES = 10 * 60_000;

interface Stack {
  readonly name: string;
  /** Files in the folder, with their sizes in sectors. */
  readonly files: Readonly<Record<string, number>>;
  /** The arguments of `dmkit serve`; `first` when the files are new. */
  readonly serve: (path: (name: string) => string, first: boolean) => readonly string[];
}

const stacks: readonly Stack[] = [
  { name: "file", files: { disk: SECTORS }, serve: (path) => [path("disk")] },
  {
    name: "striped over two files",
    files: { a: SECTORS / 2, b: SECTORS / 2 },
    serve: (path) => ["--table", `0 ${SECTORS} striped 2 8 ${path("a")} 0 ${path("b")} 0`],
  },
  {
    name: "writeboost",
    files: { backing: SECTORS, cache: 2048 + 24 * 16 },
    serve: (path) => [
      "--table",
      `0 ${SECTORS} writeboost 0 ${path("backing")} ${path("cache")} 2 segment_size_order 4 2 allow_writeback 1`,
    ],
  },
  {
    name: "writeboost with a persistent log",
    files: { backing: SECTORS, cache: 2048 + 24 * 16, plog: 64 },
    serve: (path) => [
      "--table",
      `0 ${SECTORS} writeboost 1 ${path("backing")} ${path("cache")} ${path("plog")} 2 segment_size_order 4 2 allow_writeback 1`,
    ],
  },
  {
    name: "write-back cache",
    files: { source: SECTORS, cache: 4096 },
    serve: (path, first) => [
      "--table",
      `0 ${SECTORS} cache ${path("source")} ${path("cache")} ${first ? 0 : 1} 8 128 8 1`,
    ],
  },
  {
    name: "copy-on-write layer",
    files: { base: SECTORS, map: 4096, data: SECTORS },
    serve: (path) => ["--table", `0 ${SECTORS} cow ${path("base")} 0 ${path("map")} ${path("data")} 0`],
  },
];

describe(`SIGKILL of the server (seed ${seed})`, () => {
  it.each(stacks.map((stack) => [stack.name, stack] as const))(
    `%s: ${rounds} rounds`,
    async (_, stack) => {
      const folder = tempFolder();
      const path = (name: string): string => join(folder, name);
      for (const [name, sectors] of Object.entries(stack.files)) {
        writeFileSync(path(name), "");
        truncateSync(path(name), sectors * 512);
      }
      const start = async (round: number): Promise<ServedDevice> => {
        const server = await serve(["-U", path("nbd.sock"), ...stack.serve(path, round === 0)]);
        const device = await openNbd(server.uri, { environment: realEnvironment, reconnect: "off" });
        return {
          device,
          kill: async () => void (await server.stop("SIGKILL")),
          terminate: async () => void (await server.stop("SIGTERM")),
        };
      };
      const summary = await killRounds({ start, rounds, seed });
      expect(summary.violations).toEqual([]);
      expect(summary.rounds).toBe(rounds);
    },
    MINUTES,
  );
});
