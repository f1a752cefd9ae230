/**
 * The needs of a sandbox, and whether any host of the fleet could ever meet them. If none could,
 * the create is refused at once, with what the hosts have: it would only wait for capacity that
 * cannot come. Hosts count also while they are full, cordoned or lost: those states pass.
 */
import type {
  CreateSandboxBody,
  PlacementQuestion,
  SandboxId,
  SandboxPlacement,
} from "@torpor/contracts";
import {
  couldBePlaced,
  findTemplate,
  type HostRow,
  listHosts,
  listTemplates,
  type TemplateRow,
} from "@torpor/db";
import type { Dependencies } from "../deps.ts";
import { type ApiError, invalidRequest, unknownTemplate } from "../http/errors.ts";

/** The needs, as the row of the sandbox has them. */
type Wanted = Omit<Exclude<PlacementQuestion["about"], { sandboxId: SandboxId }>, "organizationId">;

/** Values that a message names; more are only counted. */
const MAX_NAMED = 20;

export async function templateOf(
  deps: Pick<Dependencies, "db">,
  body: CreateSandboxBody,
): Promise<TemplateRow> {
  const asked = body.template_id === undefined ? body.template_name : String(body.template_id);
  if (asked === undefined)
    throw invalidRequest(
      [{ field: "template_name", message: "is required (or template_id)" }],
      "MISSING_PARAMETER",
    );
  const template = await findTemplate(deps.db, asked);
  if (template !== undefined) return template;
  throw unknownTemplate(
    asked,
    (await listTemplates(deps.db)).map(({ name }) => name),
  );
}

/** The fields that are set; undefined when none is. */
export function placementIn({ placement }: CreateSandboxBody): SandboxPlacement | undefined {
  const { labels = {}, anti_affinity } = placement ?? {};
  const hasLabels = Object.keys(labels).length > 0;
  if (!hasLabels && anti_affinity === undefined) return undefined;
  return {
    ...(hasLabels ? { labels } : {}),
    ...(anti_affinity === undefined ? {} : { anti_affinity }),
  };
}

export function wantedOf(
  deps: Pick<Dependencies, "region">,
  body: CreateSandboxBody,
  template: TemplateRow,
): Wanted {
  const { vcpu, memoryMib, diskMib, imageSha256 } = template;
  const placement = placementIn(body);
  return {
    vcpu,
    memoryMib,
    diskMib,
    imageSha256,
    region: body.region ?? deps.region,
    placementLabels: placement?.labels ?? {},
    antiAffinity: placement?.anti_affinity ?? null,
    onHostLoss: body.on_host_loss ?? "wait",
  };
}

/** Throws the 400 if no registered host could take the sandbox even when empty. */
export async function checkPlaceable(
  deps: Pick<Dependencies, "db" | "region">,
  wanted: Wanted,
): Promise<void> {
  if (await couldBePlaced(deps.db, wanted)) return;
  const hosts = await listHosts(deps.db);
  const refused =
    refuseRegion(deps, hosts, wanted) ?? refuseLabels(hosts, wanted) ?? refuseSize(hosts, wanted);
  // No reason: the region has no hosts yet, or a fitting one has just come.
  if (refused !== undefined) throw refused;
}

function refuseRegion(
  deps: Pick<Dependencies, "region">,
  hosts: HostRow[],
  { region }: Wanted,
): ApiError | undefined {
  const known = [...new Set([deps.region, ...hosts.map((host) => host.region)])].toSorted();
  return known.includes(region)
    ? undefined
    : invalidRequest([{ field: "region", message: `must be one of ${known.join(", ")}` }]);
}

function refuseLabels(hosts: HostRow[], { region, placementLabels }: Wanted): ApiError | undefined {
  const inRegion = hosts.filter((host) => host.region === region);
  const unknown = Object.entries(placementLabels).filter(
    ([name, value]) => !inRegion.some((host) => host.labels[name] === value),
  );
  if (unknown.length > 0)
    return invalidRequest(
      unknown.map(([name, value]) => ({
        field: `placement.labels.${name}`,
        message: `is '${value}', which no host of region ${region} has. ${thereIs(inRegion, name)}`,
      })),
    );
  if (inRegion.some((host) => hasLabels(host, placementLabels))) return undefined;
  if (Object.keys(placementLabels).length === 0) return undefined;
  const message = `must be what one host has together: each is there in region ${region}, but on different hosts; GET /v1/hosts shows which has what`;
  return invalidRequest([{ field: "placement.labels", message }]);
}

function thereIs(hosts: HostRow[], name: string): string {
  const values = named(hosts.flatMap(({ labels }) => labels[name] ?? []));
  if (values !== "") return `There is ${name}=${values}`;
  const names = named(hosts.flatMap(({ labels }) => Object.keys(labels)));
  return names === "" ? "Its hosts have no labels" : `There are the labels ${names}`;
}

function named(all: string[]): string {
  const known = [...new Set(all)].toSorted();
  const more = known.length - MAX_NAMED;
  return `${known.slice(0, MAX_NAMED).join(", ")}${more > 0 ? ` and ${more} more` : ""}`;
}

function refuseSize(hosts: HostRow[], wanted: Wanted): ApiError | undefined {
  const possible = hosts.filter(
    (host) => host.region === wanted.region && hasLabels(host, wanted.placementLabels),
  );
  if (possible.length === 0 || possible.some((host) => isLargeEnough(host, wanted)))
    return undefined;
  const [largest] = possible.toSorted(
    (a, b) => b.memoryMibCapacity - a.memoryMibCapacity || b.vcpuCapacity - a.vcpuCapacity,
  );
  if (largest === undefined) return undefined;
  const needs = sizeText(wanted.vcpu, wanted.memoryMib, wanted.diskMib);
  const has = sizeText(largest.vcpuCapacity, largest.memoryMibCapacity, largest.diskMibCapacity);
  const message = `asks for ${needs}, which is more than any host has in all; the largest that it may run on, ${largest.id}, has ${has}. Choose a smaller template, or have a larger host added`;
  return invalidRequest([{ field: "template_name", message }]);
}

const sizeText = (vcpu: number, memoryMib: number, diskMib: number) =>
  `${vcpu} vCPU, ${memoryMib} MiB of memory and ${diskMib} MiB of disk`;

function hasLabels(host: HostRow, labels: Record<string, string>): boolean {
  return Object.entries(labels).every(([name, value]) => host.labels[name] === value);
}

function isLargeEnough(host: HostRow, { vcpu, memoryMib, diskMib }: Wanted): boolean {
  return (
    host.vcpuCapacity >= vcpu &&
    host.memoryMibCapacity >= memoryMib &&
    host.diskMibCapacity >= diskMib
  );
}
