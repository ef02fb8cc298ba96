/** `dmkit serve`: the NBD server in the foreground. */
import { join, resolve } from "node:path";
import {
  type Environment,
  type LogLevel,
  type TargetRegistry,
  quoteTableWord,
  realEnvironment,
  schemeOf,
  shellQuote,
} from "@dmkit/block-io";
import { MOST_CONNECTIONS, NBD_PORT, type ServerTlsOptions, checkNames } from "@dmkit/nbd";
import { type Command, Option } from "commander";
import { CONTROL_VARIABLE } from "../control/sockets.ts";
import { uriSchemes } from "../devices.ts";
import { activatedSockets } from "../serve/listen/listeners.ts";
import { attachHints } from "../serve/hints.ts";
import { serviceVariables } from "../serve/service-manager.ts";
import { type SessionOptions, serve } from "../serve/session.ts";
import { addAccess } from "../serve/listen/access.ts";
import { addTls, asUsage, tlsOfCommand } from "../serve/listen/tls.ts";
import { lookUpUser } from "../serve/process/privileges.ts";
import type { StackPlan } from "../stack-file/plan.ts";
import { type LogFormat, logFormats, stderrLogger } from "../ui/log.ts";
import { usage } from "../ui/usage.ts";
import { refuseUseless } from "../ui/useless-options.ts";
import type { Finish, Known } from "./command.ts";
import {
  CACHE_OPTION,
  STACK_FILE,
  refuseBesideSingle,
  refuseUnusedAddress,
  refuseUnusedFiles,
  refuseUnusedHiding,
  refuseWithoutImages,
  refuseUnusedTls,
} from "./serve-refusals.ts";
import { integer, repeated, size } from "./values.ts";

interface ServeFlags {
  readonly table: readonly string[];
  readonly unix?: string;
  readonly port?: number;
  readonly bind: string;
  readonly allowRemote: boolean;
  readonly allow?: readonly string[];
  readonly identities?: readonly string[];
  readonly writers?: readonly string[];
  readonly socketMode?: number;
  readonly socketGroup?: string;
  readonly user?: string;
  readonly group?: string;
  readonly single: boolean;
  readonly readOnly: boolean;
  readonly name?: string;
  readonly description?: string;
  readonly hidden: boolean;
  readonly at?: string;
  readonly create?: number;
  readonly preallocate: boolean;
  readonly lock: boolean;
  readonly snapshot: boolean;
  readonly cache?: string;
  readonly cacheSize?: number;
  readonly strict: boolean;
  readonly run?: string;
  readonly printUri: boolean;
  readonly pidfile?: string;
  readonly exitWithParent: boolean;
  readonly maxConnections?: number;
  readonly shutdownTimeout?: number;
  readonly control?: string;
  readonly data: string;
  readonly log?: LogLevel;
  readonly logFormat?: LogFormat;
  readonly metrics?: number;
  readonly page: boolean;
  readonly quiet: boolean;
}

const examples = `
Examples:
  dmkit serve                                   a disk in ./dmkit-data, ready to use
  dmkit serve stack.yaml                        devices and exports of a stack file; SIGHUP reads it again
  dmkit serve disk.img                          a file on 127.0.0.1, port ${NBD_PORT}
  dmkit serve -U /tmp/nbd.sock a.img b.img      two exports on a unix socket
  dmkit serve --create 10G new.img              create the file if it is missing
  dmkit serve --table "0 2097152 linear a.img 0" --table "2097152 * linear b.img 0"
  dmkit serve --cache fast.img --cache-size 1G slow.img
  dmkit serve --snapshot disk.img               writes are gone when the server ends
  dmkit serve disk.img --run 'nbdinfo "$uri"'   serve while a command runs
  dmkit serve disk.img -p 10809 -i 0.0.0.0 --tls require --tls-certificates pki --tls-verify-peer
  dmkit serve --at 1234 cache.img disk.img      a write cache and its disk as they were at a segment
  dmkit serve --at 2026-01-31T12:00:00Z archive:s3://disks/vm1
  dmkit serve -r nbd://host/export -p 10810     re-export another server, read-only
`;

