/** What devices are read with, and how they name what lies below. */
import { type TargetRegistry, newPath, toBlockIoError } from "@dmkit/block-io";
import type { DeviceReader } from "./options.ts";
import type { PlannedFile } from "../plan.ts";
import { show } from "../problem.ts";
import { type ReferenceContext, resolveReference } from "./references.ts";

export interface DeviceContext extends ReferenceContext {
  readonly targets: TargetRegistry;
  /** Files to be made; devices add theirs. */
  readonly files: Map<string, PlannedFile>;
}

/** Reads what options of type device say. */
export function deviceReader(context: DeviceContext): DeviceReader {
  const { problems, files } = context;
  return {
    folder: context.folder,
    reference: (word, at) => resolveReference(word, at, context),
    file({ file, create, preallocate }, at) {
      if (preallocate && create === undefined)
        problems.add(at, "preallocate is for a file that is made", "create: SIZE beside it");
      // A file that is made is a file, whatever devices are called.
      const reference = resolveReference(file, at, { ...context, names: new Set() });
      if (reference === undefined || create === undefined) return reference;
      if (!reference.startsWith("/")) {
        problems.add(at, `${show(file)} cannot be made`, "create goes with the path of a file");
        return undefined;
      }
      const made = newFile(reference, at, context);
      if (made === undefined) return undefined;
      const { path } = made;
      const planned = { ...made, size: create, preallocate, where: problems.where(at) };
      const known = files.get(path);
      if (known !== undefined && (known.size !== create || known.preallocate !== preallocate)) {
        problems.add(at, `${path} is to be made in two ways`, `the other one is at ${known.where}`);
      }
      files.set(path, known ?? planned);
      return reference;
    },
  };
}

function newFile(
  reference: string,
  at: number,
  { problems }: DeviceContext,
): Pick<PlannedFile, "path" | "lock"> | undefined {
  try {
    const { path, lock } = newPath(reference);
    return { path, ...(lock ? {} : { lock }) };
  } catch (error) {
    const { device, reason, hint } = toBlockIoError(error, {});
    problems.add(at, `${device} ${reason}`, hint);
    return undefined;
  }
}
