/** A takeover from a writer that is alive: it ends however fast that one writes, and is noticed by one that does not write. */
import { ManualClock, SeededRandom, manualEnvironment } from "@dmkit/block-io/testing";
import { RetryingStore } from "@dmkit/object-store";
import { SimulatedBucket, SimulatedTransport } from "@dmkit/object-store/testing";
import { codeOf, type Environment } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { LogWriter } from "../src/device/log-writer.ts";
import { diskKey } from "../src/format/keys.ts";
import type { LogSegment } from "../src/format/log-object.ts";
import { NOBODY, encodeDisk } from "../src/format/records.ts";
import { Archive, claim, randomToken } from "../src/index.ts";

const SEGMENT: LogSegment = { time: 1, sectors: [0], bits: [0xff], data: Buffer.alloc(4096) };
const MINUTE = 60_000;

function world(): { clock: ManualClock; environment: Environment; archive: (latency: number) => Archive } {
  const clock = new ManualClock();
  const environment = { ...manualEnvironment(1, clock), random: new SeededRandom(1) };
  const bucket = new SimulatedBucket();
  const record = encodeDisk({ token: NOBODY, size: 4096, time: 0, base: NOBODY + NOBODY });
  bucket.objects.set(diskKey("vm1"), record);
  const archive = (latency: number): Archive => {
    const transport = new SimulatedTransport(bucket, { environment, latency });
    // Compressing takes time of its own, in which the clock would go on.
    return new Archive(new RetryingStore(transport, { environment }), "vm1", { codec: "none" });
  };
  return { clock, environment, archive };
}

async function begun(archive: Archive, environment: Environment): Promise<LogWriter> {
  const token = randomToken(environment);
  const { epoch, nonce, before } = await claim(archive, { token, host: "here", environment });
  return new LogWriter(archive, { epoch, nonce, token, id: before.end.id }, environment);
}

it("a takeover comes up with a writer that is faster than it and never pauses", async () => {
  const { clock, environment, archive } = world();
  let acknowledged = 0;
  let end: unknown;
  const writing = (async () => {
    const writer = await begun(archive(1), environment);
    for (;;) {
      await writer.write(acknowledged + 1, [SEGMENT]);
      acknowledged += 1;
    }
  })().catch((error: unknown) => (end = error));
  await clock.passUntil(() => acknowledged > 100, MINUTE);
  const slow = archive(100);
  let found: number | undefined;
  const token = randomToken(environment);
  void claim(slow, { token, host: "there", environment }).then(({ before }) => (found = before.end.id));
  await clock.passUntil(() => found !== undefined && end !== undefined, clock.now() + MINUTE);
  await writing;
  expect(codeOf(end)).toBe("ESHUTDOWN");
  expect(String(end)).toContain("taken over by there");
  expect(found).toBe(acknowledged);
});

it("one that writes nothing learns that it was replaced", async () => {
  const { clock, environment, archive } = world();
  let writer: LogWriter | undefined;
  void begun(archive(1), environment).then((one) => (writer = one));
  await clock.passUntil(() => writer !== undefined, MINUTE);
  void begun(archive(1), environment).then((other) => other.close());
  await clock.passUntil(() => writer?.replaced !== undefined, clock.now() + 2 * MINUTE);
  expect(writer?.replaced).toMatchObject({ code: "ESHUTDOWN" });
});
