/** The HTTP listener of a server: metrics, health and, where it is wanted, the page. */
import { BlockIoError } from "@dmkit/block-io";
import { isLoopback } from "@dmkit/nbd";
import { PAGE_IS_LOCAL } from "../page/local.ts";
import type { PageOptions } from "../page/page.ts";
import type { MetricsPlace } from "../stack-file/plan.ts";
import { type MetricsListener, startMetrics } from "./server.ts";

/** Errors: those of listening; EPERM for a page at an address that others can reach. */
export async function startHttp(
  where: MetricsPlace,
  options: Omit<PageOptions, "host">,
): Promise<MetricsListener> {
  const { environment, snapshot } = options;
  if (where.page !== true) return startMetrics(where, snapshot, { environment });
  if (!("unix" in where) && !isLoopback(where.host)) {
    const [reason, hint] = PAGE_IS_LOCAL;
    throw new BlockIoError(reason, { code: "EPERM", device: where.host, op: "listen", hint });
  }
  // Loaded only by servers that show it.
  const { Page } = await import("../page/page.ts");
  const page = new Page({ ...options, host: "unix" in where ? undefined : where.host });
  try {
    const listener = await startMetrics(where, snapshot, { page, environment });
    environment.logger.log("info", "the page is served", { at: listener.page });
    return listener;
  } catch (error) {
    page.close();
    throw error;
  }
}
