/**
 * Questions of a host to the control plane: core request/reply on
 * `torpor.v1.host.<hostId>.ask.<question>`, answered by any scheduler; that for a certificate by
 * any gateway that has the fleet's authority. No answer in time counts as "no".
 */
import { type Static, Type } from "typebox";
import { HostId, OperationId, SandboxId } from "../ids.ts";
import { CommandKey } from "./sealed-variables.ts";
import { TicketKey } from "./tickets.ts";

export const QUESTIONS = ["register", "lease", "commit", "thaw", "garbage", "certificate"] as const;
export type Question = (typeof QUESTIONS)[number];

/**
 * What a host knows of its fence, the process that freezes VMs of `on_host_loss: restore` when the
 * lease ends. Absent in agents of before: there is none.
 */
const FenceFacts = Type.Optional(Type.Object({ isAlive: Type.Boolean() }));

export const RegisterRequest = Type.Object({
  type: Type.Literal("register"),
  version: Type.Literal(1),
  hostId: HostId,
  region: Type.String(),
  /** Where the gateway's edge reaches this host's data plane, e.g. `http://127.0.0.1:9101`. */
  dataPlaneUrl: Type.String(),
  /** Of which the tickets for its data plane are made. Absent in agents of 0.1.0. */
  ticketKey: Type.Optional(TicketKey),
  /**
   * Public half of the key for which secrets in its commands are sealed. Absent in agents of
   * before: they are in plain text.
   */
  commandKey: Type.Optional(CommandKey),
  capacity: Type.Object({
    vcpu: Type.Number(),
    memoryMib: Type.Integer(),
    diskMib: Type.Integer(),
  }),
  labels: Type.Record(Type.String(), Type.String()),
  driver: Type.String(),
  /** Of the snapshots that the host writes of new VMs. */
  driverFingerprint: Type.String(),
  /** Fingerprints whose snapshots it can restore. Absent in agents of before: its own alone. */
  restorableFingerprints: Type.Optional(Type.Array(Type.String())),
  agentVersion: Type.String(),
  fence: FenceFacts,
  images: Type.Array(
    Type.Object({
      templateName: Type.String(),
      sha256: Type.String(),
      displayName: Type.String(),
      description: Type.String(),
      language: Type.String(),
      category: Type.String(),
      defaults: Type.Object({
        vcpu: Type.Integer(),
        memoryMib: Type.Integer(),
        diskMib: Type.Integer(),
      }),
    }),
  ),
});
export type RegisterRequest = Static<typeof RegisterRequest>;

export const LeaseRequest = Type.Object({
  type: Type.Literal("lease"),
  version: Type.Literal(1),
  hostId: HostId,
  fence: FenceFacts,
});
export type LeaseRequest = Static<typeof LeaseRequest>;

/** `register` and `lease` both answer with the lease. The host counts from before it asked. */
export const LeaseReply = Type.Object({
  granted: Type.Boolean(),
  leaseMs: Type.Integer({ minimum: 0 }),
  /** Set when not granted, e.g. a host that must register (again). */
  reason: Type.Optional(Type.String()),
  /**
   * Digest of the host's inventory that the control plane has reconciled: the next ones may go by
   * what has changed since. Absent, also from schedulers of before: whole ones are wanted.
   */
  reconciledInventory: Type.Optional(Type.String()),
  /** Sandboxes that each heartbeat is to report for now, changed or not: there or gone. */
  showSandboxes: Type.Optional(Type.Array(SandboxId)),
  /** No new sandbox comes to the host: it is cordoned, or being drained. */
  getsNoSandboxes: Type.Optional(Type.Boolean()),
});
export type LeaseReply = Static<typeof LeaseReply>;

/** May the operation pass its point of no return? */
export const CommitRequest = Type.Object({
  type: Type.Literal("commit"),
  version: Type.Literal(1),
  hostId: HostId,
  sandboxId: SandboxId,
  operationId: OperationId,
  epoch: Type.Integer({ minimum: 1 }),
  opSeq: Type.Integer({ minimum: 1 }),
});
export type CommitRequest = Static<typeof CommitRequest>;

export const CommitReply = Type.Object({
  granted: Type.Boolean(),
  reason: Type.Optional(Type.String()),
});
export type CommitReply = Static<typeof CommitReply>;

/** The fence has frozen this VM. Is it still the sandbox's newest run, so that it may go on? */
export const ThawRequest = Type.Object({
  type: Type.Literal("thaw"),
  version: Type.Literal(1),
  hostId: HostId,
  sandboxId: SandboxId,
  /** Of the frozen VM. */
  epoch: Type.Integer({ minimum: 0 }),
});
export type ThawRequest = Static<typeof ThawRequest>;

export const ThawReply = Type.Object({
  granted: Type.Boolean(),
  reason: Type.Optional(Type.String()),
});
export type ThawReply = Static<typeof ThawReply>;

/** Which of these entries of the snapshot store are for nothing? */
export const GarbageRequest = Type.Object({
  type: Type.Literal("garbage"),
  version: Type.Literal(1),
  hostId: HostId,
  sandboxes: Type.Array(
    Type.Object({ sandboxId: SandboxId, storeKeys: Type.Array(Type.String()) }),
    { maxItems: 200 },
  ),
});
export type GarbageRequest = Static<typeof GarbageRequest>;

/** What is not named in it stays. */
export const GarbageReply = Type.Object({
  /** Deleted, and not only now: all that the store has of them goes. */
  deleted: Type.Array(SandboxId),
  storeKeys: Type.Array(Type.String()),
});
export type GarbageReply = Static<typeof GarbageReply>;

/**
 * The host's certificate is to be renewed, for the key that it joined with. It gets its own name
 * alone, whatever the request says.
 */
export const CertificateRequest = Type.Object({
  type: Type.Literal("certificate"),
  version: Type.Literal(1),
  hostId: HostId,
  /** PEM, PKCS #10, signed by that key. */
  certificateRequest: Type.String({ minLength: 1, maxLength: 8_192 }),
});
export type CertificateRequest = Static<typeof CertificateRequest>;

export const CertificateReply = Type.Object({
  granted: Type.Boolean(),
  /** PEM; set when granted. */
  certificate: Type.Optional(Type.String({ maxLength: 65_536 })),
  /** Set when not granted. */
  reason: Type.Optional(Type.String()),
});
export type CertificateReply = Static<typeof CertificateReply>;
