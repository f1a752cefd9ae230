/**
 * JSON schemas of everything that crosses a process boundary: a change of a message is a visible
 * diff, and a breaking change needs a new version beside the old one.
 */
import { type Channel, CHANNELS } from "./channels.ts";

/** File name and text of each schema, as in packages/contracts/schemas. */
export function versionedSchemas(): [string, string][] {
  const channels: Channel[] = Object.values(CHANNELS);
  const schemas = Object.assign(
    {},
    ...channels.map((channel) => channel.schemas),
  ) as Channel["schemas"];
  return Object.entries(schemas).map(([name, schema]) => [
    `${name}.v1.json`,
    `${JSON.stringify(schema, null, 2)}\n`,
  ]);
}
