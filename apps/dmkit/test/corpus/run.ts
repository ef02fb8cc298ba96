/**
 * Runs a case: check, repair, second repair, undo, and opening before and after. Returns what happened in the words of
 * {@link Case}; throws where something is wrong that no case can expect:
 *
 * - a check, and a repair where nothing can be repaired, write nothing, not even times;
 * - what is printed keeps to the schema, and exit codes to the findings;
 * - a second repair repairs nothing; undo restores byte for byte;
 * - a repair that is cut short anywhere is completed by the next one, with the same result;
 * - once opened, a repaired image is clean, if nothing was left;
 * - what was never written there is read only where the case says why nobody can notice.
 */
import { createHash } from "node:crypto";
import { existsSync, readFileSync, statSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { BlockIoError, type ImageFormat, MemoryDevice, realEnvironment } from "@dmkit/block-io";
import { SeededRandom, isDeep } from "@dmkit/block-io/testing";
import { Ajv2020, type ValidateFunction } from "ajv/dist/2020.js";
import { expect } from "vitest";
import { targets } from "../../src/targets.ts";
import { cli } from "../cli.ts";
import { type Result, dmkit } from "../support.ts";
import type { Case, View } from "./case.ts";
import { type Contents, type Made, bytesFrom, deviceOf } from "./image.ts";
import { SECTOR } from "./oracle.ts";

export type Outcome = Pick<Case, "found" | "exits" | "shows"> &
  Required<Pick<Case, "repaired" | "left">> & { readonly error: string | undefined };

interface Report {
  readonly format: string | null;
  readonly clean: boolean;
  readonly problems: readonly {
    readonly kind: string;
    readonly severity: string;
    readonly role: string;
    readonly outcome: string;
    readonly repair?: string;
    readonly advice?: string;
  }[];
  readonly error?: { readonly code: string };
  readonly exit: number;
}

/** In a folder of its own. @param processes run `dmkit` as a program, too. */
export async function runCase(one: Case, folder: string, processes: boolean): Promise<Outcome> {
  const made = await one.on.make();
  const contents = await damaged(one, made);
  const files = write(contents, folder);
  const args = argumentsOf(files, one);

  const before = stateOf(files);
  const checked = await fsck(args);
  if (processes) expect(JSON.parse((await dmkit(["fsck", "--json", ...args])).stdout)).toEqual(checked);
  expect(stateOf(files), "a check has written").toEqual(before);

  const undo = join(folder, "undo");
  const repaired = await fsck(["--repair", "--undo", undo, ...args]);
  const after = stateOf(files);
  const kept = contentsOf(files);
  const again = await fsck(["--repair", ...args]);
  expect(outcomes(again, "repaired"), "a second repair").toEqual([]);
  expect(same(contentsOf(files), kept), "a second repair has written").toBe(true);
  const hopeless = checked.problems.every(({ repair }) => repair === undefined);
  if (hopeless) expect(after, "opened for writing without a reason").toEqual(before);
  if (outcomes(repaired, "repaired").length === 0)
    expect(same(kept, contents), "nothing repaired, but written").toBe(true);
  await takeBack(undo, contents, files, processes);

  const shows = [await view(contents, made), await view(kept, made)] as const;
  const outcome: Outcome = {
    found: summary(checked.problems),
    repaired: outcomes(repaired, "repaired"),
    left: outcomes(repaired, "left", "found"),
    exits: [checked.exit, repaired.exit, again.exit],
    error: checked.error?.code,
    shows,
  };
  if (shows.some((words) => words.includes("rot"))) expect(one.why, shows.join("; ")).toBeDefined();
  if (outcome.repaired.length > 0) await cutShort(checked, contents, made, outcome);
  if (outcome.left.length === 0 && outcome.error === undefined) await openedIsClean(checked, kept, made);
  return outcome;
}

export async function damaged({ damage }: Pick<Case, "damage">, made: Made): Promise<Contents> {
  const contents: Contents = {};
  for (const [role, bytes] of Object.entries(made.contents)) contents[role] = Buffer.from(bytes);
  for (const { apply } of damage) await apply(contents, made);
  return contents;
}

function write(contents: Contents, folder: string): Record<string, string> {
  const files: Record<string, string> = {};
  for (const [role, bytes] of Object.entries(contents)) {
    files[role] = join(folder, role);
    writeFileSync(files[role], bytes);
  }
  return files;
}

function argumentsOf(files: Record<string, string>, { type }: Case): string[] {
  const [first, ...rest] = Object.entries(files);
  const others = rest.flatMap(([role, path]) => [`--${role}`, path]);
  return [first?.[1] ?? "", ...others, ...(type === undefined ? [] : ["--type", type])];
}

function stateOf(files: Record<string, string>): string[] {
  return Object.values(files).map((path) => {
    const hash = createHash("sha1").update(readFileSync(path)).digest("hex");
    return `${hash} ${statSync(path).mtimeMs}`;
  });
}

function contentsOf(files: Record<string, string>): Contents {
  return Object.fromEntries(Object.entries(files).map(([role, path]) => [role, readFileSync(path)]));
}

function same(one: Contents, other: Contents): boolean {
  return Object.entries(one).every(([role, bytes]) => bytes.equals(other[role] as Buffer));
}

let validate: ValidateFunction | undefined;

/** `dmkit fsck --json`, held against the schema and its own findings. */
async function fsck(args: readonly string[]): Promise<Report> {
  const { code, stdout }: Result = await cli("fsck", "--json", ...args);
  const report = JSON.parse(stdout) as Report;
  validate ??= new Ajv2020({ strict: false }).compile(schema());
  expect(validate(report), JSON.stringify(validate.errors)).toBe(true);
  expect(report.exit).toBe(code);
  const matters = report.problems.filter(({ severity }) => severity !== "info");
  const open = matters.some(({ outcome }) => outcome !== "repaired");
  const corrected = matters.some(({ outcome }) => outcome === "repaired");
  const failed = report.error !== undefined;
  expect(code).toBe((corrected ? 1 : 0) + (open ? 4 : 0) + (failed ? 8 : 0));
  expect(report.clean).toBe(!open && !failed);
  for (const problem of report.problems)
    expect(problem.repair ?? problem.advice, `${problem.kind} says what to do`).toBeTruthy();
  return report;
}

function schema(): object {
  const text = readFileSync(new URL("../../OFFLINE.md", import.meta.url), "utf8");
  const [, block = ""] = /```json schema dmkit-fsck-1\n([\s\S]*?)```/.exec(text) ?? [];
  return JSON.parse(block) as object;
}

function summary(problems: Report["problems"]): string[] {
  const counts = new Map<string, number>();
  for (const { severity, role, kind } of problems) {
    const words = `${severity} ${role} ${kind}`;
    counts.set(words, (counts.get(words) ?? 0) + 1);
  }
  // How many notes there are says little.
  return [...counts]
    .map(([words, count]) => (count === 1 || words.startsWith("info") ? words : `${count} ${words}`))
    .toSorted();
}

function outcomes({ problems }: Report, ...wanted: readonly string[]): string[] {
  return summary(problems.filter(({ outcome }) => wanted.includes(outcome)));
}

/** `dmkit undo` makes it what it was; without anything repaired there is no undo file. */
async function takeBack(
  undo: string,
  contents: Contents,
  files: Record<string, string>,
  processes: boolean,
): Promise<void> {
  if (existsSync(undo)) {
    const run = processes ? dmkit : (args: string[]): Promise<Result> => cli(...args);
    const { code, stderr } = await run(["undo", undo]);
    expect(stderr).toBe("");
    expect(code).toBe(0);
  }
  for (const [role, path] of Object.entries(files))
    expect(readFileSync(path).equals(contents[role] as Buffer), `undo of ${role}`).toBe(true);
}

/** Whoever does not name the device below to a check still has it. */
async function withBelow(
  named: Readonly<Record<string, MemoryDevice>>,
  { contents }: Made,
): Promise<Record<string, MemoryDevice>> {
  const devices = { ...named };
  for (const role of ["backing", "source", "base", "data", "device"]) {
    const bytes = contents[role];
    if (bytes !== undefined) devices[role] ??= await deviceOf(bytes, role);
  }
  return devices;
}

/** What opening shows of an image. */
export async function view(contents: Contents, made: Made): Promise<View> {
  const { oracle } = made;
  const devices: Record<string, MemoryDevice> = {};
  for (const [role, bytes] of Object.entries(contents)) devices[role] = await deviceOf(bytes, role);
  let device;
  try {
    device = await made.open(await withBelow(devices, made));
  } catch (error) {
    if (error instanceof BlockIoError) return error.code;
    throw error;
  }
  const lost = { EIO: [] as number[], older: [] as number[], rot: [] as number[] };
  for (let block = 0; block < oracle.sectors / 8; block += 1) {
    const count = Math.min(8, oracle.sectors - block * 8);
    const bytes = Buffer.alloc(count * SECTOR);
    try {
      await device.read(block * 4096, bytes);
    } catch (error) {
      if (!(error instanceof BlockIoError) || error.code !== "EIO") throw error;
      lost.EIO.push(block);
      continue;
    }
    const verdicts = Array.from({ length: count }, (_, sector) =>
      oracle.judge(block * 8 + sector, bytes.subarray(sector * SECTOR, (sector + 1) * SECTOR)),
    );
    if (verdicts.includes("garbage")) lost.rot.push(block);
    else if (verdicts.includes("older")) lost.older.push(block);
  }
  await device.close().catch((error: unknown) => {
    // What cannot be read may not be saved either.
    if (lost.EIO.length === 0 || !(error instanceof BlockIoError) || error.code !== "EIO") throw error;
  });
  const parts = Object.entries(lost).filter(([, blocks]) => blocks.length > 0);
  return parts.length === 0 ? "all" : parts.map(([what, blocks]) => `${what} ${ranges(blocks)}`).join(", ");
}

function ranges(numbers: readonly number[]): string {
  const words: string[] = [];
  for (let from = 0; from < numbers.length; ) {
    let to = from;
    while (numbers[to + 1] === (numbers[to] as number) + 1) to += 1;
    words.push(to === from ? String(numbers[from]) : `${numbers[from]}-${numbers[to]}`);
    from = to + 1;
  }
  return words.join(" ");
}

interface Step {
  readonly role: string;
  readonly offset: number;
  /** Undefined: a flush. */
  readonly bytes: Buffer | undefined;
  readonly fua: boolean;
}

/** Keeps what was done to it. */
class Recorded extends MemoryDevice {
  readonly #note: (offset: number, bytes: Buffer | undefined, fua: boolean) => void;

  constructor(size: number, note: (offset: number, bytes: Buffer | undefined, fua: boolean) => void) {
    super(size);
    this.#note = note;
  }

  protected override doWrite(offset: number, from: Buffer, fua = false): Promise<void> {
    this.#note(offset, Buffer.from(from), fua);
    return super.doWrite(offset, from);
  }

  protected override doWriteZeroes(
    offset: number,
    length: number,
    options: { fua?: boolean },
  ): Promise<void> {
    this.#note(offset, Buffer.alloc(length), options.fua === true);
    return super.doWriteZeroes(offset, length, options);
  }

  protected override doFlush(): Promise<void> {
    this.#note(0, undefined, false);
    return super.doFlush();
  }
}

const work = { environment: realEnvironment };

async function formatOf({ format: name }: Report): Promise<ImageFormat> {
  const format = (await targets.images()).find((one) => one.name === name);
  if (format === undefined) throw new Error(`no format ${name}`);
  return format;
}

async function repairIn(format: ImageFormat, contents: Contents): Promise<{ left: string[]; steps: Step[] }> {
  const steps: Step[] = [];
  const devices: Record<string, Recorded> = {};
  let begun = false;
  for (const [role, bytes] of Object.entries(contents)) {
    devices[role] = new Recorded(bytes.length, (offset, written, fua) => {
      if (begun) steps.push({ role, offset, bytes: written, fua });
    });
    await devices[role].write(0, bytes);
  }
  begun = true;
  const { left = [] } = (await format.repair?.(devices, work)) ?? {};
  for (const [role, device] of Object.entries(devices)) contents[role] = await bytesFrom(device);
  return { left: summary(left.map((problem) => ({ ...problem, outcome: "left" }) as never)), steps };
}

/** Where a power failure leaves a repair: what was flushed, and some of the rest. */
const survivals: readonly ((random: SeededRandom, newest: boolean) => boolean)[] = [
  () => false,
  (_random, newest) => newest,
  (random) => random.chance(0.5),
];
const MOST_CUTS = isDeep ? 6 : 3;
/** Bytes. */
const LARGE = 8 * 2 ** 20;

/** A repair that loses power at any write is completed by the next one. */
async function cutShort(report: Report, contents: Contents, made: Made, expected: Outcome): Promise<void> {
  const format = await formatOf(report);
  const { steps } = await repairIn(format, { ...contents });
  const random = new SeededRandom(1);
  const large = Object.values(contents).some((bytes) => bytes.length > LARGE);
  const every = Math.max(1, Math.ceil(steps.length / (large ? 2 : MOST_CUTS)));
  for (let cut = 1; cut <= steps.length; cut += every) {
    for (const [index, survives] of survivals.entries()) {
      const left: Contents = {};
      for (const [role, bytes] of Object.entries(contents)) left[role] = Buffer.from(bytes);
      land(left, steps.slice(0, cut), (newest) => survives(random, newest));
      const where = `cut after step ${cut} of ${steps.length}, survival ${index}`;
      const second = await repairIn(format, left);
      expect(second.left, where).toEqual(expected.left);
      expect(await view(left, made), where).toBe(expected.shows[1]);
      const third = await repairIn(format, left);
      expect(
        third.steps.filter(({ bytes }) => bytes !== undefined),
        where,
      ).toEqual([]);
    }
  }
}

function land(contents: Contents, steps: readonly Step[], survives: (newest: boolean) => boolean): void {
  let pending: Step[] = [];
  const write = ({ role, offset, bytes }: Step, at: number): void => {
    bytes?.copy(contents[role] as Buffer, offset + at, at, at + SECTOR);
  };
  const all = (step: Step): void => {
    for (let at = 0; at < (step.bytes?.length ?? 0); at += SECTOR) write(step, at);
  };
  for (const step of steps) {
    if (step.bytes === undefined) {
      for (const other of pending) if (other.role === step.role) all(other);
      pending = pending.filter(({ role }) => role !== step.role);
    } else if (step.fua) all(step);
    else pending.push(step);
  }
  for (const step of pending) {
    for (let at = 0; at < (step.bytes?.length ?? 0); at += SECTOR)
      if (survives(step === pending.at(-1))) write(step, at);
  }
}

/** What opening makes of it has nothing wrong either. */
async function openedIsClean(report: Report, contents: Contents, made: Made): Promise<void> {
  const named: Record<string, MemoryDevice> = {};
  for (const [role, bytes] of Object.entries(contents)) named[role] = await deviceOf(bytes, role);
  const devices = await withBelow(named, made);
  let device;
  try {
    device = await made.open(devices);
  } catch (error) {
    // A view says so, and it is for the case to expect that.
    if (error instanceof BlockIoError) return;
    throw error;
  }
  await device.close();
  const problems = [];
  for await (const problem of (await formatOf(report)).check(named, work))
    if (problem.severity !== "info") problems.push(problem);
  expect(problems, "after opening and closing").toEqual([]);
}
