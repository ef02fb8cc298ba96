/**
 * Option haggling: one option in, replies and what happens next out. No I/O, no time.
 *
 * Invariants:
 *
 * - a metadata context chosen for one export is forgotten when another set is asked for, even if that fails,
 *   and does not count when another export is entered;
 * - an error leaves the negotiation where it was: the client may go on.
 *
 * STARTTLS is acknowledged here and ends a negotiation: what comes behind it begins with a new one, which knows
 * nothing of the one before. Who does not speak fixed newstyle cannot ask for it.
 *
 * Extended headers bring chunks with them and are not given back: STRUCTURED_REPLY is refused behind them, and
 * EXPORT_NAME, which the protocol forbids then, ends the connection. Contexts may be chosen before or after.
 */
import { codeOf } from "@dmkit/block-io";
import {
  FLAG,
  HANDSHAKE_FLAG,
  INFO,
  MAX_STRING,
  OPT,
  REP,
  decodeExportName,
  decodeInfoRequest,
  decodeMetaContextRequest,
  encodeExportAnswer,
  encodeInfoBlockSize,
  encodeInfoExport,
  encodeInfoText,
  encodeMetaContextReply,
  encodeOptionError,
  encodeOptionReply,
  encodeServerEntry,
} from "../protocol.ts";
import type { SelectedContext } from "./requests/block-status.ts";
import type { Peer } from "./exports/access.ts";
import type { Export } from "./exports/export.ts";
import type { ExportDirectory } from "./exports/exports.ts";
import { type MetaContext, matchingContexts } from "./exports/meta-contexts.ts";

/** What client and server agreed on. */
export interface Agreement {
  readonly exported: Export;
  /** For this client, whatever the export is. */
  readonly readOnly: boolean;
  /** Replies come in chunks, if only those of READ and BLOCK_STATUS. */
  readonly structured: boolean;
  /** All headers are extended ones; so replies are chunks. */
  readonly extended: boolean;
  /** Empty unless they were chosen for this export. */
  readonly contexts: readonly SelectedContext[];
}

/** What follows an option. */
export interface Step {
  readonly replies: readonly Buffer[];
  /** `transmit`: the handshake is over, see `agreement`. `secure`: TLS begins. `close`: the connection ends. */
  readonly next: "continue" | "close" | "transmit" | "secure";
  readonly agreement?: Agreement;
}

/** Why no option but ABORT is granted: the reply type and the text to send. */
export interface Denial {
  readonly type: number;
  readonly text: string;
}

export interface NegotiationOptions {
  readonly exports: ExportDirectory;
  readonly peer: Peer;
  /** Bytes; advertised to clients that ask. */
  readonly maximumPayload: number;
  /** The most the server takes at a time. */
  readonly connections: number;
  /** Asked before each option. */
  readonly denial: () => Denial | undefined;
  /** What has become, and may become, of TLS. */
  readonly tls: TlsState;
}

/** `off`: there is none. `offered`, `required`: the client has not begun with it yet. `secure`: it has. */
export type TlsState = "off" | "offered" | "required" | "secure";

export class Negotiation {
  readonly #options: NegotiationOptions;
  #structured = false;
  #extended = false;
  #contexts: readonly SelectedContext[] = [];
  // The export the contexts were chosen for.
  #contextsFor: Export | undefined;
  /** Of {@link HANDSHAKE_FLAG}: what the client has said before the first option. */
  flags = 0;

  constructor(options: NegotiationOptions) {
    this.#options = options;
  }

  /** Answers an option whose data arrived whole. */
  option(option: number, data: Buffer): Step {
    if (option === OPT.ABORT) return { replies: [encodeOptionReply(option, REP.ACK)], next: "close" };
    const denial = this.#options.denial();
    if (denial !== undefined) {
      // EXPORT_NAME knows no errors: all that is left is to hang up.
      return option === OPT.EXPORT_NAME ? closed : refused(option, denial.type, denial.text);
    }
    const needed = this.#tlsNeeded(option);
    if (needed !== undefined) return option === OPT.EXPORT_NAME ? closed : needed;
    try {
      return this.#answer(option, data);
    } catch (error) {
      if (codeOf(error) !== "EPROTO" && codeOf(error) !== "EINVAL") throw error;
      if (option === OPT.EXPORT_NAME) return closed;
      return refused(option, REP.ERR_INVALID, (error as Error).message);
    }
  }

