/** An exported type has one name in the repository, and a name has one exported type. */
import type { Source } from "../references/sources.ts";

const EXPORTED = /^export (?:declare )?(?:abstract )?(?:type|interface|class|enum) (\w+)/gm;

/** Names that several files export, a line each. */
export function checkTypeNames(sources: readonly Source[]): string[] {
  const exported = sources
    .filter(({ path }) => path.endsWith(".ts"))
    .flatMap(({ path, text }) =>
      Array.from(text.matchAll(EXPORTED), ([, name = ""]) => ({ name, path })),
    );
  return [...Map.groupBy(exported, ({ name }) => name)].flatMap(([name, places]) => {
    const paths = [...new Set(places.map(({ path }) => path))];
    return paths.length < 2 ? [] : [`the type ${name} is exported by ${paths.join(" and ")}`];
  });
}
