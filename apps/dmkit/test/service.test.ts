/** What a service manager is told, how events are logged for it, and the units that come with the command. */
import { spawn } from "node:child_process";
import {
  closeSync,
  copyFileSync,
  existsSync,
  openSync,
  readFileSync,
  statSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { describe, expect, it } from "vitest";
import { type Clock, type Environment, realEnvironment, silentLogger } from "@dmkit/block-io";
import { openNbd } from "@dmkit/nbd";
import { DeviceManager } from "../src/manager/device-manager.ts";
import type { Opening } from "../src/manager/table-opener.ts";
import { ServiceManager, serviceVariables } from "../src/serve/service-manager.ts";
import { formatEvent, usualFormat } from "../src/ui/log.ts";
import { receive } from "./notify-receiver.ts";
import { cleanUp, describeWith, main, run, serve, tempFolder, until } from "./support.ts";

interface Told {
  readonly sent: string[];
  readonly warnings: string[];
  readonly service: ServiceManager;
  /** Milliseconds go by. */
  readonly pass: (milliseconds: number) => void;
}

function told(watchdog?: number, send: (text: string) => boolean = () => true): Told {
  const sent: string[] = [];
  const warnings: string[] = [];
  let timers: { at: number; run: () => void }[] = [];
  let now = 0;
  const environment: Environment = {
    ...realEnvironment,
    logger: { log: (_level, message) => warnings.push(message) },
    clock: {
      now: () => now,
      wallTime: () => now,
      after(milliseconds, callback) {
        const timer = { at: now + milliseconds, run: callback };
        timers.push(timer);
        return { cancel: () => (timers = timers.filter((one) => one !== timer)) };
      },
    },
  };
  const service = new ServiceManager({ socket: "/run/notify", watchdog }, environment, (_socket, text) => {
    sent.push(text);
    return send(text);
  });
  const pass = (milliseconds: number): void => {
    const end = now + milliseconds;
    for (;;) {
      const [next] = timers.toSorted((a, b) => a.at - b.at);
      if (next === undefined || next.at > end) break;
      timers = timers.filter((one) => one !== next);
      now = next.at;
      next.run();
    }
    now = end;
  };
  return { sent, warnings, service, pass };
}

describe("a service manager", () => {
  it("is told how far devices are that take long to open, and that it takes longer", () => {
    const { sent, service, pass } = told();
    service.starts();
    service.opening("disk", 2, 5);
    pass(5000);
    expect(sent).toEqual([
      "STATUS=opening the devices\nEXTEND_TIMEOUT_USEC=30000000",
      "STATUS=opening disk, 40 %\nEXTEND_TIMEOUT_USEC=30000000",
    ]);
    service.ready({ exports: 3, trouble: undefined });
    pass(60_000);
    expect(sent.slice(2)).toEqual(["READY=1\nSTATUS=serving 3 exports"]);
  });

  it("is told of what changes, and of nothing else", () => {
    const { sent, service } = told();
    service.update({ exports: 1, trouble: undefined });
    service.reloading();
    service.reloaded({ exports: 1, trouble: undefined });
    expect(sent, "before clients may connect").toEqual([]);
    service.ready({ exports: 1, trouble: undefined });
    service.update({ exports: 1, trouble: undefined });
    service.update({ exports: 1, trouble: "disk is failed: gone\nREADY=0" });
    service.reloading();
    service.reloaded({ exports: 2, trouble: undefined });
    service.stopping(10_000);
    service.update({ exports: 0, trouble: undefined });
    expect(sent.map((text) => text.replace(/MONOTONIC_USEC=\d+/, "MONOTONIC_USEC=n"))).toEqual([
      "READY=1\nSTATUS=serving 1 export",
      "STATUS=disk is failed: gone\\nREADY=0",
      "RELOADING=1\nMONOTONIC_USEC=n\nSTATUS=reading the stack file again",
      "READY=1\nSTATUS=serving 2 exports",
      "STOPPING=1\nSTATUS=finishing requests, flushing and closing the devices\nEXTEND_TIMEOUT_USEC=15000000",
    ]);
  });

  it("hears the watchdog at twice the rate it asks for, also while devices open and close", () => {
    const { sent, service, pass } = told(4_000_000);
    service.starts();
    pass(2000);
    service.ready({ exports: 1, trouble: undefined });
    service.stopping(0);
    pass(4000);
    expect(sent.filter((text) => text === "WATCHDOG=1")).toHaveLength(4);
    service.close();
    pass(60_000);
    expect(sent.filter((text) => text === "WATCHDOG=1")).toHaveLength(4);
  });

  it("that cannot be told is in nobody's way, and logged once", () => {
    const { sent, warnings, service } = told(undefined, () => {
      throw Object.assign(new Error("sendto: ECONNREFUSED"), { code: "ECONNREFUSED" });
    });
    service.ready({ exports: 1, trouble: undefined });
    service.stopping(0);
    expect(sent).toHaveLength(1);
    expect(warnings).toEqual(["the service manager cannot be told how the server is"]);
  });

  it("is one only if its variables say so, and they are for this process", () => {
    const variables = { NOTIFY_SOCKET: "@abc", WATCHDOG_USEC: "5", WATCHDOG_PID: "1", HOME: "/" };
    expect(serviceVariables(variables)).toEqual({ socket: "@abc", watchdog: undefined });
    expect(variables).toEqual({ HOME: "/" });
    expect(serviceVariables({ NOTIFY_SOCKET: "relative", WATCHDOG_USEC: "0" })).toEqual({
      socket: undefined,
      watchdog: undefined,
    });
    const sent: string[] = [];
    const service = new ServiceManager(
      { socket: undefined, watchdog: 1 },
      { ...realEnvironment, logger: silentLogger },
      (_socket, text) => sent.push(text) > 0,
    );
    service.starts();
    service.ready({ exports: 1, trouble: undefined });
    service.close();
    expect(sent).toEqual([]);
  });
});

describeWith(["python3"], "a server under a service manager", () => {
  for (const kind of ["path", "abstract"]) {
    it(`tells it from the start to the end: socket with a ${kind} name`, async () => {
      const folder = tempFolder();
      const address = kind === "path" ? join(folder, "notify") : `@dmkit-test-${process.pid}-${folder}`;
      const received = await receive(address);
      const stack = join(folder, "stack.yaml");
      writeFileSync(stack, "devices: { z: { target: zero, size: 1M } }\nexports: { z: z }\n");
      const env = { ...process.env, NOTIFY_SOCKET: address, WATCHDOG_USEC: "200000" };
      const server = await serve([stack], { env });
      await until(() => received().includes("READY=1 STATUS=serving 1 export"), "READY");
      await until(() => received().split("READY=1")[1]?.includes("WATCHDOG=1") === true, "the watchdog");
      server.process.kill("SIGHUP");
      await until(() => /RELOADING=1 MONOTONIC_USEC=\d+ .*\n(.*\n)*READY=1/.test(received()), "the reload");
      expect(await server.stop()).toBe(0);
      await until(() => received().includes("STOPPING=1"), "STOPPING");
    });
  }

  it("keeps it from the commands it runs", async () => {
    const address = join(tempFolder(), "notify");
    await receive(address);
    const env = { ...process.env, NOTIFY_SOCKET: address };
    const { stdout, code } = await run(
      process.execPath,
      [main, "serve", "null:1M", "--run", 'echo "[$NOTIFY_SOCKET]"'],
      { env },
    );
    expect([code, stdout]).toEqual([0, "[]\n"]);
  });
});

describe("the log", () => {
  const time = new Date(0);
  const fields = { device: "a\nb", level: "mine" };

  it("is one line an event, in every format", () => {
    expect(formatEvent("text", "warn", "gone\u001b[1m", fields, time)).toBe(
      '1970-01-01T00:00:00.000Z warn gone\\x1b[1m device="a\\nb" level="mine"\n',
    );
    expect(formatEvent("journal", "error", "gone", fields, time)).toBe(
      '<3>gone device="a\\nb" level="mine"\n',
    );
    const line = formatEvent("json", "info", "gone", fields, time);
    expect(line.indexOf("\n")).toBe(line.length - 1);
    expect(JSON.parse(line)).toEqual({
      time: "1970-01-01T00:00:00.000Z",
      level: "info",
      message: "gone",
      device: "a\nb",
    });
  });

  it("has priorities where stderr is the journal's, also for the error a command ends with", async () => {
    expect(usualFormat({ JOURNAL_STREAM: "1:2" })).toBe("text");
    const path = join(tempFolder(), "journal");
    const stderr = openSync(path, "w");
    const { dev, ino } = statSync(path, { bigint: true });
    const child = spawn(process.execPath, [main, "info", "/nonexistent"], {
      env: { ...process.env, JOURNAL_STREAM: `${dev}:${ino}` },
      stdio: ["ignore", "ignore", stderr],
    });
    await new Promise((resolve) => child.on("close", resolve));
    closeSync(stderr);
    expect(readFileSync(path, "utf8")).toMatch(/^<3>dmkit: \/nonexistent/);
  });

  it("has every request at level debug", async () => {
    const server = await serve(["--log", "debug", "--log-format", "json", "mem:1M"]);
    const device = await openNbd(server.uri, { environment: realEnvironment });
    await device.write(4096, Buffer.alloc(512));
    await device.close();
    await server.stop();
    const events = server
      .stderr()
      .split("\n")
      .filter((line) => line.includes("request "))
      .map((line) => JSON.parse(line) as Record<string, unknown>);
    expect(events.filter(({ message }) => (message as string).endsWith("write"))).toEqual([
      expect.objectContaining({ message: "request begin: write", offset: 4096, length: 512 }),
      expect.objectContaining({ message: "request end: write", offset: 4096, length: 512 }),
    ]);
  });
});

describe("--metrics", () => {
  it("serves metrics and health without a stack file, and says where", async () => {
    const child = spawn(process.execPath, [main, "serve", "mem:1M", "-p", "0", "--metrics", "0"], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    cleanUp(() => void child.kill("SIGKILL"));
    let printed = "";
    child.stderr.on("data", (chunk: Buffer) => (printed += chunk.toString()));
    await until(() => printed.includes("Ctrl-C"), "the hints");
    const url = /curl (http:\S+)/.exec(printed)?.[1] ?? "";
    expect(await (await fetch(url)).text()).toContain("dmkit_device");
    expect((await fetch(url.replace("/metrics", "/healthz"))).status).toBe(200);
  });
});

describeWith(["systemd-analyze"], "the units", () => {
  it("are what systemd takes", async () => {
    const folder = tempFolder();
    const units = ["dmkit@.service", "dmkit@.socket"].map((name) => {
      const to = join(folder, name.replace("@", "@disks"));
      copyFileSync(join(import.meta.dirname, "../service", name), to);
      return to;
    });
    const { code, stdout, stderr } = await run("systemd-analyze", ["verify", ...units]);
    expect([code, stdout, stderr.replaceAll(/^.*(dbus|bus).*\n/gm, "")]).toEqual([0, "", ""]);
  });
});

describe("what the unit and the container start", () => {
  const text = (file: string): string => readFileSync(join(import.meta.dirname, "../service", file), "utf8");
  const words = (line: string): string[] =>
    JSON.parse(new RegExp(`^${line} (.*)$`, "m").exec(text("Containerfile"))?.[1] ?? "") as string[];
  it.each([
    [
      "dmkit@.service",
      () =>
        /^ExecStart=\/usr\/bin\/env dmkit (.*) \/etc\/dmkit\/%i\.yaml$/m
          .exec(text("dmkit@.service"))?.[1]
          ?.split(" "),
    ],
    ["Containerfile", () => [...words("ENTRYPOINT").slice(2), ...words("CMD").slice(0, -1)]],
  ] as const)("%s: serves its stack file until it is told to end", async (_, wordsOf) => {
    const folder = tempFolder();
    const stack = join(folder, "stack.yaml");
    writeFileSync(stack, "devices: { d: mem:1M }\nexports: [d]\nlisten: { unix: nbd.sock }\n");
    const child = spawn(process.execPath, [main, ...(wordsOf() ?? []), stack], { stdio: "ignore" });
    const ended = new Promise<number | null>((resolve) => child.on("close", resolve));
    cleanUp(() => void child.kill("SIGKILL"));
    await until(() => existsSync(join(folder, "nbd.sock")), "the socket");
    const device = await openNbd(`nbd+unix:///?socket=${join(folder, "nbd.sock")}`);
    await device.write(0, Buffer.alloc(4096), { fua: true });
    await device.close();
    child.kill("SIGTERM");
    expect(await ended).toBe(0);
  });
});

describe("opening a device", () => {
  it("is told of as far as its target says how far it is", async () => {
    const folder = tempFolder();
    const [backing, cache] = [join(folder, "backing"), join(folder, "cache")];
    for (const path of [backing, cache]) truncateSync(closedFile(path), 2 ** 23);
    const told: Parameters<Opening>[] = [];
    const environment = { ...realEnvironment, logger: silentLogger };
    const manager = new DeviceManager(environment, undefined, (...progress) => told.push(progress));
    const table = `0 16384 writeboost 0 ${backing} ${cache} 2 segment_size_order 4`;
    await manager.create("disk", table);
    await manager.remove("disk");
    await manager.create("disk", table);
    await manager.close();
    expect(told.length).toBeGreaterThan(0);
    for (const [device, done, of] of told) expect([device, done <= of, of > 0]).toEqual(["disk", true, true]);
  });

  it("that begins an archive tells how much of it is published; the log tells it now and then", async () => {
    const folder = tempFolder();
    const [backing, cache] = [join(folder, "backing"), join(folder, "cache")];
    truncateSync(closedFile(cache), 2 ** 23);
    writeFileSync(backing, Buffer.alloc(2 ** 20, "published"));
    const told: Parameters<Opening>[] = [];
    const logged: string[] = [];
    // For whom eleven seconds pass between two looks.
    let now = 0;
    const clock: Clock = {
      now: () => (now += 11_000),
      wallTime: () => realEnvironment.clock.wallTime(),
      after: (milliseconds, work) => realEnvironment.clock.after(milliseconds, work),
    };
    const logger = {
      log: (_level: string, message: string, fields: object = {}): void => {
        logged.push(`${message} ${JSON.stringify(fields)}`);
      },
    };
    const environment = { ...realEnvironment, logger, clock };
    const manager = new DeviceManager(environment, undefined, (...progress) => told.push(progress));
    const archive = join(folder, "archives", "disk");
    await manager.create(
      "disk",
      `0 2048 writeboost 0 ${backing} ${cache} 4 segment_size_order 4 archive ${archive}`,
    );
    await manager.close();
    const published = told.filter(([, , , what]) => what === "publishing");
    expect(published.at(-1)).toEqual(["disk", 2 ** 20, 2 ** 20, "publishing"]);
    expect(logged).toContain('publishing takes a while {"device":"disk","percent":100}');
    const sent: string[] = [];
    const service = new ServiceManager({ socket: "/s", watchdog: undefined }, environment, (_, text) => {
      sent.push(text);
      return true;
    });
    service.opening("disk", 1, 4, "publishing");
    service.starts();
    service.close();
    expect(sent[0]).toContain("STATUS=publishing disk, 25 %");
  });
});

function closedFile(path: string): string {
  writeFileSync(path, "");
  return path;
}
