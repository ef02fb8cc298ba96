/** Running the offline commands in this process: much quicker than a process for each, where there are hundreds. */
import { runCommandLine } from "../src/command-line.ts";
import type { Known } from "../src/commands/command.ts";
import type { Result } from "./support.ts";

/** Runs `work` and collects what it prints. */
export async function captured<T>(
  work: () => Promise<T>,
): Promise<{ value: T; stdout: string; stderr: string }> {
  const out = capture(process.stdout);
  const err = capture(process.stderr);
  try {
    const value = await work();
    return { value, stdout: out.text(), stderr: err.text() };
  } finally {
    out.release();
    err.release();
  }
}

/** As `dmkit ARGS…`, without a process: what it prints, and its exit code. */
export async function cli(...args: string[]): Promise<Result> {
  return cliWith(undefined, ...args);
}

/** The same with other targets than those of the app. */
export async function cliWith(known: Known | undefined, ...args: string[]): Promise<Result> {
  const { value: code, stdout, stderr } = await captured(() => runCommandLine(args, known));
  return { code, stdout, stderr };
}

function capture(stream: NodeJS.WriteStream): { release(): void; text(): string } {
  const write = stream.write.bind(stream);
  let text = "";
  stream.write = (chunk: string | Uint8Array): boolean => {
    text += String(chunk);
    return true;
  };
  return {
    release() {
      stream.write = write;
    },
    text: () => text,
  };
}
