/**
 * The decision log of a run: every decision and every I/O goes into a running hash, and, for a reader, into
 * lines of text. Same seed, same hash, on every machine.
 */
export class Trace {
  #low = 0x2545_f491;
  #high = 0x1d87_2b41;
  readonly #sink: ((line: string) => void) | undefined;

  constructor(sink?: (line: string) => void) {
    this.#sink = sink;
  }

  /** Whether somebody reads: guard expensive texts with it. */
  get verbose(): boolean {
    return this.#sink !== undefined;
  }

  /** Mixes integers into the hash. Values above 2^32 count with both their halves. */
  note(kind: number, a = 0, b = 0, c = 0): void {
    this.#mix(kind);
    this.#mix(a);
    this.#mix(b);
    this.#mix(c);
    if (a >= 0x1_0000_0000) this.#mix(a / 0x1_0000_0000);
  }

  /** Mixes a sample of the bytes into the hash: both ends of up to sixteen sectors. */
  bytes(data: Uint8Array): void {
    const stride = Math.max(512, Math.floor(data.length / 16));
    for (let at = 0; at < data.length; at += stride) {
      for (let byte = at; byte < at + 8; byte += 1) this.#mix(data[byte] ?? 0);
      this.#mix(data[at + 511] ?? 0);
    }
  }

  line(text: string): void {
    this.#sink?.(text);
  }

  /** 16 hexadecimal digits. */
  get digest(): string {
    return hex(this.#high) + hex(this.#low);
  }

  #mix(value: number): void {
    this.#low = Math.imul(this.#low ^ value, 0x9e37_79b1);
    this.#low ^= this.#low >>> 15;
    this.#high = Math.imul((this.#high + value) | 0, 0x85eb_ca77) ^ this.#low;
  }
}

function hex(value: number): string {
  return (value >>> 0).toString(16).padStart(8, "0");
}
