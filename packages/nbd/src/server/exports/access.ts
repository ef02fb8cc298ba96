/**
 * Who may come: addresses, and names that TLS has made sure of.
 *
 * Invariant: what an export asks for and a client cannot show is no. To a client that may not use it an export does not
 * exist: it is not listed, and has no other error than one that is not there.
 */
import { BlockList, isIP } from "node:net";
import { type SettingsTable, checkSettings, setting } from "@dmkit/block-io";
import { invalid, shown } from "../limits.ts";

/** Who is at the other end. */
export interface Peer {
  /** An IP address; undefined over a unix socket or a pipe. */
  readonly address: string | undefined;
  /** Names of the certificate, or the identity of the key, that were checked; none without TLS. */
  readonly identities: readonly string[];
  /** What is asked of everybody who comes by the same way; nothing if it is left out. */
  readonly entrance?: Access | undefined;
}

/** Who may come, and who may write, by name. */
export interface NamedAccess {
  /** Names of certificates that were verified, or identities of pre-shared keys; everybody if it is left out. */
  readonly identities?: readonly string[] | undefined;
  /** The same: who may write. Everybody else finds what there is read-only. Everybody if it is left out. */
  readonly writers?: readonly string[] | undefined;
}

/** Who may use an export. */
export interface AccessOptions extends NamedAccess {
  /** Addresses, `10.0.0.1` or `10.0.0.0/8`, and `unix` for who comes over a unix socket; everybody if it is left out. */
  readonly allow?: readonly string[] | undefined;
  /** Not listed. Who knows its name can use it. */
  readonly hidden?: boolean | undefined;
}

/** What each takes. */
export const accessSettings: SettingsTable<AccessOptions> = {
  allow: setting.texts,
  identities: setting.texts,
  writers: setting.texts,
  hidden: setting.flag,
};

/** A list of addresses. */
export class AddressList {
  readonly #list = new BlockList();
  readonly #unix: boolean;

  /** Throws `EINVAL` for what is no address, nor a range of them. */
  constructor(ranges: readonly string[]) {
    if (!Array.isArray(ranges)) throw invalid(`allow is ${shown(ranges)}`, "Give a list of addresses.");
    this.#unix = ranges.includes("unix");
    for (const range of ranges) if (range !== "unix") this.#add(range);
  }

  has(address: string | undefined): boolean {
    if (address === undefined) return this.#unix;
    // The zone says by which interface an address is reached.
    const [plain = ""] = address.split("%");
    const family = isIP(plain);
    return family !== 0 && this.#list.check(plain, family === 6 ? "ipv6" : "ipv4");
  }

  #add(range: string): void {
    const [, address = "", bits] = /^([0-9a-f.:]+)(?:\/(\d{1,3}))?$/i.exec(range) ?? [];
    const family = isIP(address);
    const most = family === 6 ? 128 : 32;
    const prefix = bits === undefined ? most : Number(bits);
    if (family === 0 || prefix > most) {
      throw invalid(
        `${shown(range)} is neither an address nor a range of them`,
        "Write 10.1.2.3, 10.0.0.0/8, fd00::/8, or unix.",
      );
    }
    this.#list.addSubnet(address, prefix, family === 6 ? "ipv6" : "ipv4");
  }
}

/** {@link AccessOptions} in force. */
export class Access {
  readonly hidden: boolean;
  readonly #allow: AddressList | undefined;
  readonly #identities: ReadonlySet<string> | undefined;
  readonly #writers: ReadonlySet<string> | undefined;

  /** Throws `EINVAL`. */
  constructor(options: AccessOptions) {
    const { allow, identities, writers, hidden = false } = checkSettings(accessSettings, options, "listen");
    this.hidden = hidden;
    this.#allow = allow && new AddressList(allow);
    this.#identities = identities && new Set(identities);
    this.#writers = writers && new Set(writers);
  }

  /** Whether it is asked who somebody is before anything is there. */
  get asksForNames(): boolean {
    return this.#identities !== undefined;
  }

  /** Whether a client may use the export at all. */
  allows({ address, identities }: Peer): boolean {
    return (this.#allow?.has(address) ?? true) && isOneOf(identities, this.#identities);
  }

  /** Whether it may write, as far as this is concerned. */
  allowsWrites({ identities }: Peer): boolean {
    return isOneOf(identities, this.#writers);
  }
}

function isOneOf(identities: readonly string[], allowed: ReadonlySet<string> | undefined): boolean {
  return allowed === undefined || identities.some((identity) => allowed.has(identity));
}
