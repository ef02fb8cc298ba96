/**
 * Carries out stack files: opens what one asks for, and later changes what runs to what it asks for by then.
 *
 * Invariant: `#plan` is what runs: a step that fails, or has to wait for a restart, leaves there what was before, so
 * that the next reload tries again.
 */
import { isDeepStrictEqual } from "node:util";
import {
  type Environment,
  BlockIoError,
  type Segment,
  Turnstile,
  refuse,
  shellQuote,
  toBlockIoError,
} from "@dmkit/block-io";
import type { ListenOptions, Listener, NbdServer } from "@dmkit/nbd";
import type { DeviceManager } from "../manager/device-manager.ts";
import type { NamedDevice } from "../manager/device/named-device.ts";
import type { ExportManager } from "../manager/export-manager.ts";
import { readOpenTable } from "../manager/lengths.ts";
import { describeDone, describeListener } from "../stack-file/describe.ts";
import { type PlanDiff, type PlanStep, diffPlans, renamedPlan } from "../stack-file/diff.ts";
import type { PlannedExport, PlannedListener, StackPlan } from "../stack-file/plan.ts";
import { makeFiles } from "../stack-file/prepare.ts";
import { readStackFile } from "../stack-file/read/read.ts";
import { renamesOf, requireAsWanted, whatRuns } from "../stack-file/what-runs.ts";
import { endsWithin } from "./ends-within.ts";

export interface StackContext {
  readonly devices: DeviceManager;
  readonly exports: ExportManager;
  readonly server: NbdServer;
  readonly environment: Environment;
  /** Open every device and offer every export read-only. */
  readonly readOnly: boolean;
  /** Where to listen if the file does not say. Undefined: the command line says where, whatever the file does. */
  readonly usual?: PlannedListener | undefined;
}

/** What a reload did, a line each; what failed begins with `failed:`, what waits with `restart:`. */
export type ReloadReport = readonly string[];

// Milliseconds that a reload waits for a device to be closed.
const PATIENCE = 10_000;

export class Stack {
  readonly #context: StackContext;
  readonly #listeners: { readonly planned: PlannedListener; readonly listener: Listener }[] = [];
  /** The devices of the plan: a verb may have given one another name since. */
  #live: Map<string, NamedDevice> = new Map();
  #plan: StackPlan;
  // Opening is the first of them.
  readonly #changes = new Turnstile();

  constructor(plan: StackPlan, context: StackContext) {
    this.#context = context;
    this.#plan = this.#placed(plan);
  }

  /** Opens all devices and offers all exports. Errors tell the place in the file. */
  open(): Promise<void> {
    return this.#changes.pass(() => this.#open());
  }

  async #open(): Promise<void> {
    for (const file of this.#plan.files ?? []) await this.#carryOut({ do: "make-file", file });
    for (const device of this.#plan.devices) {
      await at(device.where, () => this.#carryOut({ do: "create", device }));
    }
    for (const one of this.#plan.exports) {
      await at(one.where, () => this.#carryOut({ do: "export", export: one }));
    }
  }

  /** Listens wherever the file says, unless the command line does. */
  listen(): Promise<readonly Listener[]> {
    return this.#changes.pass(async () => {
      for (const planned of this.#plan.listen) {
        // A reload may have come first.
        if (!this.#listeners.some((one) => isDeepStrictEqual(one.planned, planned)))
          await this.#listen(planned);
      }
      return this.#listeners.map(({ listener }) => listener);
    });
  }

  async #listen(planned: PlannedListener): Promise<void> {
    const options = listenOptions(planned);
    const listener = await this.#context.server.listen(options);
    this.#listeners.push({ planned, listener });
  }

