/** A plan for people. Lengths that depend on files are looked up, if the files are there; nothing is opened. */
import { type TargetRegistry, describeSize } from "@dmkit/block-io";
import type { AccessOptions } from "@dmkit/nbd";
import { targets as allTargets } from "../targets.ts";
import type { PlanDiff, PlanStep } from "./diff.ts";
import { fileSize } from "../manager/lengths.ts";
import {
  type MetricsAddress,
  type PlannedExport,
  type PlannedListener,
  type StackPlan,
  plannedSize,
  withKnownLength,
} from "./plan.ts";

/** A device with its length filled in where it is known now. */
export interface DeviceFacts {
  readonly name: string;
  /** With `*` in the place of a length that is not known before the device below is opened. */
  readonly table: string;
  /** Bytes; null if it is not known. */
  readonly size: number | null;
  readonly readOnly: boolean;
  readonly where: string;
}

/** As `--json` prints a plan. */
export interface PlanFacts extends Omit<StackPlan, "devices"> {
  readonly devices: readonly DeviceFacts[];
}

export function planFacts(plan: StackPlan, targets: TargetRegistry = allTargets): PlanFacts {
  const sizes = new Map<string, number | undefined>();
  const devices = plan.devices.map((device): DeviceFacts => {
    const known = withKnownLength(device, sizes, (reference) => fileSize(reference, plan.files));
    const size = plannedSize(known, targets);
    sizes.set(device.name, size);
    const { name, table, readOnly, where } = known;
    return { name, table, size: size ?? null, readOnly, where };
  });
  return { ...plan, devices };
}

export function describePlan(plan: StackPlan, targets?: TargetRegistry): string {
  const { devices, exports, listen, files = [], control, metrics, pidfile } = planFacts(plan, targets);
  const sections: [title: string, lines: readonly string[]][] = [
    ["Devices", devices.flatMap(describeDevice)],
    [
      "Files that are made if they are not there",
      files.map(({ path, size }) => `${path}  ${describeSize(size)}`),
    ],
    ["Exports", exports.map(describeExport)],
    ["Listens at", listen.map(describeListener)],
    ["Control socket", control === undefined ? [] : [control]],
    ["Metrics at", metrics === undefined ? [] : [httpAt(metrics, "/metrics")]],
    ["Page at", metrics?.page === true ? [httpAt(metrics, "/")] : []],
    ["Process id in", pidfile === undefined ? [] : [pidfile]],
  ];
  const shown = sections.filter(([, lines]) => lines.length > 0);
  if (shown.length === 0) return "Nothing: the file has no devices, exports or listeners.\n";
  return shown.map(([title, lines]) => `${title}\n${lines.map((line) => `  ${line}\n`).join("")}`).join("\n");
}

function httpAt(place: MetricsAddress, path: string): string {
  if ("unix" in place) return `${place.unix}: ${path}`;
  const { host, port } = place;
  const where = `http://${host.includes(":") ? `[${host}]` : host}`;
  return port === 0 ? `${where}${path}, at a port that is free` : `${where}:${port}${path}`;
}

function describeDevice({ name, table, size, readOnly }: DeviceFacts): string[] {
  const facts = [
    size === null ? "size known when opened" : describeSize(size),
    ...(readOnly ? ["read-only"] : []),
  ];
  return [`${name}  (${facts.join(", ")})`, ...table.split("\n").map((line) => `  ${line}`)];
}

function describeExport({
  name,
  device,
  description,
  readOnly,
  strict,
  maxConnections,
  ...access
}: PlannedExport): string {
  const facts = [
    ...(description === undefined ? [] : [description]),
    ...(readOnly ? ["read-only"] : []),
    ...(strict ? ["aligned requests only"] : []),
    ...(maxConnections === undefined ? [] : [`${maxConnections} clients at most`]),
    ...describeAccess(access),
  ];
  return `${name === "" ? '""' : name} → ${device}${facts.length > 0 ? `  (${facts.join(", ")})` : ""}`;
}

function describeAccess({ allow, identities, writers, hidden }: AccessOptions): string[] {
  return [
    ...(allow === undefined ? [] : [`from ${allow.join(", ")} only`]),
    ...(identities === undefined ? [] : [`for ${identities.join(", ")} only`]),
    ...(writers === undefined ? [] : [`written to by ${writers.join(", ")} only`]),
    ...(hidden === true ? ["not listed"] : []),
  ];
}

export function describeListener(listener: PlannedListener): string {
  const place = "unix" in listener ? listener.unix : `${listener.host}, port ${listener.port}`;
  const mode = listener.tls?.mode ?? "off";
  const tls = mode === "off" ? [] : [`TLS ${mode === "on" ? "offered" : "required"}`];
  return [place, ...tls, ...describeAccess(listener)].join(", ");
}

export function describeDiff({ steps, restart }: PlanDiff): string {
  if (steps.length + restart.length === 0) return "Nothing changes.\n";
  const lines = steps.map((step) => `  ${describeStep(step)}\n`);
  const rest = restart.map(({ what, why }) => `  ${what}: ${why}\n`);
  return `${lines.length > 0 ? `A reload does this, in this order\n${lines.join("")}` : ""}${
    rest.length > 0 ? `${lines.length > 0 ? "\n" : ""}This takes a restart\n${rest.join("")}` : ""
  }`;
}

function describeStep(step: PlanStep): string {
  switch (step.do) {
    case "unexport":
      return `withdraw export ${step.name === "" ? '""' : step.name}`;
    case "unlisten":
      return `stop listening at ${describeListener(step.listener)}`;
    case "remove":
      return `remove device ${step.name}`;
    case "rename":
      return `rename device ${step.from} to ${step.to}`;
    case "make-file":
      return `make ${step.file.path}, ${describeSize(step.file.size)}, if it is not there`;
    case "create":
      return `create device ${step.device.name}: ${step.device.table}`;
    case "reload":
      return `reload device ${step.device.name}: ${step.device.table}`;
    case "export":
      return `export ${describeExport(step.export)}`;
    case "listen":
      return `listen at ${describeListener(step.listener)}`;
  }
}

/** A step that was carried out. */
export function describeDone(step: PlanStep): string {
  switch (step.do) {
    case "unexport":
      return `export ${JSON.stringify(step.name)} withdrawn`;
    case "unlisten":
      return `not listening at ${describeListener(step.listener)} any more`;
    case "make-file":
      return `file ${step.file.path} made`;
    case "remove":
      return `device ${step.name} removed`;
    case "rename":
      return `device ${step.from} renamed to ${step.to}`;
    case "create":
      return `device ${step.device.name} created`;
    case "reload":
      return `device ${step.device.name} reloaded`;
    case "export":
      return `export ${JSON.stringify(step.export.name)} of ${step.export.device}`;
    case "listen":
      return `listening at ${describeListener(step.listener)}`;
  }
}
