/** Real servers that are killed or stopped under load, and started again in the same place. */
import { readFileSync } from "node:fs";
import { MemoryDevice } from "@dmkit/block-io";
import { SeededRandom } from "@dmkit/block-io/testing";
import { expect, it } from "vitest";
import { openNbd } from "../src/index.ts";
import { Load } from "./client-load.ts";
import { Oracle } from "./client-oracle.ts";
import {
  type RunningServer,
  describeWith,
  freshSocket,
  imageFile,
  startNbdkit,
  startOurs,
  startQemuNbd,
  until,
} from "./client-servers.ts";

const SIZE = 256 * 1024;
const SEED = Number(process.env["DMKIT_SEED"] ?? 0) || 1 + ((process.pid * 7919) % 1_000_000);
const OPERATIONS = 1500;
const RESTARTS = 4;

interface Restartable {
  readonly start: (socket: string) => Promise<RunningServer>;
  readonly end: (server: RunningServer) => Promise<void>;
  /** What is stored in the end. */
  readonly stored: () => Promise<Buffer>;
}

async function restartUnderLoad({ start, end, stored }: Restartable): Promise<void> {
  const random = new SeededRandom(SEED);
  const oracle = new Oracle(SIZE);
  const socket = freshSocket();
  let server = await start(socket);
  const device = await openNbd(server.uri(), { replayBuffer: 1024 * 1024 });
  const load = new Load(device, oracle, random);
  const enemy = async (): Promise<void> => {
    for (let restart = 1; restart <= RESTARTS; restart += 1) {
      await until(() => load.operations >= (restart * OPERATIONS) / (RESTARTS + 1));
      await end(server);
      server = await start(socket);
    }
  };
  try {
    await Promise.all([enemy(), load.run(OPERATIONS, 8)]);
    await load.flush();
    // How many it noticed by itself depends on how fast the load is: one that comes and goes while it waits costs nothing.
    expect(device.status.reconnects).toBeGreaterThan(0);
    await device.close();
    oracle.checkStable(await stored());
  } catch (error) {
    throw new Error(`seed ${SEED}`, { cause: error });
  } finally {
    await device.close().catch(() => {});
    await server.stop();
  }
}

describeWith("nbdkit", "nbdkit", () => {
  it("is killed under load and nobody notices", async () => {
    const image = imageFile(SIZE);
    await restartUnderLoad({
      start: (socket) => startNbdkit(["file", image], socket),
      end: (server) => server.kill(),
      stored: async () => readFileSync(image),
    });
  });
});

describeWith("qemu-nbd", "qemu-nbd", () => {
  it("is stopped under load and nobody notices", async () => {
    const image = imageFile(SIZE);
    await restartUnderLoad({
      start: (socket) => startQemuNbd(image, [], socket),
      end: (server) => server.stop(),
      stored: async () => readFileSync(image),
    });
  });
});

describeWith("node", "our server", () => {
  it("is stopped under load and nobody notices", async () => {
    const memory = new MemoryDevice(SIZE);
    await restartUnderLoad({
      start: (socket) => startOurs(memory, socket),
      end: (server) => server.stop(),
      stored: async () => {
        const image = Buffer.alloc(SIZE);
        await memory.read(0, image);
        return image;
      },
    });
  });
});
