/** The client is a BlockDevice, whatever server is at the other end. */
import { MemoryDevice } from "@dmkit/block-io";
import { type Subject, conformance } from "@dmkit/block-io/testing";
import { afterAll, beforeAll, describe, it } from "vitest";
import { type NbdClientOptions, openNbd } from "../src/index.ts";
import {
  type RunningServer,
  describeWith,
  imageFile,
  startNbdServer,
  startNbdkit,
  startOurs,
  startQemuNbd,
} from "./client-servers.ts";

const MIB = 1024 * 1024;
const framework = { describe, it };

function suite(name: string, start: () => Promise<RunningServer>, options: NbdClientOptions = {}): void {
  describe(name, () => {
    let server: RunningServer;
    beforeAll(async () => {
      server = await start();
    });
    afterAll(() => server.stop());
    const open = async (): Promise<Subject> => ({
      device: await openNbd(server.uri(), options),
      reopen: () => openNbd(server.uri(), options),
    });
    conformance("client", open, framework);
  });
}

suite("client of our server", () => startOurs(new MemoryDevice(MIB)));
suite("client of our server, 4096-byte blocks", () =>
  startOurs(new MemoryDevice(MIB, { logicalBlockSize: 4096 })));
suite("client of our server, 3 connections and replay", () => startOurs(new MemoryDevice(4 * MIB)), {
  connections: 3,
  replayBuffer: MIB,
});
suite("client of our server, small window", () => startOurs(new MemoryDevice(MIB)), {
  maxInFlight: 1,
  maxInFlightBytes: 65_536,
});

describeWith("nbdkit", "nbdkit", () => {
  suite("memory", () => startNbdkit(["memory", "size=1M"]));
  suite("memory, 4 connections", () => startNbdkit(["memory", "size=6M"]), { connections: 4 });
  suite("file", () => startNbdkit(["file", imageFile(MIB + 512)]));
  suite("read-only", () => startNbdkit(["-r", "pattern", "size=1M"]));
  suite("no structured replies", () => startNbdkit(["--no-sr", "memory", "size=1M"]));
  suite("plain newstyle", () => startNbdkit(["--mask-handshake=0", "memory", "size=1M"]));
  suite("no write zeroes, no extents", () =>
    startNbdkit(["--filter=nozero", "--filter=noextents", "memory", "size=1M"]));
  suite("FUA by flush", () => startNbdkit(["--filter=fua", "memory", "size=1M"]));
  suite("4096-byte blocks, 8 KiB at a time", () =>
    startNbdkit([
      "--filter=blocksize-policy",
      "memory",
      "size=1M",
      "blocksize-minimum=4K",
      "blocksize-preferred=4K",
      "blocksize-maximum=8K",
      "blocksize-error-policy=error",
    ]));
});

describeWith("qemu-nbd", "qemu-nbd", () => {
  suite("raw", () => startQemuNbd(imageFile(MIB)));
  suite("raw, 2 connections", () => startQemuNbd(imageFile(3 * MIB), ["--discard=unmap"]), {
    connections: 2,
  });
});

describeWith("nbd-server", "nbd-server", () => {
  suite("file", () => startNbdServer(imageFile(MIB)));
});
