import { HostId, OperationId, SandboxId } from "@torpor/contracts";
import { Compile } from "typebox/compile";

const sandboxId = Compile(SandboxId);
const operationId = Compile(OperationId);
const hostId = Compile(HostId);

/** What is no id at all is answered without asking the database. */
export const isSandboxId = (text: string) => sandboxId.Check(text);
export const isOperationId = (text: string) => operationId.Check(text);
export const isHostId = (text: string) => hostId.Check(text);

/** Of a key or an organization: what Postgres takes for an integer, as the API writes it. */
export const isRowId = (text: string) => /^[1-9]\d{0,9}$/.test(text) && Number(text) < 2 ** 31;
