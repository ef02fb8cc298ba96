/**
 * Named devices offered to NBD clients.
 *
 * Invariant: a device is held from before its export is offered until no client and no request of it is left.
 */
import { BlockIoError, type Environment, sleep } from "@dmkit/block-io";
import type { AccessOptions, ExportStatus, MetaContext, NbdServer, RemovalMode } from "@dmkit/nbd";
import type { DeviceManager } from "./device-manager.ts";
import type { NamedDevice } from "./device/named-device.ts";
import type { ExportSnapshot } from "./snapshot.ts";

export interface NewExport extends AccessOptions {
  readonly name: string;
  /** Name of a device. */
  readonly device: string;
  readonly description?: string | undefined;
  readonly readOnly?: boolean | undefined;
  /** Refuse requests that are not aligned to the device's blocks. */
  readonly strict?: boolean | undefined;
  /** Clients at a time. */
  readonly maxConnections?: number | undefined;
}

// Milliseconds that a removal waits for the last clients before it goes on without.
const PATIENCE = 1000;

export class ExportManager {
  readonly #server: NbdServer;
  readonly #devices: DeviceManager;
  readonly #environment: Environment;
  readonly #deviceOf: Map<string, NamedDevice> = new Map();
  /** Of exports that are leaving, oldest first, as the server lists them. */
  readonly #leaving: { readonly name: string; readonly device: NamedDevice }[] = [];
  readonly #release: Map<string, () => void> = new Map();

  constructor(server: NbdServer, devices: DeviceManager, environment: Environment) {
    this.#server = server;
    this.#devices = devices;
    this.#environment = environment;
  }

  /** Errors: ENOENT (device), EEXIST (name), EBUSY (another device stands on it), EINVAL. */
  add({ name, device: deviceName, ...options }: NewExport): void {
    if (this.#deviceOf.has(name)) {
      throw new BlockIoError(`there is an export named ${JSON.stringify(name)} already`, {
        code: "EEXIST",
        hint: "Choose another name, or withdraw that one: dmkit export rm",
      });
    }
    const device = this.#devices.device(deviceName);
    const release = this.#devices.exported(deviceName, name, options.readOnly !== true);
    try {
      // Of one in a stack file more is known, its line, say.
      const { description = "", readOnly, strict, allow, identities, writers, hidden } = options;
      const { maxConnections: most } = options;
      this.#server.addExport({
        name,
        device,
        description,
        readOnly,
        strict,
        maxConnections: most,
        allow,
        identities,
        writers,
        hidden,
        metaContexts: () => metaContextsOf(device),
      });
    } catch (error) {
      release();
      throw error;
    }
    this.#deviceOf.set(name, device);
    this.#release.set(name, release);
    const { connections } = this.#server.limits;
    const { maxConnections = 0 } = options;
    // One for a single client has no other.
    if (maxConnections <= connections || connections === 1) return;
    this.#environment.logger.log("warn", "an export may have more clients than the server lets in", {
      export: name,
      maxConnections,
      connections,
      hint: "dmkit serve --max-connections",
    });
  }

  /**
   * Withdraws an export; see RemovalMode. Resolves when nobody uses it any more, or after a moment with the number
   * of clients that still do. Errors: ENOENT; EBUSY in mode `safe`.
   */
  async remove(name: string, mode: RemovalMode): Promise<number> {
    const device = this.#deviceOf.get(name);
    const release = this.#release.get(name);
    const gone = this.#server.removeExport(name, mode);
    // In mode safe this rejects before anything has changed.
    if (this.#server.exports().some((one) => one.name === name && !one.leaving)) await gone;
    let over = gone;
    // Otherwise it was withdrawn before, and has clients still.
    if (device !== undefined && release !== undefined) {
      this.#deviceOf.delete(name);
      this.#release.delete(name);
      const leaving = { name, device };
      this.#leaving.push(leaving);
      over = gone.then(() => {
        release();
        this.#leaving.splice(this.#leaving.indexOf(leaving), 1);
      });
    }
    const isOver = await Promise.race([over.then(() => true), this.#moment(mode)]);
    return isOver ? 0 : this.#clientsLeaving(name);
  }

  /** Withdraws all exports of a device and disconnects their clients. */
  async removeOf(device: NamedDevice): Promise<void> {
    const names = [...this.#deviceOf].filter(([, one]) => one === device).map(([name]) => name);
    await Promise.all(names.map((name) => this.remove(name, "hard")));
  }

  /** Of those that new clients find. */
  get count(): number {
    return this.#deviceOf.size;
  }

  snapshot(): readonly ExportSnapshot[] {
    const leaving = [...this.#leaving];
    return this.#server.exports().map((status) => {
      const gone = status.leaving ? leaving.find(({ name }) => name === status.name) : undefined;
      if (gone !== undefined) leaving.splice(leaving.indexOf(gone), 1);
      return snapshotOf(status, gone?.device ?? this.#deviceOf.get(status.name));
    });
  }

  #clientsLeaving(name: string): number {
    return this.#server
      .exports()
      .filter((one) => one.leaving && one.name === name)
      .reduce((sum, { connections }) => sum + connections, 0);
  }

  /** Clients that were asked to go need a moment; those that may stay are not waited for. */
  async #moment(mode: RemovalMode): Promise<false> {
    await sleep(this.#environment.clock, mode === "hard" || mode === "safe" ? PATIENCE : 1);
    return false;
  }
}

function snapshotOf(status: ExportStatus, device: NamedDevice | undefined): ExportSnapshot {
  const { name, description, size, readOnly, connections, maxConnections, leaving, statistics } = status;
  return {
    name,
    device: device?.name ?? "",
    description,
    size,
    readOnly,
    connections,
    maxConnections,
    leaving,
    statistics,
  };
}

/** What the targets can tell about ranges now, as NBD metadata contexts. */
function metaContextsOf(device: NamedDevice): readonly MetaContext[] {
  return device.descriptions.map((description) => ({
    name: description.name,
    describe: (_device, offset, length) => description.describe(offset, length),
  }));
}
