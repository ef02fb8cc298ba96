/** `dmkit top` on a terminal: what fits is shown, keys do what help says, and names cannot talk to the terminal. */
import { spawn } from "node:child_process";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { openNbd } from "@dmkit/nbd";
import { describe, expect, it } from "vitest";
import { views } from "../src/top/columns.ts";
import { type Controls, initialControls, keysOf, orders, pressed } from "../src/top/controls.ts";
import type { ClientFigures, DeviceFigures, ExportFigures, Figures, Flow } from "../src/top/figures.ts";
import type { Series } from "../src/page/ring.ts";
import { History, curveOf } from "../src/top/history.ts";
import { pageOf, screenOf } from "../src/top/screen.ts";

import { cleanUp, main, serve, tempFolder, until } from "./support.ts";

const flow = (iops: number): Flow => ({ iops, rate: iops * 4096, p50: 90, p99: 12_345 });
const traffic = (iops: number): Pick<ExportFigures, "read" | "write" | "flushes" | "discards"> => ({
  read: flow(iops),
  write: flow(iops / 2),
  flushes: 1,
  discards: 0,
});
const device = (name: string, iops: number, more: Partial<DeviceFigures> = {}): DeviceFigures => ({
  name,
  state: "live",
  health: { state: "ok" },
  ...traffic(iops),
  hits: 0.981,
  dirty: 0.5,
  dirtyBytes: 123_456_789,
  oldestDirty: 4000,
  segments: 12,
  ratio: 1.5,
  ...more,
});
const client = (id: number, name: string): ClientFigures => ({
  id,
  name,
  export: "disk",
  tls: true,
  readOnly: false,
  age: 90_000,
  inFlight: 3,
  iops: id,
  rate: 2 ** 20,
  errors: 0,
});
const nasty = "a\u001b[2J\u202eb";
const ill = {
  state: "degraded" as const,
  since: 0,
  why: `goes on without its cache device: ssd.img: write\nfailed (EIO) and this is a long story ${nasty}`,
  help: "Repair or replace the cache device and open the cache again.",
};
const figures: Figures = {
  pid: 4711,
  uptime: 90_000_000,
  connections: 3,
  bytesInFlight: 4096,
  exports: [{ name: "", device: "disk", clients: 1, errors: 0, ...traffic(5) }],
  devices: [
    device("disk", 1234),
    device("a-name-that-is-much-longer-than-others", 99_999),
    device(nasty, 0, { state: "needs check", health: ill }),
    ...Array.from({ length: 30 }, (_, index) => device(`d${index}`, index)),
  ],
  clients: [client(1, "10.0.0.1"), client(2, `CN=${nasty}`)],
};

const control = /\p{Cc}|\p{Cf}/u;
const widthOf = (line: string): number => Array.from(line).length;

function press(...keys: readonly string[]): Controls {
  return keys.reduce<Controls>((controls, key) => pressed(controls, key) as Controls, initialControls);
}

const history = new History();
for (let look = 0; look < 50; look += 1) history.add(figures);

describe("a page", () => {
  const all = Object.keys(views).flatMap((view) =>
    [0, 1, 2].map((columns) => [view, columns] as [keyof typeof views, number]),
  );

  it.each(all)("of %s, columns %i, fits any terminal", (view, columns) => {
    for (const size of [
      { columns: 80, rows: 24 },
      { columns: 60, rows: 24 },
      { columns: 200, rows: 60 },
      { columns: 20, rows: 5 },
      { columns: 1, rows: 1 },
    ]) {
      for (const help of [false, true]) {
        const lines = pageOf(figures, { ...initialControls, view, columns, help }, history, size);
        expect(lines.length).toBe(size.rows);
        for (const line of lines) {
          expect(widthOf(line), line).toBeLessThanOrEqual(size.columns);
          expect(line).not.toMatch(control);
        }
      }
    }
  });

  it("at 80 columns has names, rates and a curve; at 60 the rates still", () => {
    const page = (columns: number): string[] => pageOf(figures, press("s"), history, { columns, rows: 24 });
    const [wide, narrow] = [page(80), page(60)];
    expect(wide[1]).toContain("devices, rates, by requests  1 to ");
    expect(wide[3]).toMatch(/^DEVICE +STATE +READ\/s +MiB\/s +WRITE\/s +MiB\/s +FLUSH\/s +RECENT$/);
    expect(wide[4]).toMatch(/^a-name-that-is-muc.*… +live +99999 .*█$/);
    expect(wide[5]).toMatch(/^disk +live +1234 +4\.82 /);
    expect(narrow[3]).toMatch(/^DEVICE +STATE +READ\/s +MiB\/s +WRITE\/s/);
    expect(narrow[5]).toMatch(/^disk +live +1234 /);
  });

  it("says what is wrong with devices, and what helps, without what a terminal would act on", () => {
    const text = pageOf(figures, press(), history, { columns: 80, rows: 24 }).join("\n");
    expect(text).toContain("is degraded since 1970-01-01T00:00:00.000Z: goes on");
    expect(text).toContain("  Repair or replace the cache device and open the cache again.");
    expect(text).toContain("needs check");
    expect(screenOf(figures).join("\n")).toContain("  Repair or replace");
    for (const line of screenOf(figures)) expect(line).not.toMatch(control);
  });
});

