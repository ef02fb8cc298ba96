/** What a server tells about single requests, if somebody wants to know. */
import type { ErrorCode } from "@dmkit/block-io";
import type { Request } from "./request.ts";
import { type CountedOperation, operationOf } from "../exports/statistics.ts";

/** A request, at its beginning and again at its end; both have the same `id`. */
export interface RequestEvent {
  readonly event: "begin" | "end";
  /** Counts the requests of the server, from 1. */
  readonly id: number;
  readonly exportName: string;
  readonly operation: CountedOperation;
  /** Bytes. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  /** The command's flags as they came: FUA 1, NO_HOLE 2, DF 4, REQ_ONE 8, FAST_ZERO 16, PAYLOAD_LEN 32. */
  readonly flags: number;
  /** At the end, if it failed. */
  readonly error?: ErrorCode;
}

/** Called for every request. What it throws ends the connection; the request is carried out all the same. */
export type RequestListener = (event: RequestEvent) => void;

/** Hands pairs of events to a listener. */
export class RequestLog {
  readonly #listener: RequestListener;
  #last = 0;

  constructor(listener: RequestListener) {
    this.#listener = listener;
  }

  begin(request: Request, exportName: string): void {
    this.#last += 1;
    request.id = this.#last;
    this.#listener(describe("begin", request, exportName));
  }

  end(request: Request, exportName: string, error: ErrorCode | undefined): void {
    const event = describe("end", request, exportName);
    this.#listener(error === undefined ? event : { ...event, error });
  }
}

function describe(event: "begin" | "end", request: Request, exportName: string): RequestEvent {
  const { id, type, offset, length, flags } = request;
  return { event, id, exportName, operation: operationOf(type), offset, length, flags };
}
