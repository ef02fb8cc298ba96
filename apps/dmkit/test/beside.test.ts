/**
 * The README's table of what dmkit has, and has not, beside nbdkit and qemu-nbd: every cell is tried with the program. The
 * others' cells are of the versions in its head, and tried where those are installed.
 */
import { spawn, spawnSync } from "node:child_process";
import { mkdirSync, readFileSync, truncateSync, writeFileSync } from "node:fs";
import { request } from "node:http";
import { join } from "node:path";
import type { TLSSocket } from "node:tls";
import { listNbdExports, nbdInfo, openNbd } from "@dmkit/nbd";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { endServers, startNbdkit, startQemuNbd } from "../../../packages/nbd/test/client-servers.ts";
import { Certificates } from "../../../packages/nbd/test/support/certificates.ts";
import { RawClient } from "../../../packages/nbd/test/support/raw-client.ts";
import { startTls } from "../../../packages/nbd/test/support/tls-client.ts";
import { cli } from "./cli.ts";
import { receive } from "./notify-receiver.ts";
import { cleanUp, describeWith, freePort, main, run, serve, tempFolder, until } from "./support.ts";

afterAll(endServers);

const MIB = 2 ** 20;
const EXTENDED_HEADERS = 11;
const ACK = 1;

/** What a cell says: whether the program does it. */
type Probe = () => Promise<boolean> | boolean;

let certificates: Certificates;
let folder: string;

function image(size = MIB, byte = 0): string {
  const path = join(tempFolder(), "image");
  writeFileSync(path, byte === 0 ? "" : Buffer.alloc(size, byte));
  truncateSync(path, size);
  return path;
}

// Each serves at a socket, which is what they return.

async function ours(...words: readonly string[]): Promise<string> {
  const socket = join(tempFolder(), "s");
  await serve(["-U", socket, ...words]);
  return socket;
}

async function nbdkit(...words: readonly string[]): Promise<string> {
  return (await startNbdkit(words)).socket;
}

async function qemu(words: readonly string[] = [], path: string = image()): Promise<string> {
  return (await startQemuNbd(path, words)).socket;
}

const works = (uri: string): Promise<boolean> =>
  nbdInfo(uri).then(
    () => true,
    () => false,
  );
const plain = (socket: string, name = ""): string => `nbd+unix:///${name}?socket=${socket}`;
const withCertificate = (socket: string): string =>
  `nbds+unix:///?socket=${socket}&tls-certificates=${folder}&tls-hostname=localhost`;
const withKey = (socket: string, who = "alice"): string =>
  `nbds+unix://${who}@/?socket=${socket}&tls-psk-file=${certificates.psk}`;

const tlsOfQemu = (kind: "x509" | "psk", dir: string): readonly string[] => {
  const more = kind === "x509" ? ",verify-peer=no" : "";
  return ["--object", `tls-creds-${kind},id=t,endpoint=server,dir=${dir}${more}`, "--tls-creds", "t"];
};

/** Whether another certificate is shown once there is another one. */
async function takesNew(start: (own: string) => Promise<string>): Promise<boolean> {
  const own = certificates.issue("renewed", "server", "localhost");
  const socket = await start(own);
  const serial = async (): Promise<string> => {
    const ca = readFileSync(join(folder, "ca-cert.pem"));
    const client = await startTls(await RawClient.connect({ path: socket }), { ca, servername: "localhost" });
    const { serialNumber } = (client.stream as TLSSocket).getPeerCertificate();
    client.close();
    return serialNumber;
  };
  const before = await serial();
  certificates.issue("renewed", "server", "localhost");
  return (await serial()) !== before;
}

async function extended(socket: string): Promise<boolean> {
  const client = await RawClient.connect({ path: socket });
  await client.greet();
  const replies = await client.option(EXTENDED_HEADERS);
  client.close();
  return replies.at(-1)?.type === ACK;
}

const help: Readonly<Record<string, () => string>> = {
  dmkit: () => spawnSync(process.execPath, [main, "serve", "--help"], { encoding: "utf8" }).stdout,
  nbdkit: () => spawnSync("nbdkit", ["--help"], { encoding: "utf8" }).stdout,
  "qemu-nbd": () => spawnSync("qemu-nbd", ["--help"], { encoding: "utf8" }).stdout,
};

/** What has no option and no word in the help cannot be asked for. */
const inHelp =
  (program: string, words: RegExp): Probe =>
  () =>
    words.test(help[program]?.() ?? "");

