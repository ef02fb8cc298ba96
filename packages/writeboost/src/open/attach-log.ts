/**
 * A cache and the archive of its log find each other.
 *
 * Invariant: the identity record says that the log is archived, durably, before the archive is told of the cache. So a
 * cache that an archive knows is never opened without one, but on request; what it then does the archive never learns.
 */
import { type Environment, randomDigits, refuse } from "@dmkit/block-io";
import type { Archiving, LocalLog, SegmentArchive } from "../device/archive/segment-archive.ts";
import type { Devices, Recovered } from "../device/recovered.ts";
import { IDENTITY_START, NO_UUID, encodeIdentity } from "../format/identity.ts";

/** What is opened. */
interface Opening {
  readonly size: number;
  readonly environment: Environment;
  /** Of the cache device. */
  readonly name: string;
  readonly progress?: LocalLog["progress"];
}

/** A log with its archive. */
interface AttachedLog {
  readonly recovered: Recovered;
  /** Undefined where there is to be none any more. */
  readonly archive: (Archiving & { readonly to: SegmentArchive }) | undefined;
}

/** Errors: those of the archive; `EINVAL` for a cache whose log cannot be archived. */
export async function attachLog(
  { cache, backing }: Devices,
  recovered: Recovered,
  archiving: Archiving | "none",
  { size, environment, name, progress }: Opening,
): Promise<AttachedLog> {
  const { identity, first, last, split } = recovered;
  if (archiving === "none") {
    if (identity === undefined || identity.archive === NO_UUID) return { recovered, archive: undefined };
    return { recovered: await mark(NO_UUID), archive: undefined };
  }
  if (identity === undefined || split.length > 0) {
    const hint =
      "Begin the archive with a new cache: write this one back (dmkit replay), and give another file.";
    throw refuse(name, "EINVAL", "the log of an old driver cannot be archived", hint);
  }
  const token =
    identity.archive === NO_UUID ? (archiving.token ?? randomDigits(environment.random)) : identity.archive;
  if (identity.archive === NO_UUID && last > 0) {
    throw refuse(
      name,
      "EINVAL",
      "an archive begins with a new cache, and this one has been used",
      "Write it back (dmkit replay), and give the disk a new cache file.",
    );
  }
  const marked = identity.archive === token ? recovered : await mark(token);
  const to = await archiving.attach({ token, last, first, backing, size, environment, progress });
  return { recovered: marked, archive: { ...archiving, to } };

  async function mark(archive: string): Promise<Recovered> {
    const changed = { ...(identity as NonNullable<typeof identity>), archive };
    await cache.write(IDENTITY_START, encodeIdentity(changed));
    await cache.flush();
    return { ...recovered, identity: changed };
  }
}
