/** The page without a browser: its history, its feed, and who gets it. */
import { once } from "node:events";
import { existsSync, statSync, writeFileSync } from "node:fs";
import { type RequestOptions, request } from "node:http";
import { connect } from "node:net";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { ControlClient } from "../src/control/client.ts";
import { BYTES_PER_DEVICE, History, MOST_DEVICES, type Series, type Span, spans } from "../src/page/ring.ts";
import type { SampledDevice, Snapshot } from "../src/top/snapshot.ts";
import type { StatusFeed } from "../src/page/feed.ts";
import { startHttp } from "../src/metrics/start.ts";
import { cli } from "./cli.ts";
import { serve, tempFolder, until } from "./support.ts";

function device(name: string, reads: number, latency: readonly number[] = []): SampledDevice {
  const traffic = { reads, readBytes: reads * 4096, writes: 0, writtenBytes: 0, flushes: 0, discards: 0 };
  return {
    name,
    state: "live",
    health: { state: "ok" },
    segments: [],
    traffic: { ...traffic, zeroes: 0, latency: { read: latency, write: [], flush: [] } },
  } as unknown as SampledDevice;
}

const at = (time: number, ...devices: readonly SampledDevice[]): Snapshot => ({
  time,
  wallTime: time,
  uptime: time,
  pid: 1,
  connections: 0,
  version: "dmkit",
  accepted: 0,
  refused: 0,
  clients: [],
  bytesInFlight: 0,
  exports: [],
  devices,
});

describe("the history", () => {
  it("has a sample a second, in ten seconds and in five minutes, and no more than have room", () => {
    const history = new History();
    expect(history.figures).toBeUndefined();
    // Every look is a bit late, as timers are. Those of a day are five minutes apart, to have fewer of them.
    let now = 0;
    const look = (after: number): void => {
      now += after;
      history.note(at(now, device("d", now / 10)));
    };
    for (let second = 0; second <= 400; second += 1) look(1003);
    expect(history.figures?.devices[0]?.read.iops).toBeCloseTo(100);
    for (let minutes = 0; minutes <= 400; minutes += 5) look(300_100);
    const samples = (span: Span): number => history.series("d", span)?.time.length ?? 0;
    expect([samples("5min"), samples("1h"), samples("24h")]).toEqual([300, 40 + 81, 1 + 81]);
    for (let minutes = 0; minutes <= 3000; minutes += 5) look(300_100);
    expect([samples("5min"), samples("1h"), samples("24h")]).toEqual([300, 360, 288]);
    for (const span of spans) {
      const series = history.series("d", span);
      expect(series?.time.at(-1)).toBe(now);
      expect(series?.time).toEqual(series?.time.toSorted((one, other) => one - other));
      expect(new Set(series?.values.readIops)).toEqual(new Set([100]));
      expect(new Set(series?.values.dirty)).toEqual(new Set([null]));
    }
    expect(history.series("other", "5min")).toBeUndefined();
  });

  it("takes percentiles of all requests of a sample, not of percentiles", () => {
    const history = new History();
    // 99 quick requests, then a slow one: seconds apart, in the same ten seconds.
    history.note(at(0, device("d", 0)));
    for (let second = 1; second <= 10; second += 1) {
      history.note(at(second * 1000, device("d", 100, [99, 0, 0, 0, 0, second < 10 ? 0 : 1])));
    }
    const short = history.series("d", "5min")?.values.readP99;
    expect(short?.[0]).toBeLessThan(3);
    expect(short?.slice(1, 9)).toEqual(Array<null>(8).fill(null));
    expect(short?.[9]).toBeGreaterThan(32);
    expect(history.series("d", "1h")?.values.readP99[0]).toBeLessThan(3);
  });

  it("keeps as many devices as have room, and none that are gone", () => {
    const history = new History();
    const many = Array.from({ length: MOST_DEVICES + 1 }, (_, index) => device(`d${index}`, 0));
    history.note(at(0, ...many));
    history.note(at(1000, ...many));
    const last = `d${MOST_DEVICES}`;
    expect([history.series("d0", "5min")?.time, history.series(last, "5min")]).toEqual([[1000], undefined]);
    history.note(at(2000, ...many.slice(1)));
    expect(history.series("d0", "5min")).toBeUndefined();
    // What comes later was not there before.
    expect(history.series(last, "5min")?.values.readIops).toEqual([null, 0]);
    expect(BYTES_PER_DEVICE * MOST_DEVICES).toBeLessThan(8 * 2 ** 20);
  });
});

/** As a browser that was told `host` is here. */
function get(
  where: string | RequestOptions,
  host: string,
  method = "GET",
): Promise<{ status: number; headers: object; text: string }> {
  return new Promise((resolve, reject) => {
    const { hostname, port, pathname, search } = new URL(typeof where === "string" ? where : "http://x/");
    const tcp = { hostname, port, path: `${pathname}${search}` };
    const asked = request(
      { ...(typeof where === "string" ? tcp : where), method, headers: { host } },
      (response) => {
        let text = "";
        response.on("data", (chunk: Buffer) => (text += chunk.toString()));
        response.on("end", () =>
          resolve({ status: response.statusCode ?? 0, headers: response.headers, text }),
        );
      },
    );
    asked.on("error", reject);
    asked.end();
  });
}

