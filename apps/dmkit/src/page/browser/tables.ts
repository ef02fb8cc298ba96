/** What is said in tables: data at risk, devices, exports and clients. */
import type { StatusFeed } from "../feed.ts";
import { type Cell, byId, fillTable, setText } from "./dom.ts";
import { NONE, bytes, count, duration, exportName, latency, percent, rate, targetsOf } from "./format.ts";
import { conditionOf, lookOf, signs } from "./health.ts";

// Rows of a table.
const MOST = 200;

const text = (value: string, look = ""): Cell => ({ text: value, look });
const number = (value: string): Cell => ({ text: value, number: true });

// Milliseconds over which the rate of writing back is taken: it goes in bursts.
const WINDOW = 20_000;

interface Look {
  readonly time: number;
  readonly written: number;
}

const looks = new Map<string, Look[]>();

/** Bytes a second that a cache has written back lately; undefined before there are two looks. */
function writeBackRate(name: string, time: number, written: number | undefined): number | undefined {
  if (written === undefined) return undefined;
  const kept = (looks.get(name) ?? []).filter(
    (look) => time - look.time <= WINDOW && look.written <= written,
  );
  kept.push({ time, written });
  looks.set(name, kept);
  const [first] = kept;
  if (first === undefined || first.time === time) return undefined;
  return ((written - first.written) * 1000) / (time - first.time);
}

function timeLeft(dirty: number, back: number | undefined): string {
  if (back === undefined) return NONE;
  return back === 0 ? "is not written back" : duration(dirty / back);
}

/** What would be lost with the cache devices: it is on none other. */
export function showRisk({ devices, time }: StatusFeed): void {
  const rows = devices.flatMap(({ name, watched }) => {
    const { dirty_bytes: dirty, capacity_bytes: capacity = 0, oldest_dirty_seconds: oldest } = watched;
    const back = writeBackRate(name, time, watched.written_back_bytes);
    if (dirty === undefined) return [];
    return [
      [
        text(name),
        number(bytes(dirty)),
        number(percent(capacity === 0 ? undefined : dirty / capacity)),
        number(dirty === 0 ? NONE : duration(oldest)),
        number(rate(back)),
        number(dirty === 0 ? "nothing to write" : timeLeft(dirty, back)),
      ],
    ];
  });
  for (const name of looks.keys()) if (!devices.some((one) => one.name === name)) looks.delete(name);
  const none = byId("risk-none", HTMLParagraphElement);
  const table = byId("risk", HTMLDivElement);
  table.hidden = rows.length === 0;
  setText(
    none,
    rows.length === 0
      ? "No device keeps written data away from the device it is meant for."
      : "Written to a cache and not yet to the device behind it: lost if the cache device is.",
  );
  const titles = [
    text("Device"),
    ...["Dirty", "Of the cache", "Oldest", "Written back", "Time left"].map(number),
  ];
  fillTable(table, "Data at risk", titles, rows.slice(0, MOST));
}

export function showDevices({ devices, figures }: StatusFeed): void {
  const all = new Map((figures?.devices ?? []).map((one) => [one.name, one]));
  const titles = [
    text("Device"),
    text("Health"),
    text("Target"),
    ...[
      "Size",
      "Reads/s",
      "Read",
      "p99",
      "Writes/s",
      "Written",
      "p99",
      "Hits",
      "Dirty",
      "Errors",
      "Free below",
    ].map(number),
  ];
  const rows = devices.slice(0, MOST).map((device) => {
    const now = all.get(device.name);
    const condition = conditionOf(device);
    return [
      text(device.name),
      text(`${signs[condition]} ${condition}`, lookOf(condition)),
      text(targetsOf(device)),
      number(bytes(device.size)),
      number(count(now?.read.iops)),
      number(rate(now?.read.rate)),
      number(latency(now?.read.p99)),
      number(count(now?.write.iops)),
      number(rate(now?.write.rate)),
      number(latency(now?.write.p99)),
      number(percent(now?.hits)),
      number(percent(now?.dirty)),
      number(count(device.watched.errors)),
      number(bytes(device.space?.free)),
    ];
  });
  fillTable(byId("devices", HTMLDivElement), "Devices", titles, rows);
  const more =
    devices.length > MOST
      ? `The first ${MOST} of ${devices.length}, those that are not in order before the others.`
      : "";
  setText(byId("devices-more", HTMLParagraphElement), more);
}

export function showClients({ exports, clients, time }: StatusFeed): void {
  fillTable(
    byId("exports", HTMLDivElement),
    "Exports",
    [text("Export"), text("Device"), ...["Clients", "Requests", "Bytes", "Errors"].map(number), text("")],
    exports
      .slice(0, MOST)
      .map((one) => [
        text(exportName(one.name)),
        text(one.device),
        number(
          one.maxConnections === undefined
            ? String(one.connections)
            : `${one.connections} of ${one.maxConnections}`,
        ),
        number(count(one.requests)),
        number(bytes(one.bytes)),
        number(count(one.errors)),
        text(
          [one.readOnly ? "read-only" : "", one.leaving ? "leaving" : ""]
            .filter((note) => note !== "")
            .join(", "),
        ),
      ]),
  );
  const table = byId("clients", HTMLDivElement);
  table.hidden = clients.length === 0;
  setText(
    byId("clients-more", HTMLParagraphElement),
    clients.length > MOST ? `The first ${MOST} of ${clients.length} clients:` : "",
  );
  fillTable(
    table,
    "Clients",
    [
      text("Client"),
      text("Export"),
      text("Known as"),
      text("May"),
      ...["For", "Requests", "Bytes", "Errors"].map(number),
    ],
    clients
      .slice(0, MOST)
      .map((one) => [
        text(`${one.address ?? "this machine"}${one.tls ? ", by TLS" : ""}`),
        text(exportName(one.export)),
        text(one.identity ?? NONE),
        text(one.readOnly ? "read" : "read and write"),
        number(duration((time - one.since) / 1000)),
        number(count(one.requests)),
        number(bytes(one.bytes)),
        number(count(one.errors)),
      ]),
  );
}