  /** Answers an option whose data were too long to be kept. */
  tooLong(option: number, length: number, limit: number): Step {
    if (option === OPT.SET_META_CONTEXT) this.#forgetContexts();
    if (option === OPT.EXPORT_NAME) return closed;
    if (option === OPT.ABORT) return this.option(option, Buffer.alloc(0));
    const needed = this.#tlsNeeded(option);
    if (needed !== undefined) return needed;
    if (!knownOptions.has(option)) return unsupported(option);
    if (withoutData.has(option)) return hasData(option, length);
    return refused(option, REP.ERR_TOO_BIG, `option data of ${length} bytes exceed the limit of ${limit}`);
  }

  #answer(option: number, data: Buffer): Step {
    if (withoutData.has(option) && data.length > 0) return hasData(option, data.length);
    switch (option) {
      case OPT.EXPORT_NAME:
        return this.#exportName(data);
      case OPT.LIST:
        return this.#list();
      case OPT.INFO:
      case OPT.GO:
        return this.#info(option, data);
      case OPT.STARTTLS:
        return this.#startTls();
      case OPT.STRUCTURED_REPLY:
        if (this.#extended)
          return refused(option, REP.ERR_EXT_HEADER_REQD, "extended headers were agreed on already");
        this.#structured = true;
        return acknowledged(option, []);
      case OPT.EXTENDED_HEADERS:
        this.#structured = true;
        this.#extended = true;
        return acknowledged(option, []);
      case OPT.LIST_META_CONTEXT:
      case OPT.SET_META_CONTEXT:
        return this.#metaContexts(option, data);
      default:
        return unsupported(option);
    }
  }

