/** A request in flight. Objects are used again and again, with their callbacks bound once. */
import type { RequestHeader } from "../../protocol.ts";
import type { SelectedContext } from "./block-status.ts";
import type { Refusal } from "./commands.ts";
import type { ChunkOrigin } from "../io/intake.ts";
import type { Slab } from "../io/outbox.ts";

/** Who carries a request out and is told how it went. */
export interface RequestOwner {
  succeeded(request: Request): void;
  failed(request: Request, error: unknown): void;
  /** One of them threw. */
  broken(error: unknown): void;
}

export class Request implements RequestHeader {
  readonly extended: boolean;
  flags = 0;
  type = 0;
  cookieHigh = 0;
  cookieLow = 0;
  offset = 0;
  length = 0;
  /** Its number in the log of requests. */
  id = 0;
  /** Bytes taken from the connection's account. */
  charge = 0;
  /** When it arrived, on the environment's clock. */
  started = 0;
  /** Why it will not be carried out. */
  refusal: Refusal | undefined = undefined;
  /** Where its reply is being made, from `at` on. */
  slab: Slab | undefined = undefined;
  at = 0;
  /** What its payload is a part of. */
  origin: ChunkOrigin | undefined = undefined;
  /** A buffer of the pool its payload came in. */
  buffer: Buffer | undefined = undefined;
  /** The whole reply, where it was made elsewhere. */
  reply: Slab | undefined = undefined;
  /** Metadata contexts to tell of, where not all that were negotiated. */
  contexts: readonly SelectedContext[] | undefined = undefined;
  /** Callbacks for `then`. */
  readonly succeeded: () => void;
  readonly failed: (error: unknown) => void;

  constructor(owner: RequestOwner, extended: boolean) {
    this.extended = extended;
    // Nobody else would catch it: a bug of ours must not take the other clients down with it.
    this.succeeded = () => {
      try {
        owner.succeeded(this);
      } catch (error) {
        owner.broken(error);
      }
    };
    this.failed = (reason) => {
      try {
        owner.failed(this, reason);
      } catch (error) {
        owner.broken(error);
      }
    };
  }
}
