/** Signals end commands in bounded time, whatever hangs. */
import { once } from "node:events";
import { type Socket, createServer } from "node:net";
import { join } from "node:path";
import { BlockIoError } from "@dmkit/block-io";
import { ManualClock } from "@dmkit/block-io/testing";
import { afterEach, describe, expect, it } from "vitest";
import { PROTOCOL } from "../src/control/protocol.ts";
import { endedBySignal, setEnding } from "../src/ui/interrupt.ts";
import { cli } from "./cli.ts";
import { cleanUp, tempFolder, until } from "./support.ts";

afterEach(() => setEnding(undefined));

describe("work that a signal ends", () => {
  const ending = (): { clock: ManualClock; codes: number[] } => {
    const clock = new ManualClock();
    const codes: number[] = [];
    setEnding({ clock, exit: (code) => void codes.push(code) });
    return { clock, codes };
  };
  /** Work that takes no notice of signals. */
  const stick = (label: string, forced?: number): { end(): Promise<unknown> } => {
    let release!: () => void;
    const stuck = new Promise<void>((resolve) => (release = resolve));
    const ended = endedBySignal(label, () => stuck, forced);
    return {
      end() {
        release();
        return ended;
      },
    };
  };
  const listeners = (): number => process.listenerCount("SIGINT") + process.listenerCount("SIGTERM");

  it("has some time to come to its end", async () => {
    const { clock, codes } = ending();
    const before = listeners();
    const stuck = stick("copy");
    expect(listeners()).toBe(before + 2);
    process.emit("SIGTERM");
    clock.advance(9999);
    expect(codes).toEqual([]);
    clock.advance(1);
    expect(codes).toEqual([143]);
    await stuck.end();
  });

  it("is not waited for after the second signal", async () => {
    const { codes } = ending();
    const stuck = stick("fsck", 32);
    process.emit("SIGINT");
    expect(codes).toEqual([]);
    process.emit("SIGINT");
    expect(codes).toEqual([32]);
    await stuck.end();
  });

  it("counts what is closed behind it", async () => {
    const { clock, codes } = ending();
    const done = await endedBySignal("copy", (signal) => {
      process.emit("SIGINT");
      return Promise.reject(signal.reason as Error);
    });
    expect(done).toBe("cancelled");
    clock.advance(10_000);
    expect(codes).toEqual([130]);
  });

  it("may be done all the same, and its failures are its own", async () => {
    const { clock, codes } = ending();
    const before = listeners();
    const done = await endedBySignal("copy", async () => process.emit("SIGINT"));
    expect(done).toEqual({ value: true });
    clock.advance(10_000);
    expect(codes).toEqual([]);
    const failure = new BlockIoError("worn out", { code: "EIO" });
    await expect(endedBySignal("copy", () => Promise.reject(failure))).rejects.toBe(failure);
    expect(listeners()).toBe(before);
  });
});

describe("a server that does not answer", () => {
  /** Says hello and no more. */
  async function silent(): Promise<{ path: string; asked: () => boolean; hangUp: () => void }> {
    let lines = 0;
    const sockets: Socket[] = [];
    const server = createServer((socket) => {
      sockets.push(socket);
      socket.on("error", () => {});
      socket.on("data", (chunk: Buffer) => {
        for (const line of chunk.toString().trim().split("\n")) {
          lines += 1;
          if (lines > 1) continue;
          const { id } = JSON.parse(line) as { id: number };
          const result = { protocol: PROTOCOL, version: "test", pid: 1, folder: "/" };
          socket.write(`${JSON.stringify({ jsonrpc: "2.0", id, result })}\n`);
        }
      });
    });
    const path = join(tempFolder(), "control");
    server.listen(path);
    await once(server, "listening");
    const hangUp = (): void => {
      server.close();
      for (const socket of sockets) socket.destroy();
    };
    cleanUp(hangUp);
    return { path, asked: () => lines > 1, hangUp };
  }

  it("does not keep top from ending", async () => {
    const { path, asked } = await silent();
    const top = cli("top", "--json", "-C", path);
    await until(asked, "top");
    process.emit("SIGINT");
    expect((await top).code).toBe(0);
  });

  it("does not keep a verb from ending", async () => {
    const { path, asked, hangUp } = await silent();
    const clock = new ManualClock();
    const ended = new Promise<number>((resolve) => setEnding({ clock, exit: resolve }));
    const ls = cli("ls", "-C", path);
    await until(asked, "ls");
    process.emit("SIGINT");
    clock.advance(10_000);
    expect(await ended).toBe(130);
    // Here the process goes on: what it says now must not be taken for what a later command says.
    hangUp();
    await ls;
  });
});
