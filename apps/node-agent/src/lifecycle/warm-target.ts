/**
 * How many VMs a host keeps warm of each kind, by what is known at one moment. What nobody has
 * reserved is the pool's, and nothing else: it never keeps a sandbox from anything.
 */

/** VMs from which one kind of create begins. */
export interface WarmKind {
  /** Digest of its image. */
  imageSha256: string;
  memoryMib: number;
  /** Kept now. */
  kept: number;
  /** Creates of the kind within the last minutes. */
  recentCreates: number;
}

export interface WarmRoom {
  /** Of all kinds together. */
  max: number;
  /** Memory that this host offers and no sandbox has, the pool's counted as free. */
  unreservedMib: number;
  /** Memory that the machine has left, the pool's taken off. */
  availableMib: number;
  /** The host gets new sandboxes: it has its lease, and is neither cordoned nor draining. */
  isOpen: boolean;
}

/** The machine has so much left, whatever is kept. */
export const SPARE_MIB = 512;
/**
 * And so much more before one is made: a VM takes more than its guest's memory, and is not to be in
 * the way of itself.
 */
export const NEW_MARGIN_MIB = 256;

/** By image. One kind after the other, the one that is wanted most first. */
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
