/** The order of test files for vitest: long ones first, by the times of the last run. */
import { BaseSequencer, type TestSpecification } from "vitest/node";
import { relative } from "node:path";
import { readTimes } from "./times.ts";

export default class LongestFirst extends BaseSequencer {
  /**
   * A file that never ran comes first: it may be the longest. Those keep vitest's order, large
   * files first.
   */
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const times = readTimes();
    const root = this.ctx.config.root;
    const secondsOf = (file: TestSpecification) =>
      times[relative(root, file.moduleId)] ?? Number.POSITIVE_INFINITY;
    const inOrder = await super.sort(files);
    return inOrder.toSorted((a, b) =>
      secondsOf(a) === secondsOf(b) ? 0 : secondsOf(b) - secondsOf(a),
    );
  }
}
