/** The pure parts of the client, each against a simple model. */
import type { ExtentKind } from "@dmkit/block-io";
import * as fc from "fast-check";
import { describe, expect, it } from "vitest";
import { Coverage } from "../src/client/wire/coverage.ts";
import { ExtentMerger, kindOf } from "../src/client/wire/extents.ts";
import { Fifo } from "../src/client/requests/fifo.ts";
import { Journal, payloadOf } from "../src/client/recovery/journal.ts";
import { Replay } from "../src/client/recovery/replay.ts";
import { ReplyReader, type RequestTable } from "../src/client/wire/reply-reader.ts";
import { Request } from "../src/client/requests/request.ts";
import { Unflushed } from "../src/client/recovery/unflushed.ts";
import { CHUNK, CMD, CMD_FLAG, REPLY_FLAG, type RequestHeader } from "../src/protocol.ts";
import { chunk, dataChunk, okReply } from "./client-fake-server.ts";

const SIZE = 64 * 1024 * 1024;
const write = (offset: number, data: Buffer, flags = 0): Request =>
  new Request("test", CMD.WRITE, flags, offset, data.length, data);

describe("coverage", () => {
  it("accepts every byte once, in any order", () => {
    const ranges = fc.array(fc.tuple(fc.nat(60), fc.integer({ min: 1, max: 12 })), { maxLength: 30 });
    fc.assert(
      fc.property(ranges, (ranges) => {
        const coverage = new Coverage();
        const model = new Set<number>();
        for (const [start, length] of ranges) {
          const places = Array.from({ length }, (_, index) => start + index);
          const fresh = places.every((place) => !model.has(place));
          expect(coverage.add(start, start + length)).toBe(fresh);
          if (!fresh) return;
          for (const place of places) model.add(place);
          for (const total of [1, start + length, 72]) {
            const complete = model.size === total && Math.max(...model) === total - 1;
            expect(coverage.isComplete(total)).toBe(complete);
          }
        }
      }),
      { numRuns: 500 },
    );
  });

  it("does not keep any number of scattered pieces", () => {
    const coverage = new Coverage();
    let accepted = 0;
    while (coverage.add(2 * accepted + 1, 2 * accepted + 2)) accepted += 1;
    expect(accepted).toBe(4096);
  });
});

describe("extent merger", () => {
  it("makes whole blocks of any pieces, and never calls data a hole", () => {
    const kind = fc.constantFrom<ExtentKind>("data", "zero", "hole");
    const pieces = fc.array(fc.tuple(fc.integer({ min: 1, max: 40 }), kind), { minLength: 1, maxLength: 30 });
    fc.assert(
      fc.property(pieces, (pieces) => {
        const block = 16;
        const total = pieces.reduce((sum, [length]) => sum + length, 0);
        const all: [number, ExtentKind][] = [...pieces, [(block - (total % block)) % block || block, "data"]];
        const bytes = all.flatMap(([length, piece]) => Array.from({ length }, () => piece));
        const merger = new ExtentMerger(block, 160);
        const extents = all.flatMap(([length, piece]) => {
          merger.add(length, piece);
          return merger.take();
        });
        extents.push(...merger.finish());
        let at = 160;
        for (const [index, extent] of extents.entries()) {
          expect(extent.offset).toBe(at);
          expect(extent.length % block).toBe(0);
          expect(extent.kind).not.toBe(extents[index + 1]?.kind);
          for (let byte = at - 160; byte < at - 160 + extent.length; byte += block) {
            const kinds = new Set(bytes.slice(byte, byte + block));
            const expected = kinds.has("data")
              ? "data"
              : kinds.size === 2 || kinds.has("zero")
                ? "zero"
                : "hole";
            expect(extent.kind).toBe(expected);
          }
          at += extent.length;
        }
        expect(at - 160).toBe(bytes.length);
      }),
    );
  });

  it("trusts only what is said to read as zeroes", () => {
    expect([0, 1, 2, 3].map(kindOf)).toEqual(["data", "data", "zero", "hole"]);
  });
});

describe("fifo", () => {
  it("behaves like an array", () => {
    fc.assert(
      fc.property(fc.array(fc.option(fc.integer())), (steps) => {
        const fifo = new Fifo<number>();
        const model: number[] = [];
        for (const step of steps) {
          if (step === null) {
            expect(fifo.shift()).toBe(model.shift());
          } else {
            fifo.push(step);
            model.push(step);
          }
          expect(fifo.peek()).toBe(model[0]);
          expect([...fifo]).toEqual(model);
          expect(fifo.length).toBe(model.length);
        }
        expect(fifo.drain()).toEqual(model);
        expect(fifo.length).toBe(0);
      }),
    );
  });
});

