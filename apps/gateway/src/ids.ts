import { HostId, OperationId, SandboxId } from "@torpor/contracts";
import { Compile } from "typebox/compile";

const sandboxId = Compile(SandboxId);
const operationId = Compile(OperationId);
const hostId = Compile(HostId);

/** What is no id at all is answered without asking the database. */
export const isSandboxId = (text: string) => sandboxId.Check(text);
export const isOperationId = (text: string) => operationId.Check(text);
export const isHostId = (text: string) => hostId.Check(text);
