/** Which of our devices is measured against which peers. */
import { execFileSync } from "node:child_process";
import { closeSync, copyFileSync, existsSync, mkdirSync, openSync, writeSync } from "node:fs";
import { join } from "node:path";
import { bucketGroups } from "./buckets.ts";
import { DEVICE_SIZE, type Image, SECTORS, image, prepareAll, renewed } from "./images.ts";
import { type DeviceGroup, dmkit, main, nbdkit, qemuNbd } from "./servers.ts";

// Tunables of writeboost as the embedded default has them, as far as they cost or save anything.
const friendly = "4 allow_writeback 1 sequential_cutoff 4194304";

// fio's own data cannot be compressed.
const textLike = ["--buffer_compress_percentage=70", "--buffer_compress_chunk=4k"];

// Bytes of the image below overlays: so large that most writes are the first to their place, as with a system
// disk that a machine works on for a while.
const GOLDEN_SIZE = 4 * DEVICE_SIZE;

const ours = image("dmkit.img");
const kits = image("nbdkit.img");
const qemus = image("qemu.img");

const slow = renewed(image("slow.img"));
const log = renewed(image("log.img", 2 * DEVICE_SIZE));
const slow1 = renewed(image("slow1.img"));
const log1 = renewed(image("log1.img", 2 * DEVICE_SIZE));
const plog = renewed(image("plog.img", 64 * 2 ** 20));
const tracked = image("tracked.img");
const bitmap = renewed(image("bitmap.img", 4 * 2 ** 20));
const layer = renewed(image("layer.img", GOLDEN_SIZE));
const bits = renewed(image("bits.img", 4 * 2 ** 20));
const base = filled(image("base.img"));
// Metadata and journal take some of the device below.
const packed = renewed(image("packed.img", DEVICE_SIZE + 128 * 2 ** 20));

/** Has data everywhere. */
function filled({ path }: Image): Image {
  return {
    path,
    prepare(folder) {
      if (existsSync(path(folder))) return;
      const fd = openSync(path(folder), "w");
      const piece = Buffer.alloc(2 ** 20, "golden image ");
      for (let at = 0; at < GOLDEN_SIZE; at += piece.length) writeSync(fd, piece, 0, piece.length, at);
      closeSync(fd);
    },
  };
}

function trackedBy(options: string): (folder: string) => string[] {
  return (folder) => ["-t", `0 ${SECTORS} tracked ${tracked.path(folder)} ${bits.path(folder)} ${options}`];
}

/** With an epoch in which nothing is marked yet. */
function begun(folder: string): void {
  tracked.prepare(folder);
  bits.prepare(folder);
  const control = join(folder, "begin.ctl");
  const message = `"${process.execPath}" "${main}" message bench begin bench`;
  const where = ["-U", join(folder, "begin.sock"), "--control", control, "--name", "bench"];
  execFileSync(
    process.execPath,
    [main, "serve", "-q", ...where, ...trackedBy("")(folder), "--run", message],
    {
      stdio: "ignore",
      env: { ...process.env, DMKIT_CONTROL: control },
    },
  );
}

const nbdkitCache = nbdkit(
  "nbdkit cache",
  (folder) => ["--filter=cache", "file", kits.path(folder), "cache=writeback"],
  kits.prepare,
);

/** One that signs for itself, for servers, and where libnbd looks if the folder is its home. */
function makeCertificates(folder: string): void {
  const [cert, key] = ["server-cert.pem", "server-key.pem"].map((name) => join(folder, name));
  if (cert === undefined || key === undefined || existsSync(cert)) return;
  const what =
    "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost";
  execFileSync("openssl", [...what.split(" "), "-keyout", key, "-out", cert], { stdio: "ignore" });
  const home = join(folder, ".pki", "libnbd");
  mkdirSync(home, { recursive: true });
  for (const place of [folder, home]) copyFileSync(cert, join(place, "ca-cert.pem"));
}

