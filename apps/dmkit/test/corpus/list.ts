/** The corpus as a list in Markdown. */
import type { Case } from "./case.ts";

/** One item for each case, under the image that it damages. */
export function list(cases: readonly Case[]): string {
  const images = new Map<string, Case[]>();
  for (const one of cases) images.set(one.on.name, [...(images.get(one.on.name) ?? []), one]);
  const parts = [...images].map(([name, all]) => `### ${name}\n\n${all.map(item).join("\n")}`);
  return `${parts.join("\n\n")}\n`;
}

function item(one: Case): string {
  const { name, damage, type, found, repaired = [], exits, error, shows, why } = one;
  const left = one.left ?? found.filter((words) => !repaired.includes(words));
  const lines = [
    `* **${name}**${type === undefined ? "" : ` (\`--type ${type}\`)`}`,
    ...damage.map(({ text }) => `  * ${text}`),
    `  * fsck ends with ${exits[0]}${error === undefined ? "" : ` (${error})`}: ${words(found)}`,
    ...(repaired.length === 0
      ? []
      : [`  * repair ends with ${exits[1]}: ${words(repaired)}; left: ${words(left)}`]),
    `  * opening shows ${shows[0]}${shows[0] === shows[1] ? "" : `; after the repair ${shows[1]}`}`,
    ...(why === undefined ? [] : [`  * ${why}`]),
  ];
  return lines.join("\n");
}

function words(all: readonly string[]): string {
  return all.length === 0 ? "nothing" : all.join(", ");
}
