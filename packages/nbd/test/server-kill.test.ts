/** A client process that is killed in the middle of a WRITE: that WRITE has no effect at all. */
import { type ChildProcess, spawn } from "node:child_process";
import { once } from "node:events";
import { MemoryDevice } from "@dmkit/block-io";
import { describe, expect, it } from "vitest";
import { CMD, OPT, encodeClientFlags, encodeInfoRequest, encodeOption } from "../src/protocol.ts";
import { RawClient } from "./support/raw-client.ts";
import { DISK, pattern, serve, until } from "./support/serve.ts";

// Sends the handshake, waits for its end, sends the rest of its input, says so, and waits to be killed.
const program = `
const [path, head, tail] = process.argv.slice(1);
const socket = require("node:net").connect(path, () => socket.write(Buffer.from(head, "hex")));
let received = 0;
socket.on("data", (chunk) => {
  received += chunk.length;
  if (received < 18 + 32 + 20) return;
  received = -1e9;
  let input = [];
  process.stdin.on("data", (chunk) => input.push(chunk));
  process.stdin.on("end", () => socket.write(Buffer.concat(input), () => process.stdout.write("sent")));
});
`;

async function killedAfterSending(path: string, bytes: Buffer): Promise<void> {
  const head = Buffer.concat([
    encodeClientFlags(3),
    encodeOption(OPT.GO, encodeInfoRequest({ name: "disk", requests: [] })),
  ]);
  const child: ChildProcess = spawn(process.execPath, ["-e", program, path, head.toString("hex")], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  child.stdin?.end(bytes);
  if (child.stdout === null) throw new Error("no output");
  await once(child.stdout, "data");
  child.kill("SIGKILL");
  await once(child, "exit");
}

describe("SIGKILL of a client", () => {
  it.each([
    ["in the header", 20],
    ["behind the header", 28],
    ["in a small payload", 28 + 4000],
    ["in a large payload", 28 + 200_000],
    ["one byte before the end", 28 + 262_143],
  ])("%s leaves the old bytes", async (_, cut) => {
    const old = pattern(DISK, 1);
    const device = new MemoryDevice(DISK);
    await device.write(0, old);
    const { server, path, client } = await serve({ device });
    const whole = pattern(4096, 2);
    const broken = pattern(262_144, 3);
    const bytes = Buffer.concat([
      RawClient.request({ type: CMD.WRITE, offset: 512, length: whole.length }),
      whole,
      Buffer.concat([
        RawClient.request({ type: CMD.WRITE, offset: 65_536, length: broken.length }),
        broken,
      ]).subarray(0, cut),
    ]);
    await killedAfterSending(path, bytes);
    await until(() => server.statistics().connections === 0 && server.statistics().bytesInFlight === 0);
    // The write before it had arrived whole, and was carried out.
    whole.copy(old, 512);
    const after = await (await client()).go("disk");
    expect((await after.readBack(0, DISK)).data.equals(old)).toBe(true);
  });
});
