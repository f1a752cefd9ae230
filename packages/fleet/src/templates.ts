/**
 * The operator of a local fleet is whoever builds its images: each image that a name points at is
 * what the template of that name begins with.
 */
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { seedTemplates } from "@torpor/db";

/** Of image.json (infra/images). */
interface Image {
  templateName: string;
  sha256: string;
  displayName: string;
  description: string;
  language: string;
  category: string;
  defaults: { vcpu: number; memoryMib: number; diskMib: number };
}

/** Makes the templates of the images in `imagesDir`, and gives those that there are their image. */
export async function seedFromImages(databaseUrl: string, imagesDir: string): Promise<void> {
  const images = await linkedImages(imagesDir);
  await seedTemplates(
    databaseUrl,
    images.map(({ templateName: name, sha256: imageSha256, defaults, ...image }) => {
      const { displayName, description, language, category } = image;
      return { name, imageSha256, displayName, description, language, category, ...defaults };
    }),
  );
}

async function linkedImages(imagesDir: string): Promise<Image[]> {
  const entries = await readdir(imagesDir, { withFileTypes: true }).catch(() => []);
  const links = entries.filter((entry) => entry.isSymbolicLink());
  return await Promise.all(
    links.map(async ({ name }) => {
      const text = await readFile(join(imagesDir, name, "image.json"), "utf8");
      return JSON.parse(text) as Image;
    }),
  );
}
