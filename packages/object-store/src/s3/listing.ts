/** The XML of S3: listings and errors. It comes from the network, so everything in it is checked before use. */
import { XMLParser } from "fast-xml-parser";
import type { ObjectEntry } from "../store.ts";

// Numbers stay text: a key that looks like one is a key. Entities other than the five of XML mean nothing here.
const parser = new XMLParser({
  parseTagValue: false,
  ignoreAttributes: true,
  isArray: (name) => name === "Contents",
});

/** A page of ListObjectsV2. */
export interface Listing {
  readonly entries: readonly ObjectEntry[];
  readonly more: boolean;
}

/** The listing in `xml`, or undefined for anything else. */
export function parseListing(xml: string): Listing | undefined {
  const result = record(record(parse(xml))?.["ListBucketResult"]);
  if (result === undefined) return undefined;
  const contents = result["Contents"] ?? [];
  if (!Array.isArray(contents)) return undefined;
  const entries: ObjectEntry[] = [];
  for (const item of contents) {
    const entry = record(item);
    const key = entry?.["Key"];
    const size = Number(entry?.["Size"]);
    const modified = Date.parse(String(entry?.["LastModified"]));
    if (typeof key !== "string" || !Number.isSafeInteger(size) || size < 0 || Number.isNaN(modified))
      return undefined;
    entries.push({ key, size, modified });
  }
  return { entries, more: result["IsTruncated"] === "true" };
}

/** Code and text of the error in `xml`; empty where there are none. */
export function parseError(xml: string): { readonly code: string; readonly message: string } {
  const error = record(record(parse(xml))?.["Error"]);
  return { code: text(error?.["Code"]), message: text(error?.["Message"]) };
}

function parse(xml: string): unknown {
  try {
    return parser.parse(xml);
  } catch {
    return undefined;
  }
}

function record(value: unknown): Record<string, unknown> | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value)
    ? (value as Record<string, unknown>)
    : undefined;
}

// Shown to people: no control characters, no endless text.
function text(value: unknown): string {
  return typeof value === "string" ? value.replaceAll(/[^\x20-\x7e]/g, "?").slice(0, 200) : "";
}
