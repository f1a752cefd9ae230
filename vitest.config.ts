import { defineConfig } from "vitest/config";

/**
 * The layers of docs/testing.md as vitest projects. `unit` touches nothing outside the process, `integration` starts a Postgres and a nats-server of its
 * own, `system` starts whole fleets with simulated hosts, `conformance` holds the fake Cloud Hypervisor to what the real one does, `vm` boots real virtual machines.
 */
const tree = (name: string, include: string[], extra: Record<string, unknown> = {}) => ({
  test: { name, include, exclude: ["**/node_modules/**", ".torpor/**"], ...extra },
});

export default defineConfig({
  test: {
    projects: [
      {
        test: {
          ...tree("unit", ["{apps,packages}/*/test/**/*.test.ts"]).test,
          exclude: ["**/node_modules/**", "**/*.it.test.ts", "**/*.vm.test.ts", "**/conformance/**"],
        },
      },
      tree("integration", ["{apps,packages}/*/test/**/*.it.test.ts", "tests/integration/**/*.test.ts"], {
        testTimeout: 120_000,
        hookTimeout: 120_000,
      }),
      tree("system", ["tests/system/**/*.test.ts"], { testTimeout: 300_000, hookTimeout: 300_000, fileParallelism: false }),
      tree("conformance", ["tests/conformance/**/*.test.ts", "apps/*/test/conformance/**/*.test.ts"], {
        testTimeout: 300_000,
        hookTimeout: 600_000,
        fileParallelism: false,
      }),
      tree("vm", ["tests/vm/**/*.test.ts", "apps/*/test/**/*.vm.test.ts"], {
        testTimeout: 300_000,
        hookTimeout: 600_000,
        fileParallelism: false,
      }),
    ],
  },
});
