/**
 * What a device still accepts after things went wrong.
 *
 *     sound -> no more writes (a flush failed) -> in doubt (acknowledged writes are lost) -> dead
 *
 * Invariant: it only gets worse; reopening the device is the way back. Beside that the server may be away for longer
 * than requests wait: then all are refused until it is back, and nothing else has changed.
 */
import { BlockIoError, type Health as DeviceHealth, wholeStory } from "@dmkit/block-io";
import { CMD } from "../protocol.ts";
import type { Durability } from "./recovery/durability.ts";
import type { Request } from "./requests/request.ts";

const REOPEN = "Check the server, then close and reopen the device, or restart dmkit.";

export class Health {
  readonly #device: string;
  readonly #durability: Durability;
  // Called once, when writes are not accepted any more.
  readonly #failed: (error: BlockIoError) => void;
  #refusesWrites: BlockIoError | undefined;
  #inDoubt: BlockIoError | undefined;
  #dead: BlockIoError | undefined;
  #away: BlockIoError | undefined;

  constructor(device: string, durability: Durability, failed: (error: BlockIoError) => void) {
    this.#device = device;
    this.#durability = durability;
    this.#failed = failed;
  }

  get isDead(): boolean {
    return this.#dead !== undefined;
  }

  /** A flush failed: what it should have covered is not known to be stable, and never will be. */
  refuseWrites(error: BlockIoError): void {
    if (this.#refusesWrites !== undefined) return;
    this.#refusesWrites = error;
    this.#failed(error);
  }

  /** Something acknowledged is gone. Reads are refused where the server may be out of date. */
  doubt(cause: BlockIoError): void {
    this.#inDoubt ??= new BlockIoError("the server went away with writes that were not flushed", {
      code: "EIO",
      device: this.#device,
      hint: "Check what is on the server, then close and reopen the device (or restart dmkit). With replay-buffer=64M in the URI such writes would have been repeated.",
      cause,
    });
    this.refuseWrites(this.#inDoubt);
  }

  die(error: BlockIoError): void {
    this.#dead ??= error;
  }

  /** The server did not come back in time; requests are refused until {@link returned}. */
  miss(error: BlockIoError): void {
    this.#away = error;
  }

  /** The server is back. */
  returned(): void {
    this.#away = undefined;
  }

  /** Undefined while nothing is wrong but, perhaps, that the server has just gone away. */
  describe(): DeviceHealth | undefined {
    const ill = this.#dead === undefined ? (this.#inDoubt ?? this.#refusesWrites ?? this.#away) : this.#dead;
    if (ill === undefined) return undefined;
    const state = ill === this.#inDoubt ? "needs check" : "failed";
    return { state, why: wholeStory(ill), help: ill.hint ?? REOPEN };
  }

  /** Why the request is not accepted, if so. */
  refusal(request: Request): BlockIoError | undefined {
    if (this.#dead !== undefined) {
      return request.failure(this.#dead.code, "the connection to the server is lost for good", this.#dead);
    }
    if (this.#away !== undefined) return request.failure(this.#away.code, this.#away.reason, this.#away);
    if (request.mutates || request.type === CMD.FLUSH) {
      if (this.#refusesWrites === undefined) return undefined;
      return request.failure(
        "EIO",
        "the device refuses writes since an earlier failure",
        this.#refusesWrites,
      );
    }
    if (this.#inDoubt === undefined || !this.#durability.isDoubtful(request)) return undefined;
    return request.failure("EIO", "the server may have lost writes to this place", this.#inDoubt);
  }
}
