/** `/metrics` and `/healthz`. */
import { writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type MetricsListener, startMetrics } from "../src/metrics/server.ts";
import type { Snapshot } from "../src/top/snapshot.ts";
import { cleanUp, freePort, serve, tempFolder } from "./support.ts";

const operation = { count: 3, bytes: 8192, errors: 1, latency: [1, 0, 2, ...Array<number>(25).fill(0)] };
const idle = { count: 0, bytes: 0, errors: 0, latency: Array<number>(28).fill(0) };

function snapshot(change: Partial<Snapshot["devices"][number]> = {}): Snapshot {
  return {
    time: 5,
    wallTime: 5,
    uptime: 2000,
    pid: 1,
    version: "dmkit 1.2.3",
    connections: 2,
    accepted: 3,
    refused: 1,
    bytesInFlight: 0,
    clients: [],
    devices: [
      {
        name: 'd"\\\n',
        table: "0 8 zero",
        inactiveTable: undefined,
        state: "live",
        size: 4096,
        readOnly: false,
        failure: undefined,
        health: { state: "ok" },
        segments: [
          {
            start: 0,
            length: 8,
            target: "compression",
            status: "Data Size 30 Compressed Data Size 10 Meta Size 0",
            fields: { data_size: 30, compressed_from_bytes: 30, compressed_to_bytes: 10, note: "x" },
          },
        ],
        below: ["a", "a", "b"].map((name) => ({
          name,
          health: { state: "ok" },
          fields: { errors: 2, last_flush: 7 },
        })),
        space: { free: 10, unallocated: 20 },
        holders: [],
        uses: [],
        traffic: {
          reads: 1,
          readBytes: 2,
          writes: 3,
          writtenBytes: 4,
          flushes: 5,
          discards: 6,
          zeroes: 7,
          latency: { read: [1], write: [2], flush: [3] },
        },
        ...change,
      },
    ],
    exports: [
      {
        name: "",
        device: "d",
        description: "",
        size: 4096,
        readOnly: false,
        connections: 1,
        maxConnections: undefined,
        leaving: false,
        statistics: {
          read: operation,
          write: idle,
          flush: idle,
          trim: idle,
          cache: idle,
          writeZeroes: idle,
          blockStatus: idle,
          unknown: idle,
        },
      },
    ],
  };
}

async function start(now: () => Snapshot): Promise<MetricsListener> {
  const listener = await startMetrics({ host: "127.0.0.1", port: 0 }, now);
  cleanUp(() => listener.close());
  return listener;
}

const get = (port: number, path: string, method = "GET"): Promise<Response> =>
  fetch(`http://127.0.0.1:${port}${path}`, { method });

