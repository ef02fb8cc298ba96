/**
 * The oracle: which contents may a read return, sector by sector?
 *
 * Every event (a request submitted, an answer received) has its own time. For two versions of a sector, w → x
 * (w precedes x) iff w was acknowledged before x was submitted; otherwise they are concurrent.
 *
 * *After a crash.* The frontier F is what is certainly stable: at first the initial value, then every write
 * acknowledged before a successful flush was submitted, and every acknowledged FUA write. Legal is F and every
 * submitted write that precedes no element of F. With S = the latest submission among F, that is exactly
 *
 *      legal(w)  ⇔  acknowledged(w) > S          (never acknowledged, or failed: in doubt, so infinity)
 *
 * A failed flush adds nothing; the next successful one covers everything. After recovery the legal contents
 * are alternatives; the first read that returns one of them rules out the others, for later crashes as well.
 *
 * *After a kill* of the process alone the same contents are legal, and the first read rules the others out, but for
 * live reads only: what was unstable still is, and a crash may bring any of them back, until a flush has succeeded,
 * or a FUA write of the sector.
 *
 * *Live reads.* A sector is an atomic register. Let f be the earliest acknowledgement among a version's write
 * and the reads that returned it, s the latest submission. A history of distinct values is linearizable iff
 * no two versions have f(a) < s(b) and f(b) < s(a). That rules out stale reads (an acknowledged write must be
 * seen) and flips (new, then old again).
 *
 * *Zeroes* are not distinct. A read of zeroes is legal if one of the versions made of zeroes may be it, and
 * binds a version only if no other may.
 *
 * *Discards* without defined result are zeroes that replace nothing: both they and what they covered stay
 * legal, until a read has shown which it is.
 */
import { FOREIGN, GARBAGE, INITIAL, ZERO } from "../format/stamp.ts";
import { type Finding, finding, name } from "./finding.ts";

const NEVER = Number.POSITIVE_INFINITY;

/** A write, or a discard, as the oracle sees it; shared by all its sectors. */
export interface Version {
  /** What its sectors hold: {@link ZERO}, {@link INITIAL} or the number of the operation. */
  readonly content: number;
  readonly submitted: number;
  readonly first: number;
  readonly count: number;
  /** A discard without defined result: supersedes nothing. */
  readonly weak: boolean;
  /** One of the alternatives a crash has left. */
  readonly base: boolean;
  /** Infinity while unanswered, and for ever if it failed. */
  acknowledged: number;
}

interface Entry {
  readonly version: Version;
  /** The earliest answer of a read that returned this version. */
  firstSeen: number;
  /** The latest submission of a read that returned it. */
  lastAsked: number;
}

const PRUNE_AT = 8;

export class Oracle {
  readonly sectors: number;
  readonly #initial: (sector: number) => boolean;
  // A sector nobody touched has no entries: it holds its initial contents.
  readonly #entries: (Entry[] | undefined)[];
  readonly #frontier: Float64Array;
  /** Sectors with more than one version, or with one that no crash has settled yet. */
  readonly #unsettled = new Set<number>();
  readonly #written: Map<number, Version> = new Map();
  #unstable: Version[] = [];
  /** By sector: contents that a crash may bring back although a read, after a kill, has ruled them out. */
  readonly #below = new Map<number, number[]>();
  #readsInFlight: number[] = [];
  #time = 0;

  /** @param stamped the sectors that hold stamps of version INITIAL at first; the others hold zeroes. */
  constructor(sectors: number, stamped: (sector: number) => boolean = () => false) {
    this.sectors = sectors;
    this.#initial = stamped;
    this.#entries = Array.from({ length: sectors }, () => undefined);
    this.#frontier = new Float64Array(sectors);
  }

  /** Events so far. */
  get time(): number {
    return this.#time;
  }

  /** A write is submitted. `content`: the operation's number, or ZERO. `weak`: see above. */
  beginWrite(content: number, first: number, count: number, weak = false): Version {
    const version: Version = {
      content,
      submitted: this.#tick(),
      first,
      count,
      weak,
      base: false,
      acknowledged: NEVER,
    };
    this.#written.set(content, version);
    for (let sector = first; sector < first + count; sector += 1) {
      const entries = this.#entriesOf(sector);
      if (entries.length >= PRUNE_AT) this.#prune(sector, entries);
      this.#entriesOf(sector).push(newEntry(version));
      this.#unsettled.add(sector);
    }
    return version;
  }

