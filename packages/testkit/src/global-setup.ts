/**
 * Runs once before the test files of a project that starts processes: builds what several of them
 * would otherwise build at the same time.
 */
import { prepareLocalPrograms } from "@torpor/programs";

export default async function setUp(): Promise<void> {
  await prepareLocalPrograms();
}
