/**
 * YAML to plain values, with the place of every value and key.
 *
 * What is read comes from anywhere, so before a document is composed its size, its tokens and its depth are bounded;
 * all that follows costs time and memory in proportion to those. Of YAML 1.2 the plain part is understood: mappings
 * with plain keys, lists, and scalars of the core schema. Anchors, aliases, tags, directives, merges and several
 * documents in a file are refused: nothing is ever repeated or constructed.
 */
import {
  Lexer,
  LineCounter,
  type Node,
  type Pair,
  isAlias,
  isMap,
  isScalar,
  isSeq,
  parseDocument,
} from "yaml";
import { closest } from "@dmkit/block-io";
import { type StackProblem, asClause } from "./problem.ts";

/** Bytes of a file. */
export const MAX_BYTES: number = 256 * 1024;
const MAX_TOKENS = 100_000;
// Levels of mappings and lists; a stack file needs six.
const MAX_DEPTH = 24;
const MAX_INDENT = 256;

/** Problems told at most; a file that is no stack file at all would otherwise scroll everything away. */
export const MAX_PROBLEMS = 50;

export type ScalarValue = string | number | boolean | null;

/** `at` is the offset in the text. */
export type Value = MapValue | ListValue | ScalarAt;

export interface ScalarAt {
  readonly kind: "scalar";
  readonly at: number;
  readonly value: ScalarValue;
  /** As it is written; left out where nothing is. */
  readonly source?: string | undefined;
}

export interface ListValue {
  readonly kind: "list";
  readonly at: number;
  readonly items: readonly Value[];
}

export interface MapEntry {
  readonly keyAt: number;
  readonly value: Value;
}

export interface MapValue {
  readonly kind: "map";
  readonly at: number;
  /** In the order of the file. */
  readonly entries: ReadonlyMap<string, MapEntry>;
}

/** Where problems are collected; never more than {@link MAX_PROBLEMS} and a last one that says so. */
export class Problems {
  readonly list: StackProblem[] = [];
  readonly #file: string;
  readonly #lines: LineCounter;

  constructor(file: string, text: string) {
    this.#file = file;
    this.#lines = new LineCounter();
    this.#lines.addNewLine(0);
    for (let at = text.indexOf("\n"); at >= 0; at = text.indexOf("\n", at + 1))
      this.#lines.addNewLine(at + 1);
  }

  get full(): boolean {
    return this.list.length > MAX_PROBLEMS;
  }

