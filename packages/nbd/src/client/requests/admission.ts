/**
 * When a mutation may be sent: when the journal has room for it, and when nothing that overlaps it is under
 * way.
 *
 * Invariants:
 *
 * - two mutations that overlap are never admitted together; they are admitted in order of submission;
 * - whoever waits for room is let in, or refused, by the next thing that can make room: an answer, or the end
 *   of a flush, which is begun for that very purpose.
 */
import { type BlockIoError, RangeLock } from "@dmkit/block-io";
import { Fifo } from "./fifo.ts";
import type { Journal } from "../recovery/journal.ts";
import type { Request } from "./request.ts";

export interface AdmissionOwner {
  /** Why a request will not be accepted any more, if so. */
  refusal(request: Request): BlockIoError | undefined;
  /** The request may go. */
  admitted(request: Request): void;
  /** Settles when what is in the journal by now has been flushed, or could not be. */
  flush(): Promise<void>;
}

export class Admission {
  readonly #journal: Journal | undefined;
  readonly #owner: AdmissionOwner;
  readonly #lock = new RangeLock();
  readonly #waitingForRoom = new Fifo<Request>();
  #flushing = false;

  constructor(journal: Journal | undefined, owner: AdmissionOwner) {
    this.#journal = journal;
    this.#owner = owner;
  }

  /** Requests that wait for room in the journal. */
  get waiting(): Iterable<Request> {
    return this.#waitingForRoom;
  }

  /** Takes a mutation in. */
  enter(request: Request): void {
    const journal = this.#journal;
    if (journal !== undefined && (this.#waitingForRoom.length > 0 || !journal.reserve(request))) {
      this.#waitingForRoom.push(request);
      this.#makeRoom(journal);
    } else {
      this.#acquire(request);
    }
  }

  /** A mutation is over, however it went. */
  leave(request: Request): void {
    if (request.grant !== undefined) this.#lock.release(request.grant);
    request.grant = undefined;
    const journal = this.#journal;
    if (journal === undefined) return;
    if (request.reserved > 0) journal.release(request);
    // Early enough that, with luck, nobody has to wait.
    if (journal.isHalfFull) this.#makeRoom(journal);
    this.review();
  }

  /** Lets in, or refuses, those who wait for room. */
  review(): void {
    const journal = this.#journal;
    if (journal === undefined) return;
    for (let next = this.#waitingForRoom.peek(); next !== undefined; next = this.#waitingForRoom.peek()) {
      const problem = this.#owner.refusal(next);
      if (problem === undefined && !journal.reserve(next)) {
        this.#makeRoom(journal);
        return;
      }
      this.#waitingForRoom.shift();
      if (problem === undefined) this.#acquire(next);
      else next.reject(problem);
    }
  }

  #makeRoom(journal: Journal): void {
    // An empty journal is full of reservations: those who hold them will leave.
    if (this.#flushing || journal.isEmpty) return;
    this.#flushing = true;
    const flushed = (): void => {
      this.#flushing = false;
      this.review();
    };
    // A failed flush is no news here: its owner refuses all mutations from then on.
    this.#owner.flush().then(flushed, flushed);
  }

  #acquire(request: Request): void {
    const { offset, length } = request;
    request.grant = this.#lock.tryAcquire(offset, length, true);
    if (request.grant !== undefined) {
      this.#owner.admitted(request);
      return;
    }
    void this.#lock.acquire(offset, length, true).then((grant) => {
      request.grant = grant;
      this.#owner.admitted(request);
    });
  }
}
