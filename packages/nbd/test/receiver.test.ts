/** The parser of the transmission phase on its own, cut by cut. */
import fc from "fast-check";
import { describe, expect, it } from "vitest";
import { CMD, CMD_FLAG } from "../src/protocol.ts";
import { SizedBufferPool } from "../src/server/io/buffer-pool.ts";
import { Receiver, type RequestSink, type Verdict } from "../src/server/requests/receiver.ts";
import { Request } from "../src/server/requests/request.ts";
import { RawClient } from "./support/raw-client.ts";
import { pattern } from "./support/serve.ts";
import { runs } from "./support/runs.ts";

class Sink implements RequestSink {
  readonly seen: string[] = [];
  readonly verdicts: Verdict[] = [];
  garbled = false;
  readonly pool = new SizedBufferPool(1 << 20);
  readonly extended: boolean;

  constructor(extended = false) {
    this.extended = extended;
  }

  obtain(): Request {
    return new Request({ succeeded() {}, failed() {}, broken() {} }, this.extended);
  }

  discard(request: Request): void {
    if (request.buffer !== undefined) this.pool.give(request.buffer);
  }

  begin(request: Request): Verdict {
    const verdict = this.verdicts.shift() ?? "execute";
    if (verdict === "refuse") request.refusal = { code: "EINVAL", text: "" };
    return verdict;
  }

  execute(request: Request, payload: Buffer): void {
    this.seen.push(`${request.type}:${request.cookieLow}:${payload.toString("hex")}`);
    request.origin?.release();
  }

  refuse(request: Request): void {
    this.seen.push(`refused:${request.cookieLow}`);
  }

  garbage(): void {
    this.garbled = true;
  }
}

/** Counts who holds it. */
class Origin {
  holders = 0;

  hold(): void {
    this.holders += 1;
  }

  release(): void {
    this.holders -= 1;
    expect(this.holders).toBeGreaterThanOrEqual(0);
  }
}

const request = fc.record({
  write: fc.boolean(),
  // With an extended header only: not a WRITE, and with a payload all the same.
  more: fc.boolean(),
  length: fc.nat(200),
  verdict: fc.constantFrom<Verdict>("execute", "execute", "refuse", "wait"),
});

describe("Receiver", () => {
  it("finds the same requests however the bytes are cut, and waits wherever it is told to", () => {
    const cuts = fc.array(fc.integer({ min: 1, max: 300 }), { minLength: 1 });
    fc.assert(
      fc.property(fc.boolean(), fc.array(request, { maxLength: 20 }), cuts, (extended, requests, lengths) => {
        const sink = new Sink(extended);
        const receiver = new Receiver(sink, new SizedBufferPool(0), extended);
        const origin = new Origin();
        const expected: string[] = [];
        const parts: Buffer[] = [];
        for (const [cookie, { write, more, length, verdict }] of requests.entries()) {
          const type = write ? CMD.WRITE : CMD.READ;
          const full = write || (extended && more);
          const flags = extended && full ? CMD_FLAG.PAYLOAD_LEN : 0;
          const payload = full ? pattern(length, cookie) : Buffer.alloc(0);
          parts.push(RawClient.request({ extended, type, flags, cookie, length }), payload);
          sink.verdicts.push(...(verdict === "wait" ? (["wait", "wait", "execute"] as const) : [verdict]));
          expected.push(
            verdict === "refuse" ? `refused:${cookie}` : `${type}:${cookie}:${payload.toString("hex")}`,
          );
        }
        const bytes = Buffer.concat(parts);
        for (let at = 0, turn = 0; at < bytes.length; turn += 1) {
          const length = lengths[turn % lengths.length] ?? 1;
          receiver.receive(bytes.subarray(at, at + length), origin);
          while (receiver.waiting) {
            expect(origin.holders).toBe(1);
            receiver.resume();
          }
          expect(origin.holders).toBe(0);
          at += length;
        }
        expect(sink.seen).toEqual(expected);
        expect(receiver.token).toBe(0);
      }),
      { numRuns: runs(250) },
    );
  });

  it("offers the rest of a long payload as the place to receive it into", () => {
    const sink = new Sink();
    const receiver = new Receiver(sink, new SizedBufferPool(1 << 20), false);
    const payload = pattern(100_000);
    const bytes = Buffer.concat([RawClient.request({ type: CMD.WRITE, length: payload.length }), payload]);
    expect(receiver.space()).toBeUndefined();
    receiver.receive(bytes.subarray(0, 30_000), new Origin());
    let at = 30_000;
    for (let space = receiver.space(); space !== undefined; space = receiver.space()) {
      const count = Math.min(space.length, 20_000);
      bytes.copy(space, 0, at, at + count);
      receiver.filled(count);
      at += count;
    }
    receiver.receive(bytes.subarray(at), new Origin());
    expect(sink.seen).toEqual([`1:0:${payload.toString("hex")}`]);
  });

  it("does not give memory away that the socket may still write to", () => {
    const sink = new Sink();
    const receiver = new Receiver(sink, sink.pool, false);
    receiver.receive(RawClient.request({ type: CMD.WRITE, length: 100_000 }), new Origin());
    const space = receiver.space();
    expect(space?.length).toBe(100_000);
    receiver.stop();
    expect(receiver.space()).toBeUndefined();
    expect(sink.pool.take(100_000).buffer).not.toBe(space?.buffer);
    // What still arrives goes nowhere.
    receiver.filled(100_000);
    receiver.receive(Buffer.alloc(100), new Origin());
  });

  it("ends at garbage and at the end", () => {
    for (const verdict of ["stop", undefined] as const) {
      const sink = new Sink();
      const receiver = new Receiver(sink, new SizedBufferPool(0), false);
      if (verdict !== undefined) sink.verdicts.push(verdict);
      const first = verdict === undefined ? Buffer.alloc(28, 1) : RawClient.request({ type: CMD.FLUSH });
      receiver.receive(Buffer.concat([first, RawClient.request({ type: CMD.FLUSH })]), new Origin());
      expect(sink.seen).toEqual([]);
      expect(sink.garbled).toBe(verdict === undefined);
    }
  });
});
