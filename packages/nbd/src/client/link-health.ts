/** How the way to a server is, in words: what `ls` and `status` show of a client. */
import { type BlockIoError, type Health, healthy, wholeStory } from "@dmkit/block-io";

// How long a connected server may leave a request unanswered before that is told. Nothing else follows from it:
// nobody but the server knows whether it is slow or stuck, and what it was sent may still be carried out.
const SILENCE_MS = 10_000;

/** What is known of a link. */
export interface LinkCondition {
  readonly name: string;
  /** Milliseconds that requests wait for a lost server. */
  readonly patience: number;
  /** Why there is no session, and since when (milliseconds since 1970). */
  readonly loss: { readonly error: BlockIoError; readonly since: number } | undefined;
  /** What the link has concluded: requests, or writes, are refused. */
  readonly ill: Health | undefined;
  /** Of the last attempt to come back. */
  readonly lastError: BlockIoError | undefined;
  /** Milliseconds for which the oldest request has not been answered. */
  readonly silent: number;
  /** Milliseconds since 1970. */
  readonly now: number;
  /** Writes that the server has acknowledged and not flushed are kept nowhere else. */
  readonly isAtRisk: boolean;
}

export function linkHealth(link: LinkCondition): Health {
  const { loss, ill, lastError } = link;
  if (loss === undefined) return ill ?? silence(link) ?? healthy;
  // What a request is told is the end of the story; why the server was lost is its beginning.
  const lost = `the connection was lost: ${wholeStory(loss.error)}`;
  if (ill !== undefined) {
    const why = ill.why?.includes(loss.error.message) === true ? ill.why : `${ill.why}; ${lost}`;
    return { ...ill, why, since: loss.since };
  }
  const attempt = lastError === undefined ? "" : `; last attempt: ${wholeStory(lastError)}`;
  return {
    state: "degraded",
    since: loss.since,
    why: `${link.name}: requests wait up to ${link.patience / 1000} s for the server; ${lost}${attempt}`,
    help: "Start the server.",
  };
}

/** Whether the server is there and does not answer. Looked for only here: requests need no timers for it. */
function silence({ name, silent, now, patience, isAtRisk }: LinkCondition): Health | undefined {
  if (silent < SILENCE_MS) return undefined;
  return {
    state: "degraded",
    since: now - silent,
    why: `${name}: requests have waited ${Math.floor(silent / 1000)} s for an answer of the server`,
    help: `See whether the server and its storage are well; if it hangs, ${restarting(patience, isAtRisk)}.`,
  };
}

/** What to do with a server that hangs, and what that costs. */
function restarting(patience: number, isAtRisk: boolean): string {
  if (patience === 0) return "end it: the device fails, and has to be opened again";
  return isAtRisk
    ? "restart it: writes that it acknowledged and did not flush may be lost"
    : "restart it: what it has not answered is sent again";
}