describe("dmkit serve --page", () => {
  it("serves the page and its feed to this machine only, by its own names, and only where it is wanted", async () => {
    const folder = tempFolder();
    const control = join(folder, "c.sock");
    const file = join(folder, "s.yaml");
    writeFileSync(
      file,
      "devices: { low: mem:1M, d: { table: 0 2048 linear low 0 } }\nexports: [d]\nmetrics: { port: 0, page: true }\n",
    );
    const server = await serve([file, "-U", join(folder, "nbd.sock"), "-C", control, "--log", "info"]);
    await until(() => server.stderr().includes("http://"), "the address of the page");
    const [url = ""] = /http:\/\/127\.0\.0\.1:\d+\//.exec(server.stderr()) ?? [];
    const { port } = new URL(url);
    for (const path of [
      "",
      "page/page.js",
      "page/page.css",
      "page/uplot.js",
      "page/uplot.css",
      "page/icon.svg",
    ]) {
      const { status, headers, text } = await get(`${url}${path}`, `localhost:${port}`);
      expect([path, status, text === ""]).toEqual([path, 200, false]);
      expect(headers).toMatchObject({
        "content-security-policy": expect.stringMatching(/^default-src 'none'; script-src 'self';/),
        "x-content-type-options": "nosniff",
      });
    }
    for (const host of ["127.0.0.1", `[::1]:${port}`, "LOCALHOST:1"])
      expect([host, (await get(url, host)).status]).toEqual([host, 200]);
    for (const host of ["evil.example", `evil.example:${port}`, "localhost.evil.example", "127.0.0.1.evil"]) {
      for (const path of ["", "v1/status", "page/page.js", "v1/nothing"])
        expect([host, path, (await get(`${url}${path}`, host)).status]).toEqual([host, path, 403]);
    }
    const feed = JSON.parse((await get(`${url}v1/status?x=1`, "localhost")).text) as StatusFeed;
    const status = JSON.parse((await cli("status", "--json", "-C", control)).stdout) as object[];
    expect(feed.devices).toMatchObject(status);
    expect(feed.devices.map(({ name, standsOn }) => [name, standsOn])).toEqual([
      ["low", ["mem:1M"]],
      ["d", ["dm:low"]],
    ]);
    expect(feed).toMatchObject({ control, exports: [{ name: "d", device: "d" }], clients: [] });
    const client = await ControlClient.connect(control);
    const kept = await client.call<Series | null>("history", { device: "d", span: "1h" });
    const shown = JSON.parse((await get(`${url}v1/history?device=d&span=1h`, "localhost")).text) as Series;
    expect([kept?.interval, kept && Object.keys(kept.values)]).toEqual([10_000, Object.keys(shown.values)]);
    expect(await client.call("history", { device: "none" })).toBe(null);
    client.close();
    for (const [path, code] of [
      ["v1/history?device=none", 404],
      ["v1/history?device=d&span=2h", 400],
      ["v1/nothing", 404],
      ["page/main.ts", 404],
    ] as const)
      expect([path, (await get(`${url}${path}`, "localhost")).status]).toEqual([path, code]);
    expect((await get(url, "localhost", "POST")).status).toBe(405);
    expect(await get(url, "localhost", "HEAD")).toMatchObject({ status: 200, text: "" });
    expect(await server.stop()).toBe(0);
  });

  it("is served at a unix socket, for who forwards a port to it", async () => {
    const folder = tempFolder();
    const file = join(folder, "s.yaml");
    writeFileSync(file, "devices: { d: mem:1M }\nmetrics: { unix: page.sock, page: true }\nexports: [d]\n");
    const server = await serve([file, "-U", join(folder, "nbd.sock"), "-C", join(folder, "c.sock")]);
    const socketPath = join(folder, "page.sock");
    expect(statSync(socketPath).mode & 0o777).toBe(0o600);
    for (const [path, host, status] of [
      ["/", "localhost:9100", 200],
      ["/v1/status", "127.0.0.1", 200],
      ["/v1/status", "evil.example", 403],
      ["/healthz", "x", 200],
    ] as const)
      expect([path, (await get({ socketPath, path }, host)).status]).toEqual([path, status]);
    // One that stays does not keep the server.
    const idle = connect(socketPath);
    await once(idle, "connect");
    expect(await server.stop()).toBe(0);
    expect(existsSync(socketPath)).toBe(false);
    idle.destroy();
  });

  it("is refused at an address that others can reach", async () => {
    const nothing = {} as Parameters<typeof startHttp>[1];
    await expect(startHttp({ host: "0.0.0.0", port: 0, page: true }, nothing)).rejects.toMatchObject({
      code: "EPERM",
    });
  });
});
