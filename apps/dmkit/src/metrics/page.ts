/** METRICS.md: every metric, and every name in `status --json` that means the same for all targets. */
import { type WatchedFact, watchedFacts } from "@dmkit/block-io";
import { type Family, families } from "./families.ts";

const watchedMetrics = new Set(Object.values<WatchedFact>(watchedFacts).map(({ metric }) => metric));

/** The page, with the newline at its end. */
export function metricsPage(): string {
  const own = families.filter(({ name }) => !watchedMetrics.has(name.replace(/^dmkit_(device|below)_/, "")));
  const rows = own.map(({ name, type, help, labels }) => [
    `\`${name}\``,
    type,
    labels.map(labelCell).join(", "),
    help,
  ]);
  const facts = Object.entries<WatchedFact>(watchedFacts).map(
    ([fact, { metric, type, help, labels = {} }]) => {
      const pairs = Object.entries(labels).map(([name, value]) => `${name}="${value}"`);
      return [
        `\`${fact}\``,
        `\`…_${metric}${pairs.length === 0 ? "" : `{${pairs.join(",")}}`}\``,
        type,
        help,
      ];
    },
  );
  return `# Metrics

<!-- Made from src/metrics/families.ts and the watched facts of @dmkit/block-io by test/metrics-page.test.ts. -->

What a server with \`--metrics\`, or \`metrics:\` in its stack file, tells at \`/metrics\`, in Prometheus' text format.
Counters begin at 0 when the server starts or the device is opened; times are seconds, sizes bytes. Rules for alerts
([\`monitoring/alerts.yaml\`](monitoring/alerts.yaml)) and a dashboard for Grafana
([\`monitoring/grafana.json\`](monitoring/grafana.json)) are in the package.

${grid(["metric", "type", "labels", "says"], rows)}

## What devices say of themselves

The same facts are in \`dmkit status --json\`: a segment's under \`fields\`, those of files, exports of other servers and
images that were opened below a device under \`below\`. As metrics they are \`dmkit_device_…{device}\`, all segments of a
device together, and \`dmkit_below_…{device,below}\`. Who does not have one leaves it out. Other names in \`fields\` mean
something to their target only: its README says what.

${grid(["fact", "metric", "type", "says"], facts)}
`;
}

function labelCell(label: string): Family["name"] {
  const [name = "", values] = label.split(": ");
  return values === undefined ? `\`${name}\`` : `\`${name}\` (${values})`;
}

function grid(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]): string => `| ${cells.join(" | ")} |`;
  return [line(titles), `|${titles.map(() => "---|").join("")}`, ...rows.map(line)].join("\n");
}
