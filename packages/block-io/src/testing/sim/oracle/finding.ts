/** What the oracle says of a read that is not legal. */
import { INITIAL, ZERO } from "../format/stamp.ts";

/** Why a read is not legal. */
export interface Finding {
  readonly rule: "garbage" | "foreign" | "illegal";
  readonly sector: number;
  readonly message: string;
}

/** A version, for people. */
export function name(content: number): string {
  if (content === ZERO) return "zeroes";
  return content === INITIAL ? "the initial contents" : `version ${content}`;
}

export function finding(rule: Finding["rule"], sector: number, what: string): Finding {
  return { rule, sector, message: `sector ${sector} holds ${what}` };
}