  /** The plan with the places where this server listens for it. */
  #placed(plan: StackPlan): StackPlan {
    const { usual } = this.#context;
    if (usual === undefined) return { ...plan, listen: [] };
    return plan.listen.length > 0 ? plan : { ...plan, listen: [usual] };
  }

  /** Reads the file again and changes what runs. An invalid file changes nothing: throws what is wrong with it. */
  reload(): Promise<ReloadReport> {
    return this.#changes.pass(() => this.#reload());
  }

  async #reload(): Promise<ReloadReport> {
    const { environment, devices, server } = this.#context;
    const { logger } = environment;
    const { targets } = devices;
    const wanted = this.#placed(readStackFile(this.#plan.path, targets));
    const renamed = await this.#followVerbs(wanted);
    const diff = diffPlans(this.#plan, wanted, targets);
    const failed: PlanStep[] = [];
    const report = [...renamed];
    const others = wanted.devices.flatMap(({ table }) => readOpenTable(table, targets));
    for (const step of diff.steps) {
      // The one before it is still there.
      if (
        step.do === "export" &&
        failed.some((one) => one.do === "unexport" && one.name === step.export.name)
      )
        continue;
      const what = describeDone(step);
      try {
        if (step.do === "export") requireAsWanted(step.export.device, wanted, failed, targets);
        await this.#carryOut(step, others);
        report.push(what);
        logger.log("info", `reload: ${what}`);
      } catch (error) {
        failed.push(step);
        const { message } = toBlockIoError(error, {});
        const hint = error instanceof BlockIoError ? error.hint : undefined;
        const where = placeOf(step);
        report.push(`failed: ${where}${what}: ${message}`);
        logger.log("error", `reload: ${where}${what} failed`, { message, hint });
        const before = step.do === "export" ? this.#withdrawn(step.export.name, diff, failed) : undefined;
        if (before !== undefined) await this.#putBack(before, failed, report);
      }
    }
    if (failed.some((step) => step.do === "listen")) await this.#listenAsBefore(diff, failed, report);
    try {
      server.refreshTls();
    } catch (error) {
      const { message } = toBlockIoError(error, {});
      report.push(`failed: TLS goes on with the certificates or keys it had: ${message}`);
      logger.log("error", "reload: TLS goes on with the certificates or keys it had", { message });
    }
    for (const { what, why } of diff.restart) {
      report.push(`restart: ${what}: ${why}`);
      logger.log("warn", `reload: ${what} stays until the server is started again`, { why });
    }
    this.#plan = whatRuns(this.#plan, wanted, diff, failed);
    return report;
  }

  /** The export that had a name until this reload withdrew it. */
  #withdrawn(name: string, { steps }: PlanDiff, failed: readonly PlanStep[]): PlannedExport | undefined {
    const step = steps.find((one) => one.do === "unexport" && one.name === name);
    const before = step && this.#plan.exports.find((one) => one.name === name);
    if (before === undefined) return undefined;
    return { ...before, device: renamesOf(steps, failed).get(before.device) ?? before.device };
  }

  /** What cannot be exchanged stays, as if it could not have been withdrawn. */
  async #putBack(before: PlannedExport, failed: PlanStep[], report: string[]): Promise<void> {
    const { logger } = this.#context.environment;
    const name = JSON.stringify(before.name);
    try {
      await this.#carryOut({ do: "export", export: before });
      failed.push({ do: "unexport", name: before.name, moves: false });
      logger.log("info", `reload: export ${name} stays as it was`);
    } catch (error) {
      const { message } = toBlockIoError(error, {});
      report.push(`failed: export ${name} as it was: ${message}`);
      logger.log("error", `reload: export ${name} is not there any more`, { message });
    }
  }

  /** Whoever cannot be reached where the file says stays where it was. */
  async #listenAsBefore({ steps }: PlanDiff, failed: PlanStep[], report: string[]): Promise<void> {
    const { logger } = this.#context.environment;
    for (const step of steps) {
      if (step.do !== "unlisten") continue;
      const where = describeListener(step.listener);
      try {
        await this.#listen(step.listener);
        failed.push(step);
        logger.log("info", `reload: listening at ${where} as before`);
      } catch (error) {
        const { message } = toBlockIoError(error, {});
        report.push(`failed: listening at ${where} as before: ${message}`);
        logger.log("error", `reload: not listening at ${where} any more`, { message });
      }
    }
  }

  /**
   * A device that a verb has renamed gets the name back that the file has for it, unless the file or another device has
   * followed: then the plan does. What was done, a line each.
   */
  async #followVerbs(wanted: StackPlan): Promise<string[]> {
    const { devices, environment } = this.#context;
    const report: string[] = [];
    const renames = new Map<string, string>();
    for (const [name, device] of this.#live) {
      const now = device.name;
      if (now === name || !devices.names.includes(now) || devices.device(now) !== device) continue;
      if (devices.names.includes(name) || wanted.devices.some((one) => one.name === now)) {
        renames.set(name, now);
        continue;
      }
      await devices.rename(now, name);
      report.push(describeDone({ do: "rename", from: now, to: name }));
      environment.logger.log("info", `reload: ${report.at(-1)}`);
    }
    this.#plan = renamedPlan(this.#plan, renames);
    this.#live = new Map([...this.#live].map(([name, device]) => [renames.get(name) ?? name, device]));
    return report;
  }

  #renamed(from: string, to: string): void {
    const device = this.#live.get(from);
    this.#live.delete(from);
    if (device !== undefined) this.#live.set(to, device);
  }

  /** @param others the tables that there are when all is done. */
  async #carryOut(step: PlanStep, others: readonly Segment[] = []): Promise<void> {
    const { devices, exports, readOnly, environment } = this.#context;
    switch (step.do) {
      case "unexport":
        return this.#unexport(step.name, step.moves);
      case "unlisten":
        await this.#unlisten(step.listener);
        return;
      case "make-file":
        // A server that writes nothing makes nothing: what is missing is told by who opens it.
        return readOnly ? undefined : makeFiles([step.file], environment);
      case "remove":
        await this.#remove(step.name, others);
        this.#live.delete(step.name);
        return;
      case "rename":
        await devices.rename(step.from, step.to);
        this.#renamed(step.from, step.to);
        return;
      case "create": {
        const { name, table } = step.device;
        const device = await devices.create(name, table, { readOnly: step.device.readOnly || readOnly });
        this.#live.set(name, device);
        return;
      }
      case "reload": {
        const { name, table } = step.device;
        refuseIfSuspended(devices, name);
        await devices.reload(name, table, { readOnly: step.device.readOnly || readOnly });
        return devices.resume(name);
      }
      case "export":
        exports.add({ ...step.export, readOnly: step.export.readOnly || readOnly });
        return;
      case "listen":
        await this.#listen(step.listener);
        return;
    }
  }

  /** Who uses it keeps it: a reload throws nobody out. What it shows does not change for who comes back to it. */
  async #unexport(name: string, moves: boolean): Promise<void> {
    const { exports } = this.#context;
    const users = exports.snapshot().find((one) => one.name === name && !one.leaving)?.connections ?? 0;
    if (moves && users > 0) {
      throw new BlockIoError(`it would show another device, and ${users} of its clients are there`, {
        code: "EBUSY",
        hint: `It stays as it is. Disconnect them, or let nobody new in (dmkit export rm ${shellQuote(name)} --mode hide), and read the file again.`,
      });
    }
    await exports.remove(name, moves ? "safe" : "hide");
  }

  /** Storage that does not answer must not keep the other steps, and later reloads, from being carried out. */
  async #remove(name: string, others: readonly Segment[]): Promise<void> {
    const { devices, environment } = this.#context;
    // Somebody may have removed it already.
    if (!devices.names.includes(name)) return;
    await devices.bringHome(name, others);
    const removing = devices.remove(name);
    if (await endsWithin(environment.clock, PATIENCE, removing)) return;
    throw refuse(
      name,
      "ETIMEDOUT",
      `its storage did not answer within ${PATIENCE / 1000} s: it is still being closed`,
      `To have its name free: dmkit remove --force ${shellQuote(name)}`,
      "close",
    );
  }

  async #unlisten(planned: PlannedListener): Promise<void> {
    const index = this.#listeners.findIndex((one) => isDeepStrictEqual(one.planned, planned));
    // One the command line has replaced is not there.
    const [found] = index === -1 ? [] : this.#listeners.splice(index, 1);
    // It is closed for good when its last connection is gone, which is not waited for.
    void found?.listener.close();
  }
}

function listenOptions(planned: PlannedListener): ListenOptions {
  if (!("unix" in planned)) return planned;
  const { unix, ...rest } = planned;
  return { path: unix, ...rest };
}

/** Whoever suspended a device may be copying what is below it. Throws `EBUSY`. */
function refuseIfSuspended(devices: DeviceManager, name: string): void {
  if (devices.snapshotOf(name).state !== "suspended") return;
  const hint = `It keeps its table. Resume it (dmkit resume ${shellQuote(name)}), and read the file again.`;
  throw refuse(name, "EBUSY", "is suspended, and an exchange would let requests go on", hint, "resume");
}

/** The same error, with the place in the stack file. */
async function at(where: string, work: () => Promise<void>): Promise<void> {
  try {
    await work();
  } catch (error) {
    const { code, reason, device, op, hint } = toBlockIoError(error, {});
    const place = device === undefined ? where : `${where}: ${device}`;
    throw new BlockIoError(reason, { code, device: place, op, hint, cause: error });
  }
}

function placeOf(step: PlanStep): string {
  if (step.do === "create" || step.do === "reload") return `${step.device.where}: `;
  return step.do === "export" ? `${step.export.where}: ` : "";
}
