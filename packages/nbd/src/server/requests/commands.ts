/** Which commands an export takes, and why a request is refused. Decides; does nothing. */
import type { ErrorCode } from "@dmkit/block-io";
import { CMD, CMD_FLAG, FLAG, type RequestHeader } from "../../protocol.ts";
import type { Export } from "../exports/export.ts";
import type { Agreement } from "../negotiation.ts";
import { operationOf } from "../exports/statistics.ts";

/** The answer to a request that is not carried out. */
export interface Refusal {
  readonly code: ErrorCode;
  readonly text: string;
}

interface Command {
  /** Of CMD_FLAG. */
  readonly flags: number;
  readonly writes: boolean;
  /** The code for a range past the end. */
  readonly pastEnd: ErrorCode;
  /** Whether it carries data in one direction or the other, which bounds its length. */
  readonly payload: boolean;
}

const known: Readonly<Record<number, Command>> = {
  [CMD.READ]: { flags: CMD_FLAG.FUA | CMD_FLAG.DF, writes: false, pastEnd: "EINVAL", payload: true },
  [CMD.WRITE]: { flags: CMD_FLAG.FUA, writes: true, pastEnd: "ENOSPC", payload: true },
  [CMD.FLUSH]: { flags: CMD_FLAG.FUA, writes: false, pastEnd: "EINVAL", payload: false },
  [CMD.TRIM]: { flags: CMD_FLAG.FUA, writes: true, pastEnd: "EINVAL", payload: false },
  [CMD.CACHE]: { flags: CMD_FLAG.FUA, writes: false, pastEnd: "EINVAL", payload: false },
  [CMD.WRITE_ZEROES]: {
    flags: CMD_FLAG.FUA | CMD_FLAG.NO_HOLE | CMD_FLAG.FAST_ZERO,
    writes: true,
    pastEnd: "ENOSPC",
    payload: false,
  },
  [CMD.BLOCK_STATUS]: {
    flags: CMD_FLAG.FUA | CMD_FLAG.REQ_ONE,
    writes: false,
    pastEnd: "EINVAL",
    payload: false,
  },
};

/** The commands one connection may use; made once the handshake is over. */
export class CommandRules {
  readonly #exported: Export;
  readonly #readOnly: boolean;
  readonly #structured: boolean;
  // How many metadata contexts were negotiated.
  readonly #contexts: number;
  readonly #maximumPayload: number;
  readonly #size: number;
  // Low bits that must be zero in offsets and lengths.
  readonly #mask: number;
  readonly #commands: readonly (Command | undefined)[];

  /** @param maximumPayload bytes; the server's limit. */
  constructor({ exported, readOnly, structured, extended, contexts }: Agreement, maximumPayload: number) {
    this.#exported = exported;
    this.#readOnly = readOnly;
    this.#structured = structured;
    this.#contexts = contexts.length;
    this.#maximumPayload = maximumPayload;
    this.#size = exported.device.size;
    this.#mask = exported.blockSizes(maximumPayload).minimum - 1;
    const flags = exported.transmissionFlags(readOnly, structured, 1);
    const withheld =
      ((flags & FLAG.SEND_DF) === 0 ? CMD_FLAG.DF : 0) |
      ((flags & FLAG.SEND_FAST_ZERO) === 0 ? CMD_FLAG.FAST_ZERO : 0);
    const payload = (type: number): number => {
      const may = extended && (type === CMD.WRITE || (type === CMD.BLOCK_STATUS && contexts.length > 0));
      return may ? CMD_FLAG.PAYLOAD_LEN : 0;
    };
    this.#commands = Array.from({ length: CMD.BLOCK_STATUS + 1 }, (_, type) => {
      const command = known[type];
      return command && { ...command, flags: (command.flags & ~withheld) | payload(type) };
    });
  }

  /** Why the request cannot be carried out, or undefined. Lengths are compared without adding. */
  refusal(request: Readonly<RequestHeader>): Refusal | undefined {
    const { type, flags, offset, length } = request;
    const command = this.#commands[type];
    if (
      command !== undefined &&
      (flags & ~command.flags) === 0 &&
      !(command.writes && this.#readOnly) &&
      offset <= this.#size &&
      length <= this.#size - offset &&
      !(command.payload && length > this.#maximumPayload) &&
      // ToInt32 keeps the low bits of any safe integer, and larger ones did not get here.
      ((offset | length) & this.#mask) === 0 &&
      type < CMD.FLUSH
    ) {
      // The common case, a READ or WRITE without fault, has no questions left.
      return undefined;
    }
    return this.#examine(request, command);
  }

  #examine(request: Readonly<RequestHeader>, command: Command | undefined): Refusal | undefined {
    const { type, flags, offset, length } = request;
    if (command === undefined) return refuse("EINVAL", `unknown command ${type}`);
    const name = operationOf(type);
    const wrong = flags & ~command.flags;
    if (wrong !== 0) return refuse("EINVAL", `${name} does not take the flags 0x${wrong.toString(16)} here`);
    if (command.writes && this.#readOnly) return refuse("EPERM", "the export is read-only");
    if (type === CMD.FLUSH) {
      return offset === 0 && length === 0
        ? undefined
        : refuse("EINVAL", "flush takes no offset and no length");
    }
    if (type === CMD.BLOCK_STATUS && (flags & CMD_FLAG.PAYLOAD_LEN) !== 0) {
      // What is asked is in the payload: {@link statusRefusal} is for when that is there.
      if (length >= 12 && length <= 8 + 4 * this.#contexts) return undefined;
      return refuse("EINVAL", `a payload of ${length} bytes for ${this.#contexts} metadata contexts`);
    }
    return this.#rangeRefusal(request, command);
  }

  /** Why what the payload of a BLOCK_STATUS asks for, which is in the request by now, cannot be told. */
  statusRefusal(request: Readonly<RequestHeader>): Refusal | undefined {
    return this.#rangeRefusal(request, known[CMD.BLOCK_STATUS] as Command);
  }

  #rangeRefusal({ type, offset, length }: Readonly<RequestHeader>, command: Command): Refusal | undefined {
    if (offset > this.#size || length > this.#size - offset) {
      return refuse(command.pastEnd, `past the end of the export (${this.#size} bytes)`);
    }
    if (command.payload && length > this.#maximumPayload) {
      // EOVERFLOW is reserved for clients that know structured replies.
      const code = this.#structured && type === CMD.READ ? "EOVERFLOW" : "EINVAL";
      return refuse(code, `${length} bytes are more than the maximum payload of ${this.#maximumPayload}`);
    }
    if (((offset | length) & this.#mask) !== 0) {
      return refuse("EINVAL", `not a multiple of the export's minimum block of ${this.#mask + 1} bytes`);
    }
    if (type === CMD.TRIM && this.#exported.device.limits.capabilities.discard === "none") {
      return refuse("EINVAL", "the export does not support trim");
    }
    if (type === CMD.BLOCK_STATUS && this.#contexts === 0) {
      return refuse("EINVAL", "no metadata context was negotiated for this export");
    }
    if (type === CMD.BLOCK_STATUS && length === 0) return refuse("EINVAL", "block status of no bytes");
    return undefined;
  }
}

function refuse(code: ErrorCode, text: string): Refusal {
  return { code, text };
}
