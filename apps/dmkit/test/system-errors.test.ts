/** What the operating system refuses is told with its place and what to do, never as a fault of the program. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { BlockIoError, realEnvironment } from "@dmkit/block-io";
import { afterAll, expect, it, vi } from "vitest";
import { toRpcError } from "../src/control/protocol.ts";
import { ownSocket } from "../src/control/sockets.ts";
import { createUndoFile } from "../src/offline/undo/storage.ts";
import { runCaptive } from "../src/serve/captive.ts";
import { chooseListeners } from "../src/serve/listen/listeners.ts";
import { writePidfile } from "../src/serve/pidfile.ts";
import { makeFiles } from "../src/stack-file/prepare.ts";
import { printError } from "../src/ui/terminal.ts";
import { captured, cli } from "./cli.ts";
import { dmkit } from "./support.ts";

const folder = mkdtempSync(join(tmpdir(), "dmkit-test-"));
afterAll(() => rmSync(folder, { recursive: true, force: true }));
const file = join(folder, "file");
writeFileSync(file, "");
/** Below something that is no folder. */
const below = join(file, "x");

const refusals: Readonly<Record<string, () => unknown>> = {
  "the folder of the control socket": () => ownSocket(),
  "a folder for a private socket": () =>
    chooseListeners({ bind: "", allowRemote: false, single: false, isPrivate: true }, 0, { path: "s" }),
  "a pid file": () => writePidfile(below),
  "a file of a stack": () =>
    makeFiles([{ path: below, size: 512, preallocate: false, where: "" }], realEnvironment),
  "a command that is too long": () => runCaptive("x".repeat(200_000), {}),
  "an undo file": () => createUndoFile(below),
};

it.each(Object.entries(refusals))("%s", async (_, work) => {
  vi.stubEnv("XDG_RUNTIME_DIR", file);
  vi.stubEnv("TMPDIR", below);
  const error = await (async () => work())().catch((caught: unknown) => caught);
  vi.unstubAllEnvs();
  expect(error).toBeInstanceOf(BlockIoError);
  expect(error).toMatchObject({ device: expect.any(String), hint: expect.stringMatching(/\S/) });
});

it("a working folder that is gone", async () => {
  const gone = vi.spyOn(process, "cwd").mockImplementation(() => {
    throw Object.assign(new Error("ENOENT: no such file or directory, uv_cwd"), {
      code: "ENOENT",
      syscall: "uv_cwd",
    });
  });
  const result = await cli("publish", "-q", "mem:1M", "store/x");
  gone.mockRestore();
  expect(result).toMatchObject({
    code: 1,
    stderr: expect.stringMatching(/relative paths start from is gone \(ENOENT\)\n {2}Change to a folder/),
  });
});

it("what nobody has caught, on the terminal and for a client", async () => {
  const attempt = (): unknown => {
    try {
      return readFileSync(below);
    } catch (error) {
      return error;
    }
  };
  const { stderr } = await captured(async () => printError(attempt()));
  expect(stderr).toMatch(/ENOTDIR.*file\/x/);
  expect(stderr).toContain("\n  A part of the path is a file: give another path.\n");
  expect(stderr).not.toContain("fault in dmkit");
  expect(toRpcError(attempt()).data).toMatchObject({ code: "ENOENT", hint: expect.any(String) });
  expect((await captured(async () => printError(new Error("x")))).stderr).toContain("fault in dmkit");
});

it("a server that cannot make the folder of its control socket says so, and does without", async () => {
  const env = { ...process.env, XDG_RUNTIME_DIR: file };
  const { code, stderr } = await dmkit(["serve", "--log", "info", "--run", "true", "mem:1M"], { env });
  expect(code).toBe(0);
  expect(stderr).toContain("--control PATH");
  expect(stderr).not.toMatch(/fault in dmkit|at .*node:fs/);
});
