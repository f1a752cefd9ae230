import { defineConfig } from "vitest/config";
import { type Layer, LAYERS } from "./packages/cli/src/test/options.ts";
import LongestFirst from "./packages/cli/src/test/sequencer.ts";
import { EXHAUSTIVE } from "./scripts/test-tags.ts";

/**
 * The layers of docs/testing.md as vitest projects. `unit` touches nothing outside the process,
 * `integration` and `system` start processes, `conformance` compares the fake Cloud Hypervisor with
 * the real one, `vm` boots real virtual machines. Files of one project run at the same time: each
 * owns what it starts.
 */
const project = (name: Layer, include: string[], options: Record<string, unknown> = {}) => ({
  test: {
    name,
    include,
    exclude: ["**/node_modules/**", ".torpor/**"],
    // Runs layers one after the other when vitest is started by hand for several.
    sequence: { groupOrder: LAYERS.indexOf(name) },
    ...options,
  },
});

const IN_UNIT_DIRECTORIES = ["**/*.it.test.ts", "**/*.vm.test.ts", "**/conformance/**"];
const withProcesses = {
  // Otherwise, half of a worker's time goes into importing the same modules again for each file.
  isolate: false,
  globalSetup: ["packages/testkit/src/global-setup.ts"],
  setupFiles: ["packages/testkit/src/evidence-setup.ts"],
};
const minutes = (count: number) => count * 60_000;

export default defineConfig({
  test: {
    tags: [EXHAUSTIVE],
    sequence: { sequencer: LongestFirst },
    projects: [
      project("unit", ["{apps,packages}/*/test/**/*.test.ts"], {
        exclude: ["**/node_modules/**", ...IN_UNIT_DIRECTORIES],
        testTimeout: minutes(1),
        // These tests touch nothing outside the process and leave no state in modules, so modules
        // are imported only once.
        isolate: false,
        // vitest's default is the number of processors minus one.
        maxWorkers: 2,
      }),
      project(
        "integration",
        ["{apps,packages}/*/test/**/*.it.test.ts", "tests/integration/**/*.test.ts"],
        {
          ...withProcesses,
          globalSetup: [
            ...withProcesses.globalSetup,
            "packages/testkit/src/shared-postgres-setup.ts",
          ],
          testTimeout: minutes(2),
          hookTimeout: minutes(2),
          // These tests wait half of the time: for timers, limits and servers.
          maxWorkers: 5,
        },
      ),
      project("system", ["tests/system/**/*.test.ts"], {
        ...withProcesses,
        testTimeout: minutes(5),
        hookTimeout: minutes(5),
        maxWorkers: 4,
      }),
      project(
        "conformance",
        ["tests/conformance/**/*.test.ts", "apps/*/test/conformance/**/*.test.ts"],
        {
          ...withProcesses,
          exclude: ["**/node_modules/**", "**/*.vm.test.ts"],
          testTimeout: minutes(5),
          hookTimeout: minutes(10),
          // These cases mostly wait for timers.
          maxWorkers: 4,
        },
      ),
      project("vm", ["tests/vm/**/*.test.ts", "{apps,packages}/*/test/**/*.vm.test.ts"], {
        ...withProcesses,
        testTimeout: minutes(5),
        hookTimeout: minutes(10),
        maxWorkers: 2,
      }),
    ],
  },
});