export const groups: readonly DeviceGroup[] = [
  {
    name: "memory",
    servers: [
      dmkit("dmkit mem:", () => ["mem:1G"]),
      nbdkit("nbdkit memory", () => ["memory", "1G"]),
      nbdkit("nbdkit null", () => ["null", "1G"]),
    ],
  },
  {
    // What encryption costs, by the same cipher on both sides: the client's choice.
    name: "TLS",
    pairs: [{ of: "dmkit mem: TLS", to: "dmkit mem:", work: "128k" }],
    servers: [
      {
        ...dmkit(
          "dmkit mem: TLS",
          (folder) => ["--tls", "require", "--tls-certificates", folder, "mem:1G"],
          makeCertificates,
        ),
        tls: true,
      },
      {
        ...nbdkit(
          "nbdkit TLS",
          (folder) => ["--tls=require", `--tls-certificates=${folder}`, "memory", "1G"],
          makeCertificates,
        ),
        tls: true,
      },
      dmkit("dmkit mem:", () => ["mem:1G"]),
    ],
  },
  {
    name: "file",
    servers: [
      dmkit("dmkit file", (folder) => [ours.path(folder)], ours.prepare),
      nbdkit("nbdkit file", (folder) => ["file", kits.path(folder)], kits.prepare),
      qemuNbd("qemu-nbd raw", (folder) => ["-f", "raw", qemus.path(folder)], qemus.prepare),
    ],
  },
  {
    name: "writeboost",
    fresh: true,
    filled: "always",
    // What the cache costs, where it cannot save anything, and what its plog saves.
    pairs: [
      { of: "dmkit writeboost 0", to: "dmkit file", work: "128k write" },
      { of: "dmkit writeboost 0", to: "dmkit file", work: "1M write" },
      { of: "dmkit writeboost 1", to: "dmkit file", work: "4k write + flush" },
    ],
    servers: [
      dmkit(
        "dmkit writeboost 0",
        (folder) => [
          "-t",
          `0 ${SECTORS} writeboost 0 ${slow.path(folder)} ${log.path(folder)} 0 ${friendly}`,
        ],
        prepareAll(slow, log),
      ),
      dmkit(
        "dmkit writeboost 1",
        (folder) => [
          "-t",
          `0 ${SECTORS} writeboost 1 ${slow1.path(folder)} ${log1.path(folder)} ${plog.path(folder)} 0 ${friendly}`,
        ],
        prepareAll(slow1, log1, plog),
      ),
      dmkit("dmkit file", (folder) => [ours.path(folder)], ours.prepare),
      nbdkitCache,
    ],
  },
  {
    name: "assoc-cache",
    servers: [
      dmkit(
        "dmkit write-back",
        (folder) => ["-t", `0 ${SECTORS} cache ${slow.path(folder)} ${log.path(folder)} 0 8 131072 1024 1`],
        prepareAll(slow, log),
      ),
      nbdkitCache,
    ],
  },
  {
    // The cost of tracking: writes to what is marked already, and the first ones of an epoch.
    name: "tracked",
    fresh: true,
    filled: "for reads",
    pairs: [
      { of: "dmkit tracked", to: "dmkit file", work: "4k write, depth", goal: 0.95 },
      { of: "dmkit tracked", to: "dmkit file", work: "128k write", goal: 0.95 },
      { of: "dmkit tracked, begun", to: "dmkit file", work: "4k write, depth" },
      { of: "dmkit tracked, begun", to: "dmkit file", work: "128k write" },
    ],
    servers: [
      dmkit("dmkit tracked", trackedBy("2 reset bench"), prepareAll(tracked, bits)),
      dmkit("dmkit tracked, begun", trackedBy(""), begun),
      dmkit("dmkit file", (folder) => [ours.path(folder)], ours.prepare),
      nbdkit("nbdkit file", (folder) => ["file", kits.path(folder)], kits.prepare),
    ],
  },
  {
    name: "cow",
    fresh: true,
    span: GOLDEN_SIZE,
    servers: [
      dmkit(
        "dmkit cow",
        (folder) => [
          "-t",
          `0 ${GOLDEN_SIZE / 512} cow ${base.path(folder)} 0 ${bitmap.path(folder)} ${layer.path(folder)} 0`,
        ],
        prepareAll(base, bitmap, layer),
      ),
      nbdkit("nbdkit cow", (folder) => ["--filter=cow", "file", base.path(folder)], base.prepare),
      qemuNbd(
        "qemu-nbd qcow2",
        (folder) => ["-f", "qcow2", join(folder, "overlay.qcow2")],
        (folder) => {
          base.prepare(folder);
          execFileSync("qemu-img", [
            "create",
            "-q",
            "-f",
            "qcow2",
            "-F",
            "raw",
            "-b",
            base.path(folder),
            join(folder, "overlay.qcow2"),
          ]);
        },
      ),
    ],
  },
  {
    name: "zram",
    data: textLike,
    servers: [
      dmkit("dmkit zram lz4", () => ["-t", `0 ${SECTORS} zram lz4`]),
      nbdkit("nbdkit zstd", () => ["memory", "1G", "allocator=zstd"]),
      nbdkit("nbdkit malloc", () => ["memory", "1G", "allocator=malloc"]),
    ],
  },
  {
    // qemu's filter cannot write to a place twice, nor less than a cluster.
    name: "compression",
    fresh: true,
    filled: "for reads",
    span: DEVICE_SIZE / 2,
    data: textLike,
    servers: [
      dmkit(
        "dmkit compression",
        (folder) => ["-t", `0 ${SECTORS} compression ${packed.path(folder)} writeback 5`],
        packed.prepare,
      ),
      qemuNbd(
        "qemu-nbd compress",
        (folder) => [
          "--image-opts",
          `driver=compress,file.driver=qcow2,file.file.driver=file,file.file.filename=${join(folder, "packed.qcow2")}`,
        ],
        (folder) => {
          execFileSync("qemu-img", ["create", "-q", "-f", "qcow2", join(folder, "packed.qcow2"), "1G"]);
        },
      ),
    ],
  },
  ...bucketGroups,
];
