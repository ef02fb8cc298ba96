/** Columns of `dmkit top`: what each is called and shows of a row, and which of them are shown together. */
import { describeSize } from "@dmkit/block-io";
import type { ClientFigures, DeviceFigures, ExportFigures, Figures, Flow, Traffic } from "./figures.ts";

export interface Column<Row> {
  readonly title: string;
  /** Not escaped yet. */
  readonly cell: (row: Row) => string;
}

/** A table that `top` shows. */
export interface View<Row> {
  readonly title: string;
  readonly rows: (figures: Figures) => readonly Row[];
  /** By which a row is known from one look to the next. */
  readonly id: (row: Row) => string;
  /** Always there, the first with the name. */
  readonly fixed: readonly Column<Row>[];
  /** One of them at a time, by name. */
  readonly sets: Readonly<Record<string, readonly Column<Row>[]>>;
  /** Requests a second, for the curve and for sorting. */
  readonly requests: (row: Row) => number;
  readonly bytes: (row: Row) => number;
  /** Microseconds; 0 where nothing was measured. */
  readonly slowness: (row: Row) => number;
}

const rate = (which: (row: Traffic) => Flow, title: string): readonly Column<Traffic>[] => [
  { title, cell: (row) => number(which(row).iops) },
  { title: "MiB/s", cell: (row) => number(which(row).rate / 2 ** 20) },
];

const times = (which: (row: Traffic) => Flow): readonly Column<Traffic>[] => [
  { title: "p50", cell: (row) => time(which(row).p50) },
  { title: "p99", cell: (row) => time(which(row).p99) },
];

const read = ({ read: flow }: Traffic): Flow => flow;
const write = ({ write: flow }: Traffic): Flow => flow;
const flushes: Column<Traffic> = { title: "FLUSH/s", cell: (row) => number(row.flushes) };

const rates = [...rate(read, "READ/s"), ...rate(write, "WRITE/s"), flushes];
const latencies = [
  { title: "READ/s", cell: (row: Traffic) => number(row.read.iops) },
  ...times(read),
  { title: "WRITE/s", cell: (row: Traffic) => number(row.write.iops) },
  ...times(write),
];

/** All of both, as they are printed where there is room. */
const traffic = [
  ...rate(read, "READ/s"),
  ...times(read),
  ...rate(write, "WRITE/s"),
  ...times(write),
  flushes,
];

const caches: readonly Column<DeviceFigures>[] = [
  { title: "HITS", cell: (one) => percent(one.hits) },
  { title: "DIRTY", cell: (one) => percent(one.dirty) },
  { title: "BYTES", cell: (one) => (one.dirtyBytes === undefined ? "" : describeSize(one.dirtyBytes)) },
  { title: "OLDEST", cell: (one) => (one.oldestDirty === undefined ? "" : duration(one.oldestDirty * 1000)) },
  { title: "SEGM", cell: (one) => (one.segments === undefined ? "" : String(one.segments)) },
  { title: "RATIO", cell: (one) => (one.ratio === undefined ? "" : one.ratio.toFixed(2)) },
];

const ofTraffic = {
  requests: (row: Traffic) => row.read.iops + row.write.iops + row.flushes + row.discards,
  bytes: (row: Traffic) => row.read.rate + row.write.rate,
  slowness: (row: Traffic) => Math.max(row.read.p99 ?? 0, row.write.p99 ?? 0),
};

const devices: View<DeviceFigures> = {
  title: "devices",
  rows: (figures) => figures.devices,
  id: ({ name }) => name,
  fixed: [
    { title: "DEVICE", cell: ({ name }) => name },
    { title: "STATE", cell: ({ state }) => state },
  ],
  sets: { rates, times: latencies, caches },
  ...ofTraffic,
};

const exports: View<ExportFigures> = {
  title: "exports",
  rows: (figures) => figures.exports,
  id: ({ name }) => name,
  fixed: [
    { title: "EXPORT", cell: ({ name }) => (name === "" ? '""' : name) },
    { title: "CLIENTS", cell: ({ clients }) => String(clients) },
    { title: "ERR/s", cell: ({ errors }) => number(errors) },
  ],
  sets: { rates, times: latencies },
  ...ofTraffic,
};

const clients: View<ClientFigures> = {
  title: "clients",
  rows: (figures) => figures.clients,
  id: ({ id }) => String(id),
  fixed: [
    { title: "CLIENT", cell: ({ name }) => name },
    { title: "EXPORT", cell: ({ export: name }) => (name === "" ? '""' : name) },
  ],
  sets: {
    rates: [
      { title: "REQ/s", cell: ({ iops }) => number(iops) },
      { title: "MiB/s", cell: (one) => number(one.rate / 2 ** 20) },
      { title: "ERR/s", cell: ({ errors }) => number(errors) },
      { title: "NOW", cell: ({ inFlight }) => String(inFlight) },
    ],
    who: [
      { title: "TLS", cell: ({ tls }) => (tls ? "yes" : "no") },
      { title: "MAY", cell: ({ readOnly }) => (readOnly ? "read" : "write") },
      { title: "HERE", cell: ({ age }) => duration(age) },
    ],
  },
  requests: ({ iops }) => iops,
  bytes: (one) => one.rate,
  slowness: () => 0,
};

export type ViewName = "devices" | "exports" | "clients";

/** By name. A view is given none but its own rows. */
export const views: Readonly<Record<ViewName, View<unknown>>> = { devices, exports, clients } as Record<
  ViewName,
  unknown
> as Record<ViewName, View<unknown>>;

/** Everything of exports and devices, for who has room: a pipe, a file. */
export const wideExports: readonly Column<ExportFigures>[] = [
  ...exports.fixed.slice(0, 2),
  ...traffic,
  ...exports.fixed.slice(2),
];
export const wideDevices: readonly Column<DeviceFigures>[] = [...devices.fixed, ...traffic, ...caches];

/** At most four digits that matter. */
export function number(value: number): string {
  if (value === 0) return "0";
  if (value < 10) return value.toFixed(2);
  if (value < 100) return value.toFixed(1);
  return value < 100_000 ? String(Math.round(value)) : `${Math.round(value / 1000)}k`;
}

/** @param microseconds undefined: there was nothing to measure. */
export function time(microseconds: number | undefined): string {
  if (microseconds === undefined) return "";
  if (microseconds < 1000) return `${Math.round(microseconds)} µs`;
  const milliseconds = microseconds / 1000;
  return milliseconds < 1000
    ? `${milliseconds < 10 ? milliseconds.toFixed(1) : Math.round(milliseconds)} ms`
    : `${(milliseconds / 1000).toFixed(1)} s`;
}

function percent(value: number | undefined): string {
  return value === undefined ? "" : `${(value * 100).toFixed(value < 0.1 ? 1 : 0)} %`;
}

/** @param milliseconds as `3 d 4 h`, `12 s`. */
export function duration(milliseconds: number): string {
  const seconds = Math.floor(milliseconds / 1000);
  const [days, hours, minutes] = [
    Math.floor(seconds / 86_400),
    Math.floor(seconds / 3600) % 24,
    Math.floor(seconds / 60) % 60,
  ];
  if (days > 0) return `${days} d ${hours} h`;
  if (hours > 0) return `${hours} h ${minutes} min`;
  return minutes > 0 ? `${minutes} min ${seconds % 60} s` : `${seconds} s`;
}
