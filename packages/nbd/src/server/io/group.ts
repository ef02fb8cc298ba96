/** Groups of users by name: the system's own list, because Node has no question for it. */
import { readFileSync } from "node:fs";
import { invalid, shown } from "../limits.ts";

/** The number of a group. Throws `EINVAL` for one that the system's list does not have. */
export function groupNumber(group: number | string): number {
  const number = typeof group === "number" || /^\d+$/.test(group) ? Number(group) : numberIn(list(), group);
  if (number !== undefined && Number.isSafeInteger(number) && number >= 0 && number < 0xffff_ffff)
    return number;
  throw invalid(`there is no group ${shown(group)} in /etc/group`, "Give its number: getent group NAME");
}

function list(): string {
  try {
    return readFileSync("/etc/group", "utf8");
  } catch {
    return "";
  }
}

function numberIn(text: string, name: string): number | undefined {
  for (const line of text.split("\n")) {
    const [named, , number = ""] = line.split(":");
    if (named === name && /^\d+$/.test(number)) return Number(number);
  }
  return undefined;
}