/** @param finish is given the exit code. */
export function addServe(program: Command, finish: Finish, known: Known): void {
  const serving = program
    .command("serve")
    .summary("serve images, tables, a stack file or the default disk over NBD")
    .description(
      "Runs an NBD server in the foreground. Images are paths, mem:SIZE, null:SIZE or NBD URIs. One image or a table is the default export; several images are exported under their file names. A file named .yaml or .yml is a stack file.",
    )
    .argument("[image...]", "files, block devices or URIs to export, or one stack file")
    .optionsGroup("What is served:")
    .option(
      "-t, --table <line>",
      "device-mapper table line; repeat it for more lines. * as the last one's length: the rest of the device below",
      repeated,
      [],
    )
    .option("-n, --name <name>", "export name of the image or table")
    .option("-D, --description <text>", "description clients are shown")
    .option("--hidden", "do not list the export: who knows its name can use it", false)
    .option("-r, --read-only", "open everything read-only", false)
    .option(
      "--at <moment>",
      "serve what keeps what was before, read-only: a cache and then its disk, as they were at a segment; an archive, as it was at a segment or a time",
    )
    .option(
      "--snapshot",
      "open images read-only: what is written is kept in memory and gone at the end",
      false,
    )
    .option("--cache <device>", "a write cache of the one image; a new one is made only on a blank device")
    .option(
      "--cache-size <size>",
      "make the cache with this size if that file is missing (with --create: a tenth of the image)",
      size(16 * 2 ** 20, 512),
    )
    .option("--create <size>", "create missing image files with this size", size(512, 512))
    .option("--preallocate", "reserve all storage of image files now", false)
    .option(
      "--no-lock",
      "do not lock files that are written to (or write FILE?no-lock): nothing else may write to them",
    )
    .option("--strict", "refuse requests that are not aligned to the device's blocks", false)
    .option("--data <folder>", "folder of the default disk", "dmkit-data")
    .optionsGroup("Where to listen:")
    .option("-U, --unix <path>", "listen on a unix socket (mode 0600)")
    .option("-p, --port <port>", "listen on a TCP port; 0 picks a free one", integer(0, 65_535))
    .option("-i, --bind <address>", "address for --port", "127.0.0.1")
    .option("--allow-remote", "let --bind be an address others can reach without TLS", false)
    .option("-s, --single", "serve one client on stdin and stdout (inetd, ssh)", false)
    .option("--run <command>", "serve on a private socket while the shell command runs, exit with its status")
    .option("--max-connections <n>", "clients at a time", integer(1, MOST_CONNECTIONS))
    .optionsGroup("How it runs:")
    .option("-C, --control <path>", "where to listen for dmkit ls, message … (default: found by them)")
    .option("--print-uri", "print the URI on stdout when ready", false)
    .option("--pidfile <path>", "write the process id here when ready")
    .option("--user <user>", "become this user when all is open that only root may open: name or number")
    .option("--group <group>", "with --user: this group, instead of the user's own")
    .option("--exit-with-parent", "stop when the parent process ends", false)
    .option(
      "--shutdown-timeout <s>",
      "seconds to finish requests after a signal (default: 10)",
      integer(0, 3600),
    )
    .optionsGroup("Log and metrics:")
    .addOption(
      new Option("--log <level>", "log to stderr; debug: every request, too (default: warn)").choices([
        "debug",
        "info",
        "warn",
        "error",
      ]),
    )
    .addOption(
      new Option(
        "--log-format <format>",
        "how events are written: text, json, or journal, with priorities (default: journal where stderr is systemd's, text elsewhere)",
      ).choices(logFormats),
    )
    .option(
      "--metrics <port>",
      "serve /metrics, /healthz and /livez over HTTP on 127.0.0.1; 0 picks a free port",
      integer(0, 65_535),
    )
    .option(
      "--page",
      "show at / of the metrics' port, to browsers on this machine, what the server does; without --metrics at a free port",
      false,
    )
    .option("-q, --quiet", "print no hints", false)
    .addHelpText("after", examples)
    .action(async (images: string[], flags: ServeFlags, command: Command) => {
      refuseBesideSingle(flags, command);
      refuseUseless(command, [
        { option: "create", beside: "read-only" },
        { option: "preallocate", beside: "read-only" },
        { option: "snapshot", beside: "read-only" },
        { option: "snapshot", beside: CACHE_OPTION },
        { option: "snapshot", beside: "preallocate" },
        { option: "snapshot", beside: "create" },
        { option: "writers", beside: "read-only" },
        { option: "cache-size", without: CACHE_OPTION },
        { option: "cache-size", beside: "read-only" },
        { option: "socket-mode", without: "unix" },
        { option: "socket-group", without: "unix" },
        { option: "group", without: "user" },
      ]);
      refuseUnusedFiles(images, flags, command);
      refuseWithoutImages(images, flags, command);
      refuseUnusedHiding(images, flags);
      const targets = await known();
      const plan = await planOf(images, flags, targets);
      const activated = activatedSockets(process.env);
      const tls = tlsOfCommand(command);
      refuseUnusedAddress(images, flags, plan, activated, command);
      if (tls !== undefined) refuseUnusedTls(flags, plan, activated);
      asUsage(() => checkNames({ ...flags, tls }));
      const level = flags.log ?? plan?.log ?? "warn";
      const logger = stderrLogger(level, flags.logFormat);
      const environment: Environment = { ...realEnvironment, logger };
      const earlier = atMoment(images, flags.at, targets);
      const named = plan === undefined ? earlier.images : [];
      const given = sessionOptions(named, { ...flags, at: earlier.at }, plan, activated, tls);
      const options = { ...given, logsRequests: level === "debug" };
      finish(await serve({ ...options, targets, version: `dmkit ${program.version() ?? ""}` }, environment));
    });
  addAccess(serving.optionsGroup("Who may connect:"));
  addTls(serving.optionsGroup("TLS:"));
}

