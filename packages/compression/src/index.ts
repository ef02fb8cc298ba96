export { type Problem, type Report, type Severity, check, newReport } from "./check.ts";
export { openCompression, type OpenSettings } from "./open.ts";
export { type CompressionOptions, compressionOptions } from "./options.ts";
export { compression } from "./target.ts";
