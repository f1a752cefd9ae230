/**
 * Reports the sandboxes of this host in heartbeats: all of them until the control plane has
 * reconciled an inventory; then the changes since, and the sandboxes that the control plane
 * requests. Without a reply of the control plane, or with one of an older version, everything is
 * reported.
 */
import {
  type Heartbeat,
  inventoryDigest,
  MAX_ACTIVITY_PER_HEARTBEAT,
  MAX_INVENTORY_PER_HEARTBEAT,
  type Observation,
  type SandboxId,
} from "@torpor/contracts";

type InventoryFields = Pick<
  Heartbeat,
  "inventory" | "inventoryCount" | "inventoryDigest" | "inventorySince" | "gone"
>;

/** The control plane's newest request (LeaseReply). */
export interface InventoryRequest {
  reconciled: string | undefined;
  show: readonly SandboxId[];
}

interface Inventory {
  digest: string;
  /** Epoch, command and revision, by sandbox. */
  orders: ReadonlyMap<SandboxId, string>;
}

interface Sending extends Inventory {
  whole: Observation[];
  offset: number;
}

/** Reported inventories to remember: the next reply may name any of them. */
const REMEMBERED = 4;

export class InventoryReport {
  /** Newest first. */
  private remembered: Inventory[] = [];
  private sending: Sending | undefined;

  /** The fields of the next heartbeat. */
  next(inventory: Observation[], request: InventoryRequest): InventoryFields {
    const current = this.inventoryOf(inventory);
    const base = [current, ...this.remembered].find(({ digest }) => digest === request.reconciled);
    const changes =
      base === undefined ? undefined : changesSince(base, { ...current, inventory }, request.show);
    if (changes === undefined) return this.nextPart(inventory, current);
    this.sending = undefined;
    this.remember(current, base);
    return changes;
  }

  /** The next part of an inventory; after its last part, the next inventory begins. */
  private nextPart(inventory: Observation[], current: Inventory): InventoryFields {
    const sending = this.sending ?? { ...current, whole: inventory, offset: 0 };
    const newest = new Map(inventory.map((seen) => [seen.sandboxId, seen]));
    const part = sending.whole
      .slice(sending.offset, sending.offset + MAX_INVENTORY_PER_HEARTBEAT)
      .map((seen) => newestOf(seen, newest.get(seen.sandboxId)));
    sending.offset += MAX_INVENTORY_PER_HEARTBEAT;
    const isLast = sending.offset >= sending.whole.length;
    this.sending = isLast ? undefined : sending;
    if (isLast) this.remember(sending);
    return {
      inventory: part,
      inventoryCount: sending.whole.length,
      inventoryDigest: sending.digest,
    };
  }

  /** `base`: the inventory that changes are relative to, which may be older than the newest few. */
  private remember({ digest, orders }: Inventory, base?: Inventory): void {
    const others = this.remembered.filter((one) => one.digest !== digest);
    const newest = [{ digest, orders }, ...others].slice(0, REMEMBERED);
    const isKept = base === undefined || newest.some((one) => one.digest === base.digest);
    this.remembered = isKept ? newest : [...newest, base];
  }

  private inventoryOf(inventory: Observation[]): Inventory {
    const orders = new Map(inventory.map((seen) => [seen.sandboxId, orderOf(seen)]));
    // Hashed again only if the inventory has changed.
    const [last] = this.remembered;
    if (last !== undefined && areSame(last.orders, orders)) return last;
    return { digest: inventoryDigest(inventory), orders };
  }
}

const orderOf = ({ epoch, opSeq, revision }: Observation) => `${epoch} ${opSeq} ${revision}`;

function areSame(a: Inventory["orders"], b: Inventory["orders"]): boolean {
  if (a.size !== b.size) return false;
  for (const [sandboxId, order] of b) if (a.get(sandboxId) !== order) return false;
  return true;
}

/**
 * The observation with its current use and memory, which have no revision. An observation that is
 * out of date stays as it was, because the digest is of that inventory.
 */
function newestOf(seen: Observation, now: Observation | undefined): Observation {
  return now !== undefined && orderOf(now) === orderOf(seen) ? now : seen;
}

/** The changes since `base`; undefined if they do not fit into one heartbeat. */
function changesSince(
  base: Inventory,
  { digest, orders, inventory }: Inventory & { inventory: Observation[] },
  show: readonly SandboxId[],
): InventoryFields | undefined {
  const shown = new Set(show);
  const isNews = (seen: Observation) =>
    shown.has(seen.sandboxId) || base.orders.get(seen.sandboxId) !== orderOf(seen);
  const changed = inventory.filter(isNews);
  const gone = [...new Set([...base.orders.keys(), ...show])].filter((id) => !orders.has(id));
  if (changed.length + gone.length > MAX_INVENTORY_PER_HEARTBEAT) return undefined;
  return {
    inventory: changed,
    inventoryCount: inventory.length,
    inventoryDigest: digest,
    inventorySince: base.digest,
    ...(gone.length === 0 ? {} : { gone }),
  };
}

/** A use is repeated for this long: heartbeats may be lost, and no program requests them again. */
const USE_REPEATED_MS = 8_000;

type ProgressFields = Pick<Heartbeat, "activity" | "replicating" | "fetching">;

/**
 * Values that have no revision and change all the time. `turn` counts the heartbeats: if not all
 * uses fit into one, each heartbeat reports others.
 */
export function progressOf(inventory: Observation[], turn: number): ProgressFields {
  const used = inventory.flatMap(({ sandboxId, epoch, lastActiveMsAgo }) =>
    lastActiveMsAgo === undefined || lastActiveMsAgo > USE_REPEATED_MS
      ? []
      : [{ sandboxId, epoch, lastActiveMsAgo }],
  );
  const turns = Math.max(1, Math.ceil(used.length / MAX_ACTIVITY_PER_HEARTBEAT));
  const from = (turn % turns) * MAX_ACTIVITY_PER_HEARTBEAT;
  const activity = used.slice(from, from + MAX_ACTIVITY_PER_HEARTBEAT);
  const replicating = inventory.flatMap(({ sandboxId, replicating: copy }) =>
    copy === undefined ? [] : [{ sandboxId, ...copy }],
  );
  const fetching = inventory.flatMap(({ busyWith, fetching: copy }) =>
    busyWith === undefined || copy === undefined ? [] : [{ operationId: busyWith, ...copy }],
  );
  return {
    ...(activity.length === 0 ? {} : { activity }),
    ...(replicating.length === 0
      ? {}
      : { replicating: replicating.slice(0, MAX_INVENTORY_PER_HEARTBEAT) }),
    ...(fetching.length === 0 ? {} : { fetching: fetching.slice(0, MAX_INVENTORY_PER_HEARTBEAT) }),
  };
}
