/** The static list of targets the app knows. Adding one is one line here. */
import { TargetRegistry, basicTargets } from "@dmkit/block-io";

export const targets: TargetRegistry = new TargetRegistry([...basicTargets]);
