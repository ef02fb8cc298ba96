/**
 * The second copies of payloads: those that the journal's last two records have, whether these are in place or not.
 *
 * Invariant: what is found has the checksum that was asked for, so it is what the extent holds, and nothing older.
 */
import { payloadBytes } from "../../../format/geometry-v1.ts";
import { type DecodedRecord, changeKinds } from "../../../format/journal-v2.ts";
import { payloadSum } from "../../../format/metadata-v2.ts";

export class JournalPayloads {
  readonly #uuid: Buffer;
  readonly #found: Map<string, Buffer> = new Map();

  /** @param records plausible ones, in order. */
  constructor(uuid: Buffer, records: readonly DecodedRecord[]) {
    this.#uuid = uuid;
    for (const { changes, payloads } of records) {
      let at = 0;
      for (const { kind, first, sectors, sum } of changes) {
        if (kind !== changeKinds.payload) continue;
        const payload = payloads.subarray(at, at + payloadBytes(sectors));
        at += payload.length;
        this.#found.set(key(first, sectors, sum), payload);
      }
    }
  }

  /** The payload of the extent at block `head`, whose checksum is `sum`; undefined if the journal does not have it. */
  find(head: number, sectors: number, sum: number): Buffer | undefined {
    const payload = this.#found.get(key(head, sectors, sum));
    return payload !== undefined && payloadSum(this.#uuid, head, payload) === sum ? payload : undefined;
  }
}

function key(head: number, sectors: number, sum: number): string {
  return `${head} ${sectors} ${sum}`;
}
