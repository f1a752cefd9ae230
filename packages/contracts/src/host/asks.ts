/**
 * Requests of a host to the control plane: core request/reply on
 * `torpor.v1.host.<hostId>.ask.<question>`. Any scheduler replies; to `certificate`, any gateway
 * that has the fleet's authority. No reply in time counts as "no".
 */
import { type Static, Type } from "typebox";
import { HostId, OperationId, SandboxId } from "../ids.ts";
import { CommandKey } from "./sealed-variables.ts";
import { TicketKey } from "./tickets.ts";

export const QUESTIONS = ["register", "lease", "commit", "thaw", "garbage", "certificate"] as const;
export type Question = (typeof QUESTIONS)[number];

/**
 * State of the fence, the process that freezes VMs of `on_host_loss: restore` when the lease ends.
 * Absent in older agents: there is no fence.
 */
const FenceFacts = Type.Optional(Type.Object({ isAlive: Type.Boolean() }));

export const RegisterRequest = Type.Object({
  type: Type.Literal("register"),
  version: Type.Literal(1),
  hostId: HostId,
  region: Type.String(),
  /** Where the gateway's edge reaches this host's data plane, e.g. `http://127.0.0.1:9101`. */
  dataPlaneUrl: Type.String(),
  /** Key from which tickets for the data plane are made. Absent in agents of 0.1.0. */
  ticketKey: Type.Optional(TicketKey),
  /**
   * Public key that seals secrets in the host's commands. Absent in older agents: the secrets are
   * in plain text.
   */
  commandKey: Type.Optional(CommandKey),
  capacity: Type.Object({
    vcpu: Type.Number(),
    memoryMib: Type.Integer(),
    diskMib: Type.Integer(),
  }),
  labels: Type.Record(Type.String(), Type.String()),
  driver: Type.String(),
  /** Fingerprint of the snapshots that the host writes of new VMs. */
  driverFingerprint: Type.String(),
  /** Fingerprints of snapshots that the host can restore. Absent in older agents: only its own. */
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

/** Reply to `register` and `lease`. The host counts the lease from before its request. */
export const LeaseReply = Type.Object({
  granted: Type.Boolean(),
  leaseMs: Type.Integer({ minimum: 0 }),
  /** Set when not granted, for example because the host must register (again). */
  reason: Type.Optional(Type.String()),
  /**
   * Digest of the host's inventory that the control plane has reconciled: from now on, heartbeats
   * may report only the changes since. Absent, also from older schedulers: whole inventories are
   * needed.
   */
  reconciledInventory: Type.Optional(Type.String()),
  /** Sandboxes that each heartbeat has to report for now, changed or not, present or gone. */
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

/** May the frozen VM continue, because it is still its sandbox's newest run? */
export const ThawRequest = Type.Object({
  type: Type.Literal("thaw"),
  version: Type.Literal(1),
  hostId: HostId,
  sandboxId: SandboxId,
  /** Epoch of the frozen VM. */
  epoch: Type.Integer({ minimum: 0 }),
});
export type ThawRequest = Static<typeof ThawRequest>;

export const ThawReply = Type.Object({
  granted: Type.Boolean(),
  reason: Type.Optional(Type.String()),
});
export type ThawReply = Static<typeof ThawReply>;

/** Which of these entries of the snapshot store are no longer needed? */
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

/** Entries that the reply does not name stay. */
export const GarbageReply = Type.Object({
  /** Sandboxes deleted longer ago than the grace time: the store drops all of their entries. */
  deleted: Type.Array(SandboxId),
  storeKeys: Type.Array(Type.String()),
});
export type GarbageReply = Static<typeof GarbageReply>;

/**
 * Renews the host's certificate, for the key that the host joined with. The certificate contains
 * only the host's own name, whatever the request contains.
 */
export const CertificateRequest = Type.Object({
  type: Type.Literal("certificate"),
  version: Type.Literal(1),
  hostId: HostId,
  /** PEM, PKCS #10, signed with that key. */
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
