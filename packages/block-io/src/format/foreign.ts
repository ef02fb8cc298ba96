/** Images of other programs that a disk is in: by the signatures that name a format of qemu. */
import { type Ends, bytesAt, placesOf, signatures } from "./signatures.ts";

/** An image that a disk is in, and what qemu calls its format. */
export interface ForeignFormat {
  readonly name: string;
  readonly qemu: string;
}

const foreign = signatures.filter(({ qemu }) => qemu !== undefined);

/** The format of other programs that the bytes of a device are an image in. @param ends of 512 bytes at least. */
export function foreignFormat(ends: Ends): ForeignFormat | undefined {
  const found = foreign.find(({ at, bytes }) => {
    const wanted = Buffer.from(bytes, "hex");
    return [...placesOf(at, ends.size)].some((offset) =>
      bytesAt(ends, offset, wanted.length)?.equals(wanted),
    );
  });
  return found?.qemu === undefined ? undefined : { name: found.name, qemu: found.qemu };
}
