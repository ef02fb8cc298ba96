/** A request that is cancelled, or whose client has gone, is taken back, or carried out and told. */
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type Logger, realEnvironment } from "@dmkit/block-io";
import { afterEach, beforeEach, expect, it } from "vitest";
import { ControlClient } from "../src/control/client.ts";
import { DeviceManager } from "../src/manager/device-manager.ts";
import { ControlServer, type Method } from "../src/control/server.ts";
import { until } from "./support.ts";

let folder: string;
const told: string[] = [];
const logger: Logger = {
  log: (level, message, fields) => void told.push(`${level} ${message} ${JSON.stringify(fields)}`),
};
const environment = { ...realEnvironment, logger };
const closing: (() => Promise<void> | void)[] = [];
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
  told.length = 0;
});
afterEach(async () => {
  for (const close of closing.splice(0).toReversed()) await close();
  rmSync(folder, { recursive: true, force: true });
});

/** A server whose methods wait until they are let go, whatever is cancelled. */
async function waiting(names: readonly string[]): Promise<{
  client: ControlClient;
  letGo: (error?: Error) => void;
  begun: () => number;
  cancelled: () => number;
}> {
  const gates: ((error?: Error) => void)[] = [];
  const signals: AbortSignal[] = [];
  const method: Method = (_params, { signal }) => {
    signals.push(signal);
    return new Promise((resolve, reject) =>
      gates.push((error) => (error === undefined ? resolve({}) : reject(error))),
    );
  };
  const methods = new Map(names.map((name) => [name, method]));
  const server = new ControlServer({ environment, methods, version: "test" });
  const path = join(folder, "control");
  await server.listen(path);
  closing.push(() => server.close());
  const client = await ControlClient.connect(path);
  closing.push(() => client.close());
  return {
    client,
    begun: () => signals.length,
    cancelled: () => signals.filter(({ aborted }) => aborted).length,
    letGo: (error) => {
      for (const open of gates.splice(0)) open(error);
    },
  };
}

it("one that is carried out although it was cancelled is answered, and told to the log", async () => {
  const { client, letGo, begun, cancelled } = await waiting(["resume", "status"]);
  const abort = new AbortController();
  const calls = ["resume", "status"].map((name) =>
    client.call(name, { name: "disk" }, { signal: abort.signal }),
  );
  await until(() => begun() === 2, "both to begin");
  abort.abort();
  await until(() => cancelled() === 2, "both to be cancelled");
  letGo();
  await Promise.all(calls);
  expect(told).toEqual([
    'warn resume was carried out all the same: its client has cancelled it {"name":"disk"}',
  ]);
});

it.each([
  [
    undefined,
    /^warn remove was carried out all the same: the client that asked for it is gone {"name":"disk"}$/,
  ],
  [new Error("no"), /^warn remove has failed: the client that asked for it is gone .*"message":"no"/],
])("one whose client is gone is told to the log: %s", async (error, expected) => {
  const { client, letGo, begun } = await waiting(["remove"]);
  void client.call("remove", { name: "disk" }).catch(() => {});
  await until(() => begun() === 1, "it to begin");
  client.close();
  letGo(error);
  await until(() => told.length > 0, "the log");
  expect(told).toEqual([expect.stringMatching(expected)]);
});

it("one that has not begun changes nothing", async () => {
  const devices = new DeviceManager(environment);
  closing.push(() => devices.close());
  await devices.create("disk", "0 8 zero");
  await devices.reload("disk", "0 16 zero");
  const signal = AbortSignal.abort();
  await expect(devices.resume("disk", { signal })).rejects.toMatchObject({ code: "ECANCELED" });
  await expect(devices.remove("disk", { signal })).rejects.toMatchObject({ code: "ECANCELED" });
  expect(devices.snapshotOf("disk")).toMatchObject({ table: "0 8 zero", inactiveTable: "0 16 zero" });
  await devices.resume("disk");
  expect(devices.snapshotOf("disk").table).toBe("0 16 zero");
});