/** Whether a program takes a socket that systemd listens at. */
const activated =
  (...command: (string | (() => string))[]): Probe =>
  async () => {
    const socket = join(tempFolder(), "s");
    const words = command.map((word) => (typeof word === "string" ? word : word()));
    const child = spawn("systemd-socket-activate", ["-l", socket, ...words], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    let said = "";
    child.stderr.on("data", (chunk: Buffer) => (said += chunk.toString()));
    const over = new Promise((resolve) => child.on("close", resolve));
    cleanUp(async () => {
      child.kill();
      await over;
    });
    await until(() => said.includes("Listening"), "systemd-socket-activate");
    return works(plain(socket));
  };

/** Whether READY=1 is told by the time that clients are served. */
async function notifies(start: () => Promise<string>): Promise<boolean> {
  const address = join(tempFolder(), "notify");
  const received = await receive(address);
  vi.stubEnv("NOTIFY_SOCKET", address);
  const socket = await start();
  vi.unstubAllEnvs();
  await nbdInfo(plain(socket));
  // What comes behind it is there when this is.
  const env = { ...process.env, NOTIFY_SOCKET: address };
  await run("systemd-notify", ["--no-block", "--status=over"], { env });
  await until(() => received().includes("STATUS=over"), "the last word");
  return received().includes("READY=1");
}

const probes: Readonly<Record<string, readonly [dmkit: Probe, nbdkit: Probe, qemu: Probe]>> = {
  "TLS with certificates": [
    async () =>
      works(withCertificate(await ours("--tls", "require", "--tls-certificates", folder, "mem:1M"))),
    async () =>
      works(withCertificate(await nbdkit("--tls=require", `--tls-certificates=${folder}`, "memory", "1M"))),
    async () => works(withCertificate(await qemu(tlsOfQemu("x509", folder)))),
  ],
  "TLS with pre-shared keys": [
    async () => works(withKey(await ours("--tls", "require", "--tls-psk", certificates.psk, "mem:1M"))),
    async () =>
      works(withKey(await nbdkit("--tls=require", `--tls-psk=${certificates.psk}`, "memory", "1M"))),
    async () => works(withKey(await qemu(tlsOfQemu("psk", certificates.folder)))),
  ],
  "TLS for those who ask for it, plain text for others": [
    async () => works(plain(await ours("--tls", "on", "--tls-certificates", folder, "mem:1M"))),
    async () => works(plain(await nbdkit("--tls=on", `--tls-certificates=${folder}`, "memory", "1M"))),
    async () => works(plain(await qemu(tlsOfQemu("x509", folder)))),
  ],
  "new certificates without a restart": [
    () => takesNew((own) => ours("--tls", "require", "--tls-certificates", own, "mem:1M")),
    () => takesNew((own) => nbdkit("--tls=require", `--tls-certificates=${own}`, "memory", "1M")),
    () => takesNew((own) => qemu(tlsOfQemu("x509", own))),
  ],
  "only some addresses may connect": [
    async () => {
      const at = async (allow: string): Promise<boolean> =>
        works((await serve(["-p", "0", "--allow", allow, "mem:1M"])).uri);
      return (await at("127.0.0.0/8")) && !(await at("10.0.0.0/8"));
    },
    async () => {
      const port = String(await freePort());
      const where = ["-i", "127.0.0.1", "-p", port, "--run", `nbdinfo --size nbd://127.0.0.1:${port}`];
      const at = async (allow: string): Promise<boolean> =>
        (await run("nbdkit", [...where, "--filter=ip", "memory", "1M", `allow=${allow}`, "deny=all"]))
          .code === 0;
      // It looks numbers up, which takes a network: kinds of addresses are known without.
      return (await at("anyipv4")) && !(await at("anyipv6"));
    },
    inHelp("qemu-nbd", /allow|deny|addresses/i),
  ],
  "only some names of certificates or keys may write": [
    async () => {
      const socket = await ours(
        "--tls",
        "require",
        "--tls-psk",
        certificates.psk,
        "--writers",
        "alice",
        "mem:1M",
      );
      const readOnly = async (who: string): Promise<boolean> =>
        (await nbdInfo(withKey(socket, who))).readOnly;
      return !(await readOnly("alice")) && (await readOnly("bob"));
    },
    inHelp("nbdkit", /writer|identit/i),
    inHelp("qemu-nbd", /writer|identit/i),
  ],
  "lengths of 64 bits (extended headers)": [
    async () => extended(await ours("mem:1M")),
    async () => extended(await nbdkit("memory", "1M")),
    async () => extended(await qemu()),
  ],
  "several exports": [
    async () => (await listNbdExports(plain(await ours(image(), "null:1M")))).length === 2,
    async () => {
      const several = join(tempFolder(), "several");
      mkdirSync(several);
      for (const name of ["a", "b"]) writeFileSync(join(several, name), Buffer.alloc(512));
      return (await listNbdExports(plain(await nbdkit("file", `dir=${several}`)))).length === 2;
    },
    async () =>
      (await run("qemu-nbd", ["-f", "raw", "-k", join(tempFolder(), "s"), image(), image()])).code === 0,
  ],
  "devices exchanged under their clients": [
    async () => {
      const control = join(tempFolder(), "c");
      const socket = await ours("-C", control, "-t", `0 2048 linear ${image(MIB, 1)} 0`);
      const device = await openNbd(plain(socket), { reconnect: "off" });
      const other = `0 2048 linear ${image(MIB, 2)} 0`;
      for (const words of [
        ["reload", "default", "-t", other],
        ["resume", "default"],
      ])
        expect(await cli(...words, "-C", control)).toMatchObject({ code: 0 });
      const into = Buffer.alloc(512);
      await device.read(0, into);
      await device.close();
      return into[0] === 2;
    },
    inHelp("nbdkit", /reload/i),
    inHelp("qemu-nbd", /reload/i),
  ],
  "sockets from systemd": [
    activated(process.execPath, main, "serve", "-q", "mem:1M"),
    activated("nbdkit", "-f", "memory", "1M"),
    activated("qemu-nbd", "-t", "-f", "raw", () => image()),
  ],
  "tells systemd when it is ready": [
    () => notifies(() => ours("mem:1M")),
    () => notifies(() => nbdkit("memory", "1M")),
    () => notifies(() => qemu()),
  ],
  "health and metrics over HTTP": [
    async () => {
      const home = tempFolder();
      const file = join(home, "s.yaml");
      writeFileSync(file, "devices: { d: mem:1M }\nmetrics: { unix: m.sock }\nexports: [d]\n");
      await ours(file);
      const status = (path: string): Promise<number | undefined> =>
        new Promise((resolve, reject) => {
          const asked = request({ socketPath: join(home, "m.sock"), path }, (answer) => {
            answer.resume();
            resolve(answer.statusCode);
          });
          asked.on("error", reject).end();
        });
      return (await status("/metrics")) === 200 && (await status("/healthz")) === 200;
    },
    inHelp("nbdkit", /metrics|prometheus/i),
    inHelp("qemu-nbd", /metrics|prometheus/i),
  ],
  "qcow2 and other formats": [
    async () => isDisk(await ours(qcow2()).catch(() => "")),
    async () => isDisk(await nbdkit("file", qcow2())),
    async () => isDisk(await qemu(["-f", "qcow2"], qcow2())),
  ],
  "attaches to the kernel by itself": [
    inHelp("dmkit", /\/dev\/nbd|--connect\b/),
    inHelp("nbdkit", /\/dev\/nbd|--connect\b/),
    inHelp("qemu-nbd", /--connect=DEV/),
  ],
  vsock: [inHelp("dmkit", /vsock/), inHelp("nbdkit", /--vsock/), inHelp("qemu-nbd", /vsock/)],
  "plugins in other languages": [
    inHelp("dmkit", /plugin/i),
    async () => (await run("nbdkit", ["sh", "--dump-plugin"])).code === 0,
    inHelp("qemu-nbd", /plugin/i),
  ],
};

function qcow2(): string {
  const path = join(tempFolder(), "disk");
  spawnSync("qemu-img", ["create", "-f", "qcow2", path, "64M"]);
  return path;
}

/** Whether what is served is the disk in the image. */
const isDisk = (socket: string): Promise<boolean> =>
  nbdInfo(plain(socket)).then(
    ({ size }) => size === 64 * MIB,
    () => false,
  );

const [head = [], , ...rows] = readFileSync(join(import.meta.dirname, "../../../README.md"), "utf8")
  .split("\n")
  .map((line) =>
    line
      .split("|")
      .slice(1, -1)
      .map((cell) => cell.trim()),
  )
  .reduce<string[][]>((table, cells) => {
    if (cells[1] === "dmkit" && cells[0] === "") return [cells];
    return table.length > 0 && cells.length === 4 ? [...table, cells] : table;
  }, []);

/** Whether the version of the table's head is here. */
function isHere(column: number): boolean {
  const [program = "", version = ""] = (head[column] ?? "").split(" ");
  if (version === "") return true;
  const { stdout, error } = spawnSync(program, ["--version"], { encoding: "utf8" });
  return error === undefined && stdout.startsWith(`${program} ${version}.`);
}

const needed = ["openssl", "systemd-socket-activate", "systemd-notify", "python3", "qemu-img"];

describeWith(needed, "the README's table of what is where", () => {
  beforeAll(() => {
    certificates = new Certificates();
    folder = certificates.issue("both", "server", "localhost");
  });
  afterAll(() => certificates.dispose());

  it("has a row for everything that is tried, and nothing else", () => {
    expect(rows.map(([what]) => what)).toEqual(Object.keys(probes));
  });

  for (const column of [1, 2, 3]) {
    describe.skipIf(!isHere(column))(head[column] ?? "", () => {
      it.each(rows.map((cells) => [cells[0] ?? "", cells[column]] as const))("%s: %s", async (what, cell) => {
        const does = await probes[what]?.[(column - 1) as 0 | 1 | 2]();
        expect(does === true ? "yes" : "no").toBe(cell);
      });
    });
  }
});
