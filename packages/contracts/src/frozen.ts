/** What crosses a process boundary, as frozen JSON schemas: a change of a message is a visible diff, and a breaking one needs a new version beside the old. */
import type { TSchema } from "typebox";
import { PlacementQuestion, PlacementReply } from "./control.ts";
import {
  CertificateReply,
  CertificateRequest,
  CommitReply,
  CommitRequest,
  GarbageReply,
  GarbageRequest,
  LeaseReply,
  LeaseRequest,
  RegisterRequest,
  ThawReply,
  ThawRequest,
} from "./host/asks.ts";
import { VmCommand } from "./host/command.ts";
import { Heartbeat } from "./host/heartbeat.ts";
import { Observation } from "./host/observation.ts";
import { Intent, SandboxEventMessage } from "./messages.ts";

const MESSAGES: Record<string, TSchema> = {
  "intent.v1.json": Intent,
  "sandbox-event.v1.json": SandboxEventMessage,
  "command.v1.json": VmCommand,
  "observation.v1.json": Observation,
  "heartbeat.v1.json": Heartbeat,
  "register-request.v1.json": RegisterRequest,
  "lease-request.v1.json": LeaseRequest,
  "lease-reply.v1.json": LeaseReply,
  "commit-request.v1.json": CommitRequest,
  "commit-reply.v1.json": CommitReply,
  "placement-question.v1.json": PlacementQuestion,
  "placement-reply.v1.json": PlacementReply,
  "thaw-request.v1.json": ThawRequest,
  "thaw-reply.v1.json": ThawReply,
  "garbage-request.v1.json": GarbageRequest,
  "garbage-reply.v1.json": GarbageReply,
  "certificate-request.v1.json": CertificateRequest,
  "certificate-reply.v1.json": CertificateReply,
};

/** File name → text, as they stand in packages/contracts/schemas. */
export function frozenSchemas(): [string, string][] {
  return Object.entries(MESSAGES).map(([name, schema]) => [name, `${JSON.stringify(schema, null, 2)}\n`]);
}
