/** The commands of "Running on Ceph", as they stand there. */
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { describe, expect, it } from "vitest";
import { createBucket } from "../../../packages/object-store/test/ceph.ts";
import { ceph } from "./real-store.ts";
import { main, run, succeed, tempFolder } from "./support.ts";

const page = fileURLToPath(new URL("../CEPH.md", import.meta.url));
const name = "the commands of CEPH.md";

describe.skipIf(ceph === undefined)(ceph === undefined ? `${name} (DMKIT_CEPH is not set)` : name, () => {
  it("run from the first to the last", { timeout: 300_000 }, async () => {
    if (ceph === undefined) throw new Error("skipped");
    const folder = tempFolder();
    const tree = join(folder, "tree");
    mkdirSync(tree);
    for (let n = 0; n < 40; n += 1)
      writeFileSync(join(tree, `file-${n}`), Buffer.alloc(50_000, `file ${n} `));
    mkdirSync(join(folder, "bin"));
    writeFileSync(join(folder, "bin/dmkit"), `#!/bin/sh\nexec "${process.execPath}" "${main}" "$@"\n`, {
      mode: 0o755,
    });
    // The page calls its bucket and its image what others may have called theirs.
    const own = `page-${process.pid}-${Date.now()}`;
    await createBucket(ceph, own);
    const blocks = [...readFileSync(page, "utf8").matchAll(/^```sh\n(.*?)^```$/gms)].map(
      ([, text = ""]) => text,
    );
    expect(blocks.length).toBeGreaterThan(6);
    const script = blocks
      .join("\n")
      .replaceAll("s3://disks/", `s3://${own}/`)
      .replaceAll("rbd/disk", `rbd/${own}`);
    const env = {
      ...process.env,
      PATH: `${join(folder, "bin")}:${process.env["PATH"] ?? ""}`,
      CEPH_CONF: ceph.conf,
      S3_KEY: ceph.accessKey,
      S3_SECRET: ceph.secretKey,
      S3_ENDPOINT: ceph.endpoint,
      TREE: tree,
      XDG_CACHE_HOME: join(folder, "cache"),
    };
    // What was left running ends with the script, also where that stops halfway.
    const ending = `trap 'kill -KILL $(jobs -p) 2>/dev/null || true' EXIT\n`;
    const { code, stdout, stderr } = await run("/bin/bash", ["-exc", ending + script], { cwd: folder, env });
    expect(code, stdout + stderr).toBe(0);
    await succeed("rbd", ["rm", "--no-progress", `rbd/${own}`], { env });
  });
});
