/** The real liblzo2, through a small Python program: any number of requests in one run. */
import { fileURLToPath } from "node:url";
import { filter, needs } from "./tools.ts";

const script = fileURLToPath(new URL("liblzo2.py", import.meta.url));

export interface Request {
  readonly kind: "compress" | "compress999" | "decompress";
  readonly data: Uint8Array;
  /** Bytes of output the library may write. */
  readonly capacity: number;
}

export interface Answer {
  /** The library's own status; 0 is success. */
  readonly status: number;
  readonly data: Buffer;
}

export function needsLiblzo2(skip: (reason: string) => void): void {
  needs(skip, "python3", "-c", 'import ctypes; ctypes.CDLL("liblzo2.so.2")');
}

/** Each of `items` with the library's answer to what `ask` makes of it. */
export function askLiblzo2<Item>(
  items: readonly Item[],
  ask: (item: Item) => Request,
): { readonly item: Item; readonly answer: Answer }[] {
  const answers = liblzo2(items.map(ask)).values();
  return items.map((item) => ({ item, answer: answers.next().value as Answer }));
}

function liblzo2(requests: readonly Request[]): Answer[] {
  const letters = { compress: "1", compress999: "9", decompress: "d" } as const;
  const input = requests.flatMap(({ kind, data, capacity }) => {
    const head = Buffer.alloc(9);
    head.write(letters[kind]);
    head.writeUInt32LE(data.length, 1);
    head.writeUInt32LE(capacity, 5);
    return [head, data];
  });
  const output = filter("python3", [script], Buffer.concat(input));
  let at = 0;
  return requests.map(() => {
    const length = output.readUInt32LE(at + 4);
    const data = output.subarray(at + 8, at + 8 + length);
    const answer = { status: output.readInt32LE(at), data };
    at += 8 + length;
    return answer;
  });
}
