/**
 * Every kind of message on the bus: its writers, readers and content. The versioned schemas
 * (versioned-schemas.ts) and docs/subjects.md are generated from this table, and the permissions of
 * hosts to publish are compared with it.
 */
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
import { patterns, subjects } from "./subjects.ts";

export type ProgramName = "gateway" | "scheduler" | "node-agent";

export interface Channel {
  /** Subject with `*` for each token that differs between messages. */
  pattern: string;
  /** Meaning of each `*`, in order. */
  tokens: readonly string[];
  /**
   * `stream`: stored until it is read, or for a time. `request`: one of the readers replies.
   * `fleeting`: lost without a reader, because the next message repeats the content.
   */
  delivery: "stream" | "request" | "fleeting";
  writtenBy: readonly ProgramName[];
  readBy: readonly ProgramName[];
  says: string;
  /** Keyed by the names of their versioned schemas: the message, then the reply of a request. */
  schemas: Readonly<Record<string, TSchema>>;
}

export const CHANNELS = {
  intent: {
    pattern: patterns.intents,
    tokens: ["kind"],
    delivery: "stream",
    writtenBy: ["gateway", "scheduler"],
    readBy: ["scheduler"],
    says: "An operation was accepted. It carries no instructions: the reader looks at the row, and a reconciler finds the row without it.",
    schemas: { intent: Intent },
  },
  command: {
    pattern: patterns.commands,
    tokens: ["host", "kind"],
    delivery: "stream",
    writtenBy: ["scheduler"],
    readBy: ["node-agent"],
    says: "What the host has to do with one sandbox. The host acknowledges a command once it is journalled, and refuses a lower (epoch, opSeq).",
    schemas: { command: VmCommand },
  },
  observation: {
    pattern: patterns.observations,
    tokens: ["host", "state"],
    delivery: "stream",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "What the host saw of one sandbox: the outcome of a command, or what happened by itself. The heartbeat repeats it.",
    schemas: { observation: Observation },
  },
  event: {
    pattern: patterns.events,
    tokens: ["sandbox", "type"],
    delivery: "stream",
    writtenBy: ["gateway", "scheduler"],
    readBy: ["gateway"],
    says: "What happened to the sandbox ([events.md](events.md)). Readers use it to look at the row sooner than they would.",
    schemas: { "sandbox-event": SandboxEventMessage },
  },
  heartbeat: {
    pattern: patterns.heartbeats,
    tokens: ["host"],
    delivery: "fleeting",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "The host's load, the use of its sandboxes, and what of its inventory has changed.",
    schemas: { heartbeat: Heartbeat },
  },
  register: {
    pattern: patterns.requests("register"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "Here is a host, with its address, capacity, images and keys. The reply is its lease.",
    schemas: { "register-request": RegisterRequest, "lease-reply": LeaseReply },
  },
  lease: {
    pattern: patterns.requests("lease"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "May the host's lease be renewed? The host counts the lease from before it asked.",
    schemas: { "lease-request": LeaseRequest, "lease-reply": LeaseReply },
  },
  commit: {
    pattern: patterns.requests("commit"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "May the operation pass its point of no return?",
    schemas: { "commit-request": CommitRequest, "commit-reply": CommitReply },
  },
  thaw: {
    pattern: patterns.requests("thaw"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "Is the frozen VM still its sandbox's newest run, so that it may run again?",
    schemas: { "thaw-request": ThawRequest, "thaw-reply": ThawReply },
  },
  garbage: {
    pattern: patterns.requests("garbage"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "Which of these entries of the snapshot store are needed no more? What the reply does not name stays.",
    schemas: { "garbage-request": GarbageRequest, "garbage-reply": GarbageReply },
  },
  certificate: {
    pattern: patterns.requests("certificate"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["gateway"],
    says: "The host's certificate ends soon: a new one for the same key.",
    schemas: { "certificate-request": CertificateRequest, "certificate-reply": CertificateReply },
  },
  placement: {
    pattern: subjects.controlRequest("placement"),
    tokens: [],
    delivery: "request",
    writtenBy: ["gateway"],
    readBy: ["scheduler"],
    says: "Where would this sandbox be placed now? Nothing is reserved.",
    schemas: { "placement-question": PlacementQuestion, "placement-reply": PlacementReply },
  },
} as const satisfies Record<string, Channel>;
