export const row = (...cells: string[]) => `| ${cells.join(" | ")} |`;

export const madeOf = (file: string) =>
  `Generated from \`${file}\` by \`pnpm generate\`; do not edit.`;

/** A link from a page of docs/ to a file of the repository. */
export const linkTo = (path: string) => `[${path.split("/").at(-1)}](../${path})`;
