/** A plan as a stack file: what is read from it is the same plan. Devices are written as tables. */
import { formatSize } from "@dmkit/block-io";
import { stringify } from "yaml";
import { tlsValues } from "../src/serve/listen/tls.ts";
import { isLoopback } from "@dmkit/nbd";
import { accessOf } from "../src/stack-file/access.ts";
import type { PlannedExport, PlannedListener, StackPlan } from "../src/stack-file/plan.ts";

export function printStack({ devices, files = [], exports, listen, metrics, ...plan }: StackPlan): string {
  const file = {
    // Maps keep their order, also where names are numbers.
    devices: new Map(
      devices.map(({ name, table, readOnly }) => [
        name,
        { table: table.split("\n"), ...(readOnly ? { "read-only": true } : {}) },
      ]),
    ),
    files: files.map(({ path, size, preallocate }) => ({
      file: path,
      create: formatSize(size),
      preallocate,
    })),
    exports: new Map(exports.map((one) => [one.name, exportValue(one)])),
    listen: listen.map(listenerValue),
    control: plan.control,
    pidfile: plan.pidfile,
    log: plan.log,
    "shutdown-timeout": plan.shutdownTimeout,
    metrics: metrics && {
      ...metrics,
      ...("unix" in metrics || isLoopback(metrics.host) ? {} : { "allow-remote": true }),
    },
  };
  const isGiven = (value: unknown): boolean =>
    value !== undefined &&
    !(Array.isArray(value) && value.length === 0) &&
    !(value instanceof Map && value.size === 0);
  const given = Object.entries(file).filter(([, value]) => isGiven(value));
  // Repeated values are written out: a stack file has no aliases.
  return stringify(Object.fromEntries(given), { aliasDuplicateObjects: false, lineWidth: 0 });
}

function exportValue(planned: PlannedExport): unknown {
  const { device, description, readOnly, strict, maxConnections } = planned;
  return {
    device,
    ...accessOf(planned),
    ...(description === undefined ? {} : { description }),
    ...(readOnly ? { "read-only": true } : {}),
    ...(strict === true ? { strict } : {}),
    ...(maxConnections === undefined ? {} : { "max-connections": maxConnections }),
  };
}

function listenerValue(listener: PlannedListener): unknown {
  const { tls, allow, ...place } = listener;
  const words = { ...(allow === undefined ? {} : { allow }), ...tlsValues(tls) };
  if ("unix" in place) {
    const { mode, ...rest } = place;
    return { ...rest, ...(mode === undefined ? {} : { mode: mode.toString(8) }), ...words };
  }
  const { host, port, allowRemote } = place;
  return { host, port, ...(allowRemote ? { "allow-remote": true } : {}), ...words };
}
