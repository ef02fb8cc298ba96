/**
 * Every metric there is: METRICS.md says what it is (`vitest run -u` writes the page anew), a server with every target
 * tells it, and rules and the dashboard name no other.
 */
import { spawnSync } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, truncateSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { publish } from "@dmkit/image";
import { NbdServer } from "@dmkit/nbd";
import { openStore } from "@dmkit/object-store";
import { afterAll, beforeAll, describe, expect, it, vi } from "vitest";
import { parse } from "yaml";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ExportManager } from "../src/manager/export-manager.ts";
import { expose } from "../src/metrics/exposition.ts";
import { families } from "../src/metrics/families.ts";
import { metricsPage } from "../src/metrics/page.ts";
import { targets } from "../src/targets.ts";
import { until } from "./support.ts";

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

const MIB = 2 ** 20;
const root = join(import.meta.dirname, "..");

let folder: string;
let manager: DeviceManager;
let server: NbdServer;
let text: string;

function file(name: string, size = 2 * MIB): string {
  const path = join(folder, name);
  writeFileSync(path, "");
  truncateSync(path, size);
  return path;
}

/** A server with a device of every target, and of every scheme. All are written to where they can be. */
beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
  // Where images that are opened without a word about it keep blobs.
  vi.stubEnv("XDG_CACHE_HOME", folder);
  manager = new DeviceManager(realEnvironment);
  server = new NbdServer();
  const exports = new ExportManager(server, manager, realEnvironment);
  const store = await openStore(join(folder, "store"));
  const source = new MemoryDevice(2 * MIB);
  await source.write(0, Buffer.alloc(MIB, "golden"));
  await publish(source, store, { name: "golden", tag: "latest" });
  await store.close();
  const golden = `${join(folder, "store")}/golden`;
  const disk = `${join(folder, "archives")}/disk`;
  const tables = {
    linear: `linear ${file("linear")} 0`,
    striped: `striped 2 8 ${file("one")} 0 ${file("two")} 0`,
    zero: "zero",
    delay: `delay ${file("slow")} 0 0`,
    error: "error",
    flakey: `flakey ${file("flaky")} 0 1 0`,
    "log-writes": `log-writes ${file("logged")} ${file("log")}`,
    writeboost: `writeboost 0 ${file("disk")} ${file("ssd", 4 * MIB)} 4 segment_size_order 7 archive ${disk}`,
    cache: `cache ${file("source")} ${file("fast", 4 * MIB)} 0 8 64 16 1`,
    cow: `cow image:${golden} 0 ${file("bitmap")} ${file("data")} 0`,
    compression: `compression ${file("packed", 16 * MIB)} writeback 5 2 force 1`,
    tracked: `tracked ${file("watched")} ${file("bits")}`,
    image: `image ${golden} 2 cache none`,
    zram: "zram",
  };
  for (const [name, line] of Object.entries(tables)) {
    await manager.create(name, `0 ${(2 * MIB) / 512} ${line}`);
  }
  await manager.create("archive", `0 ${(2 * MIB) / 512} archive ${disk}`);
  exports.add({ name: "linear", device: "linear" });
  const { port } = await server.listen({ host: "127.0.0.1", port: 0 });
  await manager.create("remote", `0 ${(2 * MIB) / 512} linear nbd://127.0.0.1:${port}/linear 0`);
  for (const name of manager.names) {
    await manager
      .device(name)
      .write(0, Buffer.alloc(4096, name))
      .catch(() => {});
    await manager
      .device(name)
      .read(0, Buffer.alloc(MIB))
      .catch(() => {});
    await manager
      .device(name)
      .flush()
      .catch(() => {});
  }
  // Free space is looked at beside everything else.
  await until(() => {
    manager.watchHealth();
    return manager.snapshotOf("linear").space !== undefined;
  }, "the look at the free space");
  const { bytesInFlight, ...statistics } = server.statistics();
  const devices = manager
    .snapshot()
    .map((one) =>
      one.name === "error"
        ? { ...one, health: { state: "failed" as const, since: 1000, why: "it is" } }
        : one,
    );
  const about = { time: 0, wallTime: 0, uptime: 1, pid: 1, version: "dmkit 1.2.3", bytesInFlight };
  const clients = server.clients();
  ({ text } = await expose({ ...about, ...statistics, clients, devices, exports: exports.snapshot() }));
});

