/**
 * Carries out operations on a device and tells the oracle what was submitted and what was answered.
 *
 * Beside the oracle's rules it watches the contract on buffers: a write's buffer must come back unchanged, and
 * is scribbled over as soon as it does, so that a device which keeps a reference betrays itself; a read's
 * buffer is full of rubbish before, so that a device which fills it in part does too.
 */
import { type BlockDevice, SECTOR } from "../../../contract/device.ts";
import { BlockIoError } from "../../../contract/errors.ts";
import type { Demand } from "../disk/faults.ts";
import { GARBAGE, ZERO, describeSector, identify, stamp } from "../format/stamp.ts";
import type { Finding } from "../oracle/finding.ts";
import type { Oracle, Version } from "../oracle/oracle.ts";
import type { Trace } from "../trace.ts";
import { type Operation, describeOperation } from "./workload.ts";

/** What breaks a promise. Rules of the oracle, and rules of conduct. */
export type Rule =
  | Finding["rule"]
  | "buffer"
  | "error"
  | "foreign-error"
  | "hang"
  | "unhandled"
  | "escaped"
  | "check"
  | "stuck"
  | "open"
  | "determinism";

export interface Violation {
  readonly rule: Rule;
  readonly message: string;
}

const RUBBISH = 0xdb;

export interface LoadContext {
  readonly oracle: Oracle;
  readonly trace: Trace;
  readonly demand: Demand;
  /** Only a close makes anything stable: flush, FUA and suspend do not. */
  readonly onlyClose?: boolean;
  /** Whether a request may be refused with this error now. */
  readonly mayFail: (error: BlockIoError) => boolean;
  readonly report: (violation: Violation) => void;
}

export class Load {
  readonly device: BlockDevice;
  /** Requests submitted and not answered. */
  inFlight = 0;
  /** Requests answered. */
  settled = 0;
  /** Collects the numbers of operations that were submitted. */
  submitted: number[] = [];
  #abandoned = false;
  readonly #context: LoadContext;

  constructor(device: BlockDevice, context: LoadContext) {
    this.device = device;
    this.#context = context;
  }

  /** Never rejects: what goes wrong is reported. */
  submit(operation: Operation): Promise<void> {
    const { trace } = this.#context;
    trace.note(0x100, operation.id, operation.offset, operation.length);
    if (trace.verbose) trace.line(`submit ${describeOperation(operation)}`);
    this.inFlight += 1;
    if (operation.id > 0) this.submitted.push(operation.id);
    return this.#guarded(operation);
  }

  /** The device has crashed: whatever it may still answer is not heard any more. */
  abandon(): void {
    this.#abandoned = true;
  }

