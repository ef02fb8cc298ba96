/** A server that may have few files open keeps some for its devices and for who looks after it. */
import { truncateSync, writeFileSync } from "node:fs";
import { type Socket, connect } from "node:net";
import { join } from "node:path";
import { toBlockIoError } from "@dmkit/block-io";
import { expect, it } from "vitest";
import { cleanUp, dmkit, main, serve, tempFolder, until } from "./support.ts";

// Some 25 are open at the start.
const LIMIT = 50;
const CLIENTS = 60;

it("more clients than there are descriptors wait until others have gone; the server says why, and can be asked", async () => {
  const folder = tempFolder();
  const [image, other, control, nbd] = ["a.img", "b.img", "c.sock", "n.sock"].map((name) =>
    join(folder, name),
  ) as [string, string, string, string];
  for (const path of [image, other]) {
    writeFileSync(path, "");
    truncateSync(path, 2 ** 20);
  }
  const server = await serve(["-U", nbd, "--control", control, image], {}, [
    "sh",
    "-c",
    `ulimit -n ${LIMIT}; exec "$@"`,
    "sh",
    process.execPath,
    main,
  ]);
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