describe("keys", () => {
  it("choose views, columns, order and rows, stand still, help and end", () => {
    expect([press("e").view, press("l").view, press("l", "d").view]).toEqual([
      "exports",
      "clients",
      "devices",
    ]);
    expect(press("\t", "\t", "\t").view).toBe("devices");
    expect(press("c").columns).toBe(1);
    expect(orders.map((_, index) => press(...Array<string>(index).fill("s")).order)).toEqual([...orders]);
    expect([press("p").paused, press("p", " ").paused]).toEqual([true, false]);
    expect([press("j", "j", "k").from, press("k").from]).toEqual([1, 0]);
    expect([press("h").help, press("?", "x").help, press("h", "h").help]).toEqual([true, false, false]);
    for (const key of ["q", "Q", "\u0003"]) expect(pressed(initialControls, key)).toBeUndefined();
    expect(keysOf("d\u001b[A\u001b[5~é\u0003")).toEqual(["d", "\u001b[A", "\u001b[5~", "é", "\u0003"]);
  });

  it("change what is shown", () => {
    const size = { columns: 80, rows: 24 };
    const page = (...keys: readonly string[]): string =>
      pageOf(figures, press(...keys), history, size).join("\n");
    expect(page("c")).toContain("p99");
    expect(page("c", "c")).toMatch(/HITS +DIRTY +BYTES +OLDEST +SEGM +RATIO/);
    expect(page("c", "c")).toMatch(/disk +live +98 % +50 % +117\.7 MiB +1 h 6 min +12 +1\.50/);
    expect(page("l")).toMatch(/10\.0\.0\.1 +disk +1\.00 +1\.00 +0 +3/);
    expect(page("l", "c")).toMatch(/10\.0\.0\.1 +disk +yes +write +1 min 30 s/);
    expect(page("s", "s", "s", "s").split("\n")[4]).toMatch(/^a\\x1b/);
    expect(page(...Array<string>(200).fill("j"))).toContain(`of ${figures.devices.length}`);
    expect(page(...Array<string>(200).fill("j"))).toMatch(/^d29 /m);
    expect(page("p")).toContain("PAUSED");
    expect(page("h")).toContain("stand still, go on");
  });
});

it("a curve is as high as the highest, and forgets what is gone", () => {
  expect(curveOf([0, 1, 4, 8])).toBe(" ▂▅█");
  expect(curveOf([])).toBe("");
  const seen = new History();
  for (const iops of [1, 2]) seen.add({ ...figures, devices: [device("x", iops)] });
  expect(widthOf(seen.curve("devices", "x", 10))).toBe(2);
  seen.add({ ...figures, devices: [] });
  expect(seen.curve("devices", "x", 10)).toBe("");
});

it("a curve begins with what a server with a page has kept, a look for each that there would have been", () => {
  const flows = (values: readonly (number | null)[]): Series["values"] =>
    ({ readIops: values, writeIops: values }) as unknown as Series["values"];
  const kept: Series = { interval: 1000, time: [], values: flows([null, 1, 1, 2, 3, 4]) };
  const each = (interval: number): string => {
    const seen = new History();
    seen.begin("x", kept, interval);
    seen.add({ ...figures, devices: [device("x", 5)] });
    return seen.curve("devices", "x", 10);
  };
  // 0, 2, 2, 4, 6, 8 and what is seen now; in pairs 1, 3, 7; by four 4.5, the two before are too few.
  const now = device("x", 5).read.iops + device("x", 5).write.iops + 1;
  const curves = [[0, 2, 2, 4, 6, 8], [1, 3, 7], [4.5]].map((before) => curveOf([...before, now]));
  expect([1000, 2000, 4000].map(each)).toEqual(curves);
});

describe("on a terminal", () => {
  it.each([
    [80, 24],
    [60, 24],
  ])("of %i columns it fills no more, and goes as it came", async (columns, rows) => {
    const folder = tempFolder();
    writeFileSync(
      join(folder, "s.yaml"),
      "devices: { low: mem:1M, disk: low }\nexports: [disk]\nlisten: { unix: nbd.sock }\ncontrol: c.sock\n",
    );
    const server = await serve([join(folder, "s.yaml"), "-U", join(folder, "nbd.sock")]);
    const peer = await openNbd(server.uri);
    cleanUp(() => peer.close());
    await peer.write(0, Buffer.alloc(4096));
    const args = [process.execPath, main, "top", "-C", join(folder, "c.sock")];
    const line = [`stty cols ${columns} rows ${rows};`, ...args].join(" ");
    const terminal = spawn("script", ["-qec", line, "/dev/null"], { stdio: ["pipe", "pipe", "inherit"] });
    let output = "";
    terminal.stdout.setEncoding("utf8").on("data", (text: string) => (output += text));
    const over = new Promise<number | null>((resolve) => terminal.on("exit", resolve));
    /** What is on the screen: every page begins at its upper left corner. */
    const screen = (): string[] =>
      (output.split("\u001b[H").at(-1) ?? "")
        .replaceAll("\u001b[K", "")
        .replaceAll("\u001b[J", "")
        .split("\r\n");
    const shows = (text: RegExp): Promise<void> => until(() => text.test(screen().join("\n")), String(text));
    await shows(/^disk +live/m);
    expect(screen().length).toBeLessThanOrEqual(rows);
    for (const one of screen()) expect(widthOf(one)).toBeLessThanOrEqual(columns);
    terminal.stdin.write("l");
    await shows(/^CLIENT +EXPORT/m);
    await shows(/^unix \d+ +disk/m);
    terminal.stdin.write("e");
    await shows(/^EXPORT +CLIENTS/m);
    terminal.stdin.write("h");
    await shows(/stand still, go on/);
    terminal.stdin.write("p");
    await shows(/PAUSED/);
    terminal.stdin.write("q");
    expect(await over).toBe(0);
    expect(output.endsWith("\u001b[?25h\u001b[?1049l")).toBe(true);
    await peer.close();
    await server.stop();
  });
});
