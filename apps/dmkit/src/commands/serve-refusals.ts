/** Options of `dmkit serve` that nothing would come of, beside what else is to be served, and where. */
import { schemeOf } from "@dmkit/block-io";
import { NBD_PORT } from "@dmkit/nbd";
import type { Command } from "commander";
import { isTold } from "../serve/listen/listeners.ts";
import type { StackPlan } from "../stack-file/plan.ts";
import { usage } from "../ui/usage.ts";
import { isGiven, refuseUseless } from "../ui/useless-options.ts";

/** What was said that decides about the rest. */
interface Said {
  readonly table: readonly string[];
  readonly at?: string;
  readonly unix?: string;
  readonly port?: number;
  readonly run?: string;
  readonly single: boolean;
}

/** `--cache`; a target is called so as well, which is not meant. */
export const CACHE_OPTION: string = "--cache".slice(2);

/** What the name of a stack file ends with. */
export const STACK_FILE: RegExp = /\.ya?ml$/i;

/** One client on stdin and stdout: there is nothing to listen on, and stdout is the client's. */
export function refuseBesideSingle({ single }: Said, command: Command): void {
  if (!single) return;
  const useless = [
    "unix",
    "port",
    "bind",
    "allow-remote",
    "allow",
    "control",
    "run",
    "print-uri",
    "max-connections",
  ];
  const given = useless.find((name) => isGiven(command, name));
  if (given === undefined) return;
  throw usage(
    `--${given} does not go with --single, which serves one client on stdin and stdout`,
    "Leave out one of the two.",
  );
}

/** What is said of files that this server neither makes nor opens as images. */
export function refuseUnusedFiles(images: readonly string[], { table, at }: Said, command: Command): void {
  const isStack = images.some((image) => STACK_FILE.test(image));
  const others: readonly (readonly [boolean, string])[] = [
    [at !== undefined, "--at, which shows images as they are"],
    [table.length > 0, "a table, whose files have to be there"],
    [
      images.length > 0 && !isStack && images.every((image) => schemeOf(image) !== undefined),
      "URIs: they name no files",
    ],
  ];
  const served = others.find(([isServed]) => isServed)?.[1];
  const makes =
    served === undefined ? undefined : ["create", "preallocate"].find((name) => isGiven(command, name));
  if (makes !== undefined) {
    const instead = makes === "create" ? "truncate -s SIZE FILE" : "fallocate -l SIZE FILE";
    throw usage(`--${makes} does not go with ${served}`, `Make the file before, e.g. with: ${instead}`);
  }
  if (isGiven(command, "no-lock") && (table.length > 0 || isStack)) {
    throw usage(
      "--no-lock is for images",
      "In a table or a stack file write FILE?no-lock in the place of FILE.",
    );
  }
  const isDefault = images.length === 0 && table.length === 0 && at === undefined;
  if (isDefault || !isGiven(command, "data")) return;
  throw usage(
    "--data is for the default disk, and something else is to be served",
    "Leave --data out, or everything else.",
  );
}

/** What is for images, where none is to be served. */
export function refuseWithoutImages(images: readonly string[], { table, at }: Said, command: Command): void {
  const given = ["snapshot", CACHE_OPTION].find((name) => isGiven(command, name));
  if (given === undefined) return;
  const isImage = !images.some((image) => STACK_FILE.test(image)) && table.length === 0 && at === undefined;
  if (isImage && (given === CACHE_OPTION ? images.length === 1 : images.length > 0)) return;
  const example = given === CACHE_OPTION ? "--cache FAST SLOW" : "--snapshot IMAGE";
  throw usage(
    `--${given} is for ${given === CACHE_OPTION ? "one image" : "images"}, and something else is to be served`,
    `Write: dmkit serve ${example}`,
  );
}

/** There has to be a name that one can know. */
export function refuseUnusedHiding(
  images: readonly string[],
  { hidden, name }: { readonly hidden: boolean; readonly name?: string },
): void {
  const isStack = images.some((image) => STACK_FILE.test(image));
  if (!hidden || isStack || name !== undefined || images.length > 1) return;
  throw usage("--hidden hides a name, and the one export has none", "Give it one: --name NAME");
}

/** An address that nothing will listen at, although whoever gave it relies on it. */
export function refuseUnusedAddress(
  images: readonly string[],
  { port, unix, run, table, single }: Said,
  plan: StackPlan | undefined,
  activated: number,
  command: Command,
): void {
  const handed = `a service manager has handed over sockets (LISTEN_FDS=${activated})`;
  if (single && activated > 0) {
    const hint = "Leave out --single, or start it without sockets.";
    throw usage(`${handed}, and --single serves stdin and stdout`, hint);
  }
  const given = ["bind", "allow-remote", "allow"].find((name) => isGiven(command, name));
  // Without --port these are listened at where nothing else is said, and beside the sockets of a service manager not.
  const isDefault = images.length === 0 && table.length === 0;
  const elsewhere =
    activated > 0 || unix !== undefined || run !== undefined || isDefault || (plan?.listen.length ?? 0) > 0;
  if (given !== undefined && port === undefined && elsewhere) {
    const why = activated > 0 ? `: ${handed}` : "";
    const hint = `Add --port, e.g. --port ${NBD_PORT}, or leave --${given} out.`;
    throw usage(`--${given} is for a TCP port, and none is listened on${why}`, hint);
  }
  refuseUseless(command, [{ option: "allow-remote", without: "bind" }]);
}

/** Where a stack file says where to listen, it says how, too. */
export function refuseUnusedTls(
  { unix, port, run, single }: Said,
  plan: StackPlan | undefined,
  activated: number,
): void {
  const where = { unix, port, isPrivate: run !== undefined, single };
  if (isTold(where, activated) || plan === undefined || plan.listen.length === 0) return;
  throw usage(
    "--tls and what goes with it is for listeners of the command line, and there are none",
    "Write tls: require beside the port or unix of the stack file, or add --port or --unix.",
  );
}
