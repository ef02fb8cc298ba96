/**
 * References to RBD images of a Ceph cluster.
 *
 *     rbd:POOL[/NAMESPACE]/IMAGE[@SNAPSHOT][?PARAMETER=VALUE&…]
 *
 * The parameters are in one table below. Names go into the command lines of other programs, so that they have letters,
 * digits and `. _ -` only, although Ceph takes more.
 */
import { resolve } from "node:path";
import { type BlockIoError, type OptionsOf, parseOption, parseOptions, refuse } from "@dmkit/block-io";

/** What can be said behind the `?`. */
export const rbdParameters = {
  conf: {
    type: "text",
    optional: true,
    absolute: (path: string, folder: string): string => resolve(folder, path),
    help: "the cluster's ceph.conf; left out: $CEPH_CONF, or what Ceph takes",
  },
  id: { type: "text", optional: true, help: "the user, without client." },
  reconnect: {
    type: "integer",
    min: 0,
    max: 1_000_000,
    unit: "s",
    default: 30,
    help: "how long requests wait while qemu-nbd is started again",
  },
} as const;

/** An RBD image. */
export interface RbdImage extends OptionsOf<typeof rbdParameters> {
  /** As it was written. */
  readonly reference: string;
  readonly pool: string;
  readonly namespace: string | undefined;
  readonly image: string;
  /** Makes it read-only. */
  readonly snapshot: string | undefined;
}

const name = "[A-Za-z0-9_][A-Za-z0-9._-]{0,95}";
const shape = new RegExp(`^rbd:(${name})(?:/(${name}))?/(${name})(?:@(${name}))?(?:\\?(.*))?$`, "i");

/** Throws `EPARSE` for what is no reference to an image. */
export function parseRbd(reference: string): RbdImage {
  const match = shape.exec(reference);
  if (match === null) {
    const hint = "Write rbd:POOL/IMAGE; names have letters, digits and . _ - .";
    throw malformed(reference, "names no RBD image", hint);
  }
  const [, pool = "", namespace, image = "", snapshot, query = ""] = match;
  const given: Record<string, unknown> = {};
  for (const part of query === "" ? [] : query.split("&")) {
    const [key = "", ...rest] = part.split("=");
    const spec = Object.hasOwn(rbdParameters, key)
      ? rbdParameters[key as keyof typeof rbdParameters]
      : undefined;
    if (spec === undefined || Object.hasOwn(given, key)) {
      const what = spec === undefined ? "a parameter" : "twice";
      const known = Object.keys(rbdParameters).join(", ");
      throw malformed(reference, `has ${what} ${JSON.stringify(key)}`, `Known are ${known}, each once.`);
    }
    given[key] = parseOption(key, spec, rest.join("="));
  }
  const parameters = parseOptions(rbdParameters, given, "rbd");
  if (parameters.id !== undefined && !new RegExp(`^${name}$`).test(parameters.id)) {
    throw malformed(reference, "names no user", "Users have letters, digits and . _ - .");
  }
  return { ...parameters, reference, pool, namespace, image, snapshot };
}

/** The reference with paths made absolute: a relative one begins in `folder`. Throws `EPARSE`. */
export function absoluteRbd(reference: string, folder: string): string {
  const { conf } = parseRbd(reference);
  if (conf === undefined) return reference;
  return reference.replace(
    /([?&])conf=[^&]*/,
    (_, mark: string) => `${mark}conf=${rbdParameters.conf.absolute(conf, folder)}`,
  );
}

/** As Ceph's commands take it. */
export function specOf({ pool, namespace, image, snapshot }: RbdImage): string {
  const place = namespace === undefined ? pool : `${pool}/${namespace}`;
  return `${place}/${image}${snapshot === undefined ? "" : `@${snapshot}`}`;
}

function malformed(reference: string, reason: string, hint: string): BlockIoError {
  return refuse(undefined, "EPARSE", `${JSON.stringify(reference)} ${reason}`, hint, "parse");
}
