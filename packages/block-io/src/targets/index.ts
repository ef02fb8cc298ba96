/** The targets of this package, in the order lists show them. */
import type { AnyTarget } from "../dm/target.ts";
import { delay } from "./delay.ts";
import { error } from "./error.ts";
import { flakey } from "./flakey.ts";
import { linear } from "./linear.ts";
import { logWrites } from "./log-writes.ts";
import { striped } from "./striped.ts";
import { zero } from "./zero.ts";

/** The targets that come with this package. */
export const basicTargets: readonly AnyTarget[] = [linear, striped, zero, error, delay, flakey, logWrites];
