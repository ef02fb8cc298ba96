/** A module as `--from` takes it. */
import type { SimTarget } from "../../src/testing/index.ts";
import { right } from "./broken.ts";

export const simTargets: readonly SimTarget[] = [{ ...right, name: "from-elsewhere" }];
