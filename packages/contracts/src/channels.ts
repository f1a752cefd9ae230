/**
 * Every kind of message on the bus: who writes it, who reads it, and what it says. The frozen
 * schemas (versioned-schemas.ts) and docs/subjects.md are made of this table; what a host may
 * publish is compared with it.
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
  /** With `*` for each token that differs between messages. */
  pattern: string;
  /** What stands in the place of each `*`, in their order. */
  tokens: readonly string[];
  /**
   * `stream`: kept until it is read, or for a time. `request`: answered by one of the readers.
   * `fleeting`: lost when nobody listens, because the next one says it again.
   */
  delivery: "stream" | "request" | "fleeting";
  writtenBy: readonly ProgramName[];
  readBy: readonly ProgramName[];
  says: string;
  /** By the names of their frozen schemas: the message, then the reply of a request. */
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
    pattern: patterns.beats,
    tokens: ["host"],
    delivery: "fleeting",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "The host's load, the use of its sandboxes, and what of its inventory has changed.",
    schemas: { heartbeat: Heartbeat },
  },
  register: {
    pattern: patterns.asks("register"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "Here is a host, with its address, capacity, images and keys. The reply is its lease.",
    schemas: { "register-request": RegisterRequest, "lease-reply": LeaseReply },
  },
  lease: {
    pattern: patterns.asks("lease"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "May the host's lease be renewed? The host counts the lease from before it asked.",
    schemas: { "lease-request": LeaseRequest, "lease-reply": LeaseReply },
  },
  commit: {
    pattern: patterns.asks("commit"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "May the operation pass its point of no return?",
    schemas: { "commit-request": CommitRequest, "commit-reply": CommitReply },
  },
  thaw: {
    pattern: patterns.asks("thaw"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "Is the frozen VM still its sandbox's newest run, so that it may run again?",
    schemas: { "thaw-request": ThawRequest, "thaw-reply": ThawReply },
  },
  garbage: {
    pattern: patterns.asks("garbage"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["scheduler"],
    says: "Which of these entries of the snapshot store does nobody need? What the reply does not name stays.",
    schemas: { "garbage-request": GarbageRequest, "garbage-reply": GarbageReply },
  },
  certificate: {
    pattern: patterns.asks("certificate"),
    tokens: ["host"],
    delivery: "request",
    writtenBy: ["node-agent"],
    readBy: ["gateway"],
    says: "The host's certificate ends soon: a new one for the same key.",
    schemas: { "certificate-request": CertificateRequest, "certificate-reply": CertificateReply },
  },
  placement: {
    pattern: subjects.controlAsk("placement"),
    tokens: [],
    delivery: "request",
    writtenBy: ["gateway"],
    readBy: ["scheduler"],
    says: "Where would this sandbox be placed now? Nothing is reserved.",
    schemas: { "placement-question": PlacementQuestion, "placement-reply": PlacementReply },
  },
} as const satisfies Record<string, Channel>;
