/** The words of a table line behind the target's name: reading them, and printing options by name. */
import { didYouMean } from "../bytes/text.ts";
import { refuse } from "../contract/errors.ts";
import { defaultOf, type OptionSpec, parseOption } from "./options.ts";

/** The words of a table line after the target's name, read one after the other. */
export class TableArguments {
  readonly #words: readonly string[];
  #next = 0;

  constructor(words: readonly string[]) {
    this.#words = words;
  }

  /** Words not read yet. */
  get remaining(): number {
    return this.#words.length - this.#next;
  }

  /** The next word without reading it. */
  peek(): string | undefined {
    return this.#words[this.#next];
  }

  /** The next word; throws `EPARSE` naming what is missing. */
  word(name: string): string {
    const word = this.#words[this.#next];
    if (word === undefined) throw refuse(undefined, "EPARSE", `${name} is missing`, undefined, "parse");
    this.#next += 1;
    return word;
  }

  /** The next word as the value of an option; throws `EPARSE` with the option's range. */
  option(name: string, spec: OptionSpec): unknown {
    return parseOption(name, spec, this.word(name));
  }

  text(name: string, spec: OptionSpec): string {
    return this.option(name, spec) as string;
  }

  number(name: string, spec: OptionSpec): number {
    return this.option(name, spec) as number;
  }

  /** `<count> word…`: a count and that many words, as arguments of their own. Nothing left means none. */
  counted(name: string): TableArguments {
    if (this.remaining === 0) return new TableArguments([]);
    const count = this.number(`number of ${name}`, {
      type: "integer",
      min: 0,
      max: this.remaining - 1,
      help: "how many words follow",
    });
    const words = this.#words.slice(this.#next, this.#next + count);
    this.#next += count;
    return new TableArguments(words);
  }

  /** `<key> <value>…` to the end: values of the options of `table` that `names` lists; throws `EPARSE`. */
  named<const Name extends string>(
    names: readonly Name[],
    table: Readonly<Record<Name, OptionSpec>>,
  ): Partial<Record<Name, unknown>> {
    const values: Partial<Record<Name, unknown>> = {};
    while (this.remaining > 0) {
      const word = this.word("option");
      const name = names.find((known) => known === word);
      if (name === undefined) {
        throw refuse(
          undefined,
          "EPARSE",
          `there is no option "${word}"`,
          `${didYouMean(word, names)}Known options: ${names.join(", ")}.`,
          "parse",
        );
      }
      if (Object.hasOwn(values, name))
        throw refuse(undefined, "EPARSE", `${name} is given twice`, "Leave one of them out.", "parse");
      values[name] = this.option(name, table[name]);
    }
    return values;
  }

  /** Throws `EPARSE` if anything is left. */
  end(): void {
    const word = this.#words[this.#next];
    if (word !== undefined) throw refuse(undefined, "EPARSE", `unexpected "${word}"`, undefined, "parse");
  }
}

/** `<#words> <key> <value>…` such that `named` reads the same again; nothing where all have their defaults. */
export function printNamed<const Name extends string>(
  names: readonly Name[],
  table: Readonly<Record<Name, OptionSpec>>,
  options: Readonly<Record<Name, unknown>>,
): readonly string[] {
  const words = names.flatMap((name) => {
    const spec = table[name];
    const value = options[name];
    if (value === undefined || value === defaultOf(spec)) return [];
    return [name, typeof value === "boolean" ? (value ? "1" : "0") : String(value)];
  });
  return words.length === 0 ? [] : [String(words.length), ...words];
}
