/** A bench host replies as a host does: its observations follow the node-agent's rules. */
import { createHash } from "node:crypto";
import type { HostId, OperationId, SandboxId } from "@torpor/contracts";
import { expect, test } from "vitest";
import { backedOut, carriedOut, type Command, filledWith, judge } from "../src/host/answers.ts";
import { filledId } from "../src/scale/filled.ts";

const ID = "1700000000abcdefgh" as SandboxId;
const command = (kind: string, opSeq: number, epoch = 1): Command => ({
  type: "command",
  version: 1,
  kind,
  hostId: "bench-1" as HostId,
  operationId: `op_${String(opSeq).padStart(32, "0")}` as OperationId,
  epoch,
  opSeq,
  deadlineAt: "2030-01-01T00:00:00Z",
  spec: {
    sandboxId: ID,
    templateName: "bench",
    imageSha256: "0".repeat(64),
    resources: { vcpu: 1, memoryMib: 16, diskMib: 16 },
    internetAccess: true,
    envVars: {},
  },
});

test("a life: each state follows from the command, and revisions and generations rise", () => {
  let kept = carriedOut(undefined, command("create", 1));
  expect(kept.seen).toMatchObject({ state: "running", revision: 1, opSeq: 1 });
  expect(kept.seen.operation).toEqual({
    id: command("create", 1).operationId,
    outcome: "succeeded",
  });
  kept = carriedOut(kept, command("pause", 2));
  expect(kept.seen).toMatchObject({ state: "paused", revision: 2, snapshot: { generation: 1 } });
  kept = carriedOut(kept, command("resume", 3, 2));
  expect(kept.seen).toMatchObject({ state: "running", epoch: 2 });
  expect(kept.seen.snapshot).toBeUndefined();
  kept = carriedOut(kept, command("stop", 4, 2));
  expect(kept.seen).toMatchObject({ state: "stopped", revision: 4, snapshot: { generation: 2 } });
  expect(carriedOut(kept, command("delete", 5, 2)).seen.state).toBe("deleted");
});

test("order only rises: older commands are ignored, the same is answered again", () => {
  const kept = carriedOut(undefined, command("pause", 7, 3));
  expect(judge(kept, command("resume", 6, 3))).toBe("ignore");
  expect(judge(kept, command("resume", 9, 2))).toBe("ignore");
  expect(judge(kept, command("pause", 7, 3))).toBe("repeat");
  expect(judge(kept, command("resume", 8, 4))).toBe("ask_commit");
  expect(judge(kept, command("delete", 8, 3))).toBe("carry_out");
  expect(judge(undefined, command("create", 1))).toBe("ask_commit");
  expect(judge(kept, command("replicate", 8, 3))).toBe("ignore");
});

test("what was refused leaves the sandbox as it was", () => {
  const kept = carriedOut(carriedOut(undefined, command("create", 1)), command("pause", 2));
  const refused = backedOut(kept, command("resume", 3, 2), { code: "NO", message: "no" });
  expect(refused.seen).toMatchObject({
    state: "paused",
    revision: 3,
    snapshot: kept.seen.snapshot,
  });
  expect(refused.seen.operation).toMatchObject({ outcome: "cancelled", error: { code: "NO" } });
  expect(backedOut(undefined, command("create", 1), { code: "NO", message: "no" }).seen.state).toBe(
    "failed",
  );
});

test("a sandbox that the database was filled with has the id and manifest that the SQL makes", () => {
  expect(filledId(0)).toBe("170000000000000000");
  expect(filledId(255)).toBe("1700000255000000ff");
  const { seen } = filledWith("bench-1" as HostId, filledId(255));
  const manifest = createHash("sha256").update("1700000255000000ff 1").digest("hex");
  expect(seen).toMatchObject({ state: "paused", opSeq: 2, snapshot: { manifestSha256: manifest } });
});
