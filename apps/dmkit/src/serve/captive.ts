/** `--run`: a command that lives beside the server and decides when it ends. */
import { spawn } from "node:child_process";
import { constants } from "node:os";
import { asking, toBlockIoError } from "@dmkit/block-io";
import type { NbdUri } from "@dmkit/nbd";
import { formatNbdUri } from "@dmkit/nbd";
import { printError } from "../ui/terminal.ts";

/** A shell's exit status for a process ended by a signal is this much more than the signal's number. */
const SIGNALLED = 128;

function statusOf(code: number | null, signal: NodeJS.Signals | null): number {
  return code ?? SIGNALLED + (signal === null ? 0 : constants.signals[signal]);
}

/** Variables the command can use: uri, unixsocket, port, exportname; those that do not apply are empty. */
export function captiveVariables(uri: NbdUri): Record<string, string> {
  const { address, exportName } = uri;
  return {
    uri: formatNbdUri(uri),
    unixsocket: address.kind === "unix" ? address.path : "",
    port: address.kind === "tcp" ? String(address.port) : "",
    exportname: exportName,
  };
}

/** A running command. */
export interface Captive {
  /** Its exit status; 128 + signal if it was killed, 127 if it could not be started. */
  readonly status: Promise<number>;
  /** Sends it a signal; harmless when it has ended. */
  kill(signal: NodeJS.Signals): void;
}

/** Runs `command` in a shell with the variables set. */
export function runCaptive(command: string, variables: Readonly<Record<string, string>>): Captive {
  const child = asking({ device: "--run" }, () =>
    spawn("/bin/sh", ["-c", command], { stdio: "inherit", env: { ...process.env, ...variables } }),
  );
  const status = new Promise<number>((resolve) => {
    child.on("error", (error) => {
      printError(toBlockIoError(error, { device: "--run" }));
      resolve(127);
    });
    child.on("exit", (code, signal) => resolve(statusOf(code, signal)));
  });
  // In our process group, so that it has the terminal and gets its Ctrl-C.
  return { status, kill: (signal) => void child.kill(signal) };
}
