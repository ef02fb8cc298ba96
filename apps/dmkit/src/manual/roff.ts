/** Manual pages in man(7), for any reader of them: groff, mandoc. */

/** What is explained, and how. */
export interface Term {
  readonly term: string;
  readonly meaning: string;
}

/** A section: paragraphs of text, terms with what they mean, and text that is shown as it is. */
export interface Section {
  readonly title: string;
  readonly paragraphs?: readonly string[];
  readonly terms?: readonly Term[];
  readonly verbatim?: string;
}

export interface Page {
  readonly name: string;
  readonly section: 1 | 7;
  /** For the foot of the page: `dmkit 1.2.3`. */
  readonly source: string;
  readonly sections: readonly Section[];
}

/** The page as a file. */
export function roff({ name, section, source, sections }: Page): string {
  const lines = [`.TH ${name.toUpperCase()} ${section} "" "${escape(source)}" "dmkit manual"`];
  for (const { title, paragraphs = [], terms = [], verbatim } of sections) {
    lines.push(`.SH ${escape(title.toUpperCase())}`);
    for (const [index, text] of paragraphs.entries()) lines.push(...(index > 0 ? [".PP"] : []), escape(text));
    for (const { term, meaning } of terms)
      lines.push(".TP", `\\fB${escape(term)}\\fR`, meaning === "" ? "\\&" : escape(meaning));
    if (verbatim !== undefined) lines.push(".nf", ...verbatim.split("\n").map(escape), ".fi");
  }
  return `${lines.join("\n")}\n`;
}

/** Text that means nothing to roff: no control lines, hyphens that can be copied into a shell, ASCII only. */
function escape(text: string): string {
  return text
    .replaceAll("\\", "\\e")
    .replaceAll("-", "\\-")
    .replaceAll(/^(?=[.'])/gm, "\\&")
    .replaceAll(/[ \t]*\n+/g, "\n")
    .trimEnd()
    .replaceAll(/[^\n -~]/gu, (character) => `\\[u${hex(character)}]`);
}

function hex(character: string): string {
  return (character.codePointAt(0) ?? 0).toString(16).toUpperCase().padStart(4, "0");
}
