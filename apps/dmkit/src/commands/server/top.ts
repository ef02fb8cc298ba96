/** `dmkit top`: what a running server is doing, live. */
import { type Environment, realEnvironment, sleep } from "@dmkit/block-io";
import type { Command } from "commander";
import { ControlClient } from "../../control/client.ts";
import { findSocket } from "../../control/sockets.ts";
import { MOST_DEVICES, type Series } from "../../page/ring.ts";
import { figuresOf } from "../../top/figures.ts";
import { help } from "../../top/controls.ts";
import { type Display, openDisplay } from "../../top/display.ts";
import type { History } from "../../top/history.ts";
import type { Snapshot } from "../../top/snapshot.ts";
import { outputLost } from "../../ui/output.ts";
import { exitCodes } from "../../ui/terminal.ts";
import { refuseUseless } from "../../ui/useless-options.ts";
import { type ControlFlags, verb } from "./control.ts";
import { integer } from "../values.ts";

interface TopFlags extends ControlFlags {
  readonly once: boolean;
  readonly interval: number;
  readonly count?: number;
}

const examples = `
Columns: requests and MiB a second, and how long half and 99 of 100 requests took; of caches the share of
hits, what is dirty, its bytes and the age of the oldest, and segments not yet written back; of compressed
devices bytes written by bytes stored. Times of devices come from one request in 64. RECENT is a curve of
requests, from what was seen since it was started; of a server with a page (--page), from before as well.

On a terminal it shows as many columns as fit:
${help.map(([key, does]) => `  ${key.padEnd(9)} ${does}`).join("\n")}

Examples:
  dmkit top
  dmkit top --once                              one look, a second long
  dmkit top --json -i 10 >> figures.jsonl       a line of JSON every ten seconds
`;

/** @param finish is given the exit code. */
export function addTop(program: Command, finish: (code: number) => void): void {
  verb(program, "top", "show live what a running server does")
    .option("-i, --interval <seconds>", "time between two looks", integer(1, 3600), 1)
    .option("-n, --count <n>", "end after so many looks", integer(1, 1_000_000_000))
    .option("--once", "end after one look", false)
    .addHelpText("after", examples)
    .action(async (flags: TopFlags, command: Command) => {
      refuseUseless(command, [{ option: "count", beside: "once" }]);
      const client = await ControlClient.connect(await findSocket(flags.control));
      const stop = new AbortController();
      const end = (): void => {
        stop.abort();
        // It may not answer.
        client.close();
      };
      process.on("SIGINT", end);
      process.on("SIGTERM", end);
      const display = openDisplay(flags, end);
      try {
        await watch(client, flags, stop.signal, display, realEnvironment).catch((error: unknown) => {
          if (!stop.signal.aborted) throw error;
        });
      } finally {
        display.close();
        client.close();
        process.off("SIGINT", end);
        process.off("SIGTERM", end);
      }
      finish(exitCodes.ok);
    });
}

async function watch(
  client: ControlClient,
  { once, interval, count = Number.POSITIVE_INFINITY }: TopFlags,
  signal: AbortSignal,
  display: Display,
  environment: Environment,
): Promise<void> {
  let before = await client.call<Snapshot>("statistics", {});
  if (display.history !== undefined) await recall(client, before, display.history, interval * 1000);
  for (let looks = once ? 1 : count; looks > 0; looks -= 1) {
    await sleep(environment.clock, interval * 1000, signal);
    if (signal.aborted || outputLost.aborted) return;
    const after = await client.call<Snapshot>("statistics", {});
    display.show(figuresOf(before, after));
    before = after;
  }
}

/** Of a server without a page, or of an older one, there is nothing before the first look. */
async function recall(
  client: ControlClient,
  { devices }: Snapshot,
  history: History,
  interval: number,
): Promise<void> {
  const asked = devices.slice(0, MOST_DEVICES).map(async ({ name: device }) => {
    const series = await client.call<Series | null>("history", { device }).catch(() => null);
    if (series !== null) history.begin(device, series, interval);
  });
  await Promise.all(asked);
}
