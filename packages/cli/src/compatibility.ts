/**
 * docs/compatibility.md, from the results of the tests in tests/vm/compatibility: `node
 * compatibility.ts <report.json>` writes it. `./torpor test` compares the two, so the table cannot
 * promise anything that was not tested.
 */
import { readFileSync, writeFileSync } from "node:fs";

const FILE = new URL("../../../docs/compatibility.md", import.meta.url);

/** The fields of vitest's JSON report that the table needs. */
interface TestReport {
  testResults: {
    name: string;
    assertionResults: {
      ancestorTitles: string[];
      title: string;
      status: string;
      meta?: { note?: string; isRefused?: boolean };
    }[];
  }[];
}

const HEAD = `# Compatibility

Written by \`node packages/cli/src/compatibility.ts .torpor/test-vm.json\` from the results of
\`./torpor test vm\`: the clients as they are published, against a local fleet with real virtual
machines. \`refused\` means: a clear error at once, because Torpor has nothing behind the call.
`;

function renderCompatibility(report: TestReport): string {
  const tests = report.testResults
    .filter(({ name }) => name.includes("/tests/vm/compatibility/"))
    .toSorted((a, b) => (a.name < b.name ? 1 : -1))
    .flatMap(({ assertionResults }) => assertionResults);
  const sections = Map.groupBy(tests, ({ ancestorTitles }) => ancestorTitles[0] ?? "");
  const parts = [...sections].map(([title, rows]) => {
    const lines = rows.map(
      ({ title: method, status, meta }) =>
        `| ${method} | ${resultOf(status, meta?.isRefused)} | ${meta?.note ?? ""} |`,
    );
    return [`## ${title}`, "", "| method | result | note |", "|---|---|---|", ...lines, ""].join(
      "\n",
    );
  });
  return [HEAD, ...parts].join("\n");
}

function resultOf(status: string, isRefused = false): string {
  if (status !== "passed") return status;
  return isRefused ? "refused" : "works";
}

/** Undefined if the table matches the report; otherwise the remedy. */
export function staleCompatibility(reportFile: string): string | undefined {
  const report = JSON.parse(readFileSync(reportFile, "utf8")) as TestReport;
  if (readFileSync(FILE, "utf8") === renderCompatibility(report)) return undefined;
  return `docs/compatibility.md is not what the tests saw: run node packages/cli/src/compatibility.ts ${reportFile}`;
}

const reportFile = process.argv[2];
if (import.meta.main && reportFile !== undefined)
  writeFileSync(
    FILE,
    renderCompatibility(JSON.parse(readFileSync(reportFile, "utf8")) as TestReport),
  );
