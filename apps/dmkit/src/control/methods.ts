/** The methods of the control socket; what each takes and gives is in CONTROL.md. */
import { fewDescriptors, moreDescriptors, refuse } from "@dmkit/block-io";
import { MOST_CONNECTIONS } from "@dmkit/nbd";
import type { DeviceManager } from "../manager/device-manager.ts";
import type { NamedDevice } from "../manager/device/named-device.ts";
import type { ExportManager } from "../manager/export-manager.ts";
import { type History, spans } from "../page/ring.ts";
import type { Moments } from "../moment/moments.ts";
import { Params } from "./params.ts";
import type { CallContext, Method } from "./server.ts";
import type { DeviceSnapshot, ServerSnapshot } from "../manager/snapshot.ts";

export const removalModes = ["safe", "hide", "soft", "hard"] as const;

export interface ControlledServer {
  readonly devices: DeviceManager;
  readonly exports: ExportManager;
  readonly snapshot: () => ServerSnapshot;
  /** Reads the stack file again; undefined without one. Resolves with what was done, a line each. */
  readonly reloadStack: (() => Promise<readonly string[]>) | undefined;
  /** What the page keeps, where there is one. */
  readonly history: () => History | undefined;
}

/** With what the control socket itself has. */
type Handled = ControlledServer & { readonly moments: Moments };

type Handler = (params: Params, server: Handled, context: CallContext) => unknown;

// Descriptors that a new device leaves to the others, and to who looks after them.
const DESCRIPTORS_LEFT = 8;

const handlers: Readonly<Record<string, Handler>> = {
  async create(params, { devices }) {
    const [name, table] = [params.text("name"), params.text("table")];
    const options = { readOnly: params.flag("readOnly"), folder: params.optionalText("folder") };
    params.end();
    if (fewDescriptors(DESCRIPTORS_LEFT))
      throw refuse(name, "ENOMEM", "too few open files are left for another device", moreDescriptors());
    const { size } = await devices.create(name, table, options);
    return { name, size };
  },

  async remove(params, { devices, exports }, { signal }) {
    const [name, force] = [params.text("name"), params.flag("force")];
    const seconds = params.integer("timeout", 0, 3600);
    params.end();
    const patience = seconds === undefined ? undefined : seconds * 1000;
    const withdraw = (device: NamedDevice): Promise<void> => exports.removeOf(device);
    return { closed: await devices.remove(name, { force, patience, signal, withdraw }) };
  },

  list(params, { devices }) {
    params.end();
    return devices.snapshot();
  },

  table(params, { devices }) {
    return chosen(params, devices).map(({ name, table, inactiveTable }) => ({ name, table, inactiveTable }));
  },

  status(params, { devices }) {
    return chosen(params, devices).map(({ name, state, segments, below, space, failure, health }) => ({
      name,
      state,
      segments,
      below,
      space,
      failure,
      health,
    }));
  },

  async message(params, { devices }, context) {
    const [name, words] = [params.text("name"), params.words("words")];
    params.end();
    return { answer: await devices.message(name, words, context) };
  },

  async suspend(params, { devices }, { signal }) {
    const [name, flush] = [params.text("name"), params.flag("flush") ?? true];
    params.end();
    await devices.suspend(name, { flush, signal });
  },

  async resume(params, { devices }, { signal, progress }) {
    const name = params.text("name");
    params.end();
    await devices.resume(name, { signal, progress });
  },

  async reload(params, { devices }) {
    const [name, table] = [params.text("name"), params.text("table")];
    const options = {
      readOnly: params.flag("readOnly"),
      folder: params.optionalText("folder"),
      force: params.flag("force"),
    };
    params.end();
    await devices.reload(name, table, options);
  },

  async clear(params, { devices }) {
    const name = params.text("name");
    params.end();
    await devices.clear(name);
  },

  async rename(params, { devices }) {
    const [name, to] = [params.text("name"), params.text("to")];
    params.end();
    await devices.rename(name, to);
  },

  "export.add"(params, { exports }) {
    const wanted = {
      name: params.text("name"),
      device: params.text("device"),
      description: params.optionalText("description"),
      readOnly: params.flag("readOnly"),
      strict: params.flag("strict"),
      maxConnections: params.integer("maxConnections", 1, MOST_CONNECTIONS),
      allow: params.optionalWords("allow"),
      identities: params.optionalWords("identities"),
      writers: params.optionalWords("writers"),
      hidden: params.flag("hidden"),
    };
    params.end();
    exports.add(wanted);
  },

  async "export.remove"(params, { exports }) {
    const [name, mode] = [params.text("name"), params.choice("mode", removalModes)];
    params.end();
    return { clients: await exports.remove(name, mode ?? "safe") };
  },

  "export.list"(params, { exports }) {
    params.end();
    return exports.snapshot();
  },

  async "moment.begin"(params, { moments }) {
    const name = params.text("name");
    params.end();
    return moments.begin(name);
  },

  async "moment.hold"(params, { moments }, { signal, progress }) {
    const id = params.text("id");
    params.end();
    return moments.hold(id, signal, (done) => progress({ done, total: done, unit: "bytes" }));
  },

  async "moment.changed"(params, { moments }) {
    const [id, since] = [params.text("id"), params.text("since")];
    const from = params.integer("from", 0, Number.MAX_SAFE_INTEGER) ?? 0;
    params.end();
    return moments.changed(id, since, from);
  },

  statistics(params, { snapshot }) {
    params.end();
    return snapshot();
  },

  history(params, { history }) {
    const [device, span] = [params.text("device"), params.choice("span", spans)];
    params.end();
    return history()?.series(device, span ?? "5min") ?? null;
  },

  async "stack.reload"(params, { reloadStack }) {
    params.end();
    return { file: reloadStack !== undefined, changes: (await reloadStack?.()) ?? [] };
  },
};

/** All methods, for a control server. */
export function controlMethods(server: Handled): ReadonlyMap<string, Method> {
  return new Map(
    Object.entries(handlers).map(([name, handle]) => [
      name,
      (params, context): unknown => handle(new Params(params), server, context),
    ]),
  );
}

/** The device that is named, or all. */
function chosen(params: Params, devices: DeviceManager): readonly DeviceSnapshot[] {
  const name = params.optionalText("name");
  params.end();
  return name === undefined ? devices.snapshot() : [devices.snapshotOf(name)];
}
