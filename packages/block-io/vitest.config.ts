import { shared } from "../../vitest.shared.ts";

export default shared({}, ["test/file-fua.test.ts"]);
