import { fileURLToPath } from "node:url";
import { type ViteUserConfig, defineConfig, mergeConfig } from "vitest/config";

const guard = fileURLToPath(new URL("vitest.guard.ts", import.meta.url));

/**
 * The settings every package's tests share. Sources are used directly: no build is needed to run a test.
 *
 * All files of a package run in one process, one after the other, so that hundreds of modules are loaded once and not for
 * each file. What a file changes for the whole process (variables, spies, listeners) it therefore puts back (one that does
 * not, fails: `vitest.guard.ts`), and a module that several files import has no hooks of its own: they would be those of the
 * first file.
 * @param alone files that get a process of their own, because they exchange modules.
 */
export function shared(overrides: ViteUserConfig = {}, alone: readonly string[] = []): ViteUserConfig {
  const include = ["test/**/*.test.ts"];
  const settings = defineConfig({
    ssr: { resolve: { conditions: ["dmkit-source", "node", "import", "default"] } },
    test: {
      isolate: false,
      setupFiles: [guard],
      pool: "forks",
      // The devices under test hold and copy mebibytes, for which V8 collects all the time, though there is little to find:
      // threads that help it, on two cores, cost a third of all the time.
      execArgv: ["--single-threaded-gc"],
      // What was made of a source is kept in node_modules for the next run, and the next part of the app's tests.
      experimental: { fsModuleCache: true },
      // One file at a time: the machine these tests are sized for has two cores, and other packages run beside.
      fileParallelism: false,
      // For what hangs, and nothing else: the slowest takes 40 s where two processors are shared by three.
      testTimeout: 180_000,
      hookTimeout: 180_000,
      // What is waited for comes, or the test has failed: the usual second is little on a busy machine.
      expect: { poll: { timeout: 60_000 } },
      reporters: ["default", "json"],
      outputFile: { json: ".reports/vitest.json" },
    },
  });
  settings.test = {
    ...settings.test,
    ...(alone.length === 0
      ? { include }
      : {
          projects: [
            { extends: true, test: { name: "together", include, exclude: [...alone] } },
            { extends: true, test: { name: "alone", include: [...alone], isolate: true } },
          ],
        }),
  };
  return mergeConfig(settings, overrides);
}