  /** A write has succeeded; with `fua`, durably. A write that fails needs no call: it stays in doubt. */
  acknowledge(version: Version, fua = false): void {
    version.acknowledged = this.#tick();
    if (version.weak) return;
    if (fua) this.#makeDurable(version);
    else this.#unstable.push(version);
  }

  /** A flush, close or suspend is submitted; hand the result to {@link flushed} if it succeeds. */
  beginFlush(): number {
    return this.#tick();
  }

  flushed(submitted: number): void {
    const rest: Version[] = [];
    for (const version of this.#unstable) {
      if (version.acknowledged < submitted) this.#makeDurable(version);
      else rest.push(version);
    }
    this.#unstable = rest;
    this.#below.clear();
  }

  /** A read is submitted; hand the result to {@link check} and {@link endRead}. */
  beginRead(): number {
    const submitted = this.#tick();
    this.#readsInFlight.push(submitted);
    return submitted;
  }

  endRead(submitted: number): void {
    this.#readsInFlight.splice(this.#readsInFlight.indexOf(submitted), 1);
    this.#tick();
  }

  /** A read submitted at `submitted` has returned `content` for this sector. */
  check(submitted: number, sector: number, content: number): Finding | undefined {
    if (content === GARBAGE) return finding("garbage", sector, "bytes nobody ever wrote");
    if (content === FOREIGN) return finding("foreign", sector, "the contents of another sector");
    const entries = this.#entries[sector];
    if (entries === undefined) {
      return content === this.#initialContent(sector) ? undefined : this.#illegal(sector, content);
    }
    if (entries.length === 1) {
      return (entries[0] as Entry).version.content === content ? undefined : this.#illegal(sector, content);
    }
    let match: Entry | undefined;
    let matches = 0;
    for (const entry of entries) {
      if (entry.version.content !== content) continue;
      if (!this.#fits(entry, entries, submitted)) continue;
      match = entry;
      matches += 1;
    }
    if (match === undefined) return this.#illegal(sector, content);
    if (matches === 1) this.#observe(sector, match, entries, submitted);
    return undefined;
  }

  /** Whether `content` was ever written to the sector: all that can be asked of a disk that lies. */
  known(sector: number, content: number): Finding | undefined {
    if (content === GARBAGE || content === FOREIGN) return this.check(0, sector, content);
    if (content === ZERO || content === INITIAL) return undefined;
    const version = this.#written.get(content);
    if (version !== undefined && sector >= version.first && sector < version.first + version.count) {
      return undefined;
    }
    return this.#illegal(sector, content);
  }

  /** The machine has crashed, or the device was abandoned: what may be there when it comes back? */
  crash(): void {
    const now = this.#tick();
    const alternatives = new Map<number, Version>();
    for (const sector of new Set([...this.#unsettled, ...this.#below.keys()])) {
      const contents = this.legal(sector);
      this.#entries[sector] = contents.map((content) => {
        let version = alternatives.get(content);
        if (version === undefined) {
          version = baseVersion(content, now);
          alternatives.set(content, version);
        }
        return newEntry(version);
      });
      if (contents.length === 1) this.#unsettled.delete(sector);
      else this.#unsettled.add(sector);
    }
    this.#unstable = [];
    this.#readsInFlight = [];
    this.#below.clear();
  }

  /** The process is gone, and the disks are as they were: what may be there, and what a crash could leave of it? */
  kill(): void {
    const below: (readonly [number, number[]])[] = [];
    for (const sector of new Set([...this.#unsettled, ...this.#below.keys()])) {
      const contents = this.legal(sector);
      if (contents.length > 1) below.push([sector, contents]);
    }
    this.crash();
    for (const [sector, contents] of below) this.#below.set(sector, contents);
  }

  /** The contents a sector may have after a crash now. */
  legal(sector: number): number[] {
    const entries = this.#entries[sector];
    if (entries === undefined) return [this.#initialContent(sector)];
    const frontier = this.#frontier[sector] as number;
    const contents: number[] = [];
    for (const { version } of entries) {
      if (version.acknowledged > frontier && !contents.includes(version.content)) {
        contents.push(version.content);
      }
    }
    for (const content of this.#below.get(sector) ?? [])
      if (!contents.includes(content)) contents.push(content);
    return contents;
  }

  /** An independent copy: what happens to the one does not happen to the other. */
  fork(): Oracle {
    const copy = new Oracle(this.sectors, this.#initial);
    const versions = new Map<Version, Version>();
    const copyOf = (version: Version): Version => {
      let twin = versions.get(version);
      if (twin === undefined) versions.set(version, (twin = { ...version }));
      return twin;
    };
    for (let sector = 0; sector < this.sectors; sector += 1) {
      copy.#entries[sector] = this.#entries[sector]?.map((entry) => ({
        ...entry,
        version: copyOf(entry.version),
      }));
    }
    copy.#frontier.set(this.#frontier);
    for (const sector of this.#unsettled) copy.#unsettled.add(sector);
    for (const [content, version] of this.#written) copy.#written.set(content, version);
    copy.#unstable = this.#unstable.map(copyOf);
    for (const [sector, contents] of this.#below) copy.#below.set(sector, contents);
    copy.#readsInFlight = this.#readsInFlight.slice();
    copy.#time = this.#time;
    return copy;
  }

  #tick(): number {
    this.#time += 1;
    return this.#time;
  }

  #initialContent(sector: number): number {
    return this.#initial(sector) ? INITIAL : ZERO;
  }

  #entriesOf(sector: number): Entry[] {
    return (this.#entries[sector] ??= [newEntry(baseVersion(this.#initialContent(sector), 0.5))]);
  }

  #makeDurable({ first, count, submitted }: Version): void {
    for (let sector = first; sector < first + count; sector += 1) {
      if (submitted > (this.#frontier[sector] as number)) this.#frontier[sector] = submitted;
      this.#below.delete(sector);
    }
  }

  /** Whether a read submitted at `submitted`, answered now, may have returned this version. */
  #fits(entry: Entry, entries: readonly Entry[], submitted: number): boolean {
    // If it is a discard that took effect, then before it was acknowledged.
    const earliest = Math.min(entry.firstSeen, entry.version.acknowledged, this.#time + 1);
    const latest = Math.max(latestSubmission(entry), submitted);
    for (const other of entries) {
      if (other === entry || (other.version.base && entry.version.base)) continue;
      if (earliestAnswer(other) < latest && earliest < latestSubmission(other)) return false;
    }
    return true;
  }

  #observe(sector: number, seen: Entry, entries: Entry[], submitted: number): void {
    seen.firstSeen = Math.min(seen.firstSeen, this.#time + 1);
    seen.lastAsked = Math.max(seen.lastAsked, submitted);
    if (!seen.version.base) return;
    const left = entries.filter((entry) => entry === seen || !entry.version.base);
    this.#entries[sector] = left;
    if (left.length === 1) this.#unsettled.delete(sector);
  }

  /** Drops versions that can neither be read nor survive any more. */
  #prune(sector: number, entries: readonly Entry[]): void {
    const oldestRead = Math.min(NEVER, ...this.#readsInFlight);
    const frontier = this.#frontier[sector] as number;
    let newest = -1;
    for (const { version } of entries) {
      if (!version.weak && version.acknowledged < oldestRead) newest = Math.max(newest, version.submitted);
    }
    this.#entries[sector] = entries.filter(
      ({ version }) => version.acknowledged > newest || version.acknowledged > frontier,
    );
  }

  #illegal(sector: number, content: number): Finding {
    const legal = (this.#entries[sector] ?? []).map(({ version }) => {
      const state = version.base
        ? "left by a crash"
        : version.acknowledged === NEVER
          ? "in doubt"
          : version.acknowledged <= (this.#frontier[sector] as number)
            ? "superseded"
            : "acknowledged";
      return `${name(version.content)} (${state})`;
    });
    const candidates =
      legal.length > 0 ? legal.join(", ") : `${name(this.#initialContent(sector))} (initial)`;
    return finding("illegal", sector, `${name(content)}, but the versions known here are ${candidates}`);
  }
}

function newEntry(version: Version): Entry {
  return { version, firstSeen: NEVER, lastAsked: -1 };
}

function baseVersion(content: number, time: number): Version {
  // Over and done when time began, or began anew; like every version, submitted before it was acknowledged.
  return { content, submitted: time - 0.25, acknowledged: time, first: 0, count: 0, weak: false, base: true };
}

/** Infinity for a discard that nobody has seen to have any effect. */
function earliestAnswer({ version, firstSeen }: Entry): number {
  return version.weak && firstSeen === NEVER ? NEVER : Math.min(firstSeen, version.acknowledged);
}

function latestSubmission({ version, lastAsked }: Entry): number {
  return Math.max(lastAsked, version.submitted);
}
