/** The order of test files for vitest: long ones first, by the times of the last run. */
import { BaseSequencer, type TestSpecification } from "vitest/node";
import { relative } from "node:path";
import { readTimes, secondsOf } from "./times.ts";

export default class LongestFirst extends BaseSequencer {
  /** Files with equal times keep vitest's order, large files first. */
  override async sort(files: TestSpecification[]): Promise<TestSpecification[]> {
    const times = readTimes();
    const root = this.ctx.config.root;
    const secondsOfFile = ({ moduleId }: TestSpecification) =>
      secondsOf(times, relative(root, moduleId));
    const inOrder = await super.sort(files);
    return inOrder.toSorted((a, b) => secondsOfFile(b) - secondsOfFile(a));
  }
}