  add(at: number, what: string, allowed?: string, meant?: string): void {
    if (this.full) return;
    const { line, col: column } = this.#lines.linePos(at);
    const place = { file: this.#file, line, column };
    if (this.list.length === MAX_PROBLEMS) this.list.push({ ...place, what: "and there are more problems" });
    else this.list.push({ ...place, what, allowed: allowed && asClause(allowed), meant });
  }

  /** The word that was probably meant; not looked for when nobody will be told any more. */
  closest(word: string, known: Iterable<string>): string | undefined {
    return this.full ? undefined : closest(word, known);
  }

  /** In the order of the file. */
  sorted(): readonly StackProblem[] {
    return this.list.toSorted((a, b) => a.line - b.line || a.column - b.column);
  }

  /** `file:line:column`. */
  where(at: number): string {
    const { line, col } = this.#lines.linePos(at);
    return `${this.#file}:${line}:${col}`;
  }
}

/** The document's value; undefined if it is not well-formed, with the reasons among the problems. */
export function parseYaml(text: string, problems: Problems): Value | undefined {
  if (!isModest(text, problems)) return undefined;
  // `uniqueKeys` compares every key with every other; `convertMap` does it in one pass.
  const document = parseDocument(text, {
    version: "1.2",
    schema: "core",
    uniqueKeys: false,
    prettyErrors: false,
  });
  for (const { pos, message, code } of document.errors) {
    problems.add(
      pos[0],
      code === "MULTIPLE_DOCS" ? "a second document begins" : `not YAML: ${firstLine(message)}`,
    );
  }
  for (const { pos, message, code } of document.warnings) {
    // Tags are refused below.
    if (code !== "TAG_RESOLVE_FAILED") problems.add(pos[0], firstLine(message));
  }
  if (document.errors.length > 0) return undefined;
  return convert(document.contents, 0, problems);
}

function firstLine(message: string): string {
  return message.split("\n", 1)[0] ?? "";
}

// All but tab and line ends.
// oxlint-disable-next-line no-control-regex -- they are what is looked for
const control = /[\u0000-\u0008\u000B\u000C\u000E-\u001F\u007F]/;

/** Refuses what would take long to compose, looking at one token after the other. */
function isModest(text: string, problems: Problems): boolean {
  const found = control.exec(text);
  if (found !== null) {
    const code = found[0].charCodeAt(0).toString(16).padStart(2, "0");
    problems.add(found.index, `the control character \\x${code}`, "a stack file is plain text");
    return false;
  }
  let at = 0;
  let tokens = 0;
  let flow = 0;
  let block = 0;
  for (const token of new Lexer().lex(text)) {
    tokens += 1;
    // One-character tokens that mark the byte order, documents and scalars have no text of their own.
    if (token === "[" || token === "{") flow += 1;
    else if (token === "]" || token === "}") flow -= 1;
    else if (flow === 0 && (token === "-" || token === "?")) block += 1;
    else if (token.includes("\n")) block = 0;
    const isIndent = /^ +$/.test(token) && (at === 0 || text[at - 1] === "\n");
    if (flow > MAX_DEPTH || block > MAX_DEPTH || (isIndent && token.length > MAX_INDENT)) {
      problems.add(Math.min(at, text.length), "nested too deeply", `at most ${MAX_DEPTH} levels`);
      return false;
    }
    if (tokens > MAX_TOKENS) {
      problems.add(
        Math.min(at, text.length),
        "the file has too much in it",
        `at most ${MAX_TOKENS} words and signs`,
      );
      return false;
    }
    if (!isMark(token)) at += token.length;
  }
  return true;
}

// The lexer announces a document, a scalar or an error by a character that is not in the text.
function isMark(token: string): boolean {
  return token === "\u{2}" || token === "\u{18}" || token === "\u{1F}";
}

function convert(node: Node | null, fallback: number, problems: Problems): Value {
  const at = node?.range?.[0] ?? fallback;
  if (node === null) return { kind: "scalar", at, value: null };
  if (isAlias(node)) {
    problems.add(at, `the alias *${node.source.slice(0, 40)}`, "write out what it stands for");
    return { kind: "scalar", at, value: null };
  }
  if (node.anchor !== undefined) {
    problems.add(
      at,
      `the anchor &${node.anchor.slice(0, 40)}`,
      "leave it out: there are no aliases in stack files",
    );
  }
  if (node.tag !== undefined) {
    problems.add(
      at,
      `the tag ${node.tag.slice(0, 40)}`,
      "leave it out: types come from where a value stands",
    );
  }
  if (isMap(node)) return convertMap(node.items as Pair<Node, Node | null>[], at, problems);
  if (isSeq(node)) {
    return {
      kind: "list",
      at,
      items: (node.items as (Node | null)[]).map((item) => convert(item, at, problems)),
    };
  }
  const value: unknown = isScalar(node) ? node.value : null;
  const scalar = isScalarValue(value) ? value : null;
  // Quoted text can spell any character.
  if (typeof scalar === "string" && control.test(scalar)) {
    problems.add(at, "a control character", "a stack file is plain text");
  }
  return { kind: "scalar", at, value: scalar, source: isScalar(node) ? node.source : undefined };
}

function isScalarValue(value: unknown): value is ScalarValue {
  return value === null || ["string", "number", "boolean"].includes(typeof value);
}

function convertMap(pairs: readonly Pair<Node, Node | null>[], at: number, problems: Problems): MapValue {
  const entries = new Map<string, MapEntry>();
  for (const { key, value } of pairs) {
    const keyAt = key?.range?.[0] ?? at;
    const name = keyText(key, problems);
    const converted = convert(value, key?.range?.[1] ?? keyAt, problems);
    if (name === undefined) continue;
    const first = entries.get(name);
    if (first === undefined) entries.set(name, { keyAt, value: converted });
    else
      problems.add(keyAt, `"${name.slice(0, 60)}" is given twice`, `first at ${problems.where(first.keyAt)}`);
  }
  return { kind: "map", at, entries };
}

/** A key as it is written: a device may be called `1`, `on` or `null`. */
function keyText(key: Node | null, problems: Problems): string | undefined {
  if (isScalar(key) && key.anchor === undefined) {
    const text = typeof key.value === "string" ? key.value : key.source;
    // An object takes this one for something else.
    if (text !== undefined && text !== "__proto__") return text;
  }
  problems.add(key?.range?.[0] ?? 0, "this cannot be a key", "keys are plain words");
  return undefined;
}

/** The value as objects, lists and scalars. */
export function plainOf(value: Value): unknown {
  switch (value.kind) {
    case "scalar":
      return value.value;
    case "list":
      return value.items.map(plainOf);
    case "map":
      // Keys cannot be `__proto__`; one that is called `constructor` is as good as any other.
      return Object.fromEntries([...value.entries].map(([key, entry]) => [key, plainOf(entry.value)]));
  }
}

/** Where the value at the end of a path begins, or the last one on the way that there is. */
export function locate(value: Value, path: readonly unknown[]): number {
  let here = value;
  for (const key of path) {
    const next =
      here.kind === "map"
        ? here.entries.get(String(key))?.value
        : here.kind === "list"
          ? here.items[Number(key)]
          : undefined;
    if (next === undefined) return here.at;
    here = next;
  }
  return here.at;
}

/** A mapping with only some of its keys. */
export function pick(map: MapValue, wanted: (key: string) => boolean): MapValue {
  return { ...map, entries: new Map([...map.entries].filter(([key]) => wanted(key))) };
}

/** A word, or a number as it is written: 007 is a name or a path as good as any. */
export function wordOf(value: Value | undefined): string | undefined {
  if (value?.kind !== "scalar") return undefined;
  if (typeof value.value === "number") return value.source ?? String(value.value);
  return typeof value.value === "string" ? value.value : undefined;
}

/** The word under a key, if there is one. */
export function wordAt(value: Value, key: string): string | undefined {
  return value.kind === "map" ? wordOf(value.entries.get(key)?.value) : undefined;
}
