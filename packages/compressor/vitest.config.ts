import { shared } from "../../vitest.shared.ts";

export default shared({}, ["test/compressor.test.ts", "test/zstd-wasm.test.ts"]);
