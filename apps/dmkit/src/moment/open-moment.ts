/** A device of a running server, as it is when it is opened: `dm:NAME` where a command reads something. */
import type { BlockDevice, Environment } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { ControlClient } from "../control/client.ts";
import { findSocket } from "../control/sockets.ts";
import type { Begun, Changed } from "./answers.ts";
import { requireElsewhere } from "./elsewhere.ts";

/** What can be asked beside reading. */
export interface RunningDevice {
  readonly device: BlockDevice;
  /** What had begun by then: ids by names. Empty where the device has none, or the server is older. */
  readonly epochs: Begun["epochs"];
  /** What has changed since an epoch of that name began, at the moment it was opened, or later. */
  readonly changed: (since: string) => AsyncIterable<{ readonly offset: number; readonly length: number }>;
}

/**
 * Runs `work` with the device as it is now.
 * @param begin name from which on what changes is recorded, which begins before
 * that, and is dropped if the work fails. @param onto what is written to meanwhile. Errors: those of the server, `ENOENT`,
 * `EBUSY`; `EINVAL` where that is, at its other end, this device.
 */
export async function withMoment<T>(
  reference: string,
  environment: Environment,
  work: (running: RunningDevice) => Promise<T>,
  { begin, onto }: { readonly begin?: string | undefined; readonly onto?: string | undefined } = {},
): Promise<T> {
  const client = await ControlClient.connect(await findSocket(undefined));
  const name = reference.slice("dm:".length);
  const tell = (word: string): Promise<unknown> => client.call("message", { name, words: [word, begin] });
  let [hasBegun, isDone] = [false, false];
  try {
    if (onto !== undefined) await requireElsewhere(onto, name, await client.call("statistics", {}));
    if (begin !== undefined) await tell("begin");
    hasBegun = begin !== undefined;
    const {
      id,
      uri,
      epochs = {},
    } = await client.call<Omit<Begun, "epochs"> & Partial<Begun>>("moment.begin", { name });
    const ending = new AbortController();
    const held = client.call("moment.hold", { id }, { signal: ending.signal }).catch(() => {});
    // A server that is started again has another moment.
    const device = await openNbd(uri, { environment, readOnly: true, reconnect: 0 });
    const changed = async function* (since: string): ReturnType<RunningDevice["changed"]> {
      for (let from = 0; from < device.size; ) {
        const { ranges, next } = await client.call<Changed>("moment.changed", { id, since, from });
        for (const [offset, length] of ranges) yield { offset, length };
        from = next;
      }
    };
    try {
      const result = await work({ device, epochs, changed });
      isDone = true;
      return result;
    } finally {
      await device.close();
      ending.abort();
      await held;
    }
  } finally {
    // Nothing was made that it would be of use for. If it was not begun, it is somebody else's.
    if (hasBegun && !isDone) await tell("drop").catch(() => {});
    client.close();
  }
}
