/** Before each test file: a hook of a module that several files import would be one of the first of them. */
import { afterAll } from "vitest";
import { endServers } from "./client-servers.ts";

afterAll(endServers);
