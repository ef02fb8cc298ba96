/** A server that may have few files open keeps some for its devices and for who looks after it. */
import { truncateSync, writeFileSync } from "node:fs";
import { type Socket, connect } from "node:net";
import { join } from "node:path";
import { toBlockIoError } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { ControlClient } from "../src/control/client.ts";
import { cleanUp, dmkit, main, serve, tempFolder, until } from "./support.ts";

// Some 25 are open at the start.
const LIMIT = 50;
const CLIENTS = 60;

const limited = ["sh", "-c", `ulimit -n ${LIMIT}; exec "$@"`, "sh", process.execPath, main];

it("more clients than there are descriptors wait until others have gone; the server says why, and can be asked", async () => {
  const folder = tempFolder();
  const [image, other, control, nbd] = ["a.img", "b.img", "c.sock", "n.sock"].map((name) =>
    join(folder, name),
  ) as [string, string, string, string];
  for (const path of [image, other]) {
    writeFileSync(path, "");
    truncateSync(path, 2 ** 20);
  }
  const server = await serve(["-U", nbd, "--control", control, image], {}, limited);
  const waiting = new Set<Socket>();
  const greeted = new Set<Socket>();
  let lost = 0;
  for (let count = 0; count < CLIENTS; count += 1) {
    const socket = connect(nbd);
    waiting.add(socket);
    cleanUp(() => void socket.destroy());
    socket.once("data", () => {
      waiting.delete(socket);
      greeted.add(socket);
    });
    socket.on("error", () => {});
    socket.on("close", () => (lost += waiting.has(socket) ? 1 : 0));
  }
  await until(() => server.stderr().includes("clients are kept waiting"), "a word in the log");
  expect(server.stderr()).toMatch(new RegExp(`limit=${LIMIT} reserved=\\d+ hint=.*ulimit -n`));
  const asked = ["create", "b", "--table", `0 2048 linear ${other} 0`, "-C", control];
  expect(await dmkit(asked)).toMatchObject({ code: 0, stderr: "" });
  expect((await dmkit(["ls", "-C", control])).stdout).toMatch(/^b /m);
  while (waiting.size > 0) {
    const before = waiting.size;
    for (const socket of greeted) socket.destroy();
    greeted.clear();
    await until(() => waiting.size < before, "a client that waited to be let in");
  }
  expect(lost).toBe(0);
  expect(server.stderr().match(/clients are kept waiting/g)).toHaveLength(1);
  expect(await server.stop()).toBe(0);
});

it("what devices have open counts, whichever numbers are free", async () => {
  const folder = tempFolder();
  const control = join(folder, "c.sock");
  const server = await serve(["--control", control, "mem:1M"], {}, limited);
  // Its number is free again when all behind it are taken.
  const client = await ControlClient.connect(control);
  const open = async (count: number): Promise<void> => {
    const path = join(folder, String(count));
    writeFileSync(path, Buffer.alloc(512));
    await client.call("create", { name: `d${count}`, table: `0 1 linear ${path} 0`, folder });
    await open(count + 1);
  };
  await expect(open(0)).rejects.toMatchObject({ code: "ENOMEM", hint: expect.stringMatching(/ulimit -n/) });
  client.close();
  // There is a way in all the same, for as many as come.
  for (const verb of ["ls", "status", "ls"]) expect((await dmkit([verb, "-C", control])).code).toBe(0);
  const nbd = connect(new URL(server.uri).searchParams.get("socket") ?? "");
  nbd.on("error", () => {});
  cleanUp(() => void nbd.destroy());
  await until(() => server.stderr().includes("clients are kept waiting"), "a word in the log");
  expect(await server.stop()).toBe(0);
});

it("too few descriptors are not told as an I/O error", () => {
  const error = Object.assign(new Error("EMFILE: too many open files, open 'x'"), {
    code: "EMFILE",
    syscall: "open",
  });
  expect(toBlockIoError(error, {})).toMatchObject({
    code: "ENOMEM",
    hint: expect.stringMatching(/ulimit -n/),
  });
});
