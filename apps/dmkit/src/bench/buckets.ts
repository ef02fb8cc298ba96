/**
 * Images and archives in an object store, beside nbdkit's S3 plugin. The store is the small server of the tests, in this
 * process, with and without the latency of a real one; what each load asks of it is counted, and priced.
 */
import { spawnSync } from "node:child_process";
import { closeSync, existsSync, openSync, renameSync, writeSync } from "node:fs";
import { join } from "node:path";
import { DEVICE_SIZE, SECTORS, image, prepareAll, renewed } from "./images.ts";
import { runClient } from "./leftovers.ts";
import {
  type Bucket,
  type BucketSpec,
  type BucketUse,
  type DeviceGroup,
  type ServerSpec,
  dmkit,
  main,
  nbdkit,
  startServer,
} from "./servers.ts";
import { type Work, runWork, work, works } from "./work.ts";

/** What one request of a client costs, on the average. */
export interface Cost {
  /** Requests to the store. */
  readonly requests: number;
  /** Bytes from and to the store. */
  readonly bytes: number;
  /** Dollars for a million of the client's requests. */
  readonly dollars: number;
}

/** Dollars for a million requests, by the price list of S3 Standard in us-east-1; a LIST costs what a PUT does. */
const PRICES = { get: 0.4, put: 5 } as const;

/** Bytes of the golden image. */
const GOLDEN_SIZE = 256 * 2 ** 20;

const REFERENCE = "s3://bucket/images/golden";

/** A bucket on a server of its own, with what belongs there. */
export async function openBucket(spec: BucketSpec, folder: string): Promise<Bucket> {
  // Only who measures buckets loads it.
  const { S3TestServer } = await import("@dmkit/object-store/testing");
  const server = new S3TestServer(spec);
  const endpoint = await server.listen();
  const bucket: Bucket = {
    endpoint,
    env: {
      ...process.env,
      AWS_ACCESS_KEY_ID: "test",
      AWS_SECRET_ACCESS_KEY: "test",
      AWS_DEFAULT_REGION: "us-east-1",
      AWS_ENDPOINT_URL: endpoint,
      XDG_CACHE_HOME: join(folder, "cache"),
    },
    objects: server.objects,
    used: () => ({
      gets: server.counts.GET,
      puts: server.counts.PUT + server.counts.LIST,
      bytes: server.bytes,
    }),
    close: () => server.close(),
  };
  try {
    await spec.fill?.(bucket, folder);
  } catch (error) {
    await server.close();
    throw error;
  }
  return bucket;
}

/** @param before what had been asked when it began. @param requests of the client since then. */
export function spent(bucket: Bucket, before: BucketUse, requests: number): Cost {
  const now = bucket.used();
  const gets = now.gets - before.gets;
  const puts = now.puts - before.puts;
  const bytes = now.bytes - before.bytes;
  const dollars = gets * PRICES.get + puts * PRICES.put;
  return { requests: (gets + puts) / requests, bytes: bytes / requests, dollars: dollars / requests };
}

// A whole image once, as a copy reads it.
const stream = work("128k read once, depth 16", "bandwidth", "--rw=read --bs=128k --iodepth=16", {
  reads: true,
  quick: true,
  once: true,
});

// As a machine that starts reads: six times 32 KiB in each place, the same places in the same order each time, and
// between two reads it does something with what it got.
const boot = work(
  "boot-like: 400 reads, 5 ms apart",
  "iops",
  "--rw=randread:6 --bs=32k --iodepth=1 --number_ios=400 --thinktime=5000 --randseed=7",
  { reads: true, quick: true, once: true },
);

const golden = image("golden.img", GOLDEN_SIZE);
const backing = renewed(image("backing.img"));
const log = renewed(image("log.img", 2 * DEVICE_SIZE));

/** Puts the image there: for us plain and with the list of what a start reads, for the peer cut into objects. */
async function fillImages(bucket: Bucket, folder: string): Promise<void> {
  const fd = openSync(golden.path(folder), "w");
  for (let at = 0; at < GOLDEN_SIZE; at += 2 ** 20) {
    const piece = contents(at);
    writeSync(fd, piece, 0, piece.length, at);
    for (const size of kitSizes) {
      for (let from = 0; from < piece.length; from += size) {
        const number = ((at + from) / size).toString(16).padStart(16, "0");
        const body = piece.subarray(from, from + size);
        bucket.objects.set(`kit-${size}/${number}`, { body, modified: new Date() });
      }
    }
  }
  closeSync(fd);
  const command = (...args: string[]): Promise<string> =>
    runClient(process.execPath, [main, ...args], bucket.env);
  await command("publish", "-q", golden.path(folder), `${REFERENCE}:plain`);
  await command("image", "tag", `${REFERENCE}:plain`, "hot");
  const control = join(folder, "control.sock");
  const recorder = dmkit("dmkit image", () => ["-r", "--control", control, `image:${REFERENCE}:hot`]);
  const server = await startServer(recorder, folder, 0, bucket);
  try {
    await runWork(boot, server.uri, 60, GOLDEN_SIZE);
    await command("image", "record", "-q", "--control", control, "default", `${REFERENCE}:hot`);
  } finally {
    await server.stop();
  }
}