describe("account of what is not flushed", () => {
  it("doubts exactly what was acknowledged after the last mark that was settled", () => {
    const unflushed = new Unflushed(SIZE);
    expect(unflushed.any).toBe(false);
    unflushed.acknowledge(0, 512);
    const mark = unflushed.mark();
    unflushed.acknowledge(SIZE - 512, 512);
    expect(unflushed.doubtful(0, 512)).toBe(true);
    unflushed.settle(mark);
    expect(unflushed.any).toBe(true);
    expect(unflushed.doubtful(0, 512)).toBe(false);
    expect(unflushed.doubtful(SIZE / 2, 512)).toBe(false);
    expect(unflushed.doubtful(SIZE / 2, SIZE / 2)).toBe(true);
    unflushed.settle(0);
    expect(unflushed.doubtful(0, 512)).toBe(false);
    unflushed.settle(unflushed.mark());
    expect(unflushed.any).toBe(false);
    expect(unflushed.doubtful(0, SIZE)).toBe(false);
  });

  it("keeps a table of bounded size", () => {
    const unflushed = new Unflushed(2 ** 52);
    unflushed.acknowledge(2 ** 52 - 512, 512);
    expect(unflushed.doubtful(2 ** 51, 512)).toBe(false);
    expect(unflushed.doubtful(2 ** 52 - 512, 512)).toBe(true);
  });
});

describe("journal", () => {
  it("replays to what was acknowledged, whatever the server kept", () => {
    const step = fc.record({
      sector: fc.nat(15),
      count: fc.integer({ min: 1, max: 8 }),
      zero: fc.boolean(),
      flushAfter: fc.integer({ min: 0, max: 5 }),
    });
    fc.assert(
      fc.property(fc.array(step, { maxLength: 60 }), fc.infiniteStream(fc.boolean()), (steps, coin) => {
        const journal = new Journal(1024 * 1024);
        const acknowledged = Buffer.alloc(24 * 512);
        const stable = Buffer.alloc(24 * 512);
        for (const [index, { sector, count, zero, flushAfter }] of steps.entries()) {
          const data = Buffer.alloc(count * 512, zero ? 0 : index + 1);
          const request = zero
            ? new Request("test", CMD.WRITE_ZEROES, 0, sector * 512, data.length)
            : write(sector * 512, data);
          expect(journal.reserve(request)).toBe(true);
          journal.add(index + 1, request);
          data.copy(acknowledged, sector * 512);
          data.fill(0xff);
          if (flushAfter === 0) {
            journal.drop(index + 1);
            acknowledged.copy(stable);
            expect(journal.isEmpty).toBe(true);
            expect(journal.bytes).toBe(0);
          }
        }
        // The server lost any of the sectors that were not flushed.
        for (let at = 0; at < stable.length; at += 512) {
          if (coin.next().value === true) acknowledged.copy(stable, at, at, at + 512);
        }
        for (const entry of journal.entries()) {
          const payload = payloadOf(entry);
          if (payload === undefined) stable.fill(0, entry.offset, entry.offset + entry.length);
          else payload.copy(stable, entry.offset);
        }
        expect(stable.equals(acknowledged)).toBe(true);
      }),
    );
  });

  it("drops what a flush covers and nothing else", () => {
    const journal = new Journal(1024 * 1024);
    const numbers = [1, 2, 2, 3, 4];
    for (const number of numbers) journal.add(number, write(number * 512, Buffer.alloc(512, number)));
    for (const mark of [0, 1, 2, 4]) {
      journal.drop(mark);
      const left = journal.entries().map((entry) => entry.number);
      expect(left).toEqual(numbers.filter((number) => number > mark));
      for (const entry of journal.entries()) expect(payloadOf(entry)?.[0]).toBe(entry.number);
    }
    expect(journal.bytes).toBe(0);
  });

  it("keeps within its capacity, except for one write that is larger", () => {
    const journal = new Journal(1024 * 1024);
    const large = write(0, Buffer.alloc(2 * 1024 * 1024));
    expect(journal.reserve(large)).toBe(true);
    expect(journal.reserve(write(0, Buffer.alloc(512)))).toBe(false);
    journal.release(large);
    let count = 0;
    while (journal.reserve(write(0, Buffer.alloc(65_536)))) count += 1;
    expect(count).toBe(15);
    const trims = new Journal(1024 * 1024);
    let trimCount = 0;
    while (trims.reserve(new Request("test", CMD.TRIM, 0, 0, 512))) trimCount += 1;
    expect(trimCount).toBeLessThan(10_000);
  });
});

describe("replay", () => {
  it("sends overlapping entries one after the other and others together", () => {
    const journal = new Journal(1024 * 1024);
    for (const [number, sector] of [0, 1, 0, 2].entries()) {
      const request = write(sector * 512, Buffer.alloc(512, number));
      journal.reserve(request);
      journal.add(number + 1, request);
    }
    const unanswered = new Request("test", CMD.WRITE_ZEROES, CMD_FLAG.FAST_ZERO, 2 * 512, 512);
    const replay = new Replay("test", journal.entries(), [unanswered]);
    const sent: Request[] = [];
    const send = (): void => {
      for (let next = replay.peek(); next !== undefined; next = replay.peek()) {
        replay.shift();
        sent.push(next);
      }
    };
    send();
    expect(sent.map(({ offset }) => offset / 512)).toEqual([0, 1]);
    expect(replay.answered(sent.at(1) as Request)).toBe(true);
    send();
    expect(sent).toHaveLength(2);
    expect(replay.answered(sent.at(0) as Request)).toBe(true);
    send();
    expect(sent.map(({ offset }) => offset / 512)).toEqual([0, 1, 0, 2]);
    expect(replay.unanswered()).toEqual([unanswered]);
    for (const request of sent.slice(2)) replay.answered(request);
    send();
    expect(sent.at(-1)).toBe(unanswered);
    expect(replay.isDone).toBe(false);
    expect(replay.answered(unanswered)).toBe(false);
    expect(replay.isDone).toBe(true);
  });

  it("does not ask again for what may have been done already to be done only if it is fast", () => {
    const request = new Request("test", CMD.WRITE_ZEROES, CMD_FLAG.FAST_ZERO | CMD_FLAG.NO_HOLE, 0, 512);
    request.renew();
    expect(request.flags).toBe(CMD_FLAG.NO_HOLE);
  });
});