  async #guarded(operation: Operation): Promise<void> {
    const { trace, mayFail } = this.#context;
    try {
      await this.#carryOut(operation);
      trace.note(0x101, operation.id);
      if (trace.verbose) trace.line(`answer ${describeOperation(operation)}`);
    } catch (error) {
      trace.note(0x102, operation.id);
      if (trace.verbose) trace.line(`error  ${describeOperation(operation)}: ${String(error)}`);
      if (!(error instanceof BlockIoError)) {
        this.#report(
          "foreign-error",
          operation,
          `failed with something else than a BlockIoError: ${show(error)}`,
        );
      } else if (!mayFail(error)) {
        this.#report("error", operation, `failed although no fault was injected: ${error.message}`);
      }
    } finally {
      this.inFlight -= 1;
      this.settled += 1;
    }
  }

  #carryOut(operation: Operation): Promise<void> {
    switch (operation.kind) {
      case "read":
        return this.#read(operation);
      case "write":
        return this.#write(operation);
      case "flush":
        return this.#flush();
      case "discard":
        return this.#discard(operation);
      case "zeroes":
        return this.#zeroes(operation);
      case "suspend":
        return this.#suspend();
      case "extents":
        return this.#extents(operation);
    }
  }

  async #read(operation: Operation): Promise<void> {
    const { oracle, trace } = this.#context;
    const into = Buffer.alloc(operation.length, RUBBISH);
    const submitted = oracle.beginRead();
    try {
      await this.#heard(this.device.read(operation.offset, into));
      for (let at = 0; at < operation.length; at += SECTOR) {
        const sector = (operation.offset + at) / SECTOR;
        const content = identify(into, at, sector);
        trace.note(0x103, sector, content);
        this.#judge(submitted, sector, content, operation, () => describeSector(into, at));
      }
    } finally {
      oracle.endRead(submitted);
    }
  }

  async #write({ id, offset, length, fua, ...rest }: Operation): Promise<void> {
    const from = Buffer.allocUnsafe(length);
    for (let at = 0; at < length; at += SECTOR) stamp(from, at, id, (offset + at) / SECTOR);
    const version = this.#context.oracle.beginWrite(id, offset / SECTOR, length / SECTOR);
    try {
      await this.#heard(this.device.write(offset, from, fua ? { fua: true } : undefined));
      this.#acknowledge(version, fua);
    } finally {
      for (let at = 0; at < length; at += SECTOR) {
        if (identify(from, at, (offset + at) / SECTOR) === id) continue;
        const operation: Operation = { id, offset, length, fua, ...rest };
        this.#report("buffer", operation, "the device changed the buffer it was to write");
        break;
      }
      from.fill(RUBBISH);
    }
  }

  async #flush(): Promise<void> {
    const submitted = this.#context.oracle.beginFlush();
    await this.#heard(this.device.flush());
    this.#flushed(submitted);
  }

  async #zeroes({ id, offset, length, fua }: Operation): Promise<void> {
    const version = this.#context.oracle.beginWrite(ZERO, offset / SECTOR, length / SECTOR);
    await this.#heard(this.device.writeZeroes(offset, length, { fua, mayUnmap: id % 2 === 0 }));
    this.#acknowledge(version, fua);
  }

  async #discard({ offset, length }: Operation): Promise<void> {
    const { oracle } = this.#context;
    const versions = discardVersions(oracle, this.device, offset, length);
    await this.#heard(this.device.discard(offset, length));
    for (const version of versions) oracle.acknowledge(version);
  }

  async #suspend(): Promise<void> {
    const submitted = this.#context.oracle.beginFlush();
    try {
      await this.#heard(this.device.suspend());
      if (!hasFailed(this.device)) this.#flushed(submitted);
    } finally {
      await this.#heard(this.device.resume());
    }
  }

  #acknowledge(version: Version, fua: boolean): void {
    this.#context.oracle.acknowledge(version, fua && this.#context.onlyClose !== true);
  }

  #flushed(submitted: number): void {
    if (this.#context.onlyClose !== true) this.#context.oracle.flushed(submitted);
  }

  async #extents(operation: Operation): Promise<void> {
    const { oracle } = this.#context;
    const submitted = oracle.beginRead();
    try {
      for await (const extent of this.device.extents(operation.offset, operation.length)) {
        if (this.#abandoned) await never();
        if (extent.kind === "data") continue;
        for (let at = extent.offset; at < extent.offset + extent.length; at += SECTOR) {
          this.#judge(submitted, at / SECTOR, ZERO, operation, () => `reported as ${extent.kind}`);
        }
      }
    } finally {
      oracle.endRead(submitted);
    }
  }

  async #heard(answer: Promise<void>): Promise<void> {
    try {
      await answer;
    } finally {
      if (this.#abandoned) await never();
    }
  }

  #judge(
    submitted: number,
    sector: number,
    content: number,
    operation: Operation,
    details: () => string,
  ): void {
    const { oracle, demand } = this.#context;
    if (demand === "alive") return;
    const finding =
      demand === "known-or-error" ? oracle.known(sector, content) : oracle.check(submitted, sector, content);
    if (finding === undefined) return;
    const more = content <= GARBAGE ? `: ${details()}` : "";
    this.#report(finding.rule, operation, `${finding.message}${more}`);
  }

  #report(rule: Rule, operation: Operation, message: string): void {
    this.#context.report({ rule, message: `${describeOperation(operation)}: ${message}` });
  }
}

function never(): Promise<never> {
  return new Promise(() => {});
}

/** Where the device promises zeroes a discard is a write of zeroes; elsewhere it may do nothing. */
function discardVersions(oracle: Oracle, device: BlockDevice, offset: number, length: number): Version[] {
  const { discardGranularity, capabilities } = device.limits;
  if (capabilities.discard === "none") return [];
  const end = offset + length;
  let first = end;
  let last = end;
  if (capabilities.discardZeroes) {
    first = Math.min(end, Math.ceil(offset / discardGranularity) * discardGranularity);
    last = Math.max(first, Math.floor(end / discardGranularity) * discardGranularity);
  }
  const versions: Version[] = [];
  const add = (from: number, to: number, weak: boolean): void => {
    if (to > from) versions.push(oracle.beginWrite(ZERO, from / SECTOR, (to - from) / SECTOR, weak));
  };
  add(offset, first, true);
  add(first, last, false);
  add(last, end, true);
  return versions;
}

/** A guarded device that refuses writes since a failure: its close and suspend succeed and promise nothing. */
export function hasFailed(device: BlockDevice): boolean {
  return (device as { readonly failure?: unknown }).failure !== undefined;
}

/** An error, with where it came from: it is a bug in somebody's code. */
export function show(error: unknown): string {
  return error instanceof Error ? (error.stack ?? error.message) : String(error);
}
