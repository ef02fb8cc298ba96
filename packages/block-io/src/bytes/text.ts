/**
 * Texts from elsewhere on their way to a person, and what a person probably meant: names in headers, export names and descriptions, what a server says,
 * paths. What they hold must neither reach a terminal as a command to it, nor a shell as anything but a word.
 */

/**
 * What a terminal, or an eye, takes for something else than a letter: control characters (C0, DEL, C1), marks that
 * turn or hide text (bidirectional overrides and isolates, zero-width ones, tags), separators of lines, and halves of
 * surrogate pairs.
 */
const unprintable =
  // eslint-disable-next-line no-control-regex, no-misleading-character-class
  /[\u0000-\u001f\u007f-\u009f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\u{e0000}-\u{e007f}]|[\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff]/gu;

/** A character as programs write it down: `\x1b`, `\u202e`, `\u{e0001}`. */
function escaped(character: string): string {
  const code = character.codePointAt(0) as number;
  if (character === "\n") return "\\n";
  if (character === "\t") return "\\t";
  if (code <= 0xff) return `\\x${code.toString(16).padStart(2, "0")}`;
  return code <= 0xffff ? `\\u${code.toString(16).padStart(4, "0")}` : `\\u{${code.toString(16)}}`;
}

/** A text on one line, with everything that is no letter to a terminal written down as an escape sequence. */
export function printable(text: string): string {
  return text.replaceAll(unprintable, escaped);
}

/** The same for a text of several lines, which keeps its line ends and tabs. */
export function printableLines(text: string): string {
  return text.replaceAll(unprintable, (character) =>
    character === "\n" || character === "\t" ? character : escaped(character),
  );
}

/** JSON, indented or not, that is safe on a terminal and means the same. */
export function printableJson(value: unknown, indent?: number): string {
  const json = JSON.stringify(value, undefined, indent) ?? "null";
  return json.replaceAll(unprintable, (character) => {
    // JSON has escaped what it forbids; line ends that are left are its own.
    if (character === "\n") return character;
    return [...Array(character.length).keys()]
      .map((at) => `\\u${character.charCodeAt(at).toString(16).padStart(4, "0")}`)
      .join("");
  });
}

/** A word of a command that a POSIX shell reads back as this very text. */
export function shellQuote(word: string): string {
  if (/^[\w@%+=:,./-]+$/.test(word) && !word.startsWith("-") && !/^\w+=/.test(word)) return word;
  // Control characters inside of quotes would still reach the terminal.
  if (printable(word) === word) return `'${word.replaceAll("'", "'\\''")}'`;
  const bytes = [...Buffer.from(word, "utf8")].map((byte) =>
    byte >= 0x20 && byte < 0x7f && byte !== 0x27 && byte !== 0x5c
      ? String.fromCharCode(byte)
      : `\\${byte.toString(8).padStart(3, "0")}`,
  );
  return `"$(printf '${bytes.join("").replaceAll("%", "%%")}')"`;
}

/** The known word that `word` is most like, if it is like one at all. */
export function closest(word: string, known: Iterable<string>): string | undefined {
  let best: string | undefined;
  // A third of the letters may differ; case, hyphens and underscores never count.
  let least = Math.max(1, Math.floor(word.length / 3)) + 1;
  const plain = simplify(word);
  for (const candidate of known) {
    const distance = editDistance(plain, simplify(candidate), least);
    if (distance < least) {
      least = distance;
      best = candidate;
    }
  }
  return best;
}

/** A question for the beginning of a hint, and a space behind it; empty if no known word is like this one. */
export function didYouMean(word: string, known: Iterable<string>): string {
  const meant = closest(word, known);
  // A word that is right is no mistake: something about it is.
  return meant === undefined || meant === word ? "" : `Did you mean "${meant}"? `;
}

function simplify(word: string): string {
  return word.toLowerCase().replaceAll("_", "-");
}

/** Insertions, deletions, replacements and swaps of neighbours that turn `a` into `b`; `limit` if it takes more. */
function editDistance(a: string, b: string, limit: number): number {
  if (a === b) return 0;
  // Words of any length may come from outside; only short ones can be alike by a few letters.
  if (Math.abs(a.length - b.length) >= limit || a.length > 64) return limit;
  let before: number[] = [];
  let last = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i += 1) {
    const row = [i];
    for (let j = 1; j <= b.length; j += 1) {
      const replaced = at(last, j - 1) + (a[i - 1] === b[j - 1] ? 0 : 1);
      let distance = Math.min(at(last, j) + 1, at(row, j - 1) + 1, replaced);
      const swapped = i > 1 && j > 1 && a[i - 1] === b[j - 2] && a[i - 2] === b[j - 1];
      if (swapped) distance = Math.min(distance, at(before, j - 2) + 1);
      row.push(distance);
    }
    before = last;
    last = row;
  }
  return at(last, b.length);
}

function at(row: readonly number[], index: number): number {
  return row[index] ?? Number.POSITIVE_INFINITY;
}

/** Bytes of a name that a user gives to something, at most. */
export const MAX_NAME = 63;

/**
 * What is wrong with a name that a user gives, in words; undefined if nothing is. Names are 1 … {@link MAX_NAME} bytes of UTF-8
 * that are one word on a command line and in a table, and one line to a terminal. No comma: lists of names have commas between
 * them.
 */
export function nameProblem(name: string): string | undefined {
  const bytes = Buffer.byteLength(name);
  if (bytes === 0) return "the name is empty";
  if (bytes > MAX_NAME) return `the name has ${bytes} bytes, and ${MAX_NAME} are possible`;
  if (/[\s,]/u.test(name)) return "the name has a space or a comma in it";
  if (printable(name) !== name) return "the name has characters in it that cannot be seen";
  return undefined;
}

/**
 * A moment as ISO 8601 writes it, in UTC. What a disk or a bucket says may be no moment there is: that is told as a number.
 * @param time milliseconds since 1970.
 */
export function isoTime(time: number): string {
  const date = new Date(time);
  return Number.isNaN(date.getTime()) ? `${time} ms since 1970` : date.toISOString();
}
