/**
 * What is inside options and option replies. All integers are big-endian; a *string* is UTF-8.
 *
 *     EXPORT_NAME        | name ... |                              the whole of the data
 *     INFO, GO           | u32 length | name ... | u16 n | n x u16 information type |
 *     LIST_/SET_META_CONTEXT
 *                        | u32 length | export name ... | u32 n | n x { u32 length | query ... } |
 *     LIST, STARTTLS, STRUCTURED_REPLY, EXTENDED_HEADERS           no data
 *
 *     REP_SERVER         | u32 length | name ... | description ... |
 *     REP_INFO           | u16 type | payload ... |
 *       INFO_EXPORT        | u64 size | u16 flags |
 *       INFO_NAME          | name ... |
 *       INFO_DESCRIPTION   | description ... |
 *       INFO_BLOCK_SIZE    | u32 minimum | u32 preferred | u32 maximum payload |
 *     REP_META_CONTEXT   | u32 context id | name ... |
 *     REP_ERR_*          | text ... |
 *
 * Every decoder is given the whole data of one message, checks all lengths inside it against what is there,
 * and throws `EPROTO` where they do not fit.
 */
import { getU16, getU32, getU64, setU16, setU32, setU64 } from "./big-endian.ts";
import { INFO } from "./constants.ts";
import { decodeText, encodeText, protocolError, readText } from "./text.ts";

/** The data of INFO and GO. */
export interface InfoRequest {
  readonly name: string;
  /** Of {@link INFO}, in the client's order; unknown numbers are kept. */
  readonly requests: readonly number[];
}

/** The data of LIST_META_CONTEXT and SET_META_CONTEXT. */
export interface MetaContextRequest {
  readonly exportName: string;
  readonly queries: readonly string[];
}

/** The data of REP_SERVER. */
export interface ServerEntry {
  readonly name: string;
  readonly description: string;
  /** False if the name is none that can be asked for: not UTF-8, with a NUL, or too long; what is told looks like it. */
  readonly exact?: false;
}

/** Bytes, for every request of a client. */
export interface BlockSizes {
  /** A power of two, 1 … 65536. Offsets and lengths are multiples of it. */
  readonly minimum: number;
  /** A power of two, at least 512 and at least the minimum. */
  readonly preferred: number;
  /** At least the preferred block size. */
  readonly maximumPayload: number;
}

/** The data of REP_INFO, decoded. Unknown types have to be ignored by a client. */
export type InfoReply =
  | { readonly type: typeof INFO.EXPORT; readonly size: number; readonly flags: number }
  | { readonly type: typeof INFO.NAME; readonly name: string }
  | { readonly type: typeof INFO.DESCRIPTION; readonly description: string }
  | ({ readonly type: typeof INFO.BLOCK_SIZE } & BlockSizes)
  | { readonly type: "unknown"; readonly number: number };

/** The data of REP_META_CONTEXT. */
export interface MetaContextReply {
  readonly id: number;
  readonly name: string;
}

export function encodeExportName(name: string): Buffer {
  return encodeText(name, "export name");
}

export function decodeExportName(data: Uint8Array): string {
  return decodeText(data, "export name");
}

export function encodeInfoRequest({ name, requests }: InfoRequest): Buffer {
  const text = encodeText(name, "export name");
  const data = Buffer.allocUnsafe(4 + text.length + 2 + 2 * requests.length);
  setU32(data, 0, text.length);
  data.set(text, 4);
  setU16(data, 4 + text.length, requests.length);
  requests.forEach((type, index) => setU16(data, 6 + text.length + 2 * index, type));
  return data;
}

export function decodeInfoRequest(data: Uint8Array): InfoRequest {
  const { text: name, next } = lengthAndText(data, 0, "export name");
  if (data.length - next < 2) throw protocolError("the number of information requests is missing");
  const count = getU16(data, next);
  if (data.length - next - 2 !== 2 * count) {
    throw protocolError(`${count} information requests do not fill ${data.length - next - 2} bytes`);
  }
  const requests = Array.from({ length: count }, (_, index) => getU16(data, next + 2 + 2 * index));
  return { name, requests };
}

export function encodeMetaContextRequest({ exportName, queries }: MetaContextRequest): Buffer {
  const name = encodeText(exportName, "export name");
  const texts = queries.map((query) => encodeText(query, "metadata query"));
  const count = Buffer.allocUnsafe(4);
  setU32(count, 0, texts.length);
  return Buffer.concat([withLength(name), count, ...texts.map(withLength)]);
}

