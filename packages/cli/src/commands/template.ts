/**
 * `torpor template`: the templates of sandboxes, for operators. `ls`, `create`, `update`, `delete`.
 */
import { readFile, stat } from "node:fs/promises";
import { join } from "node:path";
import { parseArgs } from "node:util";
import type { Client } from "@torpor/client";
import type {
  CreateTemplateBody,
  HostResource,
  TemplateResource,
  UpdateTemplateBody,
} from "@torpor/contracts";
import { openApi } from "../api.ts";
import type { CommandContext } from "../main.ts";
import { wholeNumber } from "../shape.ts";
import { table } from "../table.ts";

/** The fields of image.json, as infra/images writes it. */
interface Image {
  sha256: string;
  displayName: string;
  description: string;
  language: string;
  category: string;
  defaults: { vcpu: number; memoryMib: number; diskMib: number };
}

const HEADER = ["TEMPLATE", "IMAGE", "VCPU", "MEMORY MIB", "DISK GIB", "HOSTS WITH IT"];
const USAGE = `usage: torpor template ls | template create <name> --image <directory> [--vcpu N --memory-mib N --disk-mib N]
  | template update <name> [--image <directory or sha256>] [--vcpu N --memory-mib N --disk-mib N] | template delete <name>; each with --json`;
const DIGEST = /^[0-9a-f]{64}$/;
const OPTIONS = {
  image: { type: "string" },
  vcpu: { type: "string" },
  "memory-mib": { type: "string" },
  "disk-mib": { type: "string" },
  json: { type: "boolean", default: false },
} as const;

export async function template(context: CommandContext): Promise<number> {
  const [command = "ls", ...args] = context.args;
  const { values, positionals } = parseArgs({ args, allowPositionals: true, options: OPTIONS });
  const [name, ...more] = positionals;
  if (more.length > 0 || (name === undefined) !== (command === "ls")) throw new Error(USAGE);
  const api = await openApi(context.root);
  const show = async (shown: TemplateResource[] | TemplateResource) =>
    context.write(
      values.json ? JSON.stringify(shown, undefined, 2) : await tableOf(api, [shown].flat()),
    );
  if (name === undefined) await show(await api.templates.list());
  else if (command === "create")
    await show(await api.templates.create(await newTemplate(name, values)));
  else if (command === "update")
    await show(await api.templates.update(name, await changeOf(values)));
  else if (command === "delete") {
    await api.templates.delete(name);
    context.write(`template ${name} is deleted; sandboxes that were made of it go on`);
  } else throw new Error(USAGE);
  return 0;
}

async function tableOf(api: Client, templates: TemplateResource[]): Promise<string> {
  // Older gateways do not send which templates a host has.
  const hosts: Partial<Pick<HostResource, "templates">>[] = await Array.fromAsync(api.hosts.list());
  const rows = templates.map(({ name, image_sha256: image, default_resources: size }) => [
    name,
    image?.slice(0, 12) ?? "-",
    String(size.vcpu),
    String(size.memory_mb),
    String(size.disk_gb),
    String(hosts.filter((host) => host.templates?.includes(name) === true).length),
  ]);
  return table(HEADER, rows);
}

type Given = Partial<Record<"image" | "vcpu" | "memory-mib" | "disk-mib", string>>;

async function newTemplate(name: string, given: Given): Promise<CreateTemplateBody> {
  if (given.image === undefined) throw new Error(`which image? ${USAGE}`);
  const { sha256, displayName, description, language, category, defaults } = await readImage(
    given.image,
  );
  const { vcpu, memoryMib: memory_mb, diskMib: disk_mb } = defaults;
  return {
    name,
    display_name: displayName,
    description,
    language,
    category,
    image_sha256: sha256,
    default_resources: { vcpu, memory_mb, disk_mb, ...sizeIn(given) },
  };
}

/** Changes only the digest of the image: what an operator has set in the template stays. */
async function changeOf(given: Given): Promise<UpdateTemplateBody> {
  const { image } = given;
  const sha256 =
    image === undefined || DIGEST.test(image) ? image : (await readImage(image)).sha256;
  const size = sizeIn(given);
  if (sha256 === undefined && Object.keys(size).length === 0)
    throw new Error(`what is to change? ${USAGE}`);
  return {
    ...(sha256 === undefined ? {} : { image_sha256: sha256 }),
    ...(Object.keys(size).length === 0 ? {} : { default_resources: size }),
  };
}

const SIZES = { vcpu: "vcpu", "memory-mib": "memory_mb", "disk-mib": "disk_mb" } as const;

function sizeIn(given: Given): Record<string, number> {
  const entries = Object.entries(given).flatMap(([option, text]) => {
    const field = SIZES[option as keyof typeof SIZES];
    return field === undefined ? [] : [[field, whole(`--${option}`, text)] as const];
  });
  return Object.fromEntries(entries);
}

/** The API checks the range. */
function whole(name: string, text: string): number {
  const value = wholeNumber(text);
  if (Number.isNaN(value)) throw new Error(`${name} must be a whole number, not "${text}"`);
  return value;
}

/** `path` is an image's directory, or its image.json. */
async function readImage(path: string): Promise<Image> {
  const isDirectory = await stat(path).then(
    (found) => found.isDirectory(),
    () => false,
  );
  const file = isDirectory ? join(path, "image.json") : path;
  const text = await readFile(file, "utf8").catch((cause: unknown) => {
    throw new Error(
      `there is no image at ${path}: name a directory with an image.json, as ./torpor image makes it`,
      { cause },
    );
  });
  return JSON.parse(text) as Image;
}
