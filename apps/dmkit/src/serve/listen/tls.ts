/** TLS of `dmkit serve`: one table for the options of the command line and the words of a stack file. */
import { resolve } from "node:path";
import { type OptionSpec, toBlockIoError } from "@dmkit/block-io";
import { type ServerTlsOptions, checkServerTls, tlsModes } from "@dmkit/nbd";
import { type Command, Option } from "commander";
import { usage } from "../../ui/usage.ts";

export type TlsWord = "tls" | "tls-certificates" | "tls-psk" | "tls-verify-peer";

export const tlsWords: Readonly<Record<TlsWord, OptionSpec>> = {
  tls: {
    type: "choice",
    values: tlsModes,
    optional: true,
    help: "TLS: not at all, with clients that ask for it, or with nobody who does not (default: off)",
  },
  "tls-certificates": {
    type: "text",
    optional: true,
    help: "folder with server-cert.pem, server-key.pem, ca-cert.pem and perhaps ca-crl.pem",
  },
  "tls-psk": {
    type: "text",
    optional: true,
    help: "file of pre-shared keys, IDENTITY:HEX a line, instead of certificates",
  },
  "tls-verify-peer": {
    type: "flag",
    optional: true,
    help: "let in only clients with a certificate that ca-cert.pem vouches for",
  },
};

/** What was given of them. */
export type TlsValues = { readonly [Word in TlsWord]?: unknown };

const words = Object.keys(tlsWords) as TlsWord[];

/** The options of a command. */
export function addTls(command: Command): Command {
  for (const word of words) {
    const spec = tlsWords[word];
    const value = spec.type === "flag" ? "" : spec.type === "choice" ? " <mode>" : " <path>";
    const option = new Option(`--${word}${value}`, spec.help);
    command.addOption(spec.type === "choice" ? option.choices(spec.values) : option);
  }
  return command;
}

/** What the options of a command say; undefined if there are none. Throws `EPARSE` for a combination that cannot be. */
export function tlsOfCommand(command: Command): ServerTlsOptions | undefined {
  const values = Object.fromEntries(
    command.options
      .filter(({ long }) => words.some((word) => long === `--${word}`))
      .map((option) => [option.long?.slice(2), command.getOptionValue(option.attributeName())]),
  );
  return asUsage(() => tlsOf(values, process.cwd(), "--"));
}

/** What a check refuses as wrong usage. */
export function asUsage<Result>(check: () => Result): Result {
  try {
    return check();
  } catch (error) {
    const { reason, hint } = toBlockIoError(error, {});
    throw usage(reason, hint);
  }
}

/**
 * The same of checked values; relative paths begin in `folder`. Throws `EINVAL`.
 * @param prefix of the words where they were written, for messages.
 */
export function tlsOf(values: TlsValues, folder: string, prefix = ""): ServerTlsOptions | undefined {
  if (words.every((word) => values[word] === undefined)) return undefined;
  const path = (word: TlsWord): string | undefined => {
    const value = values[word];
    return typeof value === "string" ? resolve(folder, value) : undefined;
  };
  const options: ServerTlsOptions = {
    mode: (values.tls ?? "off") as ServerTlsOptions["mode"],
    ...given("certificates", path("tls-certificates")),
    ...given("psk", path("tls-psk")),
    ...given("verifyPeer", values["tls-verify-peer"]),
  };
  checkServerTls(options, {
    mode: `${prefix}tls`,
    certificates: `${prefix}tls-certificates`,
    psk: `${prefix}tls-psk`,
    verifyPeer: `${prefix}tls-verify-peer`,
  });
  return options;
}

function given(name: string, value: unknown): Record<string, unknown> {
  return value === undefined ? {} : { [name]: value };
}

/** As a stack file has it. */
export function tlsValues(options: ServerTlsOptions | undefined): TlsValues {
  if (options === undefined) return {};
  const { mode, certificates, psk, verifyPeer } = options;
  return {
    tls: mode,
    ...given("tls-certificates", certificates),
    ...given("tls-psk", psk),
    ...given("tls-verify-peer", verifyPeer),
  };
}