export function decodeMetaContextRequest(data: Uint8Array): MetaContextRequest {
  const { text: exportName, next } = lengthAndText(data, 0, "export name");
  if (data.length - next < 4) throw protocolError("the number of metadata queries is missing");
  const count = getU32(data, next);
  let at = next + 4;
  // A query takes four bytes or more, which bounds the count before anything is made for it.
  if (count > (data.length - at) / 4) throw protocolError(`${count} metadata queries do not fit their data`);
  const queries: string[] = [];
  for (let index = 0; index < count; index += 1) {
    const query = lengthAndText(data, at, "metadata query");
    queries.push(query.text);
    at = query.next;
  }
  if (at !== data.length) throw protocolError(`${data.length - at} bytes are left over after the queries`);
  return { exportName, queries };
}

export function encodeServerEntry({ name, description }: ServerEntry): Buffer {
  return Buffer.concat([withLength(encodeText(name, "export name")), encodeText(description, "description")]);
}

export function decodeServerEntry(data: Uint8Array): ServerEntry {
  const length = data.length < 4 ? Number.POSITIVE_INFINITY : getU32(data, 0);
  if (length > data.length - 4) throw protocolError("an entry of the list of exports is too short");
  const name = readText(data.subarray(4, 4 + length));
  const description = readText(data.subarray(4 + length));
  return { name: name.text, description: description.text, ...(name.exact ? {} : { exact: false }) };
}

export function encodeInfoExport(size: number, flags: number): Buffer {
  const data = Buffer.alloc(12);
  setU16(data, 0, INFO.EXPORT);
  setU64(data, 2, size);
  setU16(data, 10, flags);
  return data;
}

/** INFO_NAME or INFO_DESCRIPTION. */
export function encodeInfoText(type: typeof INFO.NAME | typeof INFO.DESCRIPTION, text: string): Buffer {
  const bytes = encodeText(text, type === INFO.NAME ? "export name" : "description");
  const data = Buffer.allocUnsafe(2 + bytes.length);
  setU16(data, 0, type);
  data.set(bytes, 2);
  return data;
}

export function encodeInfoBlockSize({ minimum, preferred, maximumPayload }: BlockSizes): Buffer {
  const data = Buffer.alloc(14);
  setU16(data, 0, INFO.BLOCK_SIZE);
  setU32(data, 2, minimum);
  setU32(data, 6, preferred);
  setU32(data, 10, maximumPayload);
  return data;
}

export function decodeInfoReply(data: Uint8Array): InfoReply {
  if (data.length < 2) throw protocolError("an information reply has no type");
  const type = getU16(data, 0);
  switch (type) {
    case INFO.EXPORT:
      exactly(data, 12, "INFO_EXPORT");
      return { type, size: getU64(data, 2), flags: getU16(data, 10) };
    case INFO.NAME:
      return { type, name: readText(data.subarray(2)).text };
    case INFO.DESCRIPTION:
      return { type, description: readText(data.subarray(2)).text };
    case INFO.BLOCK_SIZE:
      exactly(data, 14, "INFO_BLOCK_SIZE");
      return { type, minimum: getU32(data, 2), preferred: getU32(data, 6), maximumPayload: getU32(data, 10) };
    default:
      return { type: "unknown", number: type };
  }
}

export function encodeMetaContextReply({ id, name }: MetaContextReply): Buffer {
  const text = encodeText(name, "metadata context");
  const data = Buffer.allocUnsafe(4 + text.length);
  setU32(data, 0, id);
  data.set(text, 4);
  return data;
}

export function decodeMetaContextReply(data: Uint8Array): MetaContextReply {
  if (data.length < 4) throw protocolError("a metadata context reply has no context id");
  return { id: getU32(data, 0), name: decodeText(data.subarray(4), "metadata context") };
}

function withLength(bytes: Buffer): Buffer {
  const all = Buffer.allocUnsafe(4 + bytes.length);
  setU32(all, 0, bytes.length);
  all.set(bytes, 4);
  return all;
}

function lengthAndText(data: Uint8Array, at: number, what: string): { text: string; next: number } {
  if (data.length - at < 4) throw protocolError(`the length of the ${what} is missing`);
  const length = getU32(data, at);
  if (length > data.length - at - 4)
    throw protocolError(`the ${what} of ${length} bytes does not fit its data`);
  const next = at + 4 + length;
  return { text: decodeText(data.subarray(at + 4, next), what), next };
}

function exactly(data: Uint8Array, length: number, what: string): void {
  if (data.length !== length) throw protocolError(`${what} has ${data.length} bytes instead of ${length}`);
}