/** What is served as of a moment: a reference that can say so itself, or the devices of an image and a number. */
function atMoment(
  images: readonly string[],
  moment: string | undefined,
  targets: TargetRegistry,
): { readonly images: readonly string[]; readonly at: number | undefined } {
  if (moment === undefined) return { images, at: undefined };
  const [only = "", more] = images;
  const at = uriSchemes(targets)[schemeOf(only) ?? ""]?.at;
  if (at !== undefined && more === undefined) return { images: [at(only, moment)], at: undefined };
  const number = /^\d+$/.test(moment) ? Number(moment) : Number.NaN;
  if (Number.isSafeInteger(number)) return { images, at: number };
  throw usage(`--at: '${moment}' is no segment`, `Give a whole number from 0 to ${Number.MAX_SAFE_INTEGER}.`);
}

/** The stack file that is to be served, read and validated. */
async function planOf(
  images: readonly string[],
  flags: ServeFlags,
  targets: TargetRegistry,
): Promise<StackPlan | undefined> {
  const file = images.find((image) => STACK_FILE.test(image));
  if (file === undefined) return undefined;
  const hint = `An image of this name can be served as a table: --table ${shellQuote(`0 SECTORS linear ${quoteTableWord(file)} 0`)}`;
  if (images.length > 1) throw usage("a stack file goes alone", hint);
  const misplaced = (["name", "description", "create", "at"] as const).find(
    (name) => flags[name] !== undefined,
  );
  const flag = (["preallocate", "strict", "hidden"] as const).find((name) => flags[name]);
  if (misplaced !== undefined || flag !== undefined || flags.table.length > 0) {
    const given = misplaced ?? flag ?? "table";
    throw usage(`--${given} does not go with a stack file, which says so itself`, hint);
  }
  // YAML and schemas are loaded only by who needs them.
  const { readStackFile } = await import("../stack-file/read/read.ts");
  return readStackFile(file, targets);
}

function sessionOptions(
  images: readonly string[],
  flags: Omit<ServeFlags, "at"> & { readonly at: number | undefined },
  plan: StackPlan | undefined,
  activated: number,
  tls: ServerTlsOptions | undefined,
): Omit<SessionOptions, "version" | "targets" | "logsRequests"> {
  const isDefault = images.length === 0 && flags.table.length === 0 && plan === undefined;
  const control = flags.control ?? plan?.control;
  return {
    what: {
      images,
      table: flags.table,
      readOnly: flags.readOnly,
      name: flags.name,
      createSize: flags.create,
      preallocate: flags.preallocate,
      lock: flags.lock,
      snapshot: flags.snapshot,
      cache: flags.cache,
      cacheSize: flags.cacheSize,
      data: resolve(flags.data),
      at: flags.at,
    },
    stack: plan,
    activated,
    service: serviceVariables(process.env),
    where: {
      unix: flags.unix,
      port: flags.port,
      bind: flags.bind,
      allowRemote: flags.allowRemote,
      allow: flags.allow,
      identities: flags.identities,
      writers: flags.writers,
      mode: flags.socketMode,
      group: flags.socketGroup,
      single: flags.single,
      isPrivate: flags.run !== undefined,
      tls,
    },
    fallback: isDefault
      ? { path: resolve(join(flags.data, "nbd.sock")) }
      : { host: flags.bind, port: NBD_PORT, allowRemote: flags.allowRemote, allow: flags.allow },
    user: flags.user === undefined ? undefined : lookUpUser(flags.user, flags.group),
    control,
    metrics: metricsOf(flags, plan),
    strict: flags.strict,
    hidden: flags.hidden,
    description: flags.description,
    maxConnections: flags.maxConnections,
    run: flags.run,
    printUri: flags.printUri,
    pidfile: pathOf(flags.pidfile ?? plan?.pidfile),
    exitWithParent: flags.exitWithParent,
    shutdownTimeout: (flags.shutdownTimeout ?? plan?.shutdownTimeout ?? 10) * 1000,
    ready: (uris, exports, path, metrics) => {
      const silent = flags.quiet || flags.single || flags.run !== undefined;
      if (silent) return;
      const named = control !== undefined && process.env[CONTROL_VARIABLE] !== control;
      process.stderr.write(
        attachHints(uris, exports, path === undefined ? undefined : { path, named }, metrics),
      );
    },
  };
}

function metricsOf(
  { metrics: port, page }: Pick<ServeFlags, "metrics" | "page">,
  plan: StackPlan | undefined,
): StackPlan["metrics"] {
  const told = port === undefined ? plan?.metrics : { host: "127.0.0.1", port };
  return page ? { host: "127.0.0.1", port: 0, ...told, page } : told;
}

function pathOf(path: string | undefined): string | undefined {
  return path === undefined ? undefined : resolve(path);
}
