/**
 * The client's side of the fixed newstyle handshake: one option at a time, each answered before the next.
 *
 *     greeting, client flags
 *     STARTTLS              if the URI asks for TLS; refused: the end. All that follows is encrypted
 *     EXTENDED_HEADERS      refused: lengths of 32 bits, and
 *     STRUCTURED_REPLY      refused: simple replies, no block status
 *     SET_META_CONTEXT      refused: no block status
 *     GO                    unknown to the server: EXPORT_NAME, sizes by the protocol's defaults
 *
 * Everything a server says is bounded: bytes of a reply, replies to an option, entries of a list.
 */
import { type BlockIoError, type ErrorCode, printable, refuse } from "@dmkit/block-io";
import {
  BASE_ALLOCATION,
  type BlockSizes,
  EXPORT_ANSWER_LENGTH,
  EXPORT_ANSWER_ZEROES,
  GREETING_LENGTH,
  HANDSHAKE_FLAG,
  INFO,
  OPT,
  OPTION_REPLY_HEADER_LENGTH,
  REP,
  REP_ERROR_BIT,
  type ServerEntry,
  clipText,
  decodeExportAnswer,
  decodeGreeting,
  decodeInfoReply,
  decodeMetaContextReply,
  decodeOptionReplyHeader,
  decodeServerEntry,
  encodeClientFlags,
  encodeDisconnect,
  encodeExportName,
  encodeInfoRequest,
  encodeMetaContextRequest,
  encodeOption,
  protocolError,
} from "../../protocol.ts";
import { knownNames } from "../../protocol/text.ts";
import { HandshakeReader } from "./handshake-reader.ts";
import type { NbdUri } from "../../uri.ts";
import type { Transport } from "./transport.ts";

/** What a server says of an export. */
export interface ExportInfo {
  /** Bytes. Not a safe integer if the server claims 2^53 or more. */
  readonly size: number;
  /** Transmission flags. */
  readonly flags: number;
  readonly blockSizes: BlockSizes | undefined;
  /** The canonical name, where the server tells one. */
  readonly name: string | undefined;
  readonly description: string | undefined;
}

/** Exports as a server lists them. */
export type ExportList = readonly ServerEntry[] & {
  /** False if there are more than were taken: a list has a limit, which a server need not respect. */
  readonly complete: boolean;
};

// Bytes of one reply; the longest legal ones are a name and a description of 4096 each.
const MAX_REPLY = 64 * 1024;
// Replies to one option other than LIST, and entries of a LIST and their bytes. Beyond that the list is cut.
const MAX_REPLIES = 1024;
const MAX_EXPORTS = 100_000;
const MAX_LIST_BYTES = 64 * 1024 * 1024;
// Milliseconds a server has to hang up once it has been told that we go.
const FAREWELL = 1000;

type Reply = { readonly type: number; readonly data: Buffer };

export class Handshake {
  readonly #transport: Transport;
  readonly #reader = new HandshakeReader();
  #flags = 0;
  #extended = false;
  // What can be said: nothing while an answer is owed.
  #turn: "server's" | "option" | "request" = "server's";

  constructor(transport: Transport) {
    this.#transport = transport;
    transport.receiver = this.#reader;
  }

