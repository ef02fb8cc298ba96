/** Where tests put what belongs into an object store: a bucket of Ceph's gateway where there is one, else a folder. */
import { join } from "node:path";
import { vi } from "vitest";
import { type Ceph, createBucket, startCeph } from "../../../packages/object-store/test/ceph.ts";
import { cleanUp, tempFolder } from "./support.ts";

const given = process.env["DMKIT_CEPH"];

/** The cluster that DMKIT_CEPH describes, as `node scripts/ceph.mjs up FOLDER` prints it. */
export const ceph: Ceph | undefined = given === undefined || given === "none" ? undefined : startCeph();

/** For the names of tests. */
export const where: string = ceph === undefined ? "a folder (DMKIT_CEPH is not set)" : "Ceph's gateway";

/** What a shell would have set to reach the gateway, and a cache of images of its own; set here, too, until the test is over. */
export function gatewayVariables(): Record<string, string> {
  const variables: Record<string, string> = { XDG_CACHE_HOME: tempFolder() };
  if (ceph !== undefined) {
    variables["AWS_ACCESS_KEY_ID"] = ceph.accessKey;
    variables["AWS_SECRET_ACCESS_KEY"] = ceph.secretKey;
    variables["AWS_ENDPOINT_URL"] = ceph.endpoint;
  }
  for (const [name, value] of Object.entries(variables)) vi.stubEnv(name, value);
  cleanUp(() => void vi.unstubAllEnvs());
  return variables;
}

let buckets = 0;

/** A new store, as commands name it; what they need is in the environment until the test is over. */
export async function realStore(): Promise<string> {
  gatewayVariables();
  if (ceph === undefined) return join(tempFolder(), "store");
  const bucket = `dmkit-${process.pid}-${Date.now()}-${(buckets += 1)}`;
  await createBucket(ceph, bucket);
  return `s3://${bucket}/store`;
}
