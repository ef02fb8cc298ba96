/**
 * Devices as a tree: exports and what nobody stands on at the top, files at the leaves. What a device stands on is shown
 * once, however many ways lead to it.
 */
import { type TargetRegistry, describeSize, schemeOf } from "@dmkit/block-io";
import type { DeviceSnapshot } from "../../manager/snapshot.ts";
import { lowerReferences } from "../../manager/references.ts";

interface Node {
  readonly text: string;
  readonly below: readonly Node[];
}

export function deviceTree(devices: readonly DeviceSnapshot[], targets: TargetRegistry): string {
  const byName = new Map(devices.map((device) => [device.name, device]));
  const tops = devices.filter(({ holders }) => !holders.some(({ kind }) => kind === "device"));
  const shown = new Set<DeviceSnapshot>();
  return tops.flatMap((device) => lines(nodeOf(device, byName, targets, shown), "", "")).join("\n");
}

function nodeOf(
  device: DeviceSnapshot,
  devices: ReadonlyMap<string, DeviceSnapshot>,
  targets: TargetRegistry,
  shown: Set<DeviceSnapshot>,
): Node {
  const references = lowerReferences(device.table, targets);
  if (shown.has(device) && references.length > 0) return { text: `${device.name} (see above)`, below: [] };
  shown.add(device);
  const { name, size, state, segments, holders, health } = device;
  const kinds = [...new Set(segments.map(({ target }) => target))].join(", ");
  const exports = holders
    .filter(({ kind }) => kind === "export")
    .map((holder) => JSON.stringify(holder.name));
  const notes = [
    describeSize(size),
    kinds,
    ...(state === "live" ? [] : [state.toUpperCase()]),
    ...(health.state === "ok" || state === "broken" ? [] : [health.state.toUpperCase()]),
    ...(exports.length === 0 ? [] : [`exported as ${exports.join(", ")}`]),
  ];
  return {
    text: `${name} (${notes.filter((note) => note !== "").join(", ")})`,
    below: references.map((reference) => {
      const below = schemeOf(reference) === "dm" ? devices.get(reference.slice(3)) : undefined;
      return below === undefined ? { text: reference, below: [] } : nodeOf(below, devices, targets, shown);
    }),
  };
}

function lines({ text, below }: Node, first: string, rest: string): string[] {
  return [
    `${first}${text}`,
    ...below.flatMap((node, index) => {
      const last = index === below.length - 1;
      return lines(node, `${rest}${last ? "└─" : "├─"}`, `${rest}${last ? "  " : "│ "}`);
    }),
  ];
}
