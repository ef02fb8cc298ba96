/**
 * Certificates, keys and shared secrets: the files they are in, and what they must hold.
 *
 *     FOLDER/ca-cert.pem       who signs the certificates of the other side
 *     FOLDER/ca-crl.pem        those that were withdrawn; optional
 *     FOLDER/server-cert.pem   FOLDER/server-key.pem     a server's own
 *     FOLDER/client-cert.pem   FOLDER/client-key.pem     a client's own; optional, both or neither
 *     PSK-FILE                 lines of IDENTITY:KEY, the key in hexadecimal digits, as psktool writes them
 *
 * Files are read again when they have changed; what is read is whole and has been understood, or what was there before
 * stays in use.
 */
import { closeSync, constants, fstatSync, openSync, readSync, statSync } from "node:fs";
import { join } from "node:path";
import { BlockIoError, toBlockIoError } from "@dmkit/block-io";

/** Where what is needed lies: exactly one of the two. */
export interface MaterialPlace {
  /** A folder with certificates under the names above. */
  readonly certificates?: string | undefined;
  /** A file of pre-shared keys. */
  readonly psk?: string | undefined;
}

/** What was read. */
export interface Material {
  readonly cert?: Buffer | undefined;
  readonly key?: Buffer | undefined;
  readonly ca?: Buffer | undefined;
  readonly crl?: Buffer | undefined;
  /** Keys by identity. */
  readonly psk?: ReadonlyMap<string, Buffer> | undefined;
}

type Name = "cert" | "key" | "ca" | "crl";

// Bytes; a folder of certificates has thousands at most.
const LARGEST_FILE = 4 * 1024 * 1024;
// Bytes of a key: fewer can be guessed, more are not taken by the libraries of the other side.
const SHORTEST_KEY = 16;
const LONGEST_KEY = 256;
const LONGEST_IDENTITY = 128;

/** The files of a place, and whether each must be there. */
function filesOf(folder: string, role: "server" | "client", verifies: boolean): readonly NeededFile[] {
  const own = role === "server";
  return [
    { name: "cert", path: join(folder, `${role}-cert.pem`), needed: own },
    { name: "key", path: join(folder, `${role}-key.pem`), needed: own },
    { name: "ca", path: join(folder, "ca-cert.pem"), needed: verifies },
    { name: "crl", path: join(folder, "ca-crl.pem"), needed: false },
  ];
}

interface NeededFile {
  readonly name: Name;
  readonly path: string;
  readonly needed: boolean;
}

/** The material of one place, as it is now. */
export class MaterialStore {
  readonly #place: MaterialPlace;
  readonly #files: readonly NeededFile[];
  readonly #check: (material: Material) => void;
  #material: Material | undefined;
  #signature = "";

  /**
   * @param verifies whether certificates of the other side are checked.
   * @param check throws if certificate and key are not what they should be.
   */
  constructor(
    place: MaterialPlace,
    role: "server" | "client",
    verifies: boolean,
    check: (material: Material) => void,
  ) {
    this.#place = place;
    this.#files = place.certificates === undefined ? [] : filesOf(place.certificates, role, verifies);
    this.#check = check;
  }

