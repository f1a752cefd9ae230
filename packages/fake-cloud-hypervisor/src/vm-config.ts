/**
 * The configuration of a VM: its defaults, and what makes it unbootable. Only fields that Torpor
 * uses are handled; other fields are kept as they are.
 */
import { FakeApiError, VmError } from "./errors.ts";

export interface DiskConfig {
  id: string;
  path: string;
  readonly: boolean;
  [other: string]: unknown;
}

export interface FakeVmConfig {
  memory: { size: number; shared: boolean; [other: string]: unknown };
  payload?: { kernel?: string; initramfs?: string; firmware?: string };
  disks?: DiskConfig[];
  vsock?: { id: string; cid: number; socket: string };
  serial: { mode: string; file?: string };
  [other: string]: unknown;
}

/** The fields that v53.0 knows. Others are dropped silently, as v53.0 does. */
const FIELDS = {
  config:
    "cpus memory payload rate_limit_groups disks net rng balloon generic_vhost_user fs pmem serial console debug_console devices user_devices vdpa vsock pvpanic iommu numa watchdog rtc pci_segments platform tpm landlock_enable landlock_rules",
  payload: "firmware kernel cmdline initramfs",
  vsock: "cid socket iommu id pci_segment pci_device_id",
  disk: "path readonly direct iommu num_queues queue_size vhost_user vhost_socket rate_limit_group rate_limiter_config id disable_io_uring disable_aio pci_segment pci_device_id serial queue_affinity backing_files sparse image_type lock_granularity",
};

const DEFAULT_MEMORY_BYTES = 512 * 1024 * 1024;
const NO_PCI = { pci_segment: 0 };

/** The configuration as vm.info shows it. Throws if it does not deserialize. */
export function withDefaults(given: unknown): FakeVmConfig {
  if (typeof given !== "object" || given === null || Array.isArray(given))
    throw badField("invalid type, expected struct VmConfig");
  const { disks, vsock, payload, ...config } = known(
    "config",
    given as Record<string, Record<string, unknown> | undefined>,
  );
  const memory: FakeVmConfig["memory"] = {
    size: DEFAULT_MEMORY_BYTES,
    mergeable: false,
    hotplug_method: "Acpi",
    shared: false,
    hugepages: false,
    prefault: false,
    reserve: false,
    thp: true,
    ...config["memory"],
  };
  if (!Number.isSafeInteger(memory.size) || memory.size < 0)
    throw badField(`invalid type: ${JSON.stringify(memory.size)}, expected u64`);
  return {
    ...config,
    cpus: {
      boot_vcpus: 1,
      max_vcpus: 1,
      kvm_hyperv: false,
      max_phys_bits: 46,
      features: { amx: false },
      nested: true,
      ...config["cpus"],
    },
    memory,
    ...(payload && { payload: known("payload", payload) }),
    ...(disks && {
      disks: (disks as unknown as Record<string, unknown>[]).map((disk, index) =>
        diskWithDefaults(disk, index),
      ),
    }),
    rng: { ...NO_PCI, src: "/dev/urandom", ...config["rng"] },
    serial: { mode: "Null", ...config["serial"] },
    console: { ...NO_PCI, mode: "Tty", ...config["console"] },
    debug_console: { mode: "Off", iobase: 233, ...config["debug_console"] },
    ...(vsock && {
      vsock: { id: "_vsock1", cid: 3, socket: "", ...NO_PCI, ...known("vsock", vsock) },
    }),
    pvpanic: config["pvpanic"] ?? false,
    iommu: config["iommu"] ?? false,
    watchdog: config["watchdog"] ?? false,
    landlock_enable: config["landlock_enable"] ?? false,
  };
}

function diskWithDefaults(disk: Record<string, unknown>, index: number): DiskConfig {
  return {
    id: `_disk${index}`,
    ...NO_PCI,
    readonly: false,
    direct: false,
    num_queues: 1,
    queue_size: 128,
    vhost_user: false,
    disable_io_uring: false,
    disable_aio: false,
    backing_files: false,
    sparse: true,
    image_type: "Unknown",
    lock_granularity: "ByteRange",
    path: "",
    ...known("disk", disk),
  };
}

function known<T>(kind: keyof typeof FIELDS, given: Record<string, T>): Record<string, T> {
  const names = FIELDS[kind].split(" ");
  return Object.fromEntries(Object.entries(given).filter(([name]) => names.includes(name)));
}

export function checkBootable({ payload }: FakeVmConfig): void {
  if (payload?.kernel !== undefined || payload?.firmware !== undefined) return;
  const reason = [
    "Payload configuration is not bootable",
    "No bootitem provided: neither firmware nor kernel",
  ];
  throw new VmError(["Failed to validate config", ...reason]);
}

/** The disk with the toy guest's files: the one called `disk`, else the first writable one. */
export function guestDisk({ disks = [] }: FakeVmConfig): DiskConfig | undefined {
  const writable = disks.filter(({ readonly }) => !readonly);
  return writable.find(({ id }) => id === "disk") ?? writable[0];
}

function badField(message: string): FakeApiError {
  return new FakeApiError(400, ["Failed to deserialize JSON", `${message} at line 1 column 1`]);
}
