/** The conformance suite on both formats, in both modes, and on devices of 4096-byte blocks. */
import { DelayDevice, realEnvironment } from "@dmkit/block-io";
import { BadSectors, conformance } from "@dmkit/block-io/testing";
import { describe, it } from "vitest";
import { openOn } from "../src/testing/sim-targets.ts";

const SIZE = 300 * 4096;

function subject(values: Record<string, unknown>, logicalBlockSize: 512 | 4096 = 512, late = false) {
  return async () => {
    const memory = new BadSectors(8 * 2 ** 20, { logicalBlockSize });
    const delays = { read: 0, write: 0, flush: 0 };
    const lower = late ? new DelayDevice(memory, 0, memory.size, delays, realEnvironment.clock) : memory;
    const open = () => openOn(lower, SIZE, values, realEnvironment, { synchronous: false });
    // Format 1 has no journal: what fails in the middle may be lost.
    const survives = values["format"] === "v1" ? "close" : "crash";
    return {
      device: await open(),
      reopen: open,
      lower: [memory],
      survives,
    } as const;
  };
}

const framework = { describe, it };
conformance("compression v2", subject({}), framework);
conformance("compression v2, writethrough", subject({ mode: "writethrough" }), framework);
conformance(
  "compression v2, little memory",
  subject({ memory: 65_536, algorithm: "lzo" }, 512, true),
  framework,
);
conformance("compression v2, 4096-byte blocks", subject({ discard_holes: true }, 4096), framework);
conformance("compression v1", subject({ format: "v1" }), framework);
conformance(
  "compression v1, lz4, writethrough",
  subject({ format: "v1", algorithm: "lz4", mode: "writethrough" }, 4096),
  framework,
);
