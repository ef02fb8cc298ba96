export { type SimulatedStoreOptions, SimulatedBucket, SimulatedTransport } from "./simulated.ts";
export { type ServerFault, type S3TestServerOptions, S3TestServer } from "./s3-server.ts";
