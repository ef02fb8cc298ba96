/** Reference programs. A missing one skips the test, with the reason, except under CI=true: there it fails. */
import { spawnSync } from "node:child_process";

type Skip = (reason: string) => void;

/** Skips the running test if a program is not installed. */
export function needs(skip: Skip, program: string, ...args: string[]): void {
  const tried = spawnSync(program, args.length > 0 ? args : ["--version"], { stdio: "ignore" });
  if (tried.status === 0) return;
  const reason = `${program} ${args.join(" ")} does not work here`;
  if (process.env["CI"] === "true") throw new Error(`${reason}, and CI must not skip this test`);
  skip(reason);
}

/** Runs a program as a filter; throws with what it said if it fails. */
export function filter(program: string, args: readonly string[], input: Uint8Array): Buffer {
  const { status, stdout, stderr, error } = spawnSync(program, args, { input, maxBuffer: 1 << 30 });
  if (status !== 0) throw new Error(`${program}: ${error?.message ?? stderr.toString()}`);
  return stdout;
}
