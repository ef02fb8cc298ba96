/**
 * The address of a unix socket, `struct sockaddr_un` of unix(7), for the one call that takes it.
 *
 *     | at | bytes | what                                                          |
 *     |----|-------|---------------------------------------------------------------|
 *     | 0  | 2     | family: AF_UNIX, in the order of the machine, little-endian   |
 *     | 2  | 1–108 | the path and a zero; or a zero and a name without a file      |
 */
export const AF_UNIX = 1;

const SPACE = 108;

/** @param path a path, or `@` and a name without a file. Undefined: it is longer than an address has room for. */
export function unixAddress(path: string): Buffer | undefined {
  const name = path.startsWith("@") ? `\0${path.slice(1)}` : `${path}\0`;
  const bytes = Buffer.from(name);
  if (bytes.length > SPACE) return undefined;
  const family = Buffer.alloc(2);
  family.writeUInt16LE(AF_UNIX);
  return Buffer.concat([family, bytes]);
}
