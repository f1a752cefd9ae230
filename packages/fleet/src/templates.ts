/**
 * The templates of a local fleet follow its images: each image with a name becomes the image of the
 * template of that name.
 */
import { readFile, readdir } from "node:fs/promises";
import { join } from "node:path";
import { seedTemplates } from "@torpor/db";

/** The fields of image.json (infra/images). */
interface Image {
  templateName: string;
  sha256: string;
  displayName: string;
  description: string;
  language: string;
  category: string;
  defaults: { vcpu: number; memoryMib: number; diskMib: number };
}

/**
 * Creates the missing templates of the images in `imagesDir`, and sets the image of existing ones.
 */
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
