/** The page as a person sees it, in a real browser, while a real client works. */
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { type BrowserContext, type Page, chromium } from "playwright-core";
import { afterAll, beforeAll, expect, it } from "vitest";
import { openNbd } from "@dmkit/nbd";
import { createFiles } from "../src/commands/own/cow/create.ts";
import { cli } from "./cli.ts";
import { type Server, cleanUp, describeWith, serve, tempFolder, until } from "./support.ts";

const evil = "<img src=x onerror=alert(1)>";

const stack = (policy: string): string => `
devices:
  slow: { file: slow.img, create: 64M }
  ssd: { file: ssd.img, create: 16M }
  cached: { table: "0 131072 cache dm:slow dm:ssd 0 8 1024 64 ${policy}" }
  disk: cached
  spare: mem:1M
  logged: { table: "0 2048 writeboost 0 mem:1M mem:8M 2 segment_size_order 7" }
  vm: { target: cow, base: mem:1M, layers: [{ bitmap: low.map, data: low.img }, { bitmap: top.map, data: top.img }] }
exports:
  disk: disk
  logged: logged
  vm: vm
  "${evil}": { device: spare, description: "<b>bold</b>" }
control: c.sock
metrics: { port: 0, page: true }
`;

/** Milliseconds for whatever the browser does; it has 30 s of its own, of which it takes 10 on a busy machine to start. */
const LIMIT = 120_000;

/** Waits for what the page shows with one of its next looks. */
const soon = (look: () => Promise<string | null>): ReturnType<typeof expect.poll> =>
  expect.poll(look, { timeout: LIMIT });

interface Shown {
  readonly page: Page;
  readonly server: Server;
  readonly folder: string;
  /** All that the browser has said, and asked for elsewhere. */
  readonly complaints: string[];
}

