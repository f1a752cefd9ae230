export const row = (...cells: string[]) => `| ${cells.join(" | ")} |`;

export const madeOf = (file: string) =>
  `Generated from \`${file}\` by \`pnpm generate\`; do not edit.`;

/** To a file of the repository, from a page of docs/. */
export const linkTo = (path: string) => `[${path.split("/").at(-1)}](../${path})`;
