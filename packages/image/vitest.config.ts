import { shared } from "../../vitest.shared.ts";

// Not yet in one process for all files.
export default shared({ test: { isolate: true } });
