/**
 * What heartbeats report of the sandboxes on this host: all of them until the control plane has
 * reconciled an inventory, then what has changed since, and what it asks for. Without an answer of
 * the control plane, or with one of a version that knows nothing of this, everything is reported.
 */
import {
  type Heartbeat,
  inventoryDigest,
  MAX_ACTIVITY_PER_BEAT,
  MAX_INVENTORY_PER_BEAT,
  type Observation,
} from "@torpor/contracts";

type InventoryFields = Pick<
  Heartbeat,
  "inventory" | "inventoryCount" | "inventoryDigest" | "inventorySince" | "gone"
>;

/** What the control plane has said last (LeaseReply). */
export interface InventoryRequest {
  reconciled: string | undefined;
  show: readonly string[];
}

interface Inventory {
  digest: string;
  /** By sandbox: epoch, command and revision. */
  orders: ReadonlyMap<string, string>;
}

interface Sending extends Inventory {
  whole: Observation[];
  offset: number;
}

/** Inventories that were reported whole and may be what the next answer names. */
const REMEMBERED = 4;

export class InventoryReport {
  /** Newest first. */
  private remembered: Inventory[] = [];
  private sending: Sending | undefined;

  /** For the next heartbeat. */
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

  /** One of the parts of an inventory, then those of the next one. */
  private nextPart(inventory: Observation[], current: Inventory): InventoryFields {
    const sending = this.sending ?? { ...current, whole: inventory, offset: 0 };
    const newest = new Map(inventory.map((seen) => [seen.sandboxId, seen]));
    const part = sending.whole
      .slice(sending.offset, sending.offset + MAX_INVENTORY_PER_BEAT)
      .map((seen) => newestOf(seen, newest.get(seen.sandboxId)));
    sending.offset += MAX_INVENTORY_PER_BEAT;
    const isLast = sending.offset >= sending.whole.length;
    this.sending = isLast ? undefined : sending;
    if (isLast) this.remember(sending);
    return {
      inventory: part,
      inventoryCount: sending.whole.length,
      inventoryDigest: sending.digest,
    };
  }

  /** `base`: what changes are told since, which may be older than the newest few. */
  private remember({ digest, orders }: Inventory, base?: Inventory): void {
    const others = this.remembered.filter((one) => one.digest !== digest);
    const newest = [{ digest, orders }, ...others].slice(0, REMEMBERED);
    const isKept = base === undefined || newest.some((one) => one.digest === base.digest);
    this.remembered = isKept ? newest : [...newest, base];
  }

  private inventoryOf(inventory: Observation[]): Inventory {
    const orders = new Map(inventory.map((seen) => [seen.sandboxId, orderOf(seen)]));
    // Hashed again only when it is another one.
    const [last] = this.remembered;
    if (last !== undefined && areSame(last.orders, orders)) return last;
    return { digest: inventoryDigest(inventory), orders };
  }
}

const orderOf = ({ epoch, opSeq, revision }: Observation) => `${epoch} ${opSeq} ${revision}`;

function areSame(a: ReadonlyMap<string, string>, b: ReadonlyMap<string, string>): boolean {
  if (a.size !== b.size) return false;
  for (const [sandboxId, order] of b) if (a.get(sandboxId) !== order) return false;
  return true;
}

/**
 * The same observation with what has no revision (its use, its memory) as it is now. One that is
 * out of date stays in the inventory that it is of: the digest is of that.
 */
function newestOf(seen: Observation, now: Observation | undefined): Observation {
  return now !== undefined && orderOf(now) === orderOf(seen) ? now : seen;
}

/** Undefined: more than one heartbeat takes. */
function changesSince(
  base: Inventory,
  { digest, orders, inventory }: Inventory & { inventory: Observation[] },
  show: readonly string[],
): InventoryFields | undefined {
  const shown = new Set(show);
  const isNews = (seen: Observation) =>
    shown.has(seen.sandboxId) || base.orders.get(seen.sandboxId) !== orderOf(seen);
  const changed = inventory.filter(isNews);
  const gone = [...new Set([...base.orders.keys(), ...show])].filter((id) => !orders.has(id));
  if (changed.length + gone.length > MAX_INVENTORY_PER_BEAT) return undefined;
  return {
    inventory: changed,
    inventoryCount: inventory.length,
    inventoryDigest: digest,
    inventorySince: base.digest,
    ...(gone.length === 0 ? {} : { gone }),
  };
}

/** So long a use is repeated: heartbeats may be lost, and nobody asks for them. */
const USE_REPEATED_MS = 8_000;

type ProgressFields = Pick<Heartbeat, "activity" | "replicating" | "fetching">;

/**
 * What has no revision and changes all the time. `turn`: where more are in use than fit, others are
 * reported in each.
 */
export function progressOf(inventory: Observation[], turn: number): ProgressFields {
  const used = inventory.flatMap(({ sandboxId, epoch, lastActiveMsAgo }) =>
    lastActiveMsAgo === undefined || lastActiveMsAgo > USE_REPEATED_MS
      ? []
      : [{ sandboxId, epoch, lastActiveMsAgo }],
  );
  const turns = Math.max(1, Math.ceil(used.length / MAX_ACTIVITY_PER_BEAT));
  const from = (turn % turns) * MAX_ACTIVITY_PER_BEAT;
  const activity = used.slice(from, from + MAX_ACTIVITY_PER_BEAT);
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
      : { replicating: replicating.slice(0, MAX_INVENTORY_PER_BEAT) }),
    ...(fetching.length === 0 ? {} : { fetching: fetching.slice(0, MAX_INVENTORY_PER_BEAT) }),
  };
}