  /**
   * Reads the greeting and answers it, and goes on to TLS if the URI asks for it. Throws `EPROTO` if this is no newstyle
   * server, `ENOTSUP`, `EPERM` if there is to be TLS and is not.
   */
  async begin(uri: NbdUri): Promise<void> {
    const offered = decodeGreeting(await this.#reader.read(GREETING_LENGTH));
    this.#flags = offered & (HANDSHAKE_FLAG.FIXED_NEWSTYLE | HANDSHAKE_FLAG.NO_ZEROES);
    this.#transport.write([encodeClientFlags(this.#flags)]);
    if (this.fixedNewstyle) this.#turn = "option";
    if (uri.tls !== undefined) await this.#startTls(uri);
  }

  /** Hangs up, with a word before where there is room for one: a server takes silence for a failure, and logs it. */
  leave(): void {
    if (this.#turn === "server's") this.#transport.destroy();
    else {
      const last =
        this.#turn === "option" ? encodeOption(OPT.ABORT, undefined) : encodeDisconnect(this.#extended);
      void this.#transport.end(last, AbortSignal.timeout(FAREWELL));
    }
  }

  async #startTls(uri: NbdUri): Promise<void> {
    const { prepareTls } = await import("../../tls/client-tls.ts");
    const begin = await prepareTls(uri);
    if (!this.fixedNewstyle) throw refuse(undefined, "ENOTSUP", "the server is too old for TLS", plainHint);
    const last = (await this.#ask(OPT.STARTTLS)).at(-1);
    if (last?.type !== REP.ACK) {
      const { code, reason } = refusal(last, "begin with TLS");
      throw refuse(undefined, code, reason, plainHint);
    }
    // It could come from anybody.
    if (this.#reader.rest().length > 0)
      throw protocolError("the server sent something in plain text behind its answer to STARTTLS");
    this.#turn = "server's";
    await this.#transport.secure(begin);
    this.#turn = "option";
  }

  /** Without it the server understands no option but EXPORT_NAME, and hangs up on every other. */
  get fixedNewstyle(): boolean {
    return (this.#flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0;
  }

  /** Whether headers will be extended ones, and replies so come in chunks; structured ones need not be asked for then. */
  async extendedHeaders(): Promise<boolean> {
    this.#extended = await this.#agreesOn(OPT.EXTENDED_HEADERS);
    return this.#extended;
  }

  /** Whether replies will come in chunks. */
  structuredReplies(): Promise<boolean> {
    return this.#agreesOn(OPT.STRUCTURED_REPLY);
  }

  async #agreesOn(option: number): Promise<boolean> {
    const replies = await this.#ask(option);
    return replies.at(-1)?.type === REP.ACK;
  }

  /** The id under which block status will come, or undefined. Needs structured replies or extended headers. */
  async allocationContext(exportName: string): Promise<number | undefined> {
    const request = encodeMetaContextRequest({ exportName, queries: [BASE_ALLOCATION] });
    const replies = await this.#ask(OPT.SET_META_CONTEXT, request);
    if (replies.at(-1)?.type !== REP.ACK) return undefined;
    const contexts = replies.slice(0, -1).map(decodeContext);
    if (contexts.length > 1 || contexts.some(({ name }) => name !== BASE_ALLOCATION)) {
      throw protocolError("the server set metadata contexts that were not asked for");
    }
    return contexts[0]?.id;
  }

  /** Names of the metadata contexts of an export; empty if the server does not tell. */
  async contextNames(exportName: string): Promise<string[]> {
    const request = encodeMetaContextRequest({ exportName, queries: [] });
    const replies = await this.#ask(OPT.LIST_META_CONTEXT, request);
    if (replies.at(-1)?.type !== REP.ACK) return [];
    return replies.slice(0, -1).map((reply) => decodeContext(reply).name);
  }

  /**
   * The exports of the server, and whether those are all; after a list that was cut the handshake cannot go on. Throws
   * `EPERM` or `ENOTSUP` if it keeps them to itself.
   */
  async list(): Promise<ExportList> {
    this.#send(OPT.LIST);
    this.#reader.most = MAX_LIST_BYTES;
    const entries: ServerEntry[] = [];
    let bytes = 0;
    for (;;) {
      const reply = await this.#reply(OPT.LIST);
      if (reply.type === REP.ACK) return listOf(entries, true);
      if ((reply.type & REP_ERROR_BIT) !== 0) throw refusal(reply, "list its exports");
      if (reply.type !== REP.SERVER) {
        throw protocolError(`the server answered LIST with reply type ${reply.type}`);
      }
      bytes += reply.data.length;
      if (entries.length >= MAX_EXPORTS || bytes > MAX_LIST_BYTES) {
        return listOf(entries, false);
      }
      entries.push(decodeServerEntry(reply.data));
    }
  }

  /** Asks about an export without using it; undefined if the server cannot tell. Throws `ENOENT`, `EPERM` … */
  info(exportName: string): Promise<ExportInfo | undefined> {
    return this.#informationOf(OPT.INFO, exportName);
  }

  /**
   * Ends the handshake: what follows are requests. Throws `ENOENT` for an unknown export, `EPERM` for one
   * that is refused or if the server insists on TLS, `ESHUTDOWN` if it is going down.
   */
  async go(exportName: string): Promise<ExportInfo> {
    if (this.fixedNewstyle) {
      const info = await this.#informationOf(OPT.GO, exportName);
      if (info !== undefined) {
        this.#turn = "request";
        return info;
      }
      if (this.#extended) throw protocolError("the server grants extended headers, and does not know GO");
    }
    return this.#exportName(exportName);
  }

  /** What the server sent after the handshake, too early, and how the connection ended, if it did. */
  leftOver(): { bytes: Buffer; failure: BlockIoError | undefined } {
    return { bytes: this.#reader.rest(), failure: this.#reader.failure };
  }

  async #informationOf(option: number, exportName: string): Promise<ExportInfo | undefined> {
    const requests = [INFO.BLOCK_SIZE, INFO.NAME, INFO.DESCRIPTION];
    const replies = await this.#ask(option, encodeInfoRequest({ name: exportName, requests }));
    const last = replies.pop();
    if (last?.type === REP.ERR_UNSUP) return undefined;
    if (last?.type !== REP.ACK) {
      const error = refusal(last, `serve the export "${printable(exportName)}"`);
      throw error.code === "ENOENT" ? await this.#withNames(error, exportName) : error;
    }
    let size: number | undefined;
    let flags = 0;
    let blockSizes: BlockSizes | undefined;
    let name: string | undefined;
    let description: string | undefined;
    for (const { type, data } of replies) {
      if (type !== REP.INFO) throw protocolError(`the server answered INFO or GO with reply type ${type}`);
      const info = decodeInfoReply(data);
      if (info.type === INFO.EXPORT) ({ size, flags } = info);
      else if (info.type === INFO.BLOCK_SIZE) blockSizes = info;
      else if (info.type === INFO.NAME) ({ name } = info);
      else if (info.type === INFO.DESCRIPTION) ({ description } = info);
    }
    if (size === undefined) throw protocolError("the server accepted the export without telling its size");
    return { size, flags, blockSizes, name, description };
  }

  /** The error for an export that there is not, with the names of those that there are, if the server tells them. */
  async #withNames({ code, reason, hint }: BlockIoError, exportName: string): Promise<BlockIoError> {
    const names = await this.list().then(
      (list) => list.map(({ name }) => name),
      () => [],
    );
    return refuse(undefined, code, reason, knownNames(exportName, names) ?? hint);
  }

  // No error is possible here: a server that does not know the name hangs up.
  async #exportName(exportName: string): Promise<ExportInfo> {
    this.#send(OPT.EXPORT_NAME, encodeExportName(exportName));
    const zeroes = (this.#flags & HANDSHAKE_FLAG.NO_ZEROES) === 0 ? EXPORT_ANSWER_ZEROES : 0;
    const answer = decodeExportAnswer(await this.#reader.read(EXPORT_ANSWER_LENGTH + zeroes));
    this.#turn = "request";
    return { ...answer, blockSizes: undefined, name: undefined, description: undefined };
  }

  /** Sends an option and returns its replies; the last one is an ACK or an error. */
  async #ask(option: number, data?: Uint8Array): Promise<Reply[]> {
    this.#send(option, data);
    const replies: Reply[] = [];
    for (;;) {
      const reply = await this.#reply(option);
      replies.push(reply);
      if (reply.type === REP.ACK || (reply.type & REP_ERROR_BIT) !== 0) return replies;
      if (replies.length > MAX_REPLIES) {
        throw protocolError(`more than ${MAX_REPLIES} replies to option ${option}`);
      }
    }
  }

  #send(option: number, data?: Uint8Array): void {
    this.#turn = "server's";
    this.#transport.write([encodeOption(option, data)]);
  }

  /** Of several, the last is an ACK or an error. */
  async #reply(option: number): Promise<Reply> {
    const header = decodeOptionReplyHeader(await this.#reader.read(OPTION_REPLY_HEADER_LENGTH));
    if (header.option !== option) {
      throw protocolError(`the server answered option ${header.option} instead of ${option}`);
    }
    if (header.length > MAX_REPLY) throw protocolError(`an option reply of ${header.length} bytes`);
    const { type } = header;
    const data = await this.#reader.read(header.length);
    if (type === REP.ACK || (type & REP_ERROR_BIT) !== 0) this.#turn = "option";
    return { type, data };
  }
}

/** Not enumerable: to whoever prints or compares it the list is its entries. */
function listOf(entries: ServerEntry[], complete: boolean): ExportList {
  return Object.defineProperty(entries, "complete", { value: complete }) as ExportList & ServerEntry[];
}

function decodeContext({ type, data }: Reply): { id: number; name: string } {
  if (type !== REP.META_CONTEXT)
    throw protocolError(`reply type ${type} to a question for metadata contexts`);
  return decodeMetaContextReply(data);
}

const plainHint =
  "Serve it with TLS; or write nbd instead of nbds, if everybody may read and change what is sent.";

const refusals: ReadonlyMap<number, readonly [code: ErrorCode, hint: string | undefined]> = new Map([
  [REP.ERR_UNSUP, ["ENOTSUP", undefined]],
  [REP.ERR_POLICY, ["EPERM", "Ask the administrator of the server for access."]],
  [REP.ERR_INVALID, ["EINVAL", undefined]],
  [REP.ERR_PLATFORM, ["ENOTSUP", undefined]],
  [
    REP.ERR_TLS_REQD,
    [
      "EPERM",
      "The server insists on TLS: write nbds instead of nbd, with ?tls-certificates=FOLDER or ?tls-psk-file=FILE.",
    ],
  ],
  [REP.ERR_UNKNOWN, ["ENOENT", "List the exports of the server to see their names."]],
  [REP.ERR_SHUTDOWN, ["ESHUTDOWN", "Try again when the server is up."]],
  [REP.ERR_BLOCK_SIZE_REQD, ["EPROTO", undefined]],
  [REP.ERR_TOO_BIG, ["EINVAL", undefined]],
  [
    REP.ERR_EXT_HEADER_REQD,
    ["ENOTSUP", "The server insists on extended headers, and did not grant them: update it."],
  ],
]);

function refusal(reply: Reply | undefined, what: string): BlockIoError {
  const [code, hint] = refusals.get(reply?.type ?? 0) ?? ["EPROTO", undefined];
  // A text is for people: clipped and cleaned, never a reason to reject the reply.
  const text = reply === undefined ? "" : clipText(reply.data.toString("utf8"), 1024).toString("utf8");
  const said = printable(text.trim());
  return refuse(undefined, code, `the server refused to ${what}${said === "" ? "" : `: ${said}`}`, hint);
}
