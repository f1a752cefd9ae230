/** Makes the golden snapshot of every image, so that the first create need not wait for it: `node prepare.ts`, with the agent's environment. */
import { join } from "node:path";
import { configFrom } from "./config.ts";
import { chooseDriver, vmmUid } from "./drivers/choose.ts";
import { listImages } from "./images.ts";
import { ensureGolden } from "./lifecycle/golden.ts";
import { httpGuest } from "./lifecycle/guest.ts";

const config = configFrom(process.env);
const say = (line: string) => process.stdout.write(`  ${line}\n`);
const driver = await chooseDriver(config, {
  info: (facts: object) => say(`QEMU's accelerator: ${Object.values(facts).join(", because ")}`),
});

for (const image of await listImages(config.IMAGES_DIR)) {
  await ensureGolden(image, {
    driver,
    guest: httpGuest(driver),
    uid: vmmUid(config),
    scratchDir: join(config.IMAGES_DIR, ".scratch"),
    say,
  });
}
