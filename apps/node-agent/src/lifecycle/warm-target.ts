/**
 * Number of VMs of each kind that a host keeps warm, from the state of one moment. The pool gets
 * only memory that no sandbox has reserved: it never keeps a sandbox from anything.
 */

/** VMs from which one kind of create begins. */
export interface WarmKind {
  /** Digest of its image. */
  imageSha256: string;
  memoryMib: number;
  /** VMs that are kept now. */
  kept: number;
  /** Creates of the kind within the last minutes. */
  recentCreates: number;
}

export interface WarmRoom {
  /** VMs of all kinds together. */
  max: number;
  /** Memory that this host offers and no sandbox has reserved; the pool's counts as free. */
  unreservedMib: number;
  /** Available memory of the machine; the pool's counts as used. */
  availableMib: number;
  /**
   * True if the host gets new sandboxes: it has its lease, and is neither cordoned nor draining.
   */
  isOpen: boolean;
}

/** Memory that stays available on the machine, whatever is kept. */
export const SPARE_MIB = 512;
/**
 * Memory that must be available in addition before a VM is made: a VM takes more than its guest's
 * memory, and must not cause its own removal.
 */
export const NEW_MARGIN_MIB = 256;

/** Targets by image; the kind with the most recent creates comes first. */
export function warmTargets(kinds: readonly WarmKind[], room: WarmRoom): Map<string, number> {
  const targets = new Map(kinds.map(({ imageSha256 }) => [imageSha256, 0]));
  if (!room.isOpen) return targets;
  const keptMib = kinds.reduce((sum, { kept, memoryMib }) => sum + kept * memoryMib, 0);
  let left = room.max;
  let unreservedMib = room.unreservedMib;
  let availableMib = keptMib + room.availableMib - SPARE_MIB;
  for (const kind of kinds.toSorted((a, b) => b.recentCreates - a.recentCreates)) {
    const fitting = (marginMib: number) =>
      Math.floor(Math.max(0, Math.min(unreservedMib, availableMib - marginMib)) / kind.memoryMib);
    const fittingInAll = Math.max(Math.min(kind.kept, fitting(0)), fitting(NEW_MARGIN_MIB));
    const count = Math.min(left, kind.recentCreates, fittingInAll);
    targets.set(kind.imageSha256, count);
    left -= count;
    unreservedMib -= count * kind.memoryMib;
    availableMib -= count * kind.memoryMib;
  }
  return targets;
}