  /**
   * What the files hold now. Throws `ENOENT`, `EACCES`, `EFORMAT` … if they are not what they should be; what was read
   * before stays in {@link last}.
   */
  read(): Material {
    const { psk } = this.#place;
    const signature = [...this.#files.map(({ path }) => path), psk ?? ""].map(signatureOf).join();
    if (this.#material !== undefined && signature === this.#signature) return this.#material;
    const found: { -readonly [Key in keyof Material]: Material[Key] } = {};
    for (const { name, path, needed } of this.#files) {
      const bytes = needed || signatureOf(path) !== "" ? readSmall(path, "certificates") : undefined;
      if (bytes !== undefined) found[name] = bytes;
    }
    const { certificates = "" } = this.#place;
    if ((found.cert === undefined) !== (found.key === undefined))
      throw wrong(
        "certificates",
        certificates,
        "ENOENT",
        "has a certificate without its key, or a key without one",
      );
    if (psk !== undefined) found.psk = parseKeys(readSmall(psk, "psk").toString("utf8"), psk);
    try {
      this.#check(found);
    } catch (error) {
      const { message } = error as Error;
      const kind = psk === undefined ? "certificates" : "psk";
      throw wrong(
        kind,
        psk ?? certificates,
        "EFORMAT",
        `certificates or keys cannot be used: ${message}`,
        error,
      );
    }
    this.#material = found;
    this.#signature = signature;
    return found;
  }

  /** What was read last and was right. */
  get last(): Material | undefined {
    return this.#material;
  }
}

/** Changes when the file does; empty if it is not there. */
function signatureOf(path: string): string {
  try {
    const { ino, size, mtimeNs, ctimeNs } = statSync(path, { bigint: true });
    return `${ino}:${size}:${mtimeNs}:${ctimeNs}`;
  } catch {
    return "";
  }
}

type Kind = keyof MaterialPlace;

/** A regular file: all else may keep us waiting, and everybody whom this process serves. */
function readSmall(path: string, kind: Kind): Buffer {
  const bytes = Buffer.alloc(LARGEST_FILE + 1);
  let length = 0;
  try {
    const fd = openSync(path, constants.O_RDONLY | constants.O_NONBLOCK);
    try {
      if (!fstatSync(fd).isFile()) throw wrong(kind, path, "EINVAL", "is no regular file");
      for (let count = -1; count !== 0; length += count)
        count = readSync(fd, bytes, length, bytes.length - length, null);
    } finally {
      closeSync(fd);
    }
  } catch (error) {
    if (error instanceof BlockIoError) throw error;
    const { code } = toBlockIoError(error, {});
    if (code === "ENOENT") throw wrong(kind, path, code, "there is no such file, which TLS needs", error);
    throw wrong(kind, path, code, (error as Error).message, error);
  }
  if (length > LARGEST_FILE)
    throw wrong(kind, path, "EFORMAT", "is too long for a certificate or a file of keys");
  return Buffer.from(bytes.subarray(0, length));
}

/** Lines of IDENTITY:KEY. An identity that begins with # is in hexadecimal digits; other lines with # say nothing. */
function parseKeys(text: string, path: string): ReadonlyMap<string, Buffer> {
  const keys = new Map<string, Buffer>();
  for (const [index, whole] of text.split("\n").entries()) {
    const line = whole.trim();
    const [, hex] = /^#((?:[0-9a-f]{2})+):/i.exec(line) ?? [];
    if (line === "" || (line.startsWith("#") && hex === undefined)) continue;
    const colon = line.lastIndexOf(":");
    const identity = hex === undefined ? line.slice(0, colon) : Buffer.from(hex, "hex").toString("utf8");
    const digits = line.slice(colon + 1);
    const key = /^([0-9a-f]{2})+$/i.test(digits) ? Buffer.from(digits, "hex") : Buffer.alloc(0);
    const bytes = Buffer.byteLength(identity);
    const isRight =
      colon > 0 && bytes <= LONGEST_IDENTITY && key.length >= SHORTEST_KEY && key.length <= LONGEST_KEY;
    // The line itself is a secret, and is not shown.
    if (!isRight || keys.has(identity)) {
      const what = isRight ? "has an identity a second time" : "is not IDENTITY:KEY";
      throw wrong("psk", path, "EFORMAT", `line ${index + 1} ${what}`);
    }
    keys.set(identity, key);
  }
  if (keys.size > 0) return keys;
  throw wrong("psk", path, "EFORMAT", "holds no key");
}

const WHAT: Readonly<Record<Kind, string>> = {
  certificates:
    "Put ca-cert.pem, server-cert.pem and server-key.pem (a client: client-cert.pem, client-key.pem), which are PEM, into one folder, and name it.",
  psk: `Name a file with lines of IDENTITY:KEY, each key of ${2 * SHORTEST_KEY} … ${2 * LONGEST_KEY} hexadecimal digits; psktool -u IDENTITY -p FILE makes one.`,
};

function wrong(
  kind: Kind,
  device: string,
  code: BlockIoError["code"],
  reason: string,
  cause?: unknown,
): BlockIoError {
  const hint = code === "EACCES" ? "Let the user that dmkit runs as read it, and nobody else." : WHAT[kind];
  return new BlockIoError(reason, { code, device, op: "open", hint, cause });
}
