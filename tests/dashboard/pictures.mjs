// Pictures of a dashboard: light and dark, wide and narrow.
//
//     CLIENT_MODULES=folder-with-node_modules node pictures.mjs URL DIR [NAME]

import { mkdirSync } from "node:fs";
import { join } from "node:path";
import { launch } from "./browser.mjs";

const PICTURES = [
  { name: "light", width: 1440, height: 900, colorScheme: "light" },
  { name: "dark", width: 1920, height: 1080, colorScheme: "dark" },
  { name: "narrow", width: 360, height: 780, colorScheme: "dark" },
];
// Long enough for a column to say what has changed lately.
const LOOK_MS = 12_000;

const [, , url, folder, prefix = "dashboard"] = process.argv;
mkdirSync(folder, { recursive: true });
const browser = await launch();
const pages = await Promise.all(PICTURES.map(async ({ name, width, height, colorScheme }) => {
  const page = await browser.newPage({ viewport: { width, height }, colorScheme });
  await page.goto(url);
  await page.locator("#active:not(:empty)").waitFor();
  return { name, page };
}));
await new Promise(resolve => setTimeout(resolve, LOOK_MS));
for (const { name, page } of pages) {
  if (await page.locator("#channels button").count()) {
    await page.locator("#channels button").first().click();
    await page.locator("#found h3").first().waitFor();
    await page.evaluate(() => scrollTo(0, 0));
  }
  // What is beyond the first screen of a narrow one is seen by scrolling, not in a picture of it.
  await page.screenshot({ path: join(folder, `${prefix}-${name}.png`), fullPage: name !== "narrow" });
}
await browser.close();
