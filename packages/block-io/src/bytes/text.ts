/**
 * Texts from elsewhere on their way to a person: names in headers, export names and descriptions, what a server says,
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