  get #fixedNewstyle(): boolean {
    return (this.flags & HANDSHAKE_FLAG.FIXED_NEWSTYLE) !== 0;
  }

  /** The answer where nothing but TLS may be asked for. Clients that cannot begin with it must not be told to. */
  #tlsNeeded(option: number): Step | undefined {
    if (this.#options.tls !== "required") return undefined;
    if (!this.#fixedNewstyle)
      return refused(option, REP.ERR_POLICY, "this server speaks TLS only, which takes fixed newstyle");
    return option === OPT.STARTTLS ? undefined : insecure(option);
  }

  #startTls(): Step {
    const { tls } = this.#options;
    if (tls === "off" || !this.#fixedNewstyle)
      return refused(OPT.STARTTLS, REP.ERR_UNSUP, "this server does not offer TLS");
    if (tls === "secure") return refused(OPT.STARTTLS, REP.ERR_INVALID, "TLS has begun already");
    return { ...acknowledged(OPT.STARTTLS, []), next: "secure" };
  }

  #exportName(data: Buffer): Step {
    const exported = this.#extended ? undefined : this.#find(decodeExportName(data));
    if (exported === undefined || exported.full) return closed;
    const answer = { size: exported.device.size, flags: this.#flagsOf(exported) };
    return {
      replies: [encodeExportAnswer(answer, (this.flags & HANDSHAKE_FLAG.NO_ZEROES) === 0)],
      next: "transmit",
      agreement: this.#agreement(exported),
    };
  }

  #list(): Step {
    return acknowledged(
      OPT.LIST,
      this.#options.exports
        .listedFor(this.#options.peer)
        .map((exported) => encodeOptionReply(OPT.LIST, REP.SERVER, encodeServerEntry(exported))),
    );
  }

  #info(option: typeof OPT.INFO | typeof OPT.GO, data: Buffer): Step {
    const { name, requests } = decodeInfoRequest(data);
    const exported = this.#find(name);
    if (exported === undefined) return unknownExport(option, name, this.#mayBeBehindTls);
    if (exported.full) {
      const text = `export ${JSON.stringify(name)} has its ${exported.maxConnections} connections already`;
      return refused(option, REP.ERR_POLICY, text);
    }
    const information = [encodeInfoExport(exported.device.size, this.#flagsOf(exported))];
    if (requests.includes(INFO.NAME)) information.push(encodeInfoText(INFO.NAME, exported.name));
    if (requests.includes(INFO.DESCRIPTION) && exported.description !== "") {
      information.push(encodeInfoText(INFO.DESCRIPTION, exported.description));
    }
    if (requests.includes(INFO.BLOCK_SIZE)) {
      information.push(encodeInfoBlockSize(exported.blockSizes(this.#options.maximumPayload)));
    }
    const step = acknowledged(
      option,
      information.map((info) => encodeOptionReply(option, REP.INFO, info)),
    );
    if (option === OPT.INFO) return step;
    return { ...step, next: "transmit", agreement: this.#agreement(exported) };
  }

  #metaContexts(option: typeof OPT.LIST_META_CONTEXT | typeof OPT.SET_META_CONTEXT, data: Buffer): Step {
    const set = option === OPT.SET_META_CONTEXT;
    if (set) this.#forgetContexts();
    if (!this.#structured) {
      return refused(
        option,
        REP.ERR_INVALID,
        "metadata contexts need structured replies or extended headers first",
      );
    }
    const { exportName, queries } = decodeMetaContextRequest(data);
    for (const query of queries) {
      if (!query.includes(":")) {
        return refused(option, REP.ERR_INVALID, `metadata query ${JSON.stringify(query)} has no namespace`);
      }
    }
    const exported = this.#find(exportName);
    if (exported === undefined) return unknownExport(option, exportName);
    const available = exported.metaContexts;
    const chosen = new Set<MetaContext>(!set && queries.length === 0 ? available : []);
    for (const query of queries) {
      for (const context of matchingContexts(available, query, !set)) chosen.add(context);
    }
    const contexts = [...chosen].map((context, index) => ({ id: set ? index + 1 : 0, context }));
    if (set) {
      this.#contexts = contexts;
      this.#contextsFor = exported;
    }
    return acknowledged(
      option,
      contexts.map(({ id, context }) =>
        encodeOptionReply(option, REP.META_CONTEXT, encodeMetaContextReply({ id, name: context.name })),
      ),
    );
  }

  /** Whether there may be more for this client once it has begun with TLS. It is not told what that is. */
  get #mayBeBehindTls(): boolean {
    const { tls, exports, peer } = this.#options;
    return tls === "offered" && this.#fixedNewstyle && exports.asksForNames(peer);
  }

  #find(name: string): Export | undefined {
    return this.#options.exports.find(name, this.#options.peer);
  }

  #flagsOf(exported: Export): number {
    const readOnly = exported.isReadOnlyFor(this.#options.peer);
    const flags = exported.transmissionFlags(readOnly, this.#structured, this.#options.connections);
    const canFilter = this.#extended && this.#contextsOf(exported).length > 0;
    return canFilter ? flags | FLAG.BLOCK_STATUS_PAYLOAD : flags;
  }

  #forgetContexts(): void {
    this.#contexts = [];
    this.#contextsFor = undefined;
  }

  #contextsOf(exported: Export): readonly SelectedContext[] {
    return this.#contextsFor === exported ? this.#contexts : [];
  }

  #agreement(exported: Export): Agreement {
    const readOnly = exported.isReadOnlyFor(this.#options.peer);
    const contexts = this.#contextsOf(exported);
    return { exported, readOnly, structured: this.#structured, extended: this.#extended, contexts };
  }
}

const closed: Step = { replies: [], next: "close" };

const withoutData: ReadonlySet<number> = new Set([
  OPT.LIST,
  OPT.STARTTLS,
  OPT.STRUCTURED_REPLY,
  OPT.EXTENDED_HEADERS,
]);
const knownOptions: ReadonlySet<number> = new Set([
  ...withoutData,
  OPT.EXPORT_NAME,
  OPT.ABORT,
  OPT.INFO,
  OPT.GO,
  OPT.LIST_META_CONTEXT,
  OPT.SET_META_CONTEXT,
]);

function acknowledged(option: number, replies: readonly Buffer[]): Step {
  return { replies: [...replies, encodeOptionReply(option, REP.ACK)], next: "continue" };
}

function refused(option: number, type: number, text: string): Step {
  return { replies: [encodeOptionError(option, type, text)], next: "continue" };
}

function unsupported(option: number): Step {
  return refused(option, REP.ERR_UNSUP, `unknown option ${option}`);
}

function insecure(option: number): Step {
  return refused(option, REP.ERR_TLS_REQD, "this server speaks TLS only; begin with it: nbds:// in a URI");
}

function hasData(option: number, length: number): Step {
  return refused(option, REP.ERR_INVALID, `option ${option} takes no data, but came with ${length} bytes`);
}

/** @param mayBeBehindTls whether it is there with TLS is not told: it is the same answer for those that are nowhere. */
function unknownExport(option: number, name: string, mayBeBehindTls = false): Step {
  const text = `${mayBeBehindTls ? "without TLS " : ""}there is no export named ${JSON.stringify(name)}`;
  // Escaping can make a name longer than a string may be; the encoder cuts it.
  return refused(option, mayBeBehindTls ? REP.ERR_TLS_REQD : REP.ERR_UNKNOWN, text.slice(0, MAX_STRING));
}