/** Half of it can be compressed, and no two chunks are the same. */
function contents(offset: number): Buffer {
  const piece = Buffer.alloc(2 ** 20, `golden ${offset} `);
  let state = offset + 1;
  for (let at = 0; at < piece.length; at += 8) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    piece.writeUInt32LE(state, at);
  }
  return piece;
}

function served(name: string, tag: string): ServerSpec {
  return dmkit(
    name,
    () => ["-r", `image:${REFERENCE}:${tag}`],
    // The cache of the node is a new one. The old one is put aside: for some seconds after files were removed ext4 looks for
    // numbers of new ones elsewhere, which was a tenth of all that the server spent.
    (folder) => {
      const cache = join(folder, "cache");
      if (existsSync(cache)) renameSync(cache, `${cache}-${Date.now()}`);
    },
  );
}

const kitSizes: readonly number[] = [64 << 10, 4 << 10];

/** nbdkit's plugin over objects of a size. */
function kitS3(objectSize: number): ServerSpec {
  const args = (_folder: string, bucket: Bucket | undefined): string[] => [
    "S3",
    `endpoint-url=${bucket?.endpoint}`,
    `size=${GOLDEN_SIZE}`,
    `object-size=${objectSize}`,
    "bucket=bucket",
    `key=kit-${objectSize}`,
  ];
  return {
    ...nbdkit(`nbdkit S3 ${objectSize >> 10}k`, args),
    able: () => spawnSync("nbdkit", ["S3", "--dump-plugin"], { stdio: "ignore" }).status === 0,
  };
}

function imageGroup(name: string, getLatency: number, putLatency: number): DeviceGroup {
  return {
    name,
    fresh: true,
    span: GOLDEN_SIZE,
    works: [stream, boot],
    bucket: { getLatency, putLatency, fill: fillImages },
    pairs: [
      { of: "dmkit hot list", to: "dmkit warm", work: "boot", goal: 1 / 1.2 },
      { of: "dmkit cold", to: "dmkit warm", work: "" },
    ],
    servers: [
      served("dmkit cold", "plain"),
      served("dmkit hot list", "hot"),
      { ...dmkit("dmkit warm", () => ["-r", `image:${REFERENCE}:plain`]), rehearsed: true },
      ...kitSizes.map(kitS3),
    ],
  };
}

/** A cache of writeboost, with optional words of its table; the bucket is emptied before it starts. */
function cached(name: string, ...words: readonly string[]): ServerSpec {
  const rest = [words.length, ...words, 2, "allow_writeback", 1].join(" ");
  return dmkit(
    name,
    (folder) => ["-t", `0 ${SECTORS} writeboost 0 ${backing.path(folder)} ${log.path(folder)} ${rest}`],
    (folder, bucket) => {
      prepareAll(backing, log)(folder);
      bucket?.objects.clear();
    },
  );
}

const ARCHIVE = ["archive", "s3://bucket/disks/vm1", "archive_flush"] as const;

function archiveGroup(name: string, getLatency: number, putLatency: number): DeviceGroup {
  const wanted = ["4k write, depth 32", "128k write, depth 16", "4k write + flush, depth 8"];
  return {
    name,
    fresh: true,
    works: works.filter((load: Work) => wanted.includes(load.name)),
    bucket: { getLatency, putLatency },
    pairs: [
      { of: "archive, local", to: "no archive", work: "4k write, depth 32", goal: 0.9 },
      { of: "archive, local", to: "no archive", work: "128k" },
      { of: "archive, local", to: "no archive", work: "4k write + flush" },
      { of: "archive, remote", to: "no archive", work: "" },
    ],
    servers: [
      cached("archive, local", ...ARCHIVE, "local"),
      cached("archive, remote", ...ARCHIVE, "remote"),
      cached("no archive"),
      kitS3(kitSizes[0] as number),
    ],
  };
}

/** Latencies of a store in the same rack, and of one that is far away. */
export const bucketGroups: readonly DeviceGroup[] = [
  imageGroup("image", 0, 0),
  imageGroup("image, 20 ms a GET", 20, 40),
  archiveGroup("archive", 0, 0),
  archiveGroup("archive, 40 ms a PUT", 20, 40),
];
