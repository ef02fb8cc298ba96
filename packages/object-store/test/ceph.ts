/**
 * A Ceph cluster with a gateway for a test file: the one that DMKIT_CEPH describes (as scripts/ceph.mjs prints it), or one
 * that is started for the file where Ceph is installed.
 */
import { execFileSync } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { request } from "node:http";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import aws4 from "aws4";

export interface Ceph {
  /** Path of its ceph.conf. */
  readonly conf: string;
  /** URL of its gateway. */
  readonly endpoint: string;
  readonly accessKey: string;
  readonly secretKey: string;
  stop(): void;
}

const script = fileURLToPath(new URL("../../../scripts/ceph.mjs", import.meta.url));

/** Whether there is Ceph on this machine; DMKIT_CEPH=none: there is not. In CI a missing one is a failure. */
export function hasCeph(): boolean {
  if (process.env["DMKIT_CEPH"] === "none") return false;
  if (process.env["CI"] || process.env["DMKIT_CEPH"]) return true;
  try {
    for (const program of ["ceph-mon", "ceph-osd", "ceph", "rbd", "radosgw"]) {
      execFileSync("/bin/sh", ["-c", `command -v "$1"`, "sh", program], { stdio: "ignore" });
    }
    return true;
  } catch {
    return false;
  }
}

/** Takes up to half a minute if one has to be started. */
export function startCeph(): Ceph {
  const given = process.env["DMKIT_CEPH"];
  if (given !== undefined) return { ...(JSON.parse(given) as Ceph), stop: () => {} };
  const folder = mkdtempSync(join(tmpdir(), "dmkit-ceph-"));
  const stop = (): void => {
    execFileSync(process.execPath, [script, "down", folder]);
    rmSync(folder, { recursive: true });
  };
  const stdout = execFileSync(process.execPath, [script, "up", folder], { encoding: "utf8" });
  return { ...(JSON.parse(stdout) as Ceph), stop };
}

/** Makes a bucket, which stays. */
export async function createBucket({ endpoint, accessKey, secretKey }: Ceph, bucket: string): Promise<void> {
  const { host, hostname, port } = new URL(endpoint);
  const signed = aws4.sign(
    { service: "s3", region: "us-east-1", host, method: "PUT", path: `/${bucket}` },
    { accessKeyId: accessKey, secretAccessKey: secretKey },
  );
  const status = await new Promise((resolve, reject) => {
    request(
      {
        hostname,
        port,
        method: "PUT",
        path: `/${bucket}`,
        headers: signed.headers as Record<string, string>,
      },
      (response) => {
        response.resume();
        response.on("end", () => resolve(response.statusCode));
      },
    )
      .on("error", reject)
      .end();
  });
  if (status !== 200) throw new Error(`creating the bucket was answered ${String(status)}`);
}