describe("the metrics listener", () => {
  it("answers in Prometheus' format: every line well-formed, buckets cumulative", async () => {
    const { port } = await start(() => snapshot());
    const response = await get(port, "/metrics");
    expect(response.status).toBe(200);
    expect(response.headers.get("content-type")).toMatch(/^text\/plain; version=0.0.4/);
    const text = await response.text();
    const sample = /^[a-z_]+(\{([a-z]+="([^"\\\n]|\\["\\n])*",?)*\})? (\d+(\.\d+)?(e[+-]?\d+)?)$/;
    for (const line of text.split("\n").filter((one) => one !== "" && !one.startsWith("#")))
      expect(line).toMatch(sample);
    expect(text).toContain('dmkit_export_requests_total{export="",operation="read"} 3');
    const device = 'device="d\\"\\\\\\n"';
    expect(text).toContain(`dmkit_device_compressed_from_bytes_total{${device}} 30`);
    expect(text).toContain(`dmkit_below_errors_total{${device},below="a"} 4`);
    expect(text).toContain(`dmkit_below_last_flush_timestamp_seconds{${device},below="b"} 7`);
    expect(text).toContain(`dmkit_device_storage_free_bytes{${device}} 10`);
    expect(text).toContain(`dmkit_build_info{version="1.2.3",node="${process.version}"} 1`);
    expect(text).toContain("# TYPE dmkit_export_request_duration_seconds histogram");
    const buckets = [
      ...text.matchAll(
        /dmkit_export_request_duration_seconds_bucket\{export="",operation="read",le="([^"]+)"\} (\d+)/g,
      ),
    ];
    expect(buckets).toHaveLength(28);
    expect(buckets.slice(0, 3).map(([, le, count]) => [le, count])).toEqual([
      ["0.000002", "1"],
      ["0.000004", "1"],
      ["0.000008", "3"],
    ]);
    expect(buckets.at(-1)?.slice(1)).toEqual(["+Inf", "3"]);
    expect(text).toContain('dmkit_export_request_duration_seconds_count{export="",operation="read"} 3');
    // Kinds nobody has asked for have counters but no buckets.
    expect(text).not.toContain('duration_seconds_count{export="",operation="trim"}');
  });

  it("tells how the server is", async () => {
    let now = snapshot();
    const { port } = await start(() => now);
    expect((await get(port, "/healthz")).status).toBe(200);
    now = snapshot({ state: "suspended" });
    expect((await get(port, "/healthz")).status).toBe(200);
    now = snapshot({
      name: "disk",
      health: { state: "failed", since: 0, why: "flush\nfailed", help: "Look." },
    });
    const ill = await get(port, "/healthz");
    expect(ill.status).toBe(503);
    expect(await ill.text()).toBe("disk is failed since 1970-01-01T00:00:00.000Z: flush failed\n  Look.\n");
    expect((await get(port, "/livez")).status).toBe(200);
  });

  it("refuses everything else", async () => {
    const { port } = await start(() => snapshot());
    expect((await get(port, "/")).status).toBe(404);
    expect((await get(port, "/metrics", "POST")).status).toBe(405);
    const head = await get(port, "/metrics?x", "HEAD");
    expect([head.status, await head.text()]).toEqual([200, ""]);
    const rubbish = await new Promise<string>((resolve, reject) => {
      let answer = "";
      const socket = connect(port, "127.0.0.1", () => socket.write("\0\0\0\0 rubbish\r\n\r\n"));
      socket.on("data", (chunk) => (answer += chunk.toString()));
      socket.on("close", () => resolve(answer));
      socket.on("error", reject);
    });
    expect(rubbish).toMatch(/^HTTP\/1.1 400 /);
    expect((await get(port, "/healthz")).status).toBe(200);
  });

  it("fails with a code where it cannot listen", async () => {
    const { port } = await start(() => snapshot());
    await expect(startMetrics({ host: "127.0.0.1", port }, () => snapshot())).rejects.toMatchObject({
      code: "EADDRINUSE",
    });
  });

  it("outlives clients that go before they are answered", async () => {
    const { port } = await start(() => snapshot());
    const vanish = async (): Promise<void> => {
      const socket = connect(port, "127.0.0.1");
      await new Promise((resolve) => socket.once("connect", resolve));
      socket.write("GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", () => socket.resetAndDestroy());
      await new Promise((resolve) => socket.once("close", resolve));
    };
    await Promise.all(Array.from({ length: 10 }, vanish));
    expect((await get(port, "/healthz")).status).toBe(200);
  });

  it("goes away while a client stays", async () => {
    const listener = await start(() => snapshot());
    const socket = connect(listener.port, "127.0.0.1");
    await new Promise((resolve) => socket.once("connect", resolve));
    const gone = new Promise((resolve) => socket.once("close", resolve));
    await listener.close();
    await gone;
  });
});

describe("a stack file with metrics", () => {
  it("has them served", async () => {
    const folder = tempFolder();
    const port = await freePort();
    writeFileSync(
      join(folder, "s.yaml"),
      `devices: { d: mem:1M }\nexports: [d]\nmetrics: ${port}\ncontrol: c.sock\n`,
    );
    const server = await serve([join(folder, "s.yaml"), "-U", join(folder, "nbd.sock")]);
    const text = await (await get(port, "/metrics")).text();
    expect(text).toContain('dmkit_device_size_bytes{device="d"} 1048576');
    expect(await server.stop()).toBe(0);
  });
});
