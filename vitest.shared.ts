import { type ViteUserConfig, defineConfig, mergeConfig } from "vitest/config";

/** The settings every package's tests share. Sources are used directly: no build is needed to run a test. */
export function shared(overrides: ViteUserConfig = {}): ViteUserConfig {
  return mergeConfig(
    defineConfig({
      ssr: { resolve: { conditions: ["dmkit-source", "node", "import", "default"] } },
      test: {
        include: ["test/**/*.test.ts"],
        pool: "forks",
        // One file at a time: the machine these tests are sized for has two cores, and turbo runs packages beside each other.
        fileParallelism: false,
        testTimeout: 30_000,
        hookTimeout: 60_000,
        reporters: ["default", ["json", { outputFile: ".reports/vitest.json" }]],
      },
    }),
    overrides,
  );
}
