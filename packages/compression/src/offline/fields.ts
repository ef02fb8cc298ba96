/** Reading plain data that somebody else wrote: every value is checked, and an error says where it is. */
import { BlockIoError } from "@dmkit/block-io";

export interface Fields {
  /** For messages: `dump.groups[7]`. */
  readonly where: string;
  integer(name: string, min: number, max: number): number;
  integers(name: string, min: number, max: number): number[];
  text(name: string): string;
  /** False where it is not there. */
  flag(name: string): boolean;
  /** That many bytes in hexadecimal. */
  hex(name: string, bytes: number): Buffer;
  object(name: string): Fields;
  list(name: string): Fields[];
}

/** All methods throw `EINVAL`. */
export function fieldsOf(value: unknown, where: string): Fields {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    throw wrong(where, "it is not an object");
  }
  const given = new Map<string, unknown>(Object.entries(value));
  const at = (name: string): string => `${where}.${name}`;
  const array = (name: string): unknown[] => {
    const list = given.get(name);
    if (!Array.isArray(list)) throw wrong(at(name), "it is not a list");
    return list;
  };
  const text = (name: string): string => {
    const word = given.get(name);
    if (typeof word !== "string") throw wrong(at(name), "it is not a text");
    return word;
  };
  return {
    where,
    text,
    integer: (name, min, max) => integer(given.get(name), min, max, at(name)),
    integers: (name, min, max) =>
      array(name).map((item, index) => integer(item, min, max, `${at(name)}[${index}]`)),
    flag(name) {
      const value = given.get(name) ?? false;
      if (typeof value !== "boolean") throw wrong(at(name), "it is neither true nor false");
      return value;
    },
    hex(name, bytes) {
      const word = text(name);
      if (word.length !== bytes * 2 || !/^[0-9a-f]*$/i.test(word))
        throw wrong(at(name), `it is not ${bytes} bytes in hexadecimal`);
      return Buffer.from(word, "hex");
    },
    object: (name) => fieldsOf(given.get(name), at(name)),
    list: (name) => array(name).map((item, index) => fieldsOf(item, `${at(name)}[${index}]`)),
  };
}

function integer(value: unknown, min: number, max: number, where: string): number {
  if (Number.isSafeInteger(value) && (value as number) >= min && (value as number) <= max)
    return value as number;
  throw wrong(where, `${String(value)} is not an integer from ${min} to ${max}`);
}

export function wrong(where: string, reason: string): BlockIoError {
  return new BlockIoError(`${where}: ${reason}`, {
    code: "EINVAL",
    hint: "Give a dump of this device; it may have been changed, or be of another device.",
  });
}
