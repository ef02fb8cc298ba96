import { shared } from "../../vitest.shared.ts";

export default shared({ test: { setupFiles: "test/setup.ts" } });
