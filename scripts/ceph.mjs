// A Ceph cluster of one monitor, one OSD in memory and one gateway, for tests and for trying things out:
//
//   node scripts/ceph.mjs up FOLDER      starts it and prints {conf, endpoint, accessKey, secretKey} as JSON
//   node scripts/ceph.mjs down FOLDER    ends it
//
// It listens on 127.0.0.1, without authentication between its daemons, keeps everything in FOLDER, needs no root and no
// service manager, and takes about 20 s to start. Debian packages: ceph-mon ceph-osd ceph-common radosgw.
import { spawn } from "node:child_process";
import { randomUUID } from "node:crypto";
import { existsSync, mkdirSync, openSync, readFileSync, readdirSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { join, resolve } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";

const [verb, where] = process.argv.slice(2);
if ((verb !== "up" && verb !== "down") || where === undefined) {
  console.error("usage: node scripts/ceph.mjs up|down FOLDER");
  process.exit(2);
}
const folder = resolve(where);
if (verb === "up") await up();
else await down();

async function up() {
  if (existsSync(folder) && readdirSync(folder).length > 0) throw new Error(`${folder} is not empty`);
  for (const part of ["mon", "osd", "run", "log"]) mkdirSync(join(folder, part), { recursive: true });
  const [port, gateway] = await freePorts(2);
  const fsid = randomUUID();
  const conf = join(folder, "ceph.conf");
  const address = `v2:127.0.0.1:${port}/0`;
  writeFileSync(join(folder, "keyring"), "");
  writeFileSync(conf, configuration(fsid, address));
  process.env.CEPH_CONF = conf;
  const map = join(folder, "monmap");
  try {
    await run("monmaptool", "--create", "--fsid", fsid, "--addv", "a", `[${address}]`, map);
    await run("ceph-mon", "--mkfs", "-i", "a", "--monmap", map);
    await run("ceph-mon", "-i", "a");
    const osd = randomUUID();
    await run("ceph", "osd", "new", osd);
    await run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd);
    await run("ceph-osd", "-i", "0");
    for (let tries = 0; !(await run("ceph", "osd", "stat")).includes("1 up"); tries += 1) {
      if (tries > 300) throw new Error("the OSD does not come up");
      await sleep(100);
    }
    await run("ceph", "osd", "pool", "create", "rbd", "8");
    await run("rbd", "pool", "init", "rbd");
    const endpoint = `http://127.0.0.1:${gateway}`;
    const name = ["-n", "client.rgw"];
    await run(
      "radosgw",
      ...name,
      `--rgw-frontends=beast endpoint=127.0.0.1:${gateway}`,
      "--pid-file",
      pidFile("client.rgw"),
    );
    const keys = ["--access-key=test", "--secret-key=testtest"];
    await run("radosgw-admin", "user", "create", "--uid=test", "--display-name=test", ...keys);
    await answers(endpoint);
    console.log(JSON.stringify({ conf, endpoint, accessKey: "test", secretKey: "testtest" }));
  } catch (error) {
    console.error(`ceph.mjs: ${error.message}\nIts logs are in ${join(folder, "log")}.`);
    await down();
    process.exitCode = 1;
  }
}

async function down() {
  for (const name of ["client.rgw", "osd.0", "mon.a"]) {
    if (!existsSync(pidFile(name))) continue;
    const pid = Number(readFileSync(pidFile(name), "utf8"));
    for (let tries = 0; isAlive(pid); tries += 1) {
      process.kill(pid, tries < 50 ? "SIGTERM" : "SIGKILL");
      await sleep(100);
    }
  }
}

function configuration(fsid, address) {
  return `[global]
fsid = ${fsid}
mon host = [${address}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
auth cluster required = none
auth service required = none
auth client required = none
# Without keys the gateway would ask for an encrypted connection to the monitor, and wait five minutes for it.
ms mon client mode = crc
mon allow pool size one = true
mon max pg per osd = 1000
mon data avail warn = 1
mon data avail crit = 1
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 8
osd pool default pgp num = 8
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
osd objectstore = memstore
memstore device bytes = 4294967296
osd class load list = *
osd class default list = *
setuser match path =
run dir = ${join(folder, "run")}
admin socket = ${join(folder, "run")}/$name.asok
pid file = ${join(folder, "run")}/$name.pid
log file = ${join(folder, "log")}/$name.log
keyring = ${join(folder, "keyring")}
mon data = ${join(folder, "mon")}
osd data = ${join(folder, "osd")}
`;
}

function pidFile(name) {
  return join(folder, "run", `${name}.pid`);
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch {
    return false;
  }
}

// The standard output of a program that succeeds. What daemons leave running has no pipe of ours.
function run(program, ...args) {
  const log = openSync(join(folder, "log", "commands.err"), "a");
  return new Promise((done, fail) => {
    const child = spawn(program, args, { stdio: ["ignore", "pipe", log] });
    let output = "";
    child.stdout.on("data", (part) => (output += part));
    child.on("error", fail);
    child.on("exit", (code) => {
      if (code === 0) done(output);
      else fail(new Error(`${program} ${args.join(" ")} ended with ${code}`));
      child.stdout.destroy();
    });
  });
}

async function freePorts(count) {
  const servers = await Promise.all(
    Array.from(
      { length: count },
      () =>
        new Promise((listening) => {
          const server = createServer().listen(0, "127.0.0.1", () => listening(server));
        }),
    ),
  );
  const ports = servers.map((server) => server.address().port);
  await Promise.all(servers.map((server) => new Promise((closed) => server.close(closed))));
  return ports;
}

async function answers(endpoint) {
  for (let tries = 0; tries < 600; tries += 1) {
    const answered = await fetch(endpoint).then(
      () => true,
      () => false,
    );
    if (answered) return;
    await sleep(100);
  }
  throw new Error("the gateway does not answer");
}
