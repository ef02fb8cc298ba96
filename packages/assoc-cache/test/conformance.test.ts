/** The conformance suite on every policy, on both metadata versions, and on devices of 4096-byte blocks. */
import { realEnvironment } from "@dmkit/block-io";
import { BadSectors, conformance } from "@dmkit/block-io/testing";
import { describe, it } from "vitest";
import { openOn } from "../src/testing/sim-targets.ts";

const SECTORS = 1201;

function subject(values: Record<string, unknown>, logicalBlockSize: 512 | 4096 = 512) {
  return async () => {
    const source = new BadSectors(logicalBlockSize === 512 ? SECTORS * 512 : 150 * 4096, {
      logicalBlockSize,
    });
    const cache = new BadSectors(2 ** 20, { logicalBlockSize });
    const options = { block_size: 8, cache_size: 64, associativity: 16, ...values };
    const device = await openOn(source, cache, options, realEnvironment);
    // Where no metadata is left, as historical one after a failure, the source has everything.
    const reopen = () => openOn(source, cache, { ...options, persistence: 2 }, realEnvironment);
    // A crash leaves no historical metadata.
    const survives = values["format"] === "v1" ? "close" : "crash";
    return { device, reopen, lower: [source, cache], survives } as const;
  };
}

const policies = ["write-back", "write-through", "write-around", "pass-through", "cleaner"] as const;
for (const policy of policies) {
  conformance(`cache, ${policy}`, subject({ policy }), { describe, it });
}
const framework = { describe, it };
conformance(
  "cache, write-back, 32 KiB blocks",
  subject({ policy: "write-back", block_size: 64, cache_size: 16 }),
  framework,
);
conformance("cache, write-back, 4096-byte blocks below", subject({ policy: "write-back" }, 4096), framework);
conformance("cache, updating", subject({ policy: "write-through", write_hit: "update" }), framework);
conformance("cache, historical metadata", subject({ format: "v1" }), framework);
