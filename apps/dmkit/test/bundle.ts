/** The command as its sources are now, for the tests that type it. */
import { execFileSync } from "node:child_process";
import { fileURLToPath } from "node:url";

export default function bundle(): void {
  const script = fileURLToPath(new URL("../../../scripts/bundle.mjs", import.meta.url));
  execFileSync(process.execPath, [script], { stdio: ["ignore", "inherit", "inherit"] });
}