describeWith(["chromium", "fio"], "the page in a browser", () => {
  let browser: BrowserContext;
  let profile: string;

  beforeAll(async () => {
    profile = mkdtempSync(join(tmpdir(), "dmkit-chromium-"));
    browser = await chromium.launchPersistentContext(profile, {
      executablePath: "/usr/bin/chromium",
      timeout: LIMIT,
      args: ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"].concat([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
      ]),
    });
    browser.setDefaultTimeout(LIMIT);
  });

  afterAll(async () => {
    await browser?.close();
    rmSync(profile, { recursive: true, force: true });
  });

  /** @param policy 0: what is written goes to the disk. 1: to the cache. */
  async function open(policy: "0" | "1" = "0"): Promise<Shown> {
    const folder = tempFolder();
    writeFileSync(join(folder, "s.yaml"), stack(policy));
    for (const layer of ["low", "top"])
      await createFiles(
        { bitmap: join(folder, `${layer}.map`), data: join(folder, `${layer}.img`) },
        { size: 2 ** 20, blank: layer === "top" },
      );
    const where = ["-U", join(folder, "nbd.sock"), "--log", "info"];
    const server = await serve([join(folder, "s.yaml"), ...where]);
    await until(() => server.stderr().includes("http://"), "the address of the page");
    const [url = ""] = /http:\/\/127\.0\.0\.1:\d+\//.exec(server.stderr()) ?? [];
    const page = await browser.newPage();
    cleanUp(() => page.close());
    const complaints: string[] = [];
    page.on("console", (message) => complaints.push(message.text()));
    page.on("pageerror", ({ message }) => complaints.push(message));
    page.on("dialog", (dialog) => {
      complaints.push(dialog.message());
      void dialog.dismiss();
    });
    page.on("request", (request) => {
      if (!request.url().startsWith(url)) complaints.push(request.url());
    });
    await page.goto(url);
    return { page, server, folder, complaints };
  }

  function load(folder: string): ChildProcess {
    const uri = `nbd+unix:///disk?socket=${join(folder, "nbd.sock")}`;
    const job = ["--name=w", "--ioengine=nbd", `--uri=${uri}`, "--rw=randrw", "--bs=4k", "--size=32M"];
    const fio = spawn("fio", [...job, "--rate=8M", "--time_based", "--runtime=600"], { stdio: "ignore" });
    const ended = new Promise((resolve) => fio.on("close", resolve));
    cleanUp(async () => {
      fio.kill();
      await ended;
    });
    return fio;
  }

  /** What is read in a row of a table. */
  const row = (page: Page, table: string, name: string): Promise<string> =>
    page.locator(`#${table} tr`, { has: page.locator(`th:text-is(${JSON.stringify(name)})`) }).innerText();

  it("shows that all is well, what stands on what, who is there, and numbers that move", async () => {
    const { page, folder, complaints } = await open("1");
    load(folder);
    await page.getByText("All 7 devices are in order.").waitFor();
    const picture = await page.locator("#stack svg text").allTextContents();
    expect(picture).toEqual(expect.arrayContaining(["export", "disk", "slow", "ssd", "✓ ok", "mem:1M"]));
    expect(await page.locator("#stack svg path").count()).toBe(17);
    expect(await page.locator("#stack li").allInnerTexts()).toContain(
      "cached (cache, 64 MiB, ok) stands on slow, ssd",
    );
    await soon(() => row(page, "devices", "disk")).toMatch(/[1-9].* [KM]iB\/s.*[1-9].* [KM]iB\/s/s);
    await soon(() => page.locator(".keys").first().innerText()).toMatch(/read [1-9].*\n.*write [1-9]/);
    await soon(() => row(page, "risk", "cached")).toMatch(/^cached\t[1-9].* [KM]iB\t[\d.]+ %\t\d+ s\t/);
    expect(await page.locator(".plot canvas").first().evaluate(inked)).toBe(true);
    await page.locator("#device").selectOption("cached");
    await soon(() => page.locator("#charts").innerText()).toMatch(
      /Latency.*read p50 \d.*read p99 \d.*write p50 \d.*write p99 \d.*Cache.*hits \d.*dirty \d/s,
    );
    const before = await row(page, "exports", "disk");
    await soon(() => row(page, "exports", "disk")).not.toBe(before);
    expect(await row(page, "clients", "this machine")).toMatch(/disk.*read and write/s);
    for (const name of ["logged", "vm"]) {
      const device = await openNbd(`nbd+unix:///${name}?socket=${join(folder, "nbd.sock")}`);
      await device.write(2 ** 19, Buffer.alloc(2 ** 18, 1), { fua: true });
      await device.close();
    }
    const map = (name: string): Promise<string> =>
      page.locator("#map article", { has: page.getByRole("heading", { name, exact: true }) }).innerText();
    await soon(() => map("cached")).toMatch(
      /^cached\n+0 B to 64 MiB: cache dm:slow .*Cache of 4 MiB: [1-9]/s,
    );
    await soon(() => map("logged")).toMatch(
      /Log of \d+ segments: [1-9]\d* wait to be written back, from 1 on\./,
    );
    await soon(() => map("vm")).toMatch(/Layer 2, the top: 256 KiB of 1 MiB\.\s+Layer 1: 0 B of 1 MiB\./);
    expect(await page.locator("#map .strip .dirty").count()).toBe(3);
    // What is called like markup is read as what it is called.
    expect(await row(page, "exports", evil)).toContain("spare");
    expect(await page.locator("img").count()).toBe(0);
    expect(complaints).toEqual([]);
  });

  it("names a device that is not in order, why, and the command that helps; and that the server is gone", async () => {
    const { page, server, folder } = await open();
    load(folder);
    const control = join(folder, "c.sock");
    const table = `0 32768 flakey ${join(folder, "ssd.img")} 0 0 86400`;
    expect(await cli("reload", "--force", "ssd", "-t", table, "-C", control)).toMatchObject({ code: 0 });
    expect(await cli("resume", "ssd", "-C", control)).toMatchObject({ code: 0 });
    await page.getByText("2 of 7 devices are not in order.").waitFor();
    const [told = "", above] = await page.locator("#health-body li").allInnerTexts();
    expect(told).toMatch(/^cached is degraded since \d\d:\d\d:\d\d: .+\n.+\n\ndmkit status cached -C /s);
    // What stands on it is told with it.
    expect(above).toMatch(/^disk is degraded since \S+, because of cached$/);
    expect(await page.title()).toContain("2 not in order");
    expect(await page.locator("#stack svg .is-degraded text").allTextContents()).toContain("! degraded");
    expect(await page.locator("#health-body").getAttribute("aria-live")).toBe("polite");
    await server.stop("SIGKILL");
    await page.getByRole("alert").getByText("The server does not answer").waitFor();
  });

  it("fits a narrow window, is used by keyboard, waits when it is told to, and is dark where the system is", async () => {
    const { page, complaints } = await open();
    await page.getByText("All 7 devices are in order.").waitFor();
    await page.setViewportSize({ width: 400, height: 800 });
    expect(await page.evaluate("document.documentElement.scrollWidth")).toBe(400);
    const ground = (): Promise<string> => page.evaluate("getComputedStyle(document.body).backgroundColor");
    await page.emulateMedia({ colorScheme: "light" });
    const light = await ground();
    await page.emulateMedia({ colorScheme: "dark" });
    expect(await ground()).not.toBe(light);
    const reached = new Set<string>();
    for (let tabs = 0; tabs < 40; tabs += 1) {
      await page.keyboard.press("Tab");
      reached.add(await page.evaluate<string>("document.activeElement.id || document.activeElement.tagName"));
    }
    expect([...reached]).toEqual(
      expect.arrayContaining(["A", "pause", "stack", "device", "INPUT", "SUMMARY", "devices", "exports"]),
    );
    await page.locator("#device").focus();
    await page.keyboard.press("s");
    await page.locator("input[name=span]").first().focus();
    await page.keyboard.press("ArrowRight");
    await soon(() => page.locator(".plot").first().getAttribute("aria-label")).toContain("over 1 hour");
    await page.keyboard.press("ArrowRight");
    await soon(() => page.locator(".plot").first().getAttribute("aria-label")).toContain("over 24 hours");
    await page.locator("#pause").focus();
    await page.keyboard.press("Space");
    expect(await page.locator("#pause").getAttribute("aria-pressed")).toBe("true");
    expect(complaints).toEqual([]);
  });
});

/** What is used of the browser's own. */
interface Canvas {
  readonly width: number;
  readonly height: number;
  getContext(kind: "2d"): {
    getImageData(x: number, y: number, width: number, height: number): { data: Uint8ClampedArray };
  } | null;
}

/** Whether there is a line of a chart: a colour that is neither grey nor nothing. */
function inked(canvas: Canvas): boolean {
  const { data } = canvas.getContext("2d")?.getImageData(0, 0, canvas.width, canvas.height) ?? {
    data: new Uint8ClampedArray(),
  };
  for (let at = 0; at < data.length; at += 4) {
    const [red = 0, green = 0, blue = 0, alpha = 0] = data.slice(at, at + 4);
    if (alpha > 200 && Math.max(red, green, blue) - Math.min(red, green, blue) > 100) return true;
  }
  return false;
}
