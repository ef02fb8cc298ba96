/** Parameters of control requests: untrusted values to typed ones, or a {@link BadRequest} that says what is allowed. */
import { BadRequest, rpcCodes } from "./protocol.ts";

export class Params {
  readonly #values: Map<string, unknown>;

  constructor(values: Readonly<Record<string, unknown>>) {
    this.#values = new Map(Object.entries(values));
  }

  text(name: string): string {
    return this.optionalText(name) ?? this.#refuse(name, "must be a string");
  }

  optionalText(name: string): string | undefined {
    const value = this.#take(name);
    if (value === undefined || typeof value === "string") return value;
    return this.#refuse(name, "must be a string");
  }

  flag(name: string): boolean | undefined {
    const value = this.#take(name);
    if (value === undefined || typeof value === "boolean") return value;
    return this.#refuse(name, "must be true or false");
  }

  integer(name: string, min: number, max: number): number | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (typeof value === "number" && Number.isInteger(value) && value >= min && value <= max) return value;
    const given = JSON.stringify(value)?.slice(0, 100);
    return this.#refuse(name, `must be a whole number from ${min} to ${max}, not ${given}`);
  }

  words(name: string): readonly string[] {
    return this.optionalWords(name) ?? this.#refuse(name, "must be a list of strings");
  }

  optionalWords(name: string): readonly string[] | undefined {
    const value = this.#take(name);
    if (value === undefined) return undefined;
    if (Array.isArray(value) && value.every((word) => typeof word === "string")) return value;
    return this.#refuse(name, "must be a list of strings");
  }

  choice<const Value extends string>(name: string, values: readonly Value[]): Value | undefined {
    const given = this.#take(name);
    if (given === undefined) return undefined;
    return (
      values.find((value) => value === given) ?? this.#refuse(name, `must be one of ${values.join(", ")}`)
    );
  }

  /** Throws if anything was not asked for. */
  end(): void {
    const [unknown] = this.#values.keys();
    if (unknown !== undefined) this.#refuse(unknown.slice(0, 100), "is not known");
  }

  #take(name: string): unknown {
    const value = this.#values.get(name);
    this.#values.delete(name);
    return value ?? undefined;
  }

  #refuse(name: string, why: string): never {
    throw new BadRequest(rpcCodes.invalidParams, `parameter ${JSON.stringify(name)} ${why}`);
  }
}