describe("reply reader", () => {
  const header = (cookieLow: number): RequestHeader => ({
    flags: 0,
    type: 0,
    cookieHigh: 1,
    cookieLow,
    offset: 0,
    length: 0,
  });

  it("reads the same from pieces of any size", () => {
    const body = Buffer.from(Array.from({ length: 1024 }, (_, index) => index & 0xff));
    const hole = Buffer.alloc(12);
    hole.writeUInt32BE(8192 + 1024, 4);
    hole.writeUInt32BE(512, 8);
    const streamOf = (extended: boolean): Buffer => {
      const asked = (slot: number): RequestHeader => ({
        ...header(slot),
        extended,
        offset: slot === 0 ? 8192 : 0,
      });
      return Buffer.concat([
        dataChunk(asked(0), 8192, body, 0),
        okReply(asked(1)),
        chunk(asked(0), CHUNK.OFFSET_HOLE, 0, hole),
        chunk(asked(2), CHUNK.ERROR, REPLY_FLAG.DONE, Buffer.from([0, 0, 0, 28, 0, 2, 65, 66])),
        chunk(asked(0), CHUNK.NONE, REPLY_FLAG.DONE, Buffer.alloc(0)),
      ]);
    };
    fc.assert(
      fc.property(
        fc.array(fc.integer({ min: 1, max: 60 }), { minLength: 1 }),
        fc.boolean(),
        (sizes, extended) => {
          const stream = streamOf(extended);
          const into = Buffer.alloc(1536, 0xee);
          const requests = [
            new Request("test", CMD.READ, 0, 8192, 1536, into),
            write(0, body),
            write(0, body),
          ];
          const answered: number[] = [];
          const table: RequestTable = {
            find: (high, low) => (high === 1 ? requests[low] : undefined),
            answered: (request) => answered.push(requests.indexOf(request)),
          };
          const reader = new ReplyReader(table, { structured: true, extended, allocationId: undefined });
          for (let at = 0, index = 0; at < stream.length; index += 1) {
            const size = sizes.at(index % sizes.length) as number;
            // A buffer that is used again, as the transport does.
            const piece = Buffer.from(stream.subarray(at, at + size));
            reader.push(piece);
            piece.fill(0x99);
            at += size;
          }
          expect(answered).toEqual([1, 2, 0]);
          expect(requests.map(({ error }) => error?.code)).toEqual([undefined, undefined, "ENOSPC"]);
          expect(into.equals(Buffer.concat([body, Buffer.alloc(512)]))).toBe(true);
        },
      ),
      { numRuns: 300 },
    );
  });

  it("survives any bytes with EPROTO or without an answer", () => {
    const wide = { ...header(0), extended: true };
    const magic = fc.constantFrom(
      chunk(wide, CHUNK.OFFSET_DATA, 1, Buffer.alloc(16)),
      chunk(wide, CHUNK.BLOCK_STATUS_EXT, 1, Buffer.alloc(24, 1)),
      okReply(wide),
      chunk(header(0), CHUNK.OFFSET_DATA, 1, Buffer.alloc(16)),
      chunk(header(0), CHUNK.ERROR, 1, Buffer.alloc(9)),
      okReply(header(0)),
    );
    fc.assert(
      fc.property(
        magic,
        fc.array(fc.tuple(fc.nat(40), fc.nat(255)), { maxLength: 6 }),
        fc.uint8Array(),
        fc.boolean(),
        (start, flips, tail, extended) => {
          const bytes = Buffer.concat([start, tail]);
          for (const [at, value] of flips) bytes[at % bytes.length] = value;
          const type = tail.length % 2 === 0 ? CMD.READ : CMD.BLOCK_STATUS;
          const request = new Request("test", type, 0, 0, 512, Buffer.alloc(512));
          const reader = new ReplyReader(
            { find: (high, low) => (high === 1 && low === 0 ? request : undefined), answered: () => {} },
            { structured: true, extended, allocationId: 0x0101_0101 },
          );
          try {
            reader.push(bytes);
          } catch (error) {
            expect((error as { code?: unknown }).code).toBe("EPROTO");
          }
        },
      ),
      { numRuns: 2000 },
    );
  });
});
