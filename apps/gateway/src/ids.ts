import { HostId, OperationId, SandboxId } from "@torpor/contracts";
import { Compile } from "typebox/compile";

const sandboxId = Compile(SandboxId);
const operationId = Compile(OperationId);
const hostId = Compile(HostId);

/** A text that is no id is refused without a query. */
export const isSandboxId = (text: string) => sandboxId.Check(text);
export const isOperationId = (text: string) => operationId.Check(text);
export const isHostId = (text: string) => hostId.Check(text);

/** Id of a key or an organization: a positive integer of Postgres, as the API writes it. */
export const isRowId = (text: string) => /^[1-9]\d{0,9}$/.test(text) && Number(text) < 2 ** 31;
