/**
 * Types of the events of sandboxes and hosts, with their meaning. The type is the last token of an
 * event's subject, and the field `fact` in the API and in the database. Types are added, and never
 * change their meaning; docs/events.md is generated from these tables.
 */
import type { OperationKind } from "@torpor/state-machine";

export const SANDBOX_EVENT_TYPES = {
  accepted: "Its create was accepted.",
  create_assigned: "A host was chosen for it, and told to create it.",
  create_refused: "It could no longer be created when its turn came.",
  create_expired: "The create was not carried out in time; the cause says why.",
  pause_assigned: "Its host was told to pause it.",
  pause_satisfied: "It was paused already when the pause's turn came.",
  pause_refused: "Its state no longer allowed the pause when its turn came.",
  pause_expired: "The pause was not carried out in time; it is as before.",
  resume_assigned: "A host was chosen for it, and told to resume it.",
  resume_satisfied: "It ran already when the resume's turn came.",
  resume_refused: "Its state no longer allowed the resume when its turn came.",
  resume_expired: "The resume was not carried out in time; it is as before.",
  stop_assigned: "Its host was told to stop it.",
  stop_satisfied: "It was stopped already when the stop's turn came.",
  stop_refused: "Its state no longer allowed the stop when its turn came.",
  stop_expired: "The stop was not carried out in time; it is as before.",
  start_assigned: "A host was chosen for it, and told to start it.",
  start_satisfied: "It ran already when the start's turn came.",
  start_refused: "Its state no longer allowed the start when its turn came.",
  start_expired: "The start was not carried out in time; it is as before.",
  delete_accepted: "It is deleted for its owner; its host is told to clean up.",
  delete_expired: "The delete did not begin in time; it is as before.",
  running: "Its host reports that it runs. With an operation: that one has ended.",
  paused: "Its host reports that it is paused. With an operation: that one has ended.",
  stopped: "Its host reports that it is stopped; without an operation, the cause says why.",
  deleted: "Its host has confirmed the clean-up, or there was none to do.",
  failed: "Its host reports that it cannot continue; the cause says why.",
  snapshot_stored: "Its snapshot, or the disk of its stop, is in the store.",
  snapshot_not_stored: "Its host has given up copying the snapshot; the cause says why.",
  disk_renamed:
    "The disk of a stopped sandbox has another name on its host; its content is the same.",
  released: "It is on no host any more; the store has what it continues from.",
  vmm_unresponsive: "Its VMM lives and does not answer; nothing is destroyed.",
  vmm_responsive: "Its VMM answers again.",
  missing_on_host: "Its host is there and does not have it; its state stays as it is.",
  found_on_host: "Its host has it again.",
  host_lost: "Its host is lost, and it is restored elsewhere; the cause says from which snapshot.",
  restore_waits:
    "Its host is lost, and no other has room for it yet; the cause says what is missing.",
  restore_impossible: "Its host is lost, and it waits for that host; the cause says why.",
  auto_pause_delayed:
    "It was resumed soon after automatic pauses, so that the next ones come later.",
  timeout_set: "Its timeout was replaced.",
  settings_changed: "Its policies or its metadata were changed.",
  tokens_revoked: "All tokens for it were revoked.",
} as const satisfies Record<string, string>;

/**
 * Includes types of a delete that never occur, because the type of an operation's kind cannot
 * exclude them: a delete needs no choice of a host and is never refused.
 */
export type SandboxEventType =
  | keyof typeof SANDBOX_EVENT_TYPES
  | `${Extract<OperationKind, "delete">}_${"assigned" | "satisfied" | "refused"}`
  | "create_satisfied";

export const HOST_EVENT_TYPES = {
  joined: "It was admitted by a token, or its keys were replaced by those of a new join.",
  registered: "Its agent registered: it is new, or was started again.",
  returned: "It was lost, and has renewed its lease or registered again.",
  lost: "It did not renew its lease; the cause says when that ended.",
  cordoned: "An operator closed it to new sandboxes.",
  uncordoned: "An operator opened it to new sandboxes.",
  drain_started: "A drain began: its sandboxes are moved away.",
  drained: "Its drain is done, and it is cordoned.",
  drain_aborted: "An operator ended its drain; what that had paused is resumed.",
  drain_expired: "Its drain reached its deadline; what that had paused is resumed.",
  drain_undone: "All that an ended drain had paused runs again.",
  retired: "An operator removed it from the fleet.",
  revoked: "An operator took its keys; it gets no lease.",
  sandbox_unknown: "It has a sandbox that the database does not know.",
  sandbox_stale: "It has a copy of a sandbox that is elsewhere.",
  sandbox_missing: "It does not have a sandbox that the database places on it.",
  finding_ended: "A finding about a sandbox is over.",
  discard_requested: "An operator asked it to discard the copy of a finding.",
} as const satisfies Record<string, string>;

export type HostEventType = keyof typeof HOST_EVENT_TYPES;
