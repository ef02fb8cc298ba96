// What this machine can do at best, in µs of wall time and of this process's processor time: the floor below which no
// request can go. The figures in docs/design/performance.md come from here. `node apps/dmkit/bench/limits.mjs`
import { closeSync, openSync, read, readSync, rmSync, writeSync } from "node:fs";
import { createServer, connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { Worker, isMainThread, workerData } from "node:worker_threads";

const BYTES = 128 * 1024;
const ROUNDS = 4000;

if (isMainThread) await measureAll();
else drain(workerData);

async function measureAll() {
  const from = Buffer.alloc(BYTES, 1);
  // As far apart as requests over 64 MiB are.
  const to = Buffer.alloc(64 * 2 ** 20);
  let at = 0;
  const next = () => (at = (at + BYTES) % to.length);
  show("copy 128 KiB in memory", await timed(() => void from.copy(to, next())));

  const path = join(tmpdir(), `dmkit-limits-${process.pid}`);
  const fd = openSync(path, "w+");
  try {
    for (let offset = 0; offset < to.length; offset += BYTES) writeSync(fd, from, 0, BYTES, offset);
    show(
      "read 128 KiB of the page cache, here",
      await timed(() => void readSync(fd, from, 0, BYTES, next())),
    );
    show(
      "write 128 KiB into the page cache, here",
      await timed(() => void writeSync(fd, from, 0, BYTES, next())),
    );
    show("read 4 KiB of the page cache, here", await timed(() => void readSync(fd, from, 0, 4096, next())));
    const onThread = (length) => () =>
      new Promise((resolve, reject) => {
        read(fd, from, 0, length, next(), (error) => (error === null ? resolve() : reject(error)));
      });
    show("read 4 KiB on a thread, one at a time", await timed(onThread(4096)));
    show("read 128 KiB on a thread, one at a time", await timed(onThread(BYTES)));
  } finally {
    closeSync(fd);
    rmSync(path);
  }
  await measureSocket(`${path}.sock`, from);
}

async function measureSocket(path, from) {
  const server = createServer().listen(path);
  await new Promise((resolve) => server.once("listening", resolve));
  const worker = new Worker(new URL(import.meta.url), { workerData: path });
  const socket = await new Promise((resolve) => server.once("connection", resolve));
  const send = () => new Promise((resolve) => socket.write(from, resolve));
  show("send 128 KiB on a unix socket", await timed(send));
  socket.destroy();
  server.close();
  await worker.terminate();
}

function drain(path) {
  const buffer = Buffer.alloc(256 * 1024);
  connect({ path, onread: { buffer, callback: () => true } });
}

async function timed(step) {
  for (let round = 0; round < ROUNDS / 4; round += 1) await step();
  const [cpu, started] = [process.cpuUsage(), performance.now()];
  for (let round = 0; round < ROUNDS; round += 1) await step();
  const { user, system } = process.cpuUsage(cpu);
  return { wall: ((performance.now() - started) * 1000) / ROUNDS, cpu: (user + system) / ROUNDS };
}

function show(what, { wall, cpu }) {
  console.log(
    `${what.padEnd(42)} ${wall.toFixed(1).padStart(7)} µs, processors ${cpu.toFixed(1).padStart(7)} µs`,
  );
}