afterAll(async () => {
  // Before what its server has open.
  await manager.remove("remote");
  await manager.close().catch(() => {});
  await server.close({ timeout: 0 });
  vi.unstubAllEnvs();
  rmSync(folder, { recursive: true, force: true });
});

describe("metrics", () => {
  it("are all in METRICS.md, which is made of the tables", async () => {
    await expect(metricsPage()).toMatchFileSnapshot(join(root, "METRICS.md"));
    const page = metricsPage();
    for (const { name } of families) {
      const fact = name.replace(/^dmkit_(device|below)_/, "…_");
      expect(page.includes(`\`${name}\``) || page.includes(`\`${fact}`), name).toBe(true);
    }
  });

  it("are told by a server that has every target", () => {
    expect(manager.names).toEqual(expect.arrayContaining(targets.list().map(({ name }) => name)));
    const told = new Set([...text.matchAll(/^# TYPE (\S+)/gm)].map(([, name]) => name));
    // What a target says is told of the devices that have it: somebody has each.
    for (const { name } of families.filter((one) => !one.name.startsWith("dmkit_below_")))
      expect(told.has(name) || told.has(name.replace("_device_", "_below_")), name).toBe(true);
  });

  it("have names and help as Prometheus wants them", () => {
    const names = families.map(({ name }) => name);
    expect(new Set(names).size).toBe(names.length);
    for (const { name, type, help } of families) {
      expect(name).toMatch(/^dmkit_[a-z]+(_[a-z]+)*$/);
      expect([name, name.endsWith("_total")]).toEqual([name, type === "counter"]);
      expect(help).not.toMatch(/[\n|]|\.$/);
    }
    const series = text.split("\n").filter((line) => line !== "" && !line.startsWith("#"));
    const ids = series.map((line) => line.slice(0, line.lastIndexOf(" ")));
    expect(new Set(ids).size).toBe(ids.length);
  });

  it("count what was done", () => {
    const value = (series: string): number =>
      Number(
        text
          .split("\n")
          .find((line) => line.startsWith(`${series} `))
          ?.slice(series.length),
      );
    expect(value('dmkit_device_errors_total{device="error"}')).toBeGreaterThan(0);
    expect(value('dmkit_device_errors_total{device="linear"}')).toBe(0);
    expect(value('dmkit_device_last_flush_timestamp_seconds{device="linear"}')).toBeGreaterThan(1.7e9);
    // It is written back at any time.
    const [dirty, written] = ["dirty_bytes", "written_back_bytes_total"].map((name) =>
      value(`dmkit_device_cache_${name}{device="cache"}`),
    ) as [number, number];
    expect(dirty + written).toBe(4096);
    expect(value('dmkit_device_cache_capacity_bytes{device="cache"}')).toBe(64 * 4096);
    expect(value('dmkit_device_data_bytes{device="zram"}')).toBe(4096);
    expect(value('dmkit_device_fetches_total{device="image"}')).toBeGreaterThan(0);
    expect(value('dmkit_device_archive_taken_over{device="writeboost"}')).toBe(0);
    expect(value('dmkit_device_store_requests_total{device="writeboost",operation="put"}')).toBeGreaterThan(
      0,
    );
    expect(text).toMatch(/dmkit_below_connections\{device="remote",below="nbd:.*"\} 1/);
    expect(text).toMatch(/dmkit_below_fetched_bytes_total\{device="cow",below="image:.*"\} [1-9]/);
    expect(value('dmkit_export_clients{export="linear",device="linear",tls="no"}')).toBe(1);
  });

  it.each(["alerts.yaml", "grafana.json"])("are what %s asks for", (name) => {
    const shipped = readFileSync(join(root, "monitoring", name), "utf8");
    const asked = [...new Set(shipped.match(/\bdmkit_[a-z_]+/g))];
    expect(asked.length).toBeGreaterThan(5);
    for (const metric of asked) expect(text).toMatch(new RegExp(`^${metric}[ {]`, "m"));
    // Labels that are asked for, with their values.
    for (const [, label = "", value = ""] of shipped.matchAll(/\b(health|state|tls)=\\?"([^"\\]+)\\?"/g))
      expect(text).toContain(`${label}="${value}"`);
  });

  it("fire when they should, and not before, where promtool is there", () => {
    const rules = join(root, "monitoring", "alerts.yaml");
    const { groups } = parse(readFileSync(rules, "utf8")) as { groups: { rules: Rule[] }[] };
    // A sample a minute, of which all is well first: what it is then makes the alert fire.
    const [ill, soon] = ["0x4 1x30", "0x4 0+1x30"];
    const series: Readonly<Record<string, Readonly<Record<string, string>>>> = {
      DmkitDeviceFailed: { 'dmkit_device_health{health="failed"}': ill },
      DmkitDeviceNeedsCheck: { 'dmkit_device_health{health="needs check"}': ill },
      DmkitDeviceDegraded: { 'dmkit_device_health{health="degraded"}': ill },
      DmkitDeviceErrors: { "dmkit_device_errors_total{}": soon },
      DmkitDirtyTooLong: { "dmkit_device_cache_oldest_dirty_seconds{}": "86400x4 86401x30" },
      DmkitWritebackFails: { "dmkit_device_cache_writeback_errors_total{}": soon },
      DmkitSpaceRunsOut: {
        "dmkit_device_storage_free_bytes{}": "5000x4 999x30",
        "dmkit_device_storage_unallocated_bytes{}": "1000x34",
      },
      DmkitServerLost: { 'dmkit_below_connections{below="nbd:"}': "1x4 0x30" },
      DmkitArchiveBehind: { "dmkit_device_archive_oldest_unshipped_seconds{}": "300x4 301x30" },
      DmkitTakenOver: { "dmkit_device_archive_taken_over{}": ill },
      DmkitClientsRefused: { "dmkit_refused_connections_total{}": soon },
    };
    const tests = groups
      .flatMap((group) => group.rules)
      .map(({ alert, labels, annotations }) => {
        const given = Object.entries(series[alert] ?? {});
        const own = {
          device: "d",
          instance: "i",
          ...Object.fromEntries(
            [...(given[0]?.[0] ?? "").matchAll(/(\w+)="([^"]*)"/g)].map(([, name, value]) => [name, value]),
          ),
        };
        const fill = (text: string): string =>
          text.replaceAll(
            /\{\{ \$labels\.(\w+) \}\}/g,
            (_, name: string) => (own as Record<string, string>)[name] ?? "",
          );
        const fired = {
          exp_labels: { ...own, ...labels },
          exp_annotations: Object.fromEntries(
            Object.entries(annotations).map(([key, text]) => [key, fill(text)]),
          ),
        };
        return {
          interval: "1m",
          input_series: given.map(([name, values]) => ({
            series: name.replace("{", '{device="d",instance="i",').replace(",}", "}"),
            values,
          })),
          alert_rule_test: [
            { eval_time: "4m", alertname: alert, exp_alerts: [] },
            { eval_time: "20m", alertname: alert, exp_alerts: [fired] },
          ],
        };
      });
    const file = join(folder, "rules-test.yaml");
    writeFileSync(file, JSON.stringify({ rule_files: [rules], evaluation_interval: "1m", tests }));
    const tested = spawnSync("promtool", ["test", "rules", file], { encoding: "utf8" });
    if (tested.error === undefined)
      expect([tested.status, tested.stdout + tested.stderr]).toEqual([0, expect.stringContaining("SUCCESS")]);
    expect(tests.every(({ input_series }) => input_series.length > 0)).toBe(true);
  });

  it("have rules that promtool takes, where it is there", () => {
    const path = join(root, "monitoring", "alerts.yaml");
    const checked = spawnSync("promtool", ["check", "rules", path], { encoding: "utf8" });
    if (checked.error === undefined) {
      expect([checked.status, checked.stderr]).toEqual([0, ""]);
      const scrape = spawnSync("promtool", ["check", "metrics"], { input: text, encoding: "utf8" });
      expect([scrape.status, scrape.stdout + scrape.stderr]).toEqual([0, ""]);
    }
    const { groups } = parse(readFileSync(path, "utf8")) as { groups: { rules: Rule[] }[] };
    const rules = groups.flatMap((group) => group.rules);
    for (const { alert, expr, labels, annotations } of rules) {
      expect(alert).toMatch(/^Dmkit[A-Z][A-Za-z]+$/);
      expect([typeof expr, labels["severity"]]).toEqual([
        "string",
        expect.stringMatching(/^(critical|warning)$/),
      ]);
      expect(annotations["summary"]).toBeTruthy();
    }
    expect(new Set(rules.map(({ alert }) => alert)).size).toBe(rules.length);
  });
});
